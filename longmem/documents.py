"""Documents: text that a memory bank can hold, and its tokens that know which characters they stand for."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import torch

from longmem.confined import read_document
from longmem.errors import DocumentError
from longmem.readers import read_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SURROGATE = re.compile("[\ud800-\udfff]")
JOINERS = "\u200c\u200d"
MOST_NAME = 200


def clean_text(text: str) -> str:
    r"""Text without NUL characters and lone surrogates, with `\n` its only newline; cleaning twice changes nothing."""
    if SURROGATE.search(text):
        # By way of UTF-16, two halves that belong together become their character again.
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")
    return text.replace("\x00", "").replace("\r\n", "\n").replace("\r", "\n")


@dataclass(frozen=True)
class Document:
    """A named text, cleaned when it is made: character offsets always mean this `text`.

    Errors: DocumentError where the text is empty or only white space.
    """

    name: str
    text: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", clean_name(self.name))
        object.__setattr__(self, "text", clean_text(self.text))
        if not self.text.strip():
            raise DocumentError(f"{self.name} holds no text: give one that does (scanned pages need OCR first).")

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """The document in a txt, md, html, pdf, epub or docx file, named as the file. Errors: DocumentError."""
        return cls.from_bytes(Path(path).name, read_bytes(path))

    @classmethod
    def from_bytes(cls, name: str, data: bytes) -> Self:
        """The document in a file's bytes; the extension of `name` tells the format. Errors: DocumentError."""
        return cls(name, read_document(clean_name(name), data))

    @classmethod
    def from_text(cls, name: str, text: str) -> Self:
        """A document of plain text. Errors: DocumentError where there is none."""
        return cls(name, text)

    def encode(self, tokenizer: "PreTrainedTokenizerFast") -> "EncodedDocument":
        """Tokens of the whole text, without special tokens. Errors: DocumentError where the tokenizer finds none."""
        # verbose=False: that the text is longer than a window is the point, not a reason for a warning.
        encoding = tokenizer(
            self.text,
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        if not encoding["input_ids"]:
            raise DocumentError(f"{self.name} holds no character that the model's tokenizer knows: give another text.")
        token_ids_T = torch.tensor(encoding["input_ids"], dtype=torch.long)
        offsets_T2 = torch.tensor(encoding["offset_mapping"], dtype=torch.long)
        return EncodedDocument(self, token_ids_T, _close_gaps(offsets_T2, len(self.text)))


@dataclass(frozen=True, eq=False)
class EncodedDocument:
    """A document's tokens, `token_ids` [T], and the characters of its text they stand for, `spans` [T, 2].

    Spans are (start, stop). The first starts at 0 and the last stops at the end of the text; each starts where the one
    before stops, or one character earlier where the two share a character that takes several tokens (an emoji): each
    of these spans the whole character.
    """

    document: Document
    token_ids: torch.Tensor
    spans: torch.Tensor


def clean_name(name: str) -> str:
    """A name on one line, of MOST_NAME characters at most, since it stands in messages, tables and tick labels.

    What is not printed goes, with which a name could turn a line around or command a terminal; joiners stay, which
    some scripts and emoji need. A name that is too long keeps its end, where the extension is.
    """
    shown = "".join(c if c.isprintable() or c in JOINERS else " " for c in clean_text(name))
    words = " ".join(shown.split())
    return words if len(words) <= MOST_NAME else f"{words[: MOST_NAME - 21]}…{words[-20:]}"


def _close_gaps(offsets_T2: torch.Tensor, n_characters: int) -> torch.Tensor:
    """A tokenizer's character offsets [T, 2] -> spans [T, 2] as EncodedDocument promises them.

    Some tokenizers trim the space before a word off its token, drop repeated white space or compose accents, which
    leaves characters to no token: they go to the token that follows (at the end of the text, to the last one).
    """
    stops_T = offsets_T2[:, 1].cummax(0).values
    stops_T[-1] = n_characters
    previous_T = torch.cat([stops_T.new_zeros(1), stops_T[:-1]])
    starts_T = offsets_T2[:, 0].clamp(min=(previous_T - 1).clamp(min=0), max=previous_T)
    return torch.stack([starts_T, stops_T], dim=1)


class Segment(NamedTuple):
    """A stretch of tokens read in one pass: read from `first` on, kept from `start` to `end`."""

    first: int
    start: int
    end: int


def segments(total: int, window: int, overlap: int) -> list[Segment]:
    """How `total` tokens are read: a window at a time, each but the first with `overlap` tokens of context."""
    found = [Segment(0, 0, min(window, total))]
    for start in range(window, total, window - overlap):
        found.append(Segment(start - overlap, start, min(start + window - overlap, total)))
    return found
