"""LongMem: see how a language model uses a long-term memory."""

from longmem.config import LongMemConfig, choose_device
from longmem.demonstrations import Demonstration, DemonstrationSet, Template, read_demonstrations, to_document
from longmem.documents import Document, EncodedDocument
from longmem.errors import LongMemError
from longmem.generation import Generation, continuation_point, score, stream
from longmem.memory_bank import Chunk, MemoryBank, Retrieval
from longmem.model import LongMemForCausalLM
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
    "read_demonstrations",
    "score",
    "stream",
    "to_document",
]
