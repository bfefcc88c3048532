"""Runs for tests: one that a tiny model made, and one by hand whose every text is hostile."""

from pathlib import Path

import pandas as pd

from app.handlers import Studio
from app.reading import SampleShelf
from app.session import Recipe, Run, SessionStore, Source
from app.settings import Settings
from tests.test_charts import make_chunks, make_gates, make_tokens, make_trace

STORY = "The lighthouse keeper wrote the name of every ship in a long ledger. " * 12
SETTINGS = {"max_new_tokens": 8, "temperature": 0.8, "top_p": 0.9, "seed": 1}
PROMPT = "The keeper = wrote"
HOSTILE = (
    '<img src="https://evil.example/x.png" onerror="window.pwn=1"><script>window.pwn=1</script></script><!-- '
    "</title></style>{{x}} ${window.pwn=1} '\"&amp; \u2028"
)
CELLS = [
    "=1+1",
    "+2",
    "-3",
    "@SUM(A1)",
    "\tx",
    "\rx",
    "\nx",
    "'quoted",
    "''",
    "",
    " =1",
    "NA",
    "null",
    "1e5",
    "＝1",
    'a;=HYPERLINK("x");b',
    "a; +1|-2\t@x\n=3",
    'a;"=1"',
    "a;'=1",
    "\r\n=1",
    'a"b,c',
    "é\r\n",
]


def studio_with_a_run(model, folder: Path, key: str = "me") -> Studio:
    """A studio in which a visitor has the story in memory and has generated from it."""
    (folder / "the-keeper.txt").write_text(STORY, encoding="utf-8")
    studio = Studio(model, SessionStore(model.new_bank), SampleShelf(model, folder))
    list(studio.open(key))
    list(studio.generate(key, PROMPT, SETTINGS))
    return studio


def run_by_hand(words: list[str], name: str = "book", text: str = "") -> Run:
    """A run of a token for each of `words`; documents named and made of what is given."""
    chunks = make_chunks().assign(first_token=0, start=0, end=20)
    chunks["document"] = [f"{name}-{i}" for i in chunks.document_id]
    trace = make_trace(chunks, steps=len(words))
    trace["token"] = [words[step] for step in trace.step]
    trace["text"] = [words[i % len(words)] for i in range(len(trace))]
    trace["start"], trace["end"] = 0, 20
    weights = pd.DataFrame({"step": [0], "layer": [4], "head": [0], "chunk": [100], "place": [1], "weight": [0.25]})
    sources = {i: Source(f"{name}-{i}", text or "some words of a book " * 40) for i in (0, 1)}
    tokens = make_tokens(len(words)).assign(token=words)
    recipe = Recipe("generated", words[0], None, Settings(), (1, 2, 3, 0))
    return Run(1, recipe, tokens, trace, make_gates(trace), weights, chunks, sources)
