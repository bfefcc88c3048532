"""What a visitor can set: how to generate, from where, and how memory is used."""

from dataclasses import dataclass
from math import isfinite

from longmem.errors import LongMemError
from longmem.generation import LEAST_TEMPERATURE

MAX_NEW_TOKENS = 256


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
