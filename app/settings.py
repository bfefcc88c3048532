"""What a visitor can set: how to generate, from where, and how memory is used."""

from dataclasses import dataclass
from math import isfinite

from longmem.errors import LongMemError
from longmem.generation import LEAST_TEMPERATURE
from longmem.model import LongMemForCausalLM

MAX_NEW_TOKENS = 256
CHUNK_SIZES = (1, 2, 4, 8, 16)
MAX_CAPACITY = 1_048_576  # tokens; bytes are bounded by the budget that all sessions share
MAX_RETRIEVED = 512
SEARCHES = ("torch", "torch-coarse", "faiss-ivf", "faiss-hnsw", "faiss-sq8")  # those that take the numbers of a bank


@dataclass(frozen=True)
class MemorySettings:
    """How memory is kept and searched: tokens that it holds, tokens of a chunk and retrieved by each query, layers on,
    and the search (`longmem.search`).

    Errors: LongMemError.
    """

    capacity: int
    chunk_size: int
    retrieved_tokens: int
    layers: tuple[int, ...]
    backend: str = "torch"

    @classmethod
    def of(cls, model: LongMemForCausalLM) -> "MemorySettings":
        """What the model itself says."""
        config = model.config
        return cls(config.memory_size, config.chunk_size, config.retrieved_tokens, tuple(config.memory_layers))

    def __post_init__(self) -> None:
        numbers = (self.capacity, self.chunk_size, self.retrieved_tokens)
        if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
            raise LongMemError(
                "Capacity, chunk size and retrieved tokens must be whole numbers: fill in what is empty."
            )
        if self.chunk_size not in CHUNK_SIZES:
            allowed = ", ".join(map(str, CHUNK_SIZES))
            raise LongMemError(f"Chunk size is {self.chunk_size}; it must be one of {allowed} tokens.")
        if self.backend not in SEARCHES:
            raise LongMemError(f"Search is {str(self.backend)[:40]!r}; it must be one of {', '.join(SEARCHES)}.")
        if not 64 <= self.capacity <= MAX_CAPACITY:
            raise LongMemError(f"Capacity is {self.capacity:,}; it must be from 64 to {MAX_CAPACITY:,} tokens.")
        if not self.chunk_size <= self.retrieved_tokens <= MAX_RETRIEVED or self.retrieved_tokens % self.chunk_size:
            raise LongMemError(
                f"Retrieved tokens are {self.retrieved_tokens}; they must be a multiple of the chunk size "
                f"({self.chunk_size}), at most {MAX_RETRIEVED}."
            )


@dataclass(frozen=True)
class Settings:
    """How to generate; `temperature` 0 takes the most probable token every time. Errors: LongMemError."""

    max_new_tokens: int = 48
    temperature: float = 0.5
    top_p: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        numbers = (self.max_new_tokens, self.temperature, self.top_p, self.seed)
        if not all(isinstance(number, int | float) and isfinite(number) for number in numbers):
            raise LongMemError("Length, temperature, top-p and seed must all be numbers: fill in the empty one.")
        if not 1 <= self.max_new_tokens <= MAX_NEW_TOKENS:
            raise LongMemError(f"Length is {self.max_new_tokens}; it must be from 1 to {MAX_NEW_TOKENS} tokens.")
        if self.temperature != 0 and not LEAST_TEMPERATURE <= self.temperature <= 5:
            raise LongMemError(
                f"Temperature is {self.temperature}; it must be 0 (no chance), or from {LEAST_TEMPERATURE} to 5."
            )
        if not 0 < self.top_p <= 1:
            raise LongMemError(f"Top-p is {self.top_p}; it must be above 0 and at most 1.")
        if not 0 <= self.seed < 2**31:
            raise LongMemError(f"Seed is {self.seed}; it must be from 0 to {2**31 - 1}.")


@dataclass(frozen=True)
class Place:
    """Where a loaded document is continued: after `share` (0..1) of its characters."""

    document: int
    share: float

    def __post_init__(self) -> None:
        if not isfinite(self.share):
            raise LongMemError(f"Place is {self.share}; it must be a share of the document from 0 to 1.")

    def character(self, text: str) -> int:
        """The character where `text` is cut: at the end of the word near the share, with at least one before it."""
        at = int(min(max(self.share, 0.0), 1.0) * len(text))
        space = text.rfind(" ", 0, at)
        return max(1, space if space > 0 else at)
