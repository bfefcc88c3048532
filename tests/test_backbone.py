"""Every model family seen through our wrapper is the plain model, and its keys are free of positions."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    DynamicCache,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from longmem.backbone import Backbone, family_of
from longmem.config import LongMemConfig
from longmem.errors import LongMemError, MemoryLayerError, RetrievalSizeError, UnknownFamilyError
from longmem.model import LongMemForCausalLM

# Large weights, so that no two chunks of a random model score nearly alike.
SPREAD = {"initializer_range": 0.2}
SIZES = SPREAD | {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
NEOX = {k: v for k, v in SIZES.items() if k != "num_key_value_heads"}
CONFIGS = {
    "smollm3": SmolLM3Config(**SIZES, no_rope_layers=[1, 0, 1, 0]),
    "llama": LlamaConfig(**SIZES),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=16),
    "mistral": MistralConfig(**SIZES, sliding_window=64),
    "gpt2": GPT2Config(
        **SPREAD, vocab_size=128, n_embd=32, n_layer=4, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=0
    ),
    "gpt_neox": GPTNeoXConfig(**NEOX),
    "bloom": BloomConfig(**SPREAD, vocab_size=128, hidden_size=32, n_layer=4, n_head=4, bos_token_id=0, eos_token_id=0),
}
WITHOUT_ROTARY = {"smollm3": [1, 3], "gpt2": [1, 3], "bloom": [1, 3]}


def make(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[family]).eval()


def make_longmem(family: str, window: int = 32, **options: object) -> LongMemForCausalLM:
    settings = {"memory_layers": [1, 3], "retrieved_tokens": 16, "initialization": "paper"} | options
    return LongMemForCausalLM.from_backbone(make(family), window=window, **settings).eval()


@pytest.fixture(params=CONFIGS)
def family(request) -> str:
    return request.param


def test_logits_through_the_wrapper_are_those_of_the_plain_model(family):
    plain = make(family)
    ids = torch.randint(2, 128, (2, 20))
    with torch.no_grad():
        expected = plain(ids).logits
        backbone = Backbone(plain, [1, 3])
        states = backbone(ids)
    torch.testing.assert_close(backbone.logits(states), expected)
    assert sorted(states.hidden) == [0, 1, 2, 3, 4]


def test_keys_and_values_are_those_of_the_cache_where_nothing_is_rotated(family):
    layers = WITHOUT_ROTARY.get(family, [])
    plain = make(family)
    backbone = Backbone(plain, [1, 3])
    ids = torch.randint(2, 128, (2, 20))
    cache = DynamicCache()
    states = backbone(ids, cache=cache)
    for layer in (1, 3):
        _, k_BGTD, v_BGTD = states.qkv[layer]
        torch.testing.assert_close(v_BGTD, cache.layers[layer].values)
        if layer in layers:
            torch.testing.assert_close(k_BGTD, cache.layers[layer].keys)
        else:
            # A rotation by position keeps the length of a key, and leaves the first token as it is.
            torch.testing.assert_close(k_BGTD.norm(dim=-1), cache.layers[layer].keys.norm(dim=-1))
            torch.testing.assert_close(k_BGTD[:, :, 0], cache.layers[layer].keys[:, :, 0])
            assert not torch.allclose(k_BGTD, cache.layers[layer].keys)


def test_the_backbone_is_frozen_and_in_eval_mode_always(family):
    model = make_longmem(family)
    model.train()
    assert not model.backbone.training
    assert not any(p.requires_grad for p in model.backbone.parameters())
    assert all(p.requires_grad for p in model.sidenet.parameters())


def test_cached_uncached_and_token_by_token_agree_over_three_windows(family):
    model = make_longmem(family)
    # No token comes twice: equal tokens at equal places (GPT-2 counts anew) tie, and either may be retrieved.
    generator = torch.Generator().manual_seed(1)
    ids = torch.stack([2 + torch.randperm(126, generator=generator)[:97] for _ in range(2)])
    with torch.no_grad():
        at_once = model(ids).logits
        cache, parts = model.new_cache(), []
        for size in [1] * 40 + [7, 30, 1, 19]:
            start = cache.seen
            parts.append(model(ids[:, start : start + size], past_key_values=cache, use_cache=True).logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), at_once, atol=1e-4, rtol=0)


def test_greedy_generation_is_the_argmax_of_one_call(family):
    model = make_longmem(family)
    ids = torch.randint(2, 128, (1, 9), generator=torch.Generator().manual_seed(2))
    options = {"max_new_tokens": 88, "min_new_tokens": 88, "do_sample": False}
    text = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    with torch.no_grad():
        logits = model(text).logits[0, 8:-1]
    logits[:, 0] = -torch.inf  # the end token was not allowed
    assert text.shape == (1, 97)
    assert (logits.argmax(-1) == text[0, 9:]).float().mean() > 0.97  # ties of a random model may fall either way


def test_an_unknown_family_is_named_with_what_is_known():
    config = GPT2Config()
    config.model_type = "unheard_of"
    with pytest.raises(UnknownFamilyError, match=r"unheard_of.*bloom.*smollm3"):
        family_of(config)


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (MemoryLayerError, {"memory_layers": [4]}),
        (MemoryLayerError, {"memory_layers": []}),
        (MemoryLayerError, {"memory_layers": [0, 1]}),
        (RetrievalSizeError, {"retrieved_tokens": 3}),
        (RetrievalSizeError, {"retrieved_tokens": 6}),
        (LongMemError, {"window": 20}),
        (LongMemError, {"layer_reduction_factor": 3}),
        (LongMemError, {"chunk_key": "best"}),
        (LongMemError, {"gate": "open"}),
        (LongMemError, {"read_overlap": 8}),
        (LongMemError, {"gate_start": 1.0}),
    ],
)
def test_settings_outside_what_is_allowed_are_refused_by_name(error, options):
    settings = {"memory_layers": [1], "window": 32} | options
    with pytest.raises(error, match=next(iter(options))):
        LongMemConfig(CONFIGS["smollm3"], **settings)
