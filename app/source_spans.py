"""Which characters the single tokens of a chunk, and the sentences of a text, stand for.

A bank knows the characters of a chunk, not of its tokens. Encoding a long document anew takes seconds; so only the
stretches around the chunks in question are encoded, and what comes out is believed where it meets the chunk's known
beginning, end and number of tokens at one place only. Where it does not, the whole document is encoded, once.
"""

import itertools
import re
from collections.abc import Iterator

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerFast

from longmem.documents import Document
from longmem.errors import DocumentError

MARGIN = 32  # characters encoded on each side of a chunk: tokens at a cut may be others than in the whole text
LONGEST_SENTENCE = 400  # characters; what never ends is cut at a line or a word
_END = re.compile(r"[.!?…]+[\"'”’»)\]]*(?=\s)|[。！？]+[”’」』）]*|\n(?=\s*\n)")
_ABBREVIATION = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|St|Prof|No|vs|cf|e\.g|i\.e)|\b[^\W\d_])\.$")


def sentence_starts(text: str) -> np.ndarray:
    """Where each sentence begins, ascending, the first at 0: each goes on, white space and all, to the next.

    A sentence ends at a full stop, question or exclamation mark before white space (not after an initial or `Mr.`, not
    before a small letter), at an ideographic mark, and at an empty line; at the latest after LONGEST_SENTENCE.
    """
    starts = [0]
    for end in [*_ends(text), len(text)]:
        starts += _cuts(text, starts[-1], end)
        if starts[-1] < end < len(text):
            starts.append(end)
    return np.array(starts, dtype=np.int64)


def _ends(text: str) -> Iterator[int]:
    """Where sentences end, with the white space after them."""
    for match in _END.finditer(text):
        end = match.end()
        while end < len(text) and text[end].isspace():
            end += 1
        goes_on = text[end : end + 1].islower() or _ABBREVIATION.search(text, max(0, match.end() - 8), match.end())
        if not goes_on or "\n\n" in text[match.start() : end]:
            yield end


def _cuts(text: str, start: int, end: int) -> list[int]:
    """Where the sentence from `start` to `end` is cut because it is too long."""
    cuts = []
    while end - start > LONGEST_SENTENCE:
        latest = start + LONGEST_SENTENCE
        start = max(text.rfind("\n", start, latest), text.rfind(" ", latest - 80, latest)) + 1 or latest
        cuts.append(start)
    return cuts


class TokenSpans:
    """Character spans of the tokens of one run's chunks, and the sentences of its documents; kept once found."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self._tokenizer = tokenizer
        self._chunks: dict[int, np.ndarray] = {}
        self._whole: dict[int, np.ndarray] = {}
        self._sentences: dict[int, np.ndarray] = {}

    def sentences(self, document: int, text: str) -> np.ndarray:
        """`sentence_starts` of a document."""
        if document not in self._sentences:
            self._sentences[document] = sentence_starts(text)
        return self._sentences[document]

    def of(self, document: int, text: str, chunks: pd.DataFrame) -> dict[int, np.ndarray]:
        """Chunk id -> the (start, end) of each of its tokens, for `chunks` of one document (rows of `Run.chunks`).

        Where the tokenizer gives other tokens than were read (a generated text can be written with others), every
        token has the span of its whole chunk.
        """
        wanted = chunks[~chunks.chunk.isin(self._chunks.keys())].sort_values("first_token")
        ids, rows_C4 = wanted.chunk.tolist(), wanted[["first_token", "n_tokens", "start", "end"]].to_numpy()
        for begin, end, (first, last) in _stretches(text, rows_C4):
            tokens_T2 = self._encode(text[begin:end]) + begin
            offset = _only_offset(tokens_T2, rows_C4[first:last])
            if offset is None:
                tokens_T2, offset = self._whole_text(document, text), 0
            for i in range(first, last):
                token, n_tokens, *whole = rows_C4[i]
                found_S2 = tokens_T2[token + offset : token + offset + n_tokens]
                fits = len(found_S2) == n_tokens and [found_S2[0, 0], found_S2[-1, 1]] == whole
                self._chunks[ids[i]] = found_S2 if fits else np.array([whole] * n_tokens)
        return {chunk: self._chunks[chunk] for chunk in chunks.chunk}

    def _whole_text(self, document: int, text: str) -> np.ndarray:
        if document not in self._whole:
            self._whole[document] = self._encode(text)
        return self._whole[document]

    def _encode(self, text: str) -> np.ndarray:
        try:
            return Document.from_text("a stretch", text).encode(self._tokenizer).spans.numpy()
        except DocumentError:  # nothing but white space, or nothing that the tokenizer knows
            return np.empty((0, 2), dtype=np.int64)


def _stretches(text: str, rows_C4: np.ndarray) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """Stretches of text that hold chunks, in order, with a margin: (begin, end, (first row, last row)); near ones share
    one. A row is `first_token, n_tokens, start, end` of a chunk.
    """
    begins = [_word_before(text, start - MARGIN) for start in rows_C4[:, 2].tolist()]
    ends = [_word_after(text, end + MARGIN) for end in rows_C4[:, 3].tolist()]
    cuts = [i for i in range(1, len(begins)) if not begins[i - 1] <= begins[i] <= ends[i - 1]]
    edges = [0, *cuts, len(begins)] if begins else []
    for first, last in itertools.pairwise(edges):
        yield begins[first], ends[last - 1], (first, last)


def _word_before(text: str, at: int) -> int:
    """The white space before `at`: no tokenizer of words joins what stands on both sides of it."""
    return max(0, text.rfind(" ", max(0, at - 64), max(0, at)), at - 64)


def _word_after(text: str, at: int) -> int:
    found = text.find(" ", at, at + 64)
    return found if found >= 0 else min(len(text), at + 64)


def _only_offset(tokens_T2: np.ndarray, rows_C4: np.ndarray) -> int | None:
    """What to add to a token's number in its document to find it in `tokens_T2`; None where none or several fit."""
    first, n_tokens, start, end = rows_C4.T
    offsets = np.flatnonzero(tokens_T2[:, 0] == start[0]) - first[0]
    offsets = offsets[offsets + (first + n_tokens).max() <= len(tokens_T2)]
    fitting = [
        int(offset)
        for offset in offsets
        if (tokens_T2[first + offset, 0] == start).all() and (tokens_T2[first + offset + n_tokens - 1, 1] == end).all()
    ]
    return fitting[0] if len(fitting) == 1 else None
