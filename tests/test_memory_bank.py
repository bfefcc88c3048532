"""The bank keeps what was read, knows where it came from, lets the oldest go and survives on disk."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from longmem import bank_files, chunk_ring
from longmem.errors import (
    BankFileError,
    BankMismatchError,
    LongMemError,
    MemoryLayerError,
    RetrievalSizeError,
    SearchBackendError,
)
from longmem.memory_bank import MemoryBank
from longmem.retrieval import Chunk

LAYERS, G, D, S = (4, 9), 2, 8, 4
NOTHING = float("-inf")


def a_bank(**options) -> MemoryBank:
    settings = {"memory_layers": LAYERS, "kv_heads": G, "head_dim": D, "chunk_size": S, "dtype": torch.float32}
    return MemoryBank(**(settings | options))


def tokens(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(LAYERS), G, n, D)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def spans(n: int, first: int = 0) -> torch.Tensor:
    """Three characters a token."""
    starts = 3 * torch.arange(first, first + n)
    return torch.stack([starts, starts + 3], dim=1)


def read(bank: MemoryBank, n: int, name: str = "a", seed: int = 0) -> int:
    document = bank.begin_document(name, name[0] * 3 * n)
    bank.add(document, *tokens(n, seed), spans(n))
    return document


def everything(bank: MemoryBank, layer: int = LAYERS[0], **options):
    """A retrieval of all chunks of a bank, by any query."""
    return bank.search(layer, torch.ones(1, G, 1, D), n_chunks=max(1, bank.n_chunks), **options)


def contents(bank: MemoryBank) -> list[tuple]:
    """Per chunk, oldest first: its provenance, and the keys and values that a search returns for every layer."""
    found = {chunk.id: [chunk] for chunk in bank.chunks()}
    for layer in LAYERS:
        retrieval = everything(bank, layer)
        for rank, id in enumerate(retrieval.chunks_BHTC[0, 0, 0].tolist()):
            if id >= 0:
                where = slice(rank * S, (rank + 1) * S)
                mask_K = retrieval.mask_BHTK[0, 0, 0, where]
                found[id].append(retrieval.keys_BHTKD[0, 0, 0, where][mask_K].tolist())
                found[id].append(retrieval.values_BHTKD[0, 0, 0, where][mask_K].tolist())
    return [tuple(parts) for parts in found.values()]


def expected_contents(pieces: list[tuple]) -> list[tuple]:
    return [
        (chunk, *(part[index, 0].tolist() for index in range(len(LAYERS)) for part in (keys, values)))
        for chunk, keys, values in pieces
    ]


# What goes in comes out


def test_an_empty_bank_returns_nothing_but_masks():
    bank = a_bank()
    found = bank.search(4, torch.randn(2, 6, 3, D), n_chunks=5)
    assert bank.is_empty
    assert bank.n_tokens == bank.n_chunks == 0
    assert bank.documents == {}
    assert list(bank.chunks()) == []
    assert found.keys_BHTKD.shape == found.values_BHTKD.shape == (2, 6, 3, 5 * S, D)
    assert not found.mask_BHTK.any()
    assert (found.keys_BHTKD == 0).all()
    assert (found.chunks_BHTC == -1).all()
    assert (found.scores_BHTC == NOTHING).all()


@pytest.mark.parametrize("chunk_key", ["max", "mean"])
def test_each_query_finds_keys_values_ids_and_scores_of_its_best_chunks(chunk_key):
    bank = a_bank(chunk_key=chunk_key)
    keys, values = tokens(40)
    bank.add(bank.begin_document("a"), keys, values)
    queries_BHTD = torch.randn(1, G, 6, D, generator=torch.Generator().manual_seed(1))
    found = bank.search(9, queries_BHTD, n_chunks=3)
    for h in range(G):
        chunks_CSD, values_CSD = keys[1, h].view(-1, S, D), values[1, h].view(-1, S, D)
        for t in range(6):
            scores_CS = chunks_CSD @ queries_BHTD[0, h, t]
            best = (scores_CS.amax(1) if chunk_key == "max" else scores_CS.mean(1)).topk(3)
            torch.testing.assert_close(found.scores_BHTC[0, h, t], best.values)
            assert torch.equal(found.chunks_BHTC[0, h, t], best.indices)
            assert torch.equal(found.keys_BHTKD[0, h, t], chunks_CSD[best.indices].flatten(0, 1))
            assert torch.equal(found.values_BHTKD[0, h, t], values_CSD[best.indices].flatten(0, 1))
    assert found.mask_BHTK.all()


def test_query_heads_read_the_key_value_head_of_their_group():
    bank = a_bank()
    read(bank, 40)
    queries_BHTD = torch.randn(1, 6, 2, D, generator=torch.Generator().manual_seed(2))
    together = bank.search(4, queries_BHTD, n_chunks=2)
    for h in range(6):
        alone = bank.search(4, queries_BHTD[:, h : h + 1].expand(1, G, 2, D), n_chunks=2)
        assert torch.equal(together.chunks_BHTC[0, h], alone.chunks_BHTC[0, h // 3])
        assert torch.equal(together.keys_BHTKD[0, h], alone.keys_BHTKD[0, h // 3])


def test_rows_share_the_bank_but_not_their_results():
    bank = a_bank()
    read(bank, 40)
    queries_BHTD = torch.randn(3, 4, 5, D, generator=torch.Generator().manual_seed(3))
    together = bank.search(4, queries_BHTD, n_chunks=4)
    for row in range(3):
        alone = bank.search(4, queries_BHTD[row : row + 1], n_chunks=4)
        assert torch.equal(together.chunks_BHTC[row], alone.chunks_BHTC[0])
        assert torch.equal(together.values_BHTKD[row], alone.values_BHTKD[0])
        torch.testing.assert_close(together.scores_BHTC[row], alone.scores_BHTC[0])


def test_layers_do_not_mix():
    bank = a_bank()
    keys, values = tokens(8)
    bank.add(bank.begin_document("a"), keys, values)
    for index, layer in enumerate(LAYERS):
        found = everything(bank, layer)
        order = found.chunks_BHTC[0, 1, 0]
        assert torch.equal(found.values_BHTKD[0, 1, 0], values[index, 1].view(-1, S, D)[order].flatten(0, 1))


def test_fewer_chunks_than_asked_for_are_masked_never_repeated():
    """The official code reads slot -1 unmasked."""
    bank = a_bank()
    read(bank, 2 * S)
    found = bank.search(4, torch.randn(1, G, 3, D), n_chunks=5)
    assert torch.equal(found.chunks_BHTC.sort().values, torch.tensor([-1, -1, -1, 0, 1]).expand(1, G, 3, 5))
    assert torch.equal(found.mask_BHTK, (torch.arange(5 * S) < 2 * S).expand(1, G, 3, 5 * S))
    assert (found.keys_BHTKD[..., 2 * S :, :] == 0).all()
    assert (found.values_BHTKD[..., 2 * S :, :] == 0).all()


def test_what_is_stored_is_detached_and_a_copy():
    bank = a_bank()
    keys, values = tokens(8)
    keys.requires_grad_()
    bank.add(bank.begin_document("a"), keys, values)
    before = contents(bank)
    values.zero_()
    found = bank.search(4, torch.randn(1, G, 1, D, requires_grad=True), n_chunks=2)
    assert contents(bank) == before
    assert not any(part.requires_grad for part in (found.keys_BHTKD, found.values_BHTKD, found.scores_BHTC))


def test_a_bank_keeps_bfloat16_unless_told_otherwise():
    bank = MemoryBank(memory_layers=LAYERS, kv_heads=G, head_dim=D)
    keys, values = tokens(4)
    bank.add(bank.begin_document("a"), keys, values)
    found = everything(bank)
    assert bank.dtype == found.keys_BHTKD.dtype == torch.bfloat16
    assert torch.equal(found.keys_BHTKD[0, 0, 0], keys[0, 0].bfloat16())
    torch.testing.assert_close(found.scores_BHTC[0, 0, 0, 0], keys[0, 0].bfloat16().float().sum(-1).max())


# Chunks and where they come from


def test_chunks_know_their_tokens_and_characters():
    bank = a_bank()
    text = "The keeper wrote every name."
    document = bank.begin_document("ledger", text)
    ends = torch.tensor([3, 10, 16, 22, 27, 28])
    starts = torch.cat([torch.tensor([0]), ends[:-1]])
    bank.add(document, *tokens(6), torch.stack([starts, ends], 1))
    assert list(bank.chunks()) == [Chunk(0, document, 0, 4, 0, 22), Chunk(1, document, 4, 6, 22, 28)]
    assert [text[c.start : c.stop] for c in bank.chunks()] == ["The keeper wrote every", " name."]
    assert bank.chunk(1) == Chunk(1, document, 4, 6, 22, 28)
    assert all(type(number) is int for number in bank.chunk(1))


def test_a_chunk_spans_every_character_of_its_tokens():
    """Tokens that cut one character each span the whole of it, so that starts and stops repeat."""
    bank = a_bank()
    document = bank.begin_document("é", "aébé")
    bank.add(document, *tokens(5), torch.tensor([[0, 1], [1, 2], [1, 2], [2, 4], [3, 4]]))
    assert [(c.start, c.stop) for c in bank.chunks()] == [(0, 4), (3, 4)]


@pytest.mark.parametrize("chunk_key", ["max", "mean"])
def test_a_short_tail_chunk_is_kept_and_its_empty_slots_are_masked(chunk_key):
    bank = a_bank(chunk_key=chunk_key)
    keys, values = tokens(6)
    bank.add(bank.begin_document("a"), keys, values)
    found = everything(bank)
    rank = found.chunks_BHTC[0, 0, 0].tolist().index(1)
    where = slice(rank * S, (rank + 1) * S)
    assert bank.n_tokens == 6
    assert bank.n_chunks == 2
    assert found.mask_BHTK[0, 0, 0, where].tolist() == [True, True, False, False]
    assert torch.equal(found.keys_BHTKD[0, 0, 0, where][:2], keys[0, 0, 4:])
    assert (found.keys_BHTKD[0, 0, 0, where][2:] == 0).all()
    assert (found.values_BHTKD[0, 0, 0, where][2:] == 0).all()
    scores_S = keys[0, 0, 4:] @ torch.ones(D)
    expected = scores_S.max() if chunk_key == "max" else scores_S.mean()
    torch.testing.assert_close(found.scores_BHTC[0, 0, 0, rank], expected)


@pytest.mark.parametrize("chunk_key", ["max", "mean"])
@pytest.mark.parametrize("cuts", [[1, 2, 3, 7, 8], [4, 4, 9], [5], [11]])
def test_a_document_in_pieces_equals_the_document_at_once(cuts, chunk_key):
    whole, pieces = a_bank(chunk_key=chunk_key), a_bank(chunk_key=chunk_key)
    read(whole, 12)
    document, (keys, values) = pieces.begin_document("a", "x" * 36), tokens(12)
    for start, stop in zip([0, *cuts], [*cuts, 12], strict=True):
        pieces.add(document, keys[:, :, start:stop], values[:, :, start:stop], spans(stop - start, start))
    assert contents(pieces) == contents(whole)
    torch.testing.assert_close(everything(pieces).scores_BHTC, everything(whole).scores_BHTC)


def test_a_tail_is_completed_in_place_though_another_document_came_between():
    bank = a_bank()
    first, (keys, values) = bank.begin_document("a"), tokens(6)
    bank.add(first, keys[:, :, :2], values[:, :, :2])
    read(bank, 4, "b", seed=5)
    bank.add(first, keys[:, :, 2:], values[:, :, 2:])
    assert [(c.id, c.document, c.token_start, c.token_stop) for c in bank.chunks()] == [
        (0, first, 0, 4), (1, 1, 0, 4), (2, first, 4, 6),
    ]  # fmt: skip
    assert contents(bank)[0][1] == keys[0, 0, :4].tolist()


def test_a_document_goes_on_in_a_new_chunk_when_its_tail_has_left():
    bank = a_bank(capacity=2 * S)
    document, (keys, values) = bank.begin_document("a", "x" * 24), tokens(8)
    bank.add(document, keys[:, :, :5], values[:, :, :5], spans(5))
    read(bank, 8, "b", seed=6)
    bank.add(document, keys[:, :, 5:], values[:, :, 5:], spans(3, 5))
    assert list(bank.chunks())[-1] == Chunk(4, document, 5, 8, 15, 24)
    assert contents(bank)[-1][1] == keys[0, 0, 5:].tolist()


def test_chunk_ids_are_never_used_twice():
    bank = a_bank(capacity=3 * S)
    first = read(bank, 20)
    bank.remove(first)
    second = read(bank, 4)
    bank.clear()
    third = read(bank, 4)
    assert [chunk.id for chunk in bank.chunks()] == [6]
    assert first < second < third


# Oldest out first


def test_eviction_past_capacity_three_times_over_keeps_the_newest_in_order():
    bank = a_bank(capacity=10 * S)
    keys, values = tokens(30 * S + 2)
    document = bank.begin_document("long", "x" * 3 * keys.shape[2])
    for start in range(0, keys.shape[2], 7):  # segments that fit neither chunks nor capacity
        stop = min(start + 7, keys.shape[2])
        bank.add(document, keys[:, :, start:stop], values[:, :, start:stop], spans(stop - start, start))
        assert bank.n_tokens <= bank.capacity
    pieces = [
        (Chunk(c, document, S * c, min(S * c + S, 30 * S + 2), 12 * c, 3 * min(S * c + S, 30 * S + 2)),
         keys[:, :, S * c : S * c + S], values[:, :, S * c : S * c + S])
        for c in range(21, 31)
    ]  # fmt: skip
    assert contents(bank) == expected_contents(pieces)


def test_eviction_drops_no_more_than_it_must():
    """The official code drops two batches at once."""
    bank = a_bank(capacity=10 * S)
    document = read(bank, 10 * S)
    bank.add(document, *tokens(1, 7))
    assert [chunk.id for chunk in bank.chunks()] == list(range(1, 11))


def test_eviction_moves_nothing():
    """The official code copies the whole bank for every segment that it adds."""
    bank = a_bank(capacity=10 * S)
    document = read(bank, 10 * S)
    places = [tensor.data_ptr() for tensor in bank._ring.keys + bank._ring.values]
    before = [tensor.clone() for tensor in bank._ring.keys]
    bank.add(document, *tokens(3 * S, 8))
    assert [tensor.data_ptr() for tensor in bank._ring.keys + bank._ring.values] == places
    assert all(torch.equal(old[:, 3 * S :], new[:, 3 * S :]) for old, new in zip(before, bank._ring.keys, strict=True))


@pytest.mark.parametrize("n", [9 * S, 9 * S + 1])
def test_a_segment_longer_than_the_capacity_keeps_its_newest_tokens(n):
    bank = a_bank(capacity=4 * S)
    read(bank, 5, "before", seed=9)
    keys, values = tokens(n)
    document = bank.begin_document("long")
    bank.add(document, keys, values)
    kept = sorted(chunk.token_start for chunk in bank.chunks())
    last = (n - 1) // S
    assert kept == [S * c for c in range(last - 3, last + 1)]
    assert contents(bank)[-1][1] == keys[0, 0, S * last :].tolist()


def test_evicted_documents_lose_their_counts_and_then_their_entry():
    bank = a_bank(capacity=4 * S)
    first, second = read(bank, 3 * S - 1, "a"), read(bank, 2 * S, "b")
    assert {d.id: (d.name, d.n_tokens, d.n_chunks) for d in bank.documents.values()} == {
        first: ("a", 2 * S - 1, 2),
        second: ("b", 2 * S, 2),
    }
    read(bank, 2 * S, "c")
    assert [record.name for record in bank.documents.values()] == ["b", "c"]
    with pytest.raises(LongMemError, match="Chunk 0 has left"):
        bank.chunk(0)


def test_the_text_of_a_document_leaves_with_its_last_chunk(tmp_path):
    bank = a_bank(capacity=4 * S)
    for number in range(20):
        document = bank.begin_document(f"d{number}", f"{number:04d}" * 500)
        bank.add(document, *tokens(3 * S, number))
    assert [record.name for record in bank.documents.values()] == ["d18", "d19"]
    bank.save(tmp_path / "bank")
    saved = (tmp_path / "bank" / "memory.json").read_text()
    assert "0019" * 500 in saved
    assert "0017" * 2 not in saved
    assert bank.nbytes < a_bank(capacity=4 * S).nbytes_with(4 * S) + 3 * 2100


@pytest.mark.parametrize("chunk_key", ["max", "mean"])
def test_what_a_document_will_take_is_known_before_it_is_read(chunk_key):
    bank = a_bank(capacity=6_000 * S, chunk_key=chunk_key)
    for n, seed in ((10, 1), (4_097 * S, 2), (9_000 * S, 3)):
        text = "x" * 3 * n
        expected = bank.nbytes_with(n, text)
        document = bank.begin_document("a", text)
        bank.reserve(n)
        keys, values = tokens(n, seed)
        for start in range(0, n, 500):
            bank.add(document, keys[:, :, start : start + 500], values[:, :, start : start + 500])
        assert bank.nbytes <= expected
        assert bank.nbytes > 0.9 * expected or n > bank.capacity


def test_capacity_is_rounded_down_to_whole_chunks():
    bank = a_bank(capacity=4 * S + 3)
    read(bank, 6 * S)
    assert bank.capacity == bank.n_tokens == 4 * S


def test_a_small_bank_does_not_take_the_memory_of_a_full_one():
    bank = a_bank(capacity=2**30)
    read(bank, 8)
    per_token = len(LAYERS) * 2 * G * D * 4
    assert bank.nbytes < 2 * chunk_ring.GROWTH_TOKENS * per_token


@pytest.mark.parametrize("chunk_key", ["max", "mean"])
def test_growing_in_blocks_changes_nothing(monkeypatch, chunk_key):
    small, large = a_bank(capacity=50 * S, chunk_key=chunk_key), a_bank(capacity=50 * S, chunk_key=chunk_key)
    sizes = set()
    for seed in range(12):
        monkeypatch.setattr(chunk_ring, "GROWTH_TOKENS", 2 * S)
        read(small, 5 * S + 1, seed=seed)
        sizes.add(small.nbytes)
        monkeypatch.setattr(chunk_ring, "GROWTH_TOKENS", 1_000)
        read(large, 5 * S + 1, seed=seed)
    assert len(sizes) > 3
    assert contents(small) == contents(large)
    torch.testing.assert_close(everything(small).scores_BHTC, everything(large).scores_BHTC)


# Hiding and forgetting


def test_before_hides_the_chunks_of_its_document_that_end_later():
    bank = a_bank()
    read(bank, 3 * S, "a")
    second = read(bank, 3 * S, "b")
    found = everything(bank, before=(second, 2 * S - 1)).chunks_BHTC
    assert set(found[0, 0, 0].tolist()) == {0, 1, 2, 3, -1}
    found = everything(bank, before=(second, 2 * S)).chunks_BHTC
    assert set(found[0, 0, 0].tolist()) == {0, 1, 2, 3, 4, -1}


def test_before_hides_the_same_text_read_a_second_time():
    bank = a_bank()
    first, second, other = read(bank, 3 * S, "a"), read(bank, 3 * S, "a"), read(bank, 3 * S, "b")
    found = everything(bank, before=(second, S)).chunks_BHTC
    shown = {(c.document, c.token_start) for c in map(bank.chunk, found[found >= 0].unique().tolist())}
    assert shown == {(first, 0), (second, 0), (other, 0), (other, S), (other, 2 * S)}


def test_excluded_chunks_are_not_retrieved():
    bank = a_bank()
    document = read(bank, 5 * S)
    assert set(everything(bank, exclude={0, 3, 77}).chunks_BHTC[0, 0, 0].tolist()) == {1, 2, 4, -1}
    both = everything(bank, exclude=[0], before=(document, 2 * S))
    assert set(both.chunks_BHTC[0, 0, 0].tolist()) == {1, -1}
    assert not everything(bank, before=(document, 0)).mask_BHTK.any()


def test_before_and_exclude_follow_the_ring():
    bank = a_bank(capacity=4 * S)
    document = read(bank, 6 * S)
    assert set(everything(bank, exclude={0, 1, 4}).chunks_BHTC[0, 0, 0].tolist()) == {2, 3, 5, -1}
    found = everything(bank, before=(document, 4 * S))
    assert set(found.chunks_BHTC[0, 0, 0].tolist()) == {2, 3, -1}


@pytest.mark.parametrize("chunk_key", ["max", "mean"])
def test_removing_a_document_leaves_the_others_in_order(chunk_key):
    bank = a_bank(capacity=8 * S, chunk_key=chunk_key)
    first, second = read(bank, 5 * S, "a", seed=1), read(bank, 2 * S, "b", seed=2)
    third = read(bank, 3 * S - 2, "c", seed=3)
    kept, scores = [part for part in contents(bank) if part[0].document != second], everything(bank)
    bank.remove(second)
    assert contents(bank) == kept
    assert list(bank.documents) == [first, third]
    after, ids = everything(bank), scores.chunks_BHTC[0, 0, 0].tolist()
    for rank, id in enumerate(after.chunks_BHTC[0, 0, 0].tolist()):
        torch.testing.assert_close(after.scores_BHTC[0, 0, 0, rank], scores.scores_BHTC[0, 0, 0, ids.index(id)])
    read(bank, 4 * S, "d", seed=4)
    assert [c.document for c in bank.chunks()] == [first] + [third] * 3 + [3] * 4
    with pytest.raises(LongMemError, match=f"Document {second}"):
        bank.add(second, *tokens(1))


def test_removing_gives_memory_back():
    bank = a_bank()
    first = read(bank, 3 * chunk_ring.GROWTH_TOKENS)
    read(bank, 4)
    full = bank.nbytes
    bank.remove(first)
    assert bank.nbytes < full / 2


def test_single_chunks_can_be_forgotten():
    bank = a_bank(capacity=4 * S)
    document = read(bank, 6 * S)
    bank.remove_chunks({3, 5, 99})
    assert [c.id for c in bank.chunks()] == [2, 4]
    assert bank.documents[document].n_chunks == 2


def test_a_cleared_bank_is_empty_and_usable():
    bank = a_bank()
    old = read(bank, 20)
    bank.clear()
    assert bank.is_empty
    assert not everything(bank).mask_BHTK.any()
    with pytest.raises(LongMemError, match=f"Document {old}"):
        bank.add(old, *tokens(1))
    read(bank, 4)
    assert bank.n_tokens == 4


class PlainBank:
    """What a bank should do, as plain lists."""

    def __init__(self, most: int):
        self.most, self.pieces, self.read, self.next_id = most, [], {}, 0

    def add(self, document: int, keys, values):
        begin = self.read.get(document, 0)
        for t in range(keys.shape[2]):
            at = begin + t
            new = (keys[:, :, t : t + 1], values[:, :, t : t + 1])
            tail = [i for i, (c, *_) in enumerate(self.pieces) if c.document == document and c.token_stop == at]
            if at % S and tail:
                chunk, *old = self.pieces[tail[0]]
                grown = chunk._replace(token_stop=at + 1, stop=3 * at + 3)
                self.pieces[tail[0]] = (grown, *(torch.cat(pair, 2) for pair in zip(old, new, strict=True)))
            else:
                self.pieces.append((Chunk(self.next_id, document, at, at + 1, 3 * at, 3 * at + 3), *new))
                self.next_id += 1
        self.read[document] = begin + keys.shape[2]
        self.pieces = self.pieces[-self.most :]

    def remove(self, document: int):
        self.pieces = [piece for piece in self.pieces if piece[0].document != document]


@pytest.mark.parametrize("seed", range(6))
def test_a_long_life_equals_plain_lists(seed, tmp_path, monkeypatch):
    """Adding, evicting, removing, going on and saving, in any order."""
    monkeypatch.setattr(chunk_ring, "GROWTH_TOKENS", 3 * S)
    draw = np.random.default_rng(seed)
    bank, plain, alive = a_bank(capacity=11 * S), PlainBank(11), []
    for step in range(60):
        if not alive or draw.random() < 0.3:
            alive.append(bank.begin_document(f"d{step}"))
        document = int(draw.choice(alive))
        n = int(draw.choice([1, 2, 3, 5, 9, 17, 40, 70], p=[0.2, 0.15, 0.15, 0.15, 0.15, 0.1, 0.05, 0.05]))
        at, (keys, values) = plain.read.get(document, 0), tokens(n, 1_000 * seed + step)
        bank.add(document, keys, values, spans(n, at))
        plain.add(document, keys, values)
        if draw.random() < 0.15:
            gone = alive.pop(int(draw.integers(len(alive))))
            bank.remove(gone)
            plain.remove(gone)
        if draw.random() < 0.1:
            bank.save(tmp_path / "bank")
            bank = MemoryBank.load(tmp_path / "bank")
        assert contents(bank) == expected_contents(plain.pieces)


# Backends


@pytest.mark.parametrize("chunk_key", ["max", "mean"])
@pytest.mark.parametrize("backend", ["faiss-cpu", "torch-coarse"])
def test_every_backend_agrees_on_a_bank_with_tails_and_hidden_chunks(backend, chunk_key):
    banks = [a_bank(backend=name, chunk_key=chunk_key, capacity=60 * S) for name in ("torch", backend)]
    for bank in banks:
        for seed in range(30):
            read(bank, 3 * S - seed % S, seed=seed)
    queries = torch.randn(2, 2 * G, 7, D, generator=torch.Generator().manual_seed(11))
    options = {"n_chunks": 6, "before": (25, 4), "exclude": set(range(60, 75))}
    expected, found = (bank.search(9, queries, **options) for bank in banks)
    torch.testing.assert_close(found.scores_BHTC, expected.scores_BHTC)
    assert torch.equal(found.chunks_BHTC, expected.chunks_BHTC)
    assert torch.equal(found.mask_BHTK, expected.mask_BHTK)


def test_faiss_never_sees_what_a_reused_slot_held_before():
    """Unused slots of a tail hold a copy of its last key: faiss knows no mask."""
    bank = a_bank(backend="faiss-cpu", capacity=2 * S)
    keys, values = tokens(2 * S)
    bank.add(bank.begin_document("loud"), 100 * keys.abs(), values)
    read(bank, 1, "one")
    read(bank, 1, "other")
    assert (everything(bank).scores_BHTC < 100).all()


def test_faiss_on_the_cpu_needs_an_fp32_bank():
    with pytest.raises(SearchBackendError, match="bfloat16"):
        a_bank(backend="faiss-cpu", dtype=torch.bfloat16)


# What does not fit is refused


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"memory_layers": ()}, MemoryLayerError, "at least one"),
        ({"memory_layers": (4, 4)}, MemoryLayerError, "each once"),
        ({"kv_heads": 0}, LongMemError, "kv_heads is 0"),
        ({"capacity": S - 1}, LongMemError, "capacity is 3.*one chunk of 4"),
        ({"chunk_size": 0}, LongMemError, "chunk_size is 0"),
        ({"chunk_key": "sum"}, LongMemError, "'sum'.*max, mean"),
        ({"dtype": torch.int8}, LongMemError, "int8.*bfloat16"),
        ({"backend": "hnsw"}, SearchBackendError, "'hnsw'"),
        ({"device": "abacus"}, LongMemError, "'abacus'"),
    ],
)
def test_bad_settings_are_named(options, error, words):
    with pytest.raises(error, match=words):
        a_bank(**options)


def test_segments_of_another_shape_are_refused_and_leave_no_trace():
    bank = a_bank()
    document, (keys, values) = bank.begin_document("a", "x" * 30), tokens(4)
    wrong = [
        (keys[:1], values[:1]), (keys[:, :1], values[:, :1]), (keys[..., :4], values[..., :4]),
        (keys, values[:, :, :3]), (keys[0], values[0]), (keys.long(), values),
    ]  # fmt: skip
    for pair in wrong:
        with pytest.raises(BankMismatchError, match="do not fit"):
            bank.add(document, *pair)
    outside, backwards = spans(4) + 25, spans(4).flip(1)
    for bad_spans in (spans(3), outside, backwards, spans(4) - 1, spans(4).float(), spans(4)[:, 0]):
        with pytest.raises(BankMismatchError, match="Spans"):
            bank.add(document, keys, values, bad_spans)
    assert bank.is_empty
    bank.add(document, keys, values, spans(4))
    assert bank.chunk(0) == Chunk(0, document, 0, 4, 0, 12)


def test_searches_that_do_not_fit_are_refused():
    bank = a_bank()
    read(bank, 8)
    with pytest.raises(MemoryLayerError, match=r"Layer 5.*4, 9"):
        bank.search(5, torch.randn(1, G, 1, D), n_chunks=1)
    for shape in [(1, 3, 1, D), (1, G, 1, D + 1), (G, 1, D)]:
        with pytest.raises(BankMismatchError, match="do not fit"):
            bank.search(4, torch.randn(shape), n_chunks=1)
    with pytest.raises(RetrievalSizeError, match="n_chunks is 0"):
        bank.search(4, torch.randn(1, G, 1, D), n_chunks=0)
    with pytest.raises(LongMemError, match="Document 7"):
        bank.search(4, torch.randn(1, G, 1, D), n_chunks=1, before=(7, 0))


def test_unknown_documents_and_chunks_are_named():
    bank = a_bank()
    with pytest.raises(LongMemError, match="Document 3"):
        bank.add(3, *tokens(1))
    with pytest.raises(LongMemError, match="Document 3"):
        bank.remove(3)
    with pytest.raises(LongMemError, match="Chunk 3 was never"):
        bank.chunk(3)


def test_adding_nothing_changes_nothing():
    bank = a_bank()
    document = read(bank, 5)
    before = contents(bank)
    bank.add(document, *tokens(0), spans(0))
    assert contents(bank) == before


# On disk


def a_full_bank(**options) -> MemoryBank:
    bank = a_bank(capacity=6 * S, fingerprint="model-1", **options)
    read(bank, 5 * S + 1, "first", seed=1)
    document = bank.begin_document("secönd", "ship " * 20)
    bank.add(document, *tokens(9, 2), spans(9))
    return bank


@pytest.mark.parametrize("chunk_key", ["max", "mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_loaded_bank_goes_on_as_if_never_saved(tmp_path, chunk_key, dtype):
    kept = a_full_bank(chunk_key=chunk_key, dtype=dtype)
    kept.save(tmp_path / "bank")
    loaded = MemoryBank.load(tmp_path / "bank", fingerprint="model-1")
    assert loaded.documents == kept.documents
    queries = torch.randn(1, G, 3, D, generator=torch.Generator().manual_seed(4))
    for round in range(4):
        assert contents(loaded) == contents(kept)
        theirs, ours = (bank.search(9, queries, n_chunks=3) for bank in (kept, loaded))
        assert torch.equal(theirs.scores_BHTC, ours.scores_BHTC)
        assert torch.equal(theirs.chunks_BHTC, ours.chunks_BHTC)
        for bank in (kept, loaded):
            bank.add(1, *tokens(5, 20 + round), spans(5, 9 + 5 * round))  # completes the tail that was saved
            read(bank, S + 1, f"new {round}", seed=round)
    assert [c.id for c in loaded.chunks()] == [c.id for c in kept.chunks()]


def test_settings_are_saved_too(tmp_path):
    bank = a_full_bank(chunk_key="mean", backend="faiss-cpu")
    bank.save(tmp_path / "bank")
    loaded = MemoryBank.load(tmp_path / "bank")
    for name in ("memory_layers", "kv_heads", "head_dim", "fingerprint", "chunk_size", "capacity", "chunk_key",
                 "dtype", "backend"):  # fmt: skip
        assert getattr(loaded, name) == getattr(bank, name)


def test_an_empty_bank_can_be_saved(tmp_path):
    bank = a_bank()
    bank.remove(read(bank, 4))
    bank.save(tmp_path / "bank")
    loaded = MemoryBank.load(tmp_path / "bank")
    assert loaded.is_empty
    assert read(loaded, 4) == 1
    assert next(loaded.chunks()).id == 1


def test_loading_into_less_capacity_keeps_the_newest(tmp_path):
    bank = a_full_bank()
    bank.save(tmp_path / "bank")
    loaded = MemoryBank.load(tmp_path / "bank", capacity=2 * S)
    assert contents(loaded) == contents(bank)[-2:]
    loaded = MemoryBank.load(tmp_path / "bank", capacity=100 * S)
    read(loaded, 20 * S)
    assert loaded.n_chunks == bank.n_chunks + 20


def test_a_bank_of_another_model_is_refused(tmp_path):
    a_full_bank().save(tmp_path / "bank")
    with pytest.raises(BankMismatchError, match=r"'model-1'.*'model-2'"):
        MemoryBank.load(tmp_path / "bank", fingerprint="model-2")


def test_saving_again_replaces_the_folder_and_leaves_nothing_beside(tmp_path):
    bank = a_full_bank()
    bank.save(tmp_path / "bank")
    read(bank, 4, "later")
    bank.save(tmp_path / "bank")
    assert contents(MemoryBank.load(tmp_path / "bank")) == contents(bank)
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]
    assert sorted(path.name for path in (tmp_path / "bank").iterdir()) == ["memory.json", "memory.safetensors"]


class Killed(BaseException):
    """Not an Exception: nothing may catch it."""


def steps_of_saving(monkeypatch, kill_at: int):
    """Let the process die before step `kill_at` of all that changes the disk."""
    count = iter(range(1_000))

    def dying(act):
        def wrapper(*given, **named):
            if next(count) == kill_at:
                raise Killed
            return act(*given, **named)

        return wrapper

    for name in ("mkdir", "rename", "unlink", "rmdir", "write_text"):
        monkeypatch.setattr(Path, name, dying(getattr(Path, name)))
    monkeypatch.setattr(bank_files, "save_file", dying(save_file))


def test_a_kill_at_any_moment_of_saving_leaves_one_whole_state(tmp_path, monkeypatch):
    bank, states = a_full_bank(), []
    states.append(contents(bank))
    bank.save(tmp_path / "bank")
    read(bank, 4, "later")
    states.append(contents(bank))
    for kill_at in range(20):
        with monkeypatch.context() as patch:
            steps_of_saving(patch, kill_at)
            try:
                bank.save(tmp_path / "bank")
                finished = True
            except Killed:
                finished = False
        assert contents(MemoryBank.load(tmp_path / "bank")) in states
        if finished:
            break
        old = MemoryBank.load(tmp_path / "bank")
        old.save(tmp_path / "bank")  # works whatever the kill left behind
        assert contents(MemoryBank.load(tmp_path / "bank")) == contents(old)
    assert finished
    assert kill_at > 5
    assert contents(MemoryBank.load(tmp_path / "bank")) == states[1]


def test_a_folder_with_other_files_is_never_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(BankFileError, match=r"thesis\.txt"):
        a_full_bank().save(tmp_path)
    with pytest.raises(BankFileError, match="no folder"):
        a_full_bank().save(tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_bank_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(BankFileError, match=r"memory\.json"):
        MemoryBank.load(tmp_path / "none")


def forge(folder: Path, change=None, change_tensors=None):
    """Change what was saved, and make the checksum fit."""
    description = json.loads((folder / "memory.json").read_text())
    if change_tensors:
        tensors = load_file(folder / "memory.safetensors")
        change_tensors(tensors)
        save_file(tensors, folder / "memory.safetensors")
        path = folder / "memory.safetensors"
        description["tensors"] = {"bytes": path.stat().st_size, "sha256": bank_files._digest(path)}
    if change:
        change(description)
    (folder / "memory.json").write_text(json.dumps(description))


def setting(name, value):
    return lambda description: description["settings"].__setitem__(name, value)


def entry(name, value):
    return lambda description: description.__setitem__(name, value)


def without(name):
    return lambda description: description.pop(name)


@pytest.mark.parametrize(
    "change",
    [
        entry("format", "something else"),
        entry("n_chunks", 5),
        entry("n_chunks", 10**40),
        entry("n_chunks", True),
        entry("next_chunk", 3),
        entry("next_document", 0),
        entry("settings", []),
        entry("documents", {}),
        entry("documents", [7]),
        entry("tensors", None),
        without("tensors"),
        without("settings"),
        without("documents"),
        setting("capacity", 4),
        setting("capacity", "many"),
        setting("chunk_size", 0),
        setting("chunk_size", 2),
        setting("kv_heads", 1),
        setting("head_dim", 4),
        setting("dtype", "float16"),
        setting("dtype", "object"),
        setting("chunk_key", "sum"),
        setting("backend", "hnsw"),
        setting("fingerprint", 7),
        setting("memory_layers", []),
        setting("memory_layers", [4]),
        setting("memory_layers", [4, 4]),
        setting("memory_layers", None),
        lambda description: description["documents"].pop(),
        lambda description: description["documents"].append(description["documents"][0]),
        lambda description: description["documents"][0].update(text=""" short """),
        lambda description: description["documents"][0].update(name=None),
        lambda description: description["documents"][1].update(tokens_read=8),
    ],
)
def test_forged_settings_are_refused(tmp_path, change):
    a_full_bank().save(tmp_path / "bank")
    forge(tmp_path / "bank", change)
    with pytest.raises(BankFileError, match="cannot be loaded"):
        MemoryBank.load(tmp_path / "bank")


def cell(row, column, value):
    return lambda tensors: tensors["chunks"].__setitem__((row, column), value)


@pytest.mark.parametrize(
    "change_tensors",
    [
        cell(0, 0, -5),
        cell(0, 0, 99),
        cell(1, 0, 3),
        cell(0, 1, 9),
        cell(0, 1, -1),
        cell(0, 2, -4),
        cell(0, 3, 4),
        cell(1, 2, 7),
        cell(1, 3, 99),
        cell(-1, 3, 12),
        cell(0, 4, -1),
        cell(0, 4, 99),
        cell(0, 5, 10**6),
        lambda tensors: tensors.pop("keys.4"),
        lambda tensors: tensors.update(extra=torch.zeros(1)),
        lambda tensors: tensors.update({"keys.4": tensors["keys.4"][:, 4:].clone()}),
        lambda tensors: tensors.update({"keys.4": tensors["keys.4"].double()}),
        lambda tensors: tensors.update(chunks=tensors["chunks"].int()),
        lambda tensors: tensors["values.9"].view(-1).__setitem__(5, float("nan")),
    ],
)
def test_forged_tensors_are_refused(tmp_path, change_tensors):
    a_full_bank().save(tmp_path / "bank")
    forge(tmp_path / "bank", change_tensors=change_tensors)
    with pytest.raises(BankFileError, match="cannot be loaded"):
        MemoryBank.load(tmp_path / "bank")


def test_forging_itself_is_not_what_is_refused(tmp_path):
    bank = a_full_bank()
    bank.save(tmp_path / "bank")
    forge(tmp_path / "bank", entry("n_chunks", 6), cell(0, 4, 12))
    assert contents(MemoryBank.load(tmp_path / "bank"))[1:] == contents(bank)[1:]


@pytest.mark.parametrize("name", ["memory.json", "memory.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "cut", "garbage", "flipped", "last byte", "folder", "deep"])
def test_damaged_files_are_refused(tmp_path, name, damage):
    a_full_bank().save(tmp_path / "bank")
    path = tmp_path / "bank" / name
    data = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    if damage == "garbage":
        path.write_bytes(b"\x80\x04\x95" + bytes(range(256)))
    if damage == "flipped":
        path.write_bytes(data[:100] + bytes([data[100] ^ 0x80]) + data[101:])
    if damage == "last byte":  # of the tensors: a number that looks as good as any
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 0x01]))
    if damage == "folder":
        path.mkdir()
    if damage == "deep":
        path.write_bytes(b"[" * 100_000)
    with pytest.raises(BankFileError, match="cannot be loaded"):
        MemoryBank.load(tmp_path / "bank")


def test_a_bank_knows_a_bound_of_its_keys_norms_after_every_change(tmp_path):
    bank = MemoryBank(memory_layers=[1], kv_heads=2, head_dim=4, chunk_size=4, capacity=32)
    for step in range(6):
        keys_LGTD = torch.randn(1, 2, 10, 4, generator=torch.Generator().manual_seed(step)) * (1 + step)
        bank.add(bank.begin_document("text"), keys_LGTD, keys_LGTD)
        held_GN = bank._ring.searched(0)[0].float().norm(dim=-1)
        assert (bank._ring.norms[0] >= held_GN.amax(1)).all()
    bank.save(tmp_path / "bank")
    loaded = MemoryBank.load(tmp_path / "bank")
    assert torch.equal(loaded._ring.norms[0], loaded._ring.searched(0)[0].float().norm(dim=-1).amax(1))
    bank.clear()
    assert not bank._ring.norms[0].any()
