"""Memory in a language model as it is: without memory the model itself, with it one softmax, and never LongMem."""

import pytest
import torch

from longmem.documents import Document
from longmem.errors import LongMemError, MemoryLayerError
from longmem.generation import stream
from longmem.model import LongMemForCausalLM
from longmem.scoring import look_up, score
from longmem.training_free import METHOD, TrainingFreeMemory
from tests.conftest import tiny_smollm3
from tests.test_backbone import CONFIGS, make

STORY = "The keeper wrote the name of every ship in a ledger. In the morning the ship returned to the sea. " * 6


def memory_in(family: str, **options: object) -> TrainingFreeMemory:
    settings = {"memory_layers": [1, 3], "window": 32, "retrieved_tokens": 16} | options
    return TrainingFreeMemory.from_backbone(make(family), **settings)


def ids(length: int, rows: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack([2 + torch.randperm(126, generator=generator)[:length] for _ in range(rows)])


def filled(model: TrainingFreeMemory, seed: int = 3):
    bank = model.new_bank(dtype=torch.float32)
    tokens_T = torch.randint(2, 128, (64,), generator=torch.Generator().manual_seed(seed))
    number = bank.begin_document("a")
    with torch.no_grad():
        states = model.backbone(tokens_T[None, :32])
    keys, values = (torch.stack([states.qkv[b][i][0] for b in model.config.memory_layers]) for i in (1, 2))
    bank.add(number, keys, values)
    return bank


@pytest.fixture(params=CONFIGS)
def family(request) -> str:
    return request.param


@pytest.fixture
def model(tiny_tokenizer) -> TrainingFreeMemory:
    model = TrainingFreeMemory.from_backbone(
        tiny_smollm3(len(tiny_tokenizer)), memory_layers=[1, 3], window=32, retrieved_tokens=16
    )
    model.tokenizer = tiny_tokenizer
    return model


@torch.no_grad()
def test_without_memory_it_is_exactly_the_backbone(family):
    model = memory_in(family)
    expected = make(family)(ids(32)).logits
    for options in ({}, {"memory": model.new_bank()}, {"use_cache": True}):
        torch.testing.assert_close(model(ids(32), **options).logits, expected, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_memory_changes_what_the_model_says(family):
    model = memory_in(family)
    with_memory, without = model(ids(20), memory=filled(model)).logits, model(ids(20)).logits
    assert (with_memory - without).abs().max() > 1e-3
    silent = model(ids(20), memory=filled(model), silence=[(1, None), (3, None)]).logits
    torch.testing.assert_close(silent, without)


@torch.no_grad()
def test_cached_uncached_and_token_by_token_agree_over_two_windows(family):
    model = memory_in(family)
    bank = filled(model)
    at_once, cache = model(ids(70), memory=bank).logits, model.new_cache()
    parts = []
    for size in [1] * 20 + [7, 30, 1, 12]:
        block = ids(70)[:, cache.seen : cache.seen + size]
        parts.append(model(block, cache=cache, use_cache=True, memory=bank).logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), at_once, atol=1e-4, rtol=0)


@torch.no_grad()
def test_padding_on_the_left_changes_nothing(family):
    model = memory_in(family)
    bank, tokens = filled(model), ids(24)
    mask = torch.ones_like(tokens)
    mask[1, :9] = 0
    together = model(tokens, attention_mask=mask, memory=bank).logits
    torch.testing.assert_close(together[1:, 9:], model(tokens[1:, 9:], memory=bank).logits, atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_layer_without_positions_attends_to_window_and_memory_in_one_softmax():
    """The last layer's attention written out over both at once, in a model whose memory layer knows no positions."""
    model, plain, tokens = memory_in("smollm3", memory_layers=[3], retrieved_tokens=32), make("smollm3"), ids(12, 1)
    bank = filled(model)
    layer = plain.model.layers[3]
    states = model.backbone(tokens)
    q, k, v = states.qkv[3]
    known = bank.search(3, q, n_chunks=8)
    keys, values = (
        torch.cat([x.repeat_interleave(2, dim=1)[:, :, None].expand(-1, -1, 12, -1, -1), found], dim=3)
        for x, found in ((k, known.keys_BHTKD), (v, known.values_BHTKD))
    )
    scores = (keys @ q[..., None])[..., 0] * layer.self_attn.scaling
    later = torch.ones(12, 12, dtype=torch.bool).triu(1)
    scores[..., :12] = scores[..., :12].masked_fill(later, -torch.inf)
    attended = (scores.softmax(-1)[..., None, :] @ values)[..., 0, :].transpose(1, 2).flatten(2)
    hidden = states.hidden[3] + layer.self_attn.o_proj(attended)
    hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    expected = plain.lm_head(plain.model.norm(hidden))
    torch.testing.assert_close(model(tokens, memory=bank).logits, expected, atol=1e-4, rtol=1e-4)


def test_the_weights_are_the_backbones_own_and_nothing_is_trained(family):
    model = memory_in(family)
    own = {id(p) for p in model.backbone.parameters()}
    assert all(id(p) in own for p in model.parameters())
    assert not any(p.requires_grad for p in model.parameters())


@torch.no_grad()
def test_generate_is_the_argmax_of_one_call(family):
    model = memory_in(family)
    bank, prompt = filled(model), ids(9, 1)
    options = {"max_new_tokens": 40, "min_new_tokens": 40, "do_sample": False}
    text = model.generate(prompt, attention_mask=torch.ones_like(prompt), memory=bank, **options)
    logits = model(text, memory=bank).logits[0, 8:-1]
    logits[:, 0] = -torch.inf  # the end token was not allowed
    assert (logits.argmax(-1) == text[0, 9:]).float().mean() > 0.97


def test_it_reads_looks_up_scores_and_streams_as_longmem_does(model):
    bank = model.new_bank()
    model.remember(Document.from_text("story", STORY), memory=bank)
    found = look_up(model, "The keeper", memory=bank).to_frame()
    assert set(found["layer"]) == {1, 3}
    assert set(found["document"]) == {"story"}
    assert any(effect != 0 for effect in score(model, "wrote the name", context="The keeper", memory=bank).effects)
    generation = stream(model, "The ship", memory=bank, max_new_tokens=30, greedy=True)
    assert len(list(generation)) == 30
    weights = generation.trace.to_frame().groupby(["step", "layer", "head"]).agg({"weight": "sum", "gate": "first"})
    torch.testing.assert_close(*(torch.tensor(weights[c].to_numpy()) for c in ("weight", "gate")), atol=1e-5, rtol=0)


def test_its_banks_are_those_of_a_longmem_model_of_the_same_backbone(model, tiny_model):
    bank = model.new_bank()
    model.remember(Document.from_text("story", STORY), memory=bank)
    tiny_model.check_bank(bank)
    assert model.fingerprint == tiny_model.fingerprint


def test_it_says_that_it_is_not_longmem_and_is_not_saved(model, tmp_path):
    assert "not LongMem" in METHOD
    assert "Not LongMem" in TrainingFreeMemory.__doc__
    with pytest.raises(LongMemError, match="nothing to save"):
        model.save_pretrained(tmp_path)
    with pytest.raises(LongMemError, match="from_backbone"):
        TrainingFreeMemory.from_pretrained(tmp_path)
    assert issubclass(TrainingFreeMemory, LongMemForCausalLM)


def test_memory_layers_are_those_with_the_best_heads_unless_they_are_given(monkeypatch):
    scores = torch.zeros(4, 4)
    scores[2, 1] = 0.7
    monkeypatch.setattr("longmem.induction.content_matching", lambda *_, **__: scores)
    assert TrainingFreeMemory.from_backbone(make("llama"), window=32).config.memory_layers == [2]
    assert TrainingFreeMemory.from_backbone(make("llama"), window=32).config.read_overlap == 16
    with pytest.raises(MemoryLayerError, match="memory_layers is"):
        memory_in("llama", memory_layers=[9])
