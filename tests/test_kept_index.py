"""A bank with an index finds what an exact one finds, or says how much of it; nothing that has left is ever found."""

import copy

import numpy as np
import pytest
import torch

from longmem import kept_index
from longmem.errors import LongMemError, SearchBackendError
from longmem.kept_index import IndexSettings
from longmem.memory_bank import MemoryBank
from longmem.row_memory import RowMemory
from longmem.search import INDEXED, load_faiss, top_chunks

LAYERS, G, D, S = (4, 9), 2, 16, 4
WHOLE = IndexSettings(nprobe=10_000, links=12, ef_search=600)  # every list and most of the graph are searched


@pytest.fixture(autouse=True)
def small_indexes(monkeypatch):
    monkeypatch.setattr(kept_index, "LEAST_TOKENS", 512)
    monkeypatch.setattr(kept_index, "LEAST_NEW_TOKENS", 128)


def banks(backend: str, **options) -> tuple[MemoryBank, MemoryBank]:
    """An exact bank and one with an index, to be filled alike."""
    settings = {"memory_layers": LAYERS, "kv_heads": G, "head_dim": D, "chunk_size": S, "capacity": 2_000} | options
    return MemoryBank(**settings), MemoryBank(**{"index_settings": WHOLE} | settings, backend=backend)


def add(pair, n: int, seed: int, document: int | None = None) -> None:
    generator = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(len(LAYERS), G, n, D, generator=generator) for _ in range(2))
    for bank in pair:
        bank.add(bank.begin_document(f"d{seed}") if document is None else document, keys, values)


def found_of_exact(pair, seed: int = 99, **options) -> float:
    """The share of the exact bank's chunks that the other finds; each of those has its exact score, keys and values."""
    queries = torch.randn(2, 2 * G, 3, D, generator=torch.Generator().manual_seed(seed))
    shares = []
    for layer in LAYERS:
        exact, found = (bank.search(layer, queries, n_chunks=5, **options) for bank in pair)
        assert torch.equal(exact.mask_BHTK.any(-1), found.mask_BHTK.any(-1))
        same = exact.chunks_BHTC == found.chunks_BHTC
        torch.testing.assert_close(exact.scores_BHTC[same], found.scores_BHTC[same])
        if same.all():
            assert torch.equal(exact.keys_BHTKD, found.keys_BHTKD)
            assert torch.equal(exact.values_BHTKD, found.values_BHTKD)
        shares.append((exact.chunks_BHTC.unsqueeze(-1) == found.chunks_BHTC.unsqueeze(-2)).any(-1).float().mean())
    return float(torch.stack(shares).mean())


@pytest.mark.parametrize("chunk_key", ["max", "mean"])
@pytest.mark.parametrize("backend", INDEXED)
def test_every_index_follows_a_bank_that_grows_evicts_and_forgets(backend, chunk_key):
    pair = banks(backend, chunk_key=chunk_key)
    index = pair[1]._index
    add(pair, 301, 0)
    assert found_of_exact(pair) == 1
    assert not index.is_used  # too few to make lists of
    for seed in range(1, 5):
        add(pair, 303, seed)
    assert found_of_exact(pair) > 0.98
    assert index.is_used
    assert found_of_exact(pair, before=(2, 100), exclude=range(10, 60)) > 0.98
    add(pair, 30, 5)
    assert found_of_exact(pair) > 0.98  # what is new is searched beside the index
    assert len(index._new_slots) == 8
    for seed in range(6, 11):
        add(pair, 403, seed)
        assert found_of_exact(pair) > 0.98
    for bank in pair:
        for document in list(bank.documents)[1:4]:
            bank.remove(document)
    assert found_of_exact(pair) > 0.98
    for bank in pair:
        bank.resize(800)
    assert found_of_exact(pair) > 0.98
    for bank in pair:
        bank.clear()
    assert found_of_exact(pair) == 1


@pytest.mark.parametrize("backend", INDEXED)
def test_a_chunk_that_was_completed_is_found_by_its_new_keys(backend):
    pair = banks(backend)
    add(pair, 1_001, 0)
    found_of_exact(pair)
    loud = torch.full((len(LAYERS), G, 3, D), 3.0)
    for bank in pair:
        bank.add(0, loud, loud)
        found = bank.search(4, torch.ones(1, G, 1, D), n_chunks=1)
        assert (found.chunks_BHTC == 250).all()
        assert found.mask_BHTK.all()


def test_an_index_is_made_anew_once_half_of_it_is_hidden():
    pair = banks("faiss-hnsw")
    for seed in range(4):
        add(pair, 400, seed)
    found_of_exact(pair)
    index = pair[1]._index
    assert len(index._ids_I) == 400
    for bank in pair:
        bank.remove(0)
    found_of_exact(pair)
    assert len(index._ids_I) == 400  # one of four is hidden only
    for bank in pair:
        bank.remove(1)
    found_of_exact(pair)
    assert len(index._ids_I) == 200


def test_with_more_tokens_there_are_more_lists():
    pair = banks("faiss-ivf", capacity=8_000, index_settings=None)
    add(pair, 600, 0)
    found_of_exact(pair)
    lists = pair[1]._index._indexes[0][0].nlist
    add(pair, 4_000, 1)
    found_of_exact(pair)
    assert pair[1]._index._indexes[0][0].nlist > lists
    assert IndexSettings().lists(1_048_576) == 1_024
    assert IndexSettings(nlist=50).lists(1_048_576) == 50


def test_searches_that_find_too_few_are_repeated_exactly():
    pair = banks("faiss-ivf", index_settings=IndexSettings(nlist=16, nprobe=1))
    add(pair, 1_200, 0)
    assert found_of_exact(pair, exclude=range(8, 300)) == 1  # the nearest list holds none or few of the eight


# Recall


def test_recall_is_measured_on_the_banks_own_searches(monkeypatch):
    pair = banks("faiss-ivf", index_settings=IndexSettings(nlist=12, nprobe=2))
    assert pair[1].recall is None
    assert pair[0].recall is None
    add(pair, 1_900, 0)
    monkeypatch.setattr(kept_index, "COMPARED_EVERY", 1)
    monkeypatch.setattr(kept_index, "COMPARED_QUERIES", 12)
    share = np.mean([found_of_exact(pair, seed=seed) for seed in range(10)])
    assert pair[1].recall.share == pytest.approx(share, abs=0.005)  # a near tie counts as found
    assert 0.1 < share < 0.95
    assert pair[1].recall.queries == 10 * len(LAYERS) * G * 12
    pair[1].clear()
    assert pair[1].recall is None


def test_an_index_that_finds_nothing_has_a_recall_of_nothing(monkeypatch):
    """So that a high recall means something: here an index proposes the worst chunks there are."""
    pair = banks("faiss-sq8")
    add(pair, 1_200, 0)
    index = pair[1]._index

    def worst(layer, queries_GQD, n_chunks, allowed_C):
        keys_GND, per_chunk = index._ring.searched(layer)
        return top_chunks(-queries_GQD, keys_GND, n_chunks=n_chunks, chunk_size=per_chunk)[1]

    monkeypatch.setattr(index, "_proposed", worst)
    found_of_exact(pair)
    assert pair[1].recall.share < 0.1


def test_few_searches_are_compared_and_the_first_ones_are():
    pair = banks("faiss-sq8")
    add(pair, 1_000, 0)
    compared = []
    for _ in range(130):
        pair[1].search(4, torch.ones(1, G, 1, D), n_chunks=2)
        compared.append(len(pair[1]._index._compared))
    assert [n for n, (a, b) in enumerate(zip([0, *compared], compared, strict=False), 1) if b > a] == [
        1, 2, 4, 8, 16, 32, 64, 128,
    ]  # fmt: skip


# What a bank with an index is besides


def test_a_bank_with_an_index_is_saved_and_makes_its_index_again(tmp_path):
    pair = banks("faiss-ivf")
    add(pair, 1_500, 0)
    found_of_exact(pair)
    pair[1].save(tmp_path / "bank")
    loaded = MemoryBank.load(tmp_path / "bank", index_settings=WHOLE)
    assert loaded.backend == "faiss-ivf"
    assert found_of_exact((pair[0], loaded)) > 0.98
    assert loaded._index.is_used
    assert MemoryBank.load(tmp_path / "bank", backend="torch").recall is None


def test_the_bytes_of_an_index_are_counted_before_and_after_it_is_made():
    pair = banks("faiss-hnsw")
    promised = pair[1].nbytes_with(1_600)
    add(pair, 1_600, 0)
    pair[1].settle()
    assert pair[0].nbytes < pair[1].nbytes == promised


def test_a_bank_may_be_searched_in_another_way():
    pair = banks("faiss-sq8")
    add(pair, 1_200, 0)
    pair[0].use_backend("faiss-sq8")
    assert found_of_exact(pair) == 1
    pair[0].use_backend("torch")
    assert not pair[0].has_index
    with pytest.raises(SearchBackendError, match="'annoy'"):
        pair[0].use_backend("annoy")
    assert pair[0].backend == "torch"


def test_a_copy_of_a_bank_has_an_index_of_its_own():
    pair = banks("faiss-ivf")
    add(pair, 1_200, 0)
    found_of_exact(pair)
    copied = copy.deepcopy(pair[1])
    add(pair, 700, 1)
    assert copied.n_tokens == 1_200
    assert copied._index._ring is copied._ring
    copied.add(copied.begin_document("d1"), *(torch.zeros(len(LAYERS), G, 4, D) for _ in range(2)))
    assert found_of_exact(pair) > 0.98


def test_all_scores_of_a_bank_with_an_index_are_exact():
    pair = banks("faiss-sq8")
    add(pair, 900, 0)
    queries = torch.randn(1, G, 2, D, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(*(bank.scores(9, queries) for bank in pair))


def test_an_index_is_of_a_bank_and_of_nothing_else():
    with pytest.raises(SearchBackendError, match="an index that a bank keeps"):
        top_chunks(torch.randn(1, 1, D), torch.randn(1, 8, D), n_chunks=1, chunk_size=4, backend="faiss-ivf")
    memory = RowMemory([4], capacity=64, chunk_size=4, backend="faiss-hnsw")
    keys = {4: torch.randn(1, G, 8, D)}
    memory.add(keys, keys, torch.ones(1, 8, dtype=torch.bool))
    with pytest.raises(SearchBackendError, match="an index that a bank keeps"):
        memory.search(4, torch.randn(1, G, 1, D), n_chunks=1)


@pytest.mark.parametrize("name", ["nlist", "nprobe", "links", "ef_search", "shards"])
def test_settings_that_make_no_index_are_named(name):
    with pytest.raises(LongMemError, match=f"{name} is 0; it must be at least 1"):
        IndexSettings(**{name: 0})
    with pytest.raises(LongMemError, match="links is 1; it must be at least 2"):
        IndexSettings(links=1)


def test_shards_are_those_of_faiss_and_share_the_entries():
    pair = banks("faiss-shards", index_settings=IndexSettings(shards=3))
    add(pair, 1_200, 0)
    assert found_of_exact(pair) == 1
    shards = pair[1]._index._indexes[0][0]
    assert isinstance(shards, load_faiss().IndexShards)
    assert [shards.at(i).ntotal for i in range(shards.count())] == [400, 400, 400]
