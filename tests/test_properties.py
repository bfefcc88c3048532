"""Properties that hold for whatever is given: banks do as a naive model does, searches agree, spans cover the text."""

import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from longmem.documents import Document, clean_text, segments
from longmem.memory_bank import MemoryBank
from longmem.search import top_chunks
from tests.conftest import make_tiny_tokenizer

QUICK = settings(max_examples=25, deadline=None, database=None)
SIZE, CAPACITY, DIM = 4, 24, 3
TOKENIZER = make_tiny_tokenizer()


class NaiveBank:
    """A list of chunks, oldest first, each [document, first token, keys]; whole chunks leave."""

    def __init__(self) -> None:
        self.chunks: list[tuple[int, int, list[float]]] = []
        self.read: dict[int, int] = {}

    def add(self, document: int, keys: list[float]) -> None:
        for key in keys:
            at = self.read[document]
            last = next((c for c in self.chunks if c[0] == document and c[1] + len(c[2]) == at), None)
            if at % SIZE and last is not None:
                last[2].append(key)
            else:
                self.chunks.append((document, at, [key]))
            self.read[document] = at + 1
        del self.chunks[: max(0, len(self.chunks) - CAPACITY // SIZE)]

    def remove(self, document: int) -> None:
        self.chunks = [chunk for chunk in self.chunks if chunk[0] != document]
        del self.read[document]


class BankAndNaiveBank(RuleBasedStateMachine):
    """The same steps on a bank and on a naive one."""

    def __init__(self) -> None:
        super().__init__()
        self.bank = MemoryBank(
            memory_layers=[5], kv_heads=1, head_dim=DIM, chunk_size=SIZE, capacity=CAPACITY, dtype=torch.float32
        )
        self.naive, self.count = NaiveBank(), 0

    def known(self, choice: int) -> int:
        documents = sorted(self.naive.read)
        return documents[choice % len(documents)]

    @rule()
    def begin(self) -> None:
        self.naive.read[self.bank.begin_document("name")] = 0

    @precondition(lambda self: self.naive.read)
    @rule(choice=st.integers(0, 9), n=st.integers(1, 40))
    def add(self, choice: int, n: int) -> None:
        document = self.known(choice)
        keys = [float(self.count + i) for i in range(n)]
        self.count += n
        keys_LHTD = torch.tensor(keys).view(1, 1, n, 1).expand(1, 1, n, DIM)
        self.bank.add(document, keys_LHTD, -keys_LHTD)
        self.naive.add(document, keys)

    @precondition(lambda self: self.naive.read)
    @rule(choice=st.integers(0, 9))
    def remove(self, choice: int) -> None:
        document = self.known(choice)
        self.bank.remove(document)
        self.naive.remove(document)

    @rule()
    def save_and_load(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.bank.save(Path(folder) / "bank")
            self.bank = MemoryBank.load(Path(folder) / "bank")

    @invariant()
    def they_hold_the_same(self) -> None:
        held = [(c.document, c.token_start, c.token_stop) for c in self.bank.chunks()]
        assert held == [(document, at, at + len(keys)) for document, at, keys in self.naive.chunks]
        assert self.bank.n_tokens == sum(len(keys) for _, _, keys in self.naive.chunks)

    @invariant()
    def the_best_chunk_holds_the_largest_key(self) -> None:
        """All keys are positive multiples of the query, so the best chunk is that of the largest key."""
        found = self.bank.search(5, torch.ones(1, 1, 1, DIM), n_chunks=2)
        best = sorted((max(keys) for _, _, keys in self.naive.chunks), reverse=True)[:2]
        scores = found.scores_BHTC.flatten().tolist()
        assert [score for score in scores if score > float("-inf")] == pytest.approx([DIM * key for key in best])


TestBank = BankAndNaiveBank.TestCase
TestBank.settings = settings(max_examples=15, stateful_step_count=15, deadline=None, database=None)


@st.composite
def searches(draw: st.DrawFn) -> tuple:
    """Whole-numbered keys and queries, exact in every dtype, which chunks are allowed, and how many are wanted."""
    heads, chunks, size = draw(st.integers(1, 2)), draw(st.integers(1, 150)), draw(st.sampled_from([1, 2, 4]))
    seed = draw(st.integers(0, 2**31))
    noise = torch.Generator().manual_seed(seed)
    keys = torch.randint(-9, 10, (heads, chunks * size, 4), generator=noise).float()
    queries = torch.randint(-9, 10, (heads, draw(st.integers(1, 9)), 4), generator=noise).float()
    allowed = None
    if draw(st.booleans()):
        allowed = torch.rand(chunks, generator=noise) < draw(st.sampled_from([0.0, 0.3, 0.9]))
    return queries, keys, size, allowed, draw(st.integers(1, 12))


@pytest.mark.parametrize("backend", ["torch", "torch-coarse", "faiss-cpu"])
@given(search=searches())
@QUICK
def test_every_backend_finds_what_trying_all_chunks_finds(backend, search):
    queries, keys, size, allowed, n = search
    if backend == "torch-coarse":  # only such keys are searched so
        queries, keys = queries.bfloat16(), keys.bfloat16()
    options = {"n_chunks": n, "chunk_size": size, "allowed_C": allowed, "backend": backend}
    scores, slots = top_chunks(queries, keys, **options)
    all_scores = (queries.float() @ keys.float().mT).unflatten(-1, (-1, size)).amax(-1)
    if allowed is not None:
        all_scores = all_scores.masked_fill(~allowed, float("-inf"))
    wanted = all_scores.sort(-1, descending=True).values[..., :n]
    wanted = torch.nn.functional.pad(wanted, (0, n - wanted.shape[-1]), value=float("-inf"))
    assert torch.equal(scores, wanted)
    assert torch.equal(slots < 0, wanted == float("-inf"))
    found = all_scores.gather(-1, slots.clamp(min=0)).masked_fill(slots < 0, float("-inf"))
    assert torch.equal(found, scores)
    for row in slots.flatten(0, 1).tolist():
        taken = [slot for slot in row if slot >= 0]
        assert len(taken) == len(set(taken))


@given(text=st.text(st.characters(), min_size=1, max_size=200))
@QUICK
def test_spans_cover_every_text_and_chunks_lead_back_to_it(text):
    if not clean_text(text).strip():
        return
    document = Document("any", text)
    encoded = document.encode(TOKENIZER)
    spans = encoded.spans.tolist()
    assert (spans[0][0], spans[-1][1]) == (0, len(document.text))
    assert all(start <= stop for start, stop in spans)
    assert all(after[0] in (before[1], before[1] - 1) for before, after in pairwise(spans))
    bank = MemoryBank(memory_layers=[0], kv_heads=1, head_dim=1, chunk_size=SIZE, capacity=4096)
    number = bank.begin_document("any", document.text)
    states = torch.zeros(1, 1, len(spans), 1)
    bank.add(number, states, states, encoded.spans)
    pieces = [(chunk.start, chunk.stop) for chunk in bank.chunks()]
    assert (pieces[0][0], pieces[-1][1]) == (0, len(document.text))
    assert all(after[0] in (before[1], before[1] - 1) for before, after in pairwise(pieces))
    decoded = TOKENIZER.decode(encoded.token_ids, clean_up_tokenization_spaces=False)
    assert decoded == document.text


@given(text=st.text(max_size=200))
@QUICK
def test_cleaning_twice_changes_nothing(text):
    once = clean_text(text)
    assert clean_text(once) == once
    assert "\x00" not in once
    assert "\r" not in once
    once.encode()


@given(total=st.integers(1, 500), window=st.integers(2, 64), half=st.booleans())
@QUICK
def test_segments_keep_every_token_once_and_fit_the_window(total, window, half):
    parts = segments(total, window, window // 2 if half else 0)
    assert [token for part in parts for token in range(part.start, part.end)] == list(range(total))
    assert all(0 <= part.first <= part.start and part.end - part.first <= window for part in parts)
