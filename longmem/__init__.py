"""LongMem: see how a language model uses a long-term memory."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longmem.config import LongMemConfig, choose_device
    from longmem.demonstrations import Demonstration, DemonstrationSet, Template, read_demonstrations, to_document
    from longmem.documents import Document, EncodedDocument
    from longmem.errors import LongMemError
    from longmem.generation import Generation, stream
    from longmem.memory_bank import MemoryBank
    from longmem.model import LongMemForCausalLM
    from longmem.retrieval import Chunk, Retrieval
    from longmem.scoring import continuation_point, look_up, score, score_pages
    from longmem.trace import RetrievalTrace

__all__ = [
    "Chunk",
    "Demonstration",
    "DemonstrationSet",
    "Document",
    "EncodedDocument",
    "Generation",
    "LongMemConfig",
    "LongMemError",
    "LongMemForCausalLM",
    "MemoryBank",
    "Retrieval",
    "RetrievalTrace",
    "Template",
    "choose_device",
    "continuation_point",
    "look_up",
    "read_demonstrations",
    "score",
    "score_pages",
    "stream",
    "to_document",
]

# Imported when they are first asked for: what needs no model, as `python -m longmem --help`, does not wait for torch.
_HOMES = {
    "config": "LongMemConfig choose_device",
    "demonstrations": "Demonstration DemonstrationSet Template read_demonstrations to_document",
    "documents": "Document EncodedDocument",
    "errors": "LongMemError",
    "generation": "Generation stream",
    "memory_bank": "MemoryBank",
    "model": "LongMemForCausalLM",
    "retrieval": "Chunk Retrieval",
    "scoring": "continuation_point look_up score score_pages",
    "trace": "RetrievalTrace",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"longmem.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
