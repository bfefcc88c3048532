"""Joint attention: two softmaxes, a gate between them, and nothing where nothing was retrieved."""

import pytest
import torch
from torch import Tensor

from longmem.fusion import MemoryGate, attend_memory, fuse
from longmem.retrieval import Retrieval

B, H, T, C, S, D = 1, 2, 3, 2, 4, 8


def retrieval(mask_BHTK: Tensor | None = None) -> Retrieval:
    generator = torch.Generator().manual_seed(0)
    keys, values = (torch.randn(B, H, T, C * S, D, generator=generator) for _ in range(2))
    mask = torch.ones(B, H, T, C * S, dtype=torch.bool) if mask_BHTK is None else mask_BHTK
    return Retrieval(keys, values, torch.zeros(B, H, T, C), torch.zeros(B, H, T, C, dtype=torch.long), mask)


def queries() -> Tensor:
    return torch.randn(B, H, T, D, generator=torch.Generator().manual_seed(1))


def test_attention_inside_memory_is_a_softmax_over_what_was_retrieved():
    found, q_BHTD = retrieval(), queries()
    memory_BHTD, weights_BHTK = attend_memory(q_BHTD, found, 0.3)
    expected = (torch.einsum("bhtd,bhtkd->bhtk", q_BHTD, found.keys_BHTKD) * 0.3).softmax(-1)
    torch.testing.assert_close(weights_BHTK, expected)
    torch.testing.assert_close(memory_BHTD, torch.einsum("bhtk,bhtkd->bhtd", expected, found.values_BHTKD))


def test_masked_tokens_have_no_weight_and_do_not_take_any_from_the_others():
    mask = torch.ones(B, H, T, C * S, dtype=torch.bool)
    mask[..., 3:] = False
    found, q_BHTD = retrieval(mask), queries()
    memory_BHTD, weights_BHTK = attend_memory(q_BHTD, found, 1.0)
    assert (weights_BHTK[..., 3:] == 0).all()
    torch.testing.assert_close(weights_BHTK.sum(-1), torch.ones(B, H, T))
    three = (torch.einsum("bhtd,bhtkd->bhtk", q_BHTD, found.keys_BHTKD[..., :3, :])).softmax(-1)
    expected = torch.einsum("bhtk,bhtkd->bhtd", three, found.values_BHTKD[..., :3, :])
    torch.testing.assert_close(memory_BHTD, expected)


def test_where_nothing_was_retrieved_memory_is_silent_and_finite():
    memory_BHTD, weights_BHTK = attend_memory(queries(), retrieval(torch.zeros(B, H, T, C * S, dtype=torch.bool)), 1.0)
    assert (memory_BHTD == 0).all()
    assert (weights_BHTK == 0).all()


def test_half_precision_attends_with_weights_in_fp32():
    memory_BHTD, weights_BHTK = attend_memory(queries().bfloat16(), retrieval(), 1.0)
    assert memory_BHTD.dtype == torch.bfloat16
    assert weights_BHTK.dtype == torch.float32
    torch.testing.assert_close(weights_BHTK.sum(-1), torch.ones(B, H, T))


def test_the_gate_is_the_weight_of_memory():
    local, memory = torch.ones(B, H, T, D), torch.full((B, H, T, D), 5.0)
    gate = torch.tensor([0.0, 1.0, 0.25]).expand(B, H, T)
    fused = fuse(local, memory, gate)
    assert fused[0, 0, :, 0].tolist() == [1.0, 5.0, 2.0]
    assert torch.equal(fuse(local, torch.randn_like(local), torch.zeros(B, H, T)), local)


@pytest.mark.parametrize("kind", ["scalar", "query"])
def test_a_gate_begins_at_its_start_for_every_query(kind):
    gate = MemoryGate(H, D, kind, 0.27)
    torch.testing.assert_close(gate(queries()), torch.full((B, H, T), 0.27))


def test_a_query_gate_can_learn_when_and_a_scalar_one_only_how_much():
    scalar, query = MemoryGate(H, D, "scalar", 0.5), MemoryGate(H, D, "query", 0.5)
    assert [name for name, _ in scalar.named_parameters()] == ["bias_H"]
    q_BHTD = queries()
    query(q_BHTD)[0, 1].sum().backward()
    assert query.weight_HD.grad[0].abs().sum() == 0  # each head has a gate of its own
    torch.testing.assert_close(query.weight_HD.grad[1], 0.25 * q_BHTD[0, 1].sum(0))
    with torch.no_grad():
        query.weight_HD += 1
    assert query(q_BHTD)[0, 0].unique().numel() == T
    assert scalar(q_BHTD)[0, 0].unique().numel() == 1
