"""The SideNet: whose copies its layers are, how they begin, and the residual from the backbone."""

import pytest
import torch
from torch import nn

from longmem.model import LongMemForCausalLM
from tests.conftest import tiny_smollm3

LAYERS = {"memory": [1, 3], "next": [1, 3], "shared": [0, 2]}


def make(**options: object) -> LongMemForCausalLM:
    settings = {"memory_layers": [1], "window": 32, "retrieved_tokens": 16, "initialization": "paper"} | options
    return LongMemForCausalLM.from_backbone(tiny_smollm3(), **settings).eval()


def ids(length: int = 20) -> torch.Tensor:
    return torch.randint(2, 384, (2, length), generator=torch.Generator().manual_seed(0))


def weights(layer: nn.Module) -> dict[str, torch.Tensor]:
    return dict(layer.named_parameters())


@pytest.mark.parametrize("source", LAYERS)
def test_the_papers_initialization_copies_whole_layers(source):
    model = make(source=source)
    for layer, b in zip(model.sidenet.layers, LAYERS[source], strict=True):
        copied = weights(model.backbone.layers[b])
        assert all(torch.equal(weight, copied[name]) for name, weight in weights(layer).items())
        assert not {id(w) for w in copied.values()} & {id(w) for w in weights(layer).values()}
    assert torch.equal(model.sidenet.norm.weight, model.backbone.norm.weight)


@pytest.mark.parametrize(("initialization", "attends"), [("zero", False), ("attend", True)])
def test_outputs_begin_at_zero_but_for_the_attention_that_uses_what_was_found(initialization, attends):
    first, second = make(initialization=initialization).sidenet.layers
    assert not first.mlp.down_proj.weight.any()
    assert bool(first.self_attn.o_proj.weight.any()) is attends
    assert not second.mlp.down_proj.weight.any()
    assert not second.self_attn.o_proj.weight.any()


def test_the_scale_is_that_of_the_copied_outputs():
    model = make(initialization_scale=0.5)
    side, copied = model.sidenet.layers[0], model.backbone.layers[1]
    torch.testing.assert_close(side.self_attn.o_proj.weight, 0.5 * copied.self_attn.o_proj.weight)
    torch.testing.assert_close(side.mlp.down_proj.weight, 0.5 * copied.mlp.down_proj.weight)
    torch.testing.assert_close(side.self_attn.q_proj.weight, copied.self_attn.q_proj.weight)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_with_outputs_at_zero_it_begins_as_the_backbone_exactly(factor):
    model = make(initialization="zero", layer_reduction_factor=factor)
    with torch.no_grad():
        expected = model.backbone.causal_lm(ids()).logits
        torch.testing.assert_close(model(ids()).logits, expected, atol=2e-6, rtol=1e-5)
    assert len(model.sidenet.layers) == 4 // factor


def test_each_layer_adds_its_own_change_and_that_of_the_backbone():
    """S^l = f_l(S^(l-1)) + (H^(r*l) - H^(r*(l-1))), written out with plain layers and no hooks."""
    model, plain = make(), tiny_smollm3()
    with torch.no_grad():
        hidden = model.backbone(ids()).hidden
        positions = torch.arange(20)[None]
        rotation = plain.model.rotary_emb(hidden[0], positions)
        side = hidden[0]
        for i in range(2):
            layer = plain.model.layers[model.config.source_layer(i)]
            out = layer(side, position_embeddings=rotation, position_ids=positions)
            side = (out[0] if isinstance(out, tuple) else out) + hidden[2 * i + 2] - hidden[2 * i]
        expected = plain.lm_head(plain.model.norm(side))
        torch.testing.assert_close(model(ids()).logits, expected, atol=1e-5, rtol=1e-5)


def test_the_sum_of_residuals_is_kept_in_fp32():
    model = make(initialization="zero").to(torch.bfloat16)
    with torch.no_grad():
        states = model.backbone(ids())
        normed = model.sidenet(states)
        torch.testing.assert_close(normed, model.backbone.norm(states.hidden[4]), atol=0, rtol=0)


def test_hooks_of_memory_do_nothing_outside_of_a_call():
    model = make()
    bank = model.new_bank(dtype=torch.float32)
    keys_LGTD = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    bank.add(bank.begin_document("a"), keys_LGTD, keys_LGTD)
    layer = model.sidenet.layers[0]
    with torch.no_grad():
        states = model.backbone(ids())
        positional, named = states.arguments[1]
        before = layer(states.hidden[0], *positional, **named)
        assert not torch.equal(model(ids(), memory=bank).logits, model(ids()).logits)
        model(ids(), memory=bank)
        after = layer(states.hidden[0], *positional, **named)
    torch.testing.assert_close(after, before, atol=0, rtol=0)


def test_only_memory_layers_have_gates():
    model = make(memory_layers=[1, 3])
    assert sorted(model.sidenet.gates) == ["1", "3"]
    assert sorted(make().sidenet.gates) == ["1"]
