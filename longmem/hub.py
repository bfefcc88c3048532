"""A model on the Hugging Face hub: its files and its card as one commit."""

import tempfile
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from transformers import PreTrainedModel

from longmem.errors import LongMemError

CARD = "README.md"
LOADING = """from longmem import LongMemForCausalLM

model = LongMemForCausalLM.from_pretrained("{}")"""


def push_to_hub(
    model: PreTrainedModel,
    repo_id: str,
    *,
    private: bool | None = None,
    token: bool | str | None = None,
    commit_message: str = "Upload a LongMem model",
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload a LongMem model's weights, configuration, tokenizer and card to a repository of the hub.

    It is made where there is none. A SideNet that was saved alone is pushed alone. Returns: the address of the commit,
    or of the pull request.
    Errors: LongMemError for an id that no repository can have, or a card that the hub does not take; OSError where it
    refuses or is not reached.
    """
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, with_backbone=not getattr(model.config, "sidenet_only", False))
        try:
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        except HFValidationError as error:
            raise LongMemError(f"repo_id is {repo_id!r}; it must be of the form USER/NAME.") from error
        (Path(folder) / CARD).write_text(own_card(model) or card_of(model, repo_id), encoding="utf-8")
        files = [CommitOperationAdd(path.name, path) for path in sorted(Path(folder).iterdir())]
        options = {"commit_message": commit_message, "revision": revision, "create_pr": create_pr}
        try:
            commit = api.create_commit(repo_id, files, **options)
        except (ValueError, RuntimeError) as error:  # a card with faulty metadata; an upload that broke off
            raise LongMemError(f"The hub does not take this: {' '.join(str(error).split())}") from error
    return str(commit.pr_url or commit.commit_url)


def own_card(model: PreTrainedModel) -> str | None:
    """The card in the folder that the model was loaded from, if there is one."""
    path = Path(model.name_or_path or "") / CARD
    return path.read_text(encoding="utf-8") if model.name_or_path and path.is_file() else None


def card_of(model: PreTrainedModel, repo_id: str) -> str:
    """A short card of what the model itself says; what it was trained on it does not know."""
    config, backbone = model.config, model.config.backbone_config
    name = config.backbone_name_or_path
    on_the_hub = name is not None and not Path(name).exists() and not Path(name).is_absolute()
    data = ModelCardData(
        library_name="longmem",
        pipeline_tag="text-generation",
        base_model=name if on_the_hub else None,
        tags=["long-term-memory", "retrieval", backbone.model_type],
    )
    counts = [sum(p.numel() for p in part.parameters()) for part in (model.backbone, model.sidenet)]
    facts = {
        "Backbone": f"{backbone.model_type}, {backbone.num_hidden_layers} layers, {counts[0]:,} parameters, frozen",
        "SideNet": f"{backbone.num_hidden_layers // config.layer_reduction_factor} layers, {counts[1]:,} parameters",
        "Memory layers (from 0)": ", ".join(map(str, config.memory_layers)),
        "Memory": f"up to {config.memory_size:,} tokens in chunks of {config.chunk_size}",
        "Retrieved for each token and head": f"{config.retrieved_tokens} tokens",
        "Window": f"{config.window:,} tokens",
        "Chunk key, gate": f"{config.chunk_key}, {config.gate}",
        "Fingerprint": f"`{model.fingerprint}`",
    }
    rows = "\n".join(f"| {fact} | {value} |" for fact, value in facts.items())
    text = (
        f"# {repo_id.split('/')[-1]}\n\nA language model with a long-term memory, after *Augmenting Language Models "
        f"with Long-Term Memory* (NeurIPS 2023).\n\n| | |\n| --- | --- |\n{rows}\n\n"
        f"```python\n{LOADING.format(repo_id)}\n```\n"
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}"))
