"""Low-rank SideNets: begin as whole ones, train little, are saved small and come back as they were."""

import copy

import pytest
import torch
from safetensors.torch import load_file

from longmem.errors import LongMemError
from longmem.low_rank import LowRankLinear
from longmem.model import LongMemForCausalLM
from tests.test_backbone import CONFIGS, make, make_longmem

RANK = 2


def ids() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack([2 + torch.randperm(126, generator=generator)[:70] for _ in range(2)])


def disturb(model: LongMemForCausalLM) -> LongMemForCausalLM:
    """Give every trained tensor a value that training could have given it."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.sidenet.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(params=CONFIGS)
def family(request) -> str:
    return request.param


@pytest.mark.parametrize("initialization", ["paper", "attend", "zero"])
@torch.no_grad()
def test_it_begins_as_the_whole_sidenet_exactly(family, initialization):
    """Over two windows, so that memory layers retrieve."""
    whole, low = (make_longmem(family, initialization=initialization, sidenet_rank=r) for r in (None, RANK))
    assert torch.equal(whole(ids()).logits, low(ids()).logits)


@torch.no_grad()
def test_a_scale_of_the_outputs_holds_for_borrowed_weights(family):
    whole, low = (make_longmem(family, initialization_scale=0.3, sidenet_rank=r) for r in (None, RANK))
    torch.testing.assert_close(whole(ids()).logits, low(ids()).logits, atol=1e-4, rtol=1e-4)


def test_only_deltas_norms_and_gates_are_trained_and_each_of_them_is(family):
    model = disturb(make_longmem(family, sidenet_rank=RANK))
    before = copy.deepcopy(model.backbone.state_dict())
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(name.startswith("sidenet.") for name in trained)
    model(ids(), labels=ids()).loss.backward()
    assert [name for name, p in trained.items() if p.grad is None or not p.grad.any()] == []
    torch.optim.AdamW(trained.values(), lr=0.01).step()
    assert all(torch.equal(weight, before[name]) for name, weight in model.backbone.state_dict().items())


def test_every_linear_layer_of_every_family_has_a_delta(family):
    model, plain = make_longmem(family, sidenet_rank=RANK), make_longmem(family)
    kinds = {name: type(m).__name__ for name, m in plain.sidenet.named_modules()}
    linears = {name for name, kind in kinds.items() if kind in ("Linear", "Conv1D")}
    assert linears == {name for name, m in model.sidenet.named_modules() if isinstance(m, LowRankLinear)}
    borrowed = [m.base for m in model.sidenet.modules() if isinstance(m, LowRankLinear)]
    backbones = {id(m) for m in model.backbone.modules()}
    assert all(id(base) in backbones for base in borrowed)


def test_the_number_of_trained_parameters():
    model = make_longmem("smollm3", sidenet_rank=RANK)
    # Per layer: q and o 32 -> 32, k and v 32 -> 16, gate and up 32 -> 48, down 48 -> 32; two norms of 32.
    layer = RANK * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 48)) + 2 * 32
    gate = 4 + 4 * 8
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 2 * layer + 2 * gate + 32
    whole = sum(p.numel() for p in make_longmem("smollm3").sidenet.parameters())
    assert sum(p.numel() for p in model.sidenet.parameters()) < whole / 5


@torch.no_grad()
@pytest.mark.parametrize("with_backbone", [True, False])
def test_what_was_saved_comes_back_exactly(family, with_backbone, tmp_path):
    make(family).save_pretrained(tmp_path / "backbone")
    model = LongMemForCausalLM.from_backbone(
        tmp_path / "backbone", memory_layers=[1, 3], window=32, retrieved_tokens=16, sidenet_rank=RANK
    ).eval()
    disturb(model).save_pretrained(tmp_path / "model", with_backbone=with_backbone)
    loaded = LongMemForCausalLM.from_pretrained(tmp_path / "model", device="cpu")
    assert torch.equal(loaded(ids()).logits, model(ids()).logits)
    assert loaded.config.sidenet_rank == RANK
    assert not any(p.requires_grad for p in loaded.backbone.parameters())
    saved = load_file(tmp_path / "model" / "model.safetensors")
    side = {name for name in saved if name.startswith("sidenet.")}
    assert side == {f"sidenet.{name}" for name, _ in model.sidenet.named_parameters()}
    assert (side == set(saved)) is not with_backbone


@pytest.mark.parametrize("family_name", ["llama", "gpt2"])
@torch.no_grad()
def test_cached_and_uncached_agree(family_name):
    model = disturb(make_longmem(family_name, sidenet_rank=RANK))
    at_once, cache = model(ids()).logits, model.new_cache()
    steps = [model(ids()[:, t : t + 1], cache=cache, use_cache=True).logits for t in range(70)]
    torch.testing.assert_close(torch.cat(steps, dim=1), at_once, atol=1e-4, rtol=0)


@torch.no_grad()
def test_borrowed_weights_follow_the_backbone_into_another_dtype():
    model = make_longmem("llama", sidenet_rank=RANK).to(torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model(ids()).logits.dtype == torch.bfloat16


@pytest.mark.parametrize("rank", [0, -1, 17])
def test_a_rank_that_does_not_fit_is_named(rank):
    with pytest.raises(LongMemError, match=f"sidenet_rank is {rank}"):
        make_longmem("smollm3", sidenet_rank=rank)


def test_without_the_option_nothing_is_borrowed():
    model = make_longmem("smollm3")
    assert model.config.sidenet_rank is None
    assert not any(isinstance(m, LowRankLinear) for m in model.modules())
