"""Memory of rows: each row in its own, the oldest out first, padding never found, and joined with a bank by score."""

import pytest
import torch
from torch import Tensor

from longmem.memory_bank import MemoryBank
from longmem.retrieval import Retrieval, merge
from longmem.row_memory import RowMemory, Sources, row_chunk_id

B, G, H, D = 2, 2, 4, 8


def states(tokens: int, seed: int = 0) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(B, G, tokens, D, generator=generator) for _ in range(2))
    return {1: keys}, {1: values}


def filled(tokens: int = 16, valid_BT: Tensor | None = None, capacity: int = 64, **options: object) -> RowMemory:
    memory = RowMemory([1], capacity=capacity, chunk_size=4, **options)
    memory.add(*states(tokens), torch.ones(B, tokens, dtype=torch.bool) if valid_BT is None else valid_BT)
    return memory


def queries(tokens: int = 3) -> Tensor:
    return torch.randn(B, H, tokens, D, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("chunk_key", ["max", "mean"])
def test_each_query_finds_the_best_chunks_of_its_own_row_and_head(chunk_key):
    memory, q_BHTD = filled(chunk_key=chunk_key), queries()
    found = memory.search(1, q_BHTD, n_chunks=2)
    keys_BHCSD = states(16)[0][1].repeat_interleave(H // G, dim=1).unflatten(2, (4, 4))
    token_BHTCS = torch.einsum("bhtd,bhcsd->bhtcs", q_BHTD, keys_BHCSD)
    expected = token_BHTCS.amax(-1) if chunk_key == "max" else token_BHTCS.mean(-1)
    scores, slots = expected.topk(2, dim=-1)
    torch.testing.assert_close(found.scores_BHTC, scores)
    assert torch.equal(found.chunks_BHTC, row_chunk_id(slots))
    for b, h, t in [(0, 0, 0), (1, 3, 2), (0, 1, 1)]:
        assert torch.equal(found.keys_BHTKD[b, h, t, :4], keys_BHCSD[b, h, slots[b, h, t, 0]])
    assert found.mask_BHTK.all()


def test_padding_is_never_found_however_large_its_keys():
    valid_BT = torch.ones(B, 16, dtype=torch.bool)
    valid_BT[1, :6] = False  # a whole chunk and half of the next
    memory = filled(valid_BT=valid_BT)
    memory.keys[1][1, :, :6] = 1e3 * queries()[1, ::2, :1]
    found = memory.search(1, queries(), n_chunks=4)
    chunks = row_chunk_id(found.chunks_BHTC[1])
    assert not (chunks == 0).any()  # the chunk of padding alone
    assert (found.mask_BHTK[1].sum(-1) == 10).all()
    assert (found.mask_BHTK[0].sum(-1) == 16).all()
    assert found.scores_BHTC[1].max() < 100


def test_an_emptied_row_finds_nothing_and_the_other_rows_as_before():
    memory = filled()
    before = memory.search(1, queries(), n_chunks=3)
    memory.forget_rows(torch.tensor([True, False]))
    found = memory.search(1, queries(), n_chunks=3)
    assert not found.mask_BHTK[0].any()
    assert (found.chunks_BHTC[0] == -1).all()
    assert (found.keys_BHTKD[0] == 0).all()
    assert torch.equal(found.chunks_BHTC[1], before.chunks_BHTC[1])
    memory.add(*states(4, seed=5), torch.ones(B, 4, dtype=torch.bool))
    assert (memory.search(1, queries(), n_chunks=3).mask_BHTK[0].sum(-1) == 4).all()


def test_past_capacity_the_oldest_leave_and_ids_go_on():
    memory = RowMemory([1], capacity=18, chunk_size=4)  # 16 in whole chunks
    for seed in range(6):
        memory.add(*states(8, seed), torch.ones(B, 8, dtype=torch.bool))
    assert memory.n_tokens == 16
    assert torch.equal(memory.keys[1], torch.cat([states(8, seed)[0][1] for seed in (4, 5)], dim=2))
    chunks = row_chunk_id(memory.search(1, queries(), n_chunks=4).chunks_BHTC)
    assert set(chunks.unique().tolist()) == {8, 9, 10, 11}


def test_a_segment_longer_than_the_capacity_keeps_its_newest_tokens():
    memory = filled(tokens=32, capacity=8)
    assert torch.equal(memory.keys[1], states(32)[0][1][:, :, 24:])
    assert memory.dropped_chunks == 6


def test_fewer_chunks_than_asked_for_are_masked_never_repeated():
    found = filled(tokens=8).search(1, queries(), n_chunks=5)
    assert (found.chunks_BHTC[..., 2:] == -1).all()
    assert (found.scores_BHTC[..., 2:] == -torch.inf).all()
    assert (found.mask_BHTK.sum(-1) == 8).all()
    assert (found.chunks_BHTC[..., 0] != found.chunks_BHTC[..., 1]).all()


def test_rows_can_be_reordered_and_repeated_like_beams():
    memory = filled()
    before = memory.search(1, queries(), n_chunks=2)
    memory.select_rows(torch.tensor([1, 1, 0]))
    found = memory.search(1, queries()[[1, 1, 0]], n_chunks=2)
    assert torch.equal(found.chunks_BHTC, before.chunks_BHTC[[1, 1, 0]])
    assert torch.equal(found.values_BHTKD, before.values_BHTKD[[1, 1, 0]])


def test_what_is_remembered_carries_no_gradient():
    keys, values = states(4)
    keys[1].requires_grad_(True)
    memory = RowMemory([1], capacity=64, chunk_size=4)
    memory.add(keys, values, torch.ones(B, 4, dtype=torch.bool))
    assert not memory.keys[1].requires_grad


def test_a_search_asks_once_for_all_heads_and_rows(monkeypatch):
    """One batched product, not a loop over heads."""
    import longmem.row_memory as module

    calls = []
    real = module.top_chunks
    monkeypatch.setattr(module, "top_chunks", lambda *a, **o: calls.append(1) or real(*a, **o))
    filled().search(1, queries(), n_chunks=2)
    assert len(calls) == 1


def bank_of(tokens: int) -> MemoryBank:
    bank = MemoryBank(memory_layers=[1], kv_heads=G, head_dim=D, dtype=torch.float32)
    keys, values = states(tokens, seed=3)
    if tokens:
        bank.add(bank.begin_document("a"), keys[1][:1], values[1][:1])
    return bank


def test_merging_two_retrievals_keeps_the_best_of_both():
    bank, rows = bank_of(18), filled()  # the bank has a short tail chunk
    first, second = (source.search(1, queries(), n_chunks=4) for source in (bank, rows))
    both = merge(first, second, 4)
    scores = torch.cat([first.scores_BHTC, second.scores_BHTC], -1).topk(4).values
    assert torch.equal(both.scores_BHTC, scores)
    assert (both.chunks_BHTC >= 0).any()
    assert (both.chunks_BHTC < -1).any()
    for place in torch.cartesian_prod(*(torch.arange(n) for n in both.chunks_BHTC.shape)).tolist():
        b, h, t, c = place
        source = first if both.chunks_BHTC[b, h, t, c] >= 0 else second
        i = int((source.chunks_BHTC[b, h, t] == both.chunks_BHTC[b, h, t, c]).nonzero())
        for name in ("keys_BHTKD", "values_BHTKD", "mask_BHTK"):
            old, new = getattr(source, name)[b, h, t], getattr(both, name)[b, h, t]
            assert torch.equal(new[4 * c : 4 * c + 4], old[4 * i : 4 * i + 4])


def test_merging_with_less_than_asked_for_leaves_the_rest_masked():
    both = merge(bank_of(4).search(1, queries(), n_chunks=3), filled(4).search(1, queries(), n_chunks=3), 3)
    assert isinstance(both, Retrieval)
    assert (both.mask_BHTK.sum(-1) == 8).all()
    assert (both.chunks_BHTC[..., 2] == -1).all()


def test_without_any_memory_nothing_is_searched():
    assert Sources(2).retrieve(1, queries()) is None
    empty = RowMemory([1], capacity=64, chunk_size=4)
    assert Sources(2, bank_of(0), empty).retrieve(1, queries()) is None
    assert Sources(2, bank_of(8), empty).retrieve(1, queries()) is not None


def test_before_and_exclude_concern_the_bank_alone():
    sources = Sources(8, bank_of(16), filled(), before=(0, 8), exclude=[0])
    chunks = set(sources.retrieve(1, queries()).chunks_BHTC.unique().tolist())
    assert chunks == {1, -1, *(row_chunk_id(i) for i in range(4))}
