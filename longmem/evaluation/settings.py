"""What all evaluations share: the model they measure, and the settings of memory that a result names."""

from longmem.model import LongMemForCausalLM


def load_model(path: str, read_overlap: int | None = None) -> LongMemForCausalLM:
    """The model at `path`, reading with another overlap if one is given.

    Raises:
        LongMemError: no model is there, or the overlap is neither 0 nor half a window.
    """
    model = LongMemForCausalLM.from_pretrained(path)
    if read_overlap is not None:
        model.config.read_overlap = read_overlap
        model.config.validate_memory()
    return model


def memory_settings(model: LongMemForCausalLM) -> dict:
    """The settings of memory, as a result records them."""
    names = "memory_layers chunk_size retrieved_tokens chunk_key gate initialization source read_overlap".split()
    return {name: getattr(model.config, name) for name in names}
