"""A document changed by a visitor, to see the model's answer change with it."""

from dataclasses import dataclass

from app.settings import Place
from longmem.errors import LongMemError

MAX_PUT = 2_000  # characters


@dataclass(frozen=True)
class Change:
    """Put words into a document: in place of every `find`, or, where that is empty, at `place` as a sentence.

    Errors: LongMemError.
    """

    place: Place
    put: str
    find: str = ""

    def __post_init__(self) -> None:
        if not self.put.strip():
            raise LongMemError("There is nothing to put in: write the words that the document shall hold.")
        if len(self.put) > MAX_PUT:
            raise LongMemError(
                f"The words to put in are {len(self.put):,} characters; at most {MAX_PUT:,} are allowed."
            )

    def apply(self, text: str) -> str:
        """The changed text. Errors: LongMemError where `find` is not in it."""
        if not self.find:
            at = self.place.character(text)
            return f"{text[:at]} {self.put.strip()}{text[at:]}"
        if self.find not in text:
            raise LongMemError(f"{self.find[:80]!r} is nowhere in this document: copy the words as they stand there.")
        return text.replace(self.find, self.put)
