"""Sessions: each with its own bank, freed when they rest, held together under one budget."""

import time
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
import torch

from app.session import OWN_TEXT, SessionStore, memory_map, with_own_text
from longmem.errors import MemoryBudgetError
from longmem.memory_bank import MemoryBank


class Clock:
    """Time that passes when told to, in seconds."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def new_bank() -> MemoryBank:
    return MemoryBank(memory_layers=[1, 3], kv_heads=2, head_dim=4, capacity=4096)


def fill(bank: MemoryBank, name: str = "book.txt", n_tokens: int = 10) -> int:
    document = bank.begin_document(name, "word " * n_tokens)
    states = torch.zeros(2, 2, n_tokens, 4)
    spans = torch.stack([torch.arange(n_tokens) * 5, torch.arange(n_tokens) * 5 + 5], dim=1)
    bank.add(document, states, states, spans)
    return document


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock) -> SessionStore:
    return SessionStore(new_bank, max_sessions=3, idle_seconds=100, clock=clock)


def test_every_session_has_its_own_bank(store):
    fill(store.get("a").bank)
    assert store.get("a").bank.n_tokens == 10
    assert store.get("b").bank.is_empty


def test_a_session_is_kept_between_calls(store):
    assert store.get("a") is store.get("a")


def test_events_that_come_at_once_get_one_session():
    def slow_bank() -> MemoryBank:
        time.sleep(0.02)
        return new_bank()

    store = SessionStore(slow_bank)
    with ThreadPoolExecutor(8) as pool:
        sessions = list(pool.map(store.get, ["a"] * 8))
    assert len({id(session) for session in sessions}) == 1


def test_creating_again_starts_with_an_empty_bank_and_stops_the_old_one(store):
    old = store.get("a")
    fill(old.bank)
    with old.stops.working("reading") as reading, old.stops.working("generating") as generating:
        assert store.create("a").bank.is_empty
        assert reading.is_set()
        assert generating.is_set()


def test_freeing_stops_what_runs_and_forgets_the_bank(store):
    session = store.get("a")
    session.stops.prepare("generating")
    store.free("a")
    with session.stops.working("generating") as stop:  # what waits does not begin
        assert stop.is_set()
    assert "a" not in store
    store.free("a")  # a second goodbye does no harm


def test_idle_sessions_are_freed_when_another_comes(store, clock):
    store.get("a")
    clock.now = 60
    store.get("b")
    clock.now = 120
    store.get("c")
    assert "a" not in store
    assert "b" in store


def test_the_session_used_longest_ago_makes_room(store, clock):
    for key in "abc":
        store.get(key)
        clock.now += 1
    store.get("a")
    store.get("d")
    assert "b" not in store
    assert {"a", "c", "d"} == {key for key in "abcd" if key in store}


def test_a_busy_session_is_never_freed(store, clock):
    busy = store.get("a")
    with busy.lock:
        clock.now = 1000
        for key in "bcde":
            store.get(key)
        assert store.get("a") is busy


def test_a_visitor_whose_session_was_freed_is_told_once(store, clock):
    store.get("a")
    clock.now = 1000
    store.get("b")
    assert store.get("a").follows_freed
    store.free("a")
    assert not store.get("a").follows_freed  # this one left by itself


def test_bytes_of_all_banks_are_counted_together(store):
    fill(store.get("a").bank)
    fill(store.get("b").bank)
    assert store.nbytes == store.get("a").bank.nbytes + store.get("b").bank.nbytes


def test_reserving_frees_others_at_rest_before_it_refuses(clock):
    fill(bank := new_bank())
    store = SessionStore(new_bank, byte_budget=2 * bank.nbytes, clock=clock)
    fill(store.get("a").bank)
    me = store.get("b")
    fill(me.bank)
    store.reserve(me, me.bank.nbytes)
    assert "a" in store
    store.reserve(me, 2 * bank.nbytes)
    assert "a" not in store


def test_a_reached_budget_says_how_much_is_in_use_and_what_to_do(clock):
    store = SessionStore(new_bank, byte_budget=2**20, clock=clock)
    with pytest.raises(MemoryBudgetError, match=r"needs 3 MiB .* of the 1 MiB .* clear the memory"):
        store.reserve(store.get("a"), 3 * 2**20)
    assert "a" in store


def test_memory_map_tells_where_every_chunk_lies():
    bank = new_bank()
    fill(bank, "first.txt", 10)
    fill(bank, "second.txt", 5)
    chunks = memory_map(bank)
    assert list(chunks.position) == [0, 4, 8, 10, 14]
    assert list(chunks.n_tokens) == [4, 4, 2, 4, 1]
    assert list(chunks.document) == ["first.txt"] * 3 + ["second.txt"] * 2
    assert list(chunks.chunk) == [chunk.id for chunk in bank.chunks()]


def test_memory_map_keeps_documents_of_one_name_apart():
    bank = new_bank()
    fill(bank, "same.txt")
    fill(bank, "same.txt")
    assert set(memory_map(bank).document_id) == {0, 1}


def test_memory_map_of_an_empty_bank_is_an_empty_table():
    chunks = memory_map(new_bank())
    assert chunks.empty
    names = "chunk document_id n_tokens first_token start end document position"
    assert list(chunks.columns) == names.split()


def test_own_text_stands_after_the_documents():
    bank = new_bank()
    fill(bank)
    trace = pd.DataFrame({"chunk": [0, -2, -4, -2], "document": ["book.txt", *["generated"] * 3]})
    trace = trace.assign(start=[0, 0, 20, 0], end=[9, 9, 29, 9])
    chunks = with_own_text(memory_map(bank), trace)
    own = chunks[chunks.document_id == OWN_TEXT]
    assert list(own.chunk) == [-2, -4]
    assert list(own.position) == [10, 18]
    assert list(own.first_token) == [0, 8]
    assert list(own.start) == [0, 20]
