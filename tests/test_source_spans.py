"""Tokens and sentences in a text: found by encoding small stretches, and the same as encoding all of it."""

import itertools

import numpy as np
import pandas as pd
import pytest

from app.source_spans import LONGEST_SENTENCE, TokenSpans, sentence_starts
from longmem.documents import Document

MIXED = (
    "“Where is she?” the keeper asked. Élodie smiled: the café was closed. 🙂🙂 灯台の灯が消えた。彼女は待った。\n\n"
    "In the morning the ship returned, naïve and late 🚢; 7 of them stood empty in the winter of 1907. "
)


def chunks_of(text: str, tokenizer, size: int = 4) -> tuple[pd.DataFrame, np.ndarray]:
    """The chunks of a text as a run holds them, and the true spans of its tokens."""
    spans = Document.from_text("text", text).encode(tokenizer).spans.numpy()
    first = np.arange(0, len(spans), size)
    last = np.append(first[1:], len(spans))
    columns = {"chunk": 100 + np.arange(len(first)), "document_id": 0, "n_tokens": last - first, "first_token": first}
    return pd.DataFrame({**columns, "start": spans[first, 0], "end": spans[last - 1, 1]}), spans


def sentences(text: str) -> list[str]:
    starts = [*sentence_starts(text).tolist(), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(starts)]


@pytest.mark.parametrize("every", [1, 7, 40])
def test_tokens_are_where_encoding_the_whole_text_puts_them(tiny_tokenizer, every):
    text = MIXED * 12
    chunks, spans = chunks_of(text, tiny_tokenizer)
    found = TokenSpans(tiny_tokenizer).of(0, text, chunks.iloc[::every])
    for row in chunks.iloc[::every].itertuples():
        np.testing.assert_array_equal(found[row.chunk], spans[row.first_token : row.first_token + row.n_tokens])


def test_only_stretches_of_a_long_text_are_encoded(tiny_tokenizer, monkeypatch):
    text = "The keeper wrote the name of every ship in a long ledger. " * 200
    chunks, _ = chunks_of(text, tiny_tokenizer)
    encoded = []
    encode = Document.encode
    monkeypatch.setattr(Document, "encode", lambda self, t: encoded.append(len(self.text)) or encode(self, t))
    spans = TokenSpans(tiny_tokenizer)
    spans.of(0, text, chunks.iloc[[50, 51, 300]])
    assert len(encoded) == 2
    assert sum(encoded) < 500
    spans.of(0, text, chunks.iloc[[50, 51, 300]])  # kept
    assert len(encoded) == 2


def test_a_text_of_nothing_but_split_characters_is_encoded_as_a_whole(tiny_tokenizer):
    text = "🙂🚢🙃⛵" * 60
    chunks, spans = chunks_of(text, tiny_tokenizer, size=6)
    found = TokenSpans(tiny_tokenizer).of(0, text, chunks.iloc[[20, 33]])
    for row in chunks.iloc[[20, 33]].itertuples():
        np.testing.assert_array_equal(found[row.chunk], spans[row.first_token : row.first_token + row.n_tokens])


def test_tokens_that_the_tokenizer_would_not_give_have_the_span_of_their_chunk(tiny_tokenizer):
    text = "The keeper wrote the name of every ship."
    wrong = pd.DataFrame(
        [(-2, -1, 3, 0, 1, 17)], columns=["chunk", "document_id", "n_tokens", "first_token", "start", "end"]
    )
    assert TokenSpans(tiny_tokenizer).of(-1, text, wrong)[-2].tolist() == [[1, 17]] * 3
    assert TokenSpans(tiny_tokenizer).of(-1, "", wrong)[-2].tolist() == [[1, 17]] * 3


def test_sentences_are_gapless_and_keep_every_character():
    assert "".join(sentences(MIXED * 3)) == MIXED * 3
    assert sentences("") == [""]


def test_sentences_end_where_a_reader_would_end_them():
    text = 'Mr. J. Vane came at 4.15 p.m. and left. "Who?" said Abel. 灯が消えた。待った。\n\nCHAPTER II\n\nHe slept.'
    assert sentences(text) == [
        "Mr. J. Vane came at 4.15 p.m. and left. ",
        '"Who?" said Abel. ',
        "灯が消えた。",
        "待った。\n\n",
        "CHAPTER II\n\n",
        "He slept.",
    ]


def test_a_sentence_that_never_ends_is_cut_at_a_line_or_a_word():
    lines = sentences("a line of a log\n" * 100)
    assert max(map(len, lines)) <= LONGEST_SENTENCE
    assert all(line.endswith("\n") for line in lines)
    assert all(piece.endswith(" ") for piece in sentences("word " * 300))
    assert max(map(len, sentences("x" * 3000))) <= LONGEST_SENTENCE
