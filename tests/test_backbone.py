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

from longmem.backbone import Backbone, attention_scaling, family_of, load_backbone
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


def test_hidden_states_are_those_of_the_plain_model_and_the_last_is_before_the_norm(family):
    plain = make(family)
    ids = torch.randint(2, 128, (2, 20))
    with torch.no_grad():
        expected = plain(ids, output_hidden_states=True).hidden_states
        backbone = Backbone(plain, [1, 3])
        hidden = backbone(ids).hidden
    for layer in range(4):
        torch.testing.assert_close(hidden[layer], expected[layer])
    torch.testing.assert_close(backbone.norm(hidden[4]), expected[4])


def test_reading_ends_where_the_last_memory_layer_has_its_keys_and_values(family):
    backbone = Backbone(make(family), [0, 2])
    ids = torch.randint(2, 128, (2, 20))
    run = []
    outputs = [layer.get_submodule(backbone.family.mlp_output) for layer in backbone.layers]
    for index, module in enumerate(outputs):
        module.register_forward_hook(lambda *_, index=index: run.append(index))
    read = backbone.read(ids)
    assert run == [0, 1]
    states = backbone(ids)
    assert run == [0, 1, 0, 1, 2, 3]
    assert list(read) == [0, 2]
    for layer, qkv in read.items():
        for seen, expected in zip(qkv, states.qkv[layer], strict=True):
            torch.testing.assert_close(seen, expected, rtol=0, atol=0)


def test_keys_have_the_heads_that_the_family_stores(family):
    backbone = Backbone(make(family), [1])
    q_BHTD, k_BGTD, v_BGTD = backbone(torch.randint(2, 128, (1, 5))).qkv[1]
    grouped = family not in ("gpt2", "gpt_neox", "bloom")
    assert backbone.kv_heads == k_BGTD.shape[1] == v_BGTD.shape[1] == (2 if grouped else 4)
    assert q_BHTD.shape[1] == backbone.query_heads == 4
    assert q_BHTD.shape[3] == k_BGTD.shape[3] == backbone.head_dim


def test_queries_and_keys_give_the_attention_of_a_layer_without_positions():
    """The split into heads is the model's own: what is computed from q and k is what the layer computes."""
    plain = make("smollm3")
    plain.set_attn_implementation("eager")
    ids = torch.randint(2, 128, (1, 12))
    with torch.no_grad():
        expected = plain(ids, output_attentions=True).attentions[1]
        q_BHTD, k_BGTD, _ = Backbone(plain, [1])(ids).qkv[1]
    scores = q_BHTD @ k_BGTD.repeat_interleave(2, dim=1).mT * attention_scaling(plain.model.layers[1].self_attn)
    hidden = torch.ones(12, 12, dtype=torch.bool).triu(1)
    torch.testing.assert_close(scores.masked_fill(hidden, -torch.inf).softmax(-1), expected)


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
            parts.append(model(ids[:, start : start + size], cache=cache, use_cache=True).logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), at_once, atol=1e-4, rtol=0)


def test_padding_on_the_left_changes_nothing_over_three_windows(family):
    model = make_longmem(family)
    generator = torch.Generator().manual_seed(1)
    ids = torch.stack([2 + torch.randperm(126, generator=generator)[:90] for _ in range(2)])
    mask = torch.ones_like(ids)
    mask[1, :18] = 0  # more than the half that leaves the window first, and no whole number of chunks
    with torch.no_grad():
        together = model(ids, attention_mask=mask).logits
        alone, first = model(ids[1:, 18:]).logits, model(ids[:1]).logits
    torch.testing.assert_close(together[1:, 18:], alone, atol=1e-4, rtol=0)
    torch.testing.assert_close(together[:1], first, atol=1e-4, rtol=0)


def test_what_leaves_the_window_is_remembered_with_its_own_keys_and_values(family):
    model = make_longmem(family)
    ids = torch.randint(2, 128, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        cache = model(ids, use_cache=True).cache
        first = model.backbone(ids[:, :32])
    assert cache.overflow.n_tokens == 16
    for layer in (1, 3):
        _, k_BGTD, v_BGTD = first.qkv[layer]
        torch.testing.assert_close(cache.overflow.keys[layer], k_BGTD[:, :, :16], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(cache.overflow.values[layer], v_BGTD[:, :, :16], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family_name", ["smollm3", "llama", "qwen2", "qwen3", "mistral", "gpt_neox"])
def test_kept_tokens_keep_their_states_and_positions_go_on_counting(family_name):
    """The sliding window written as a mask over the whole text, in the plain model at once."""
    model = make_longmem(family_name, initialization="zero")
    ids = torch.randint(2, 128, (1, 80), generator=torch.Generator().manual_seed(1))
    place = torch.arange(80)
    # The window is full at 32; from then on, half of it leaves with every 16 tokens.
    first_seen = (place // 16 - 1).clamp(min=0) * 16
    seen = (place[None] <= place[:, None]) & (place[None] >= first_seen[:, None])
    bias = torch.zeros(80, 80).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
    with torch.no_grad():
        expected = make(family_name)(ids, attention_mask=bias, position_ids=place[None]).logits
        torch.testing.assert_close(model(ids).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family_name", ["mistral", "qwen2", "qwen3"])
def test_a_backbone_with_a_sliding_window_of_its_own_keeps_it(family_name):
    options = {} if family_name == "mistral" else {"use_sliding_window": True, "max_window_layers": 0}
    settings = CONFIGS[family_name].to_dict() | {"sliding_window": 8, "layer_types": None} | options
    config = type(CONFIGS[family_name])(**settings)
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(config).eval()
    ids = 2 + torch.randperm(126, generator=torch.Generator().manual_seed(1))[None, :70]
    with torch.no_grad():
        expected, wide = plain(ids[:, :32]).logits, make(family_name)(ids[:, :32]).logits
        model = LongMemForCausalLM.from_backbone(
            plain, memory_layers=[1, 3], window=32, retrieved_tokens=16, initialization="zero"
        ).eval()
        at_once, cache = model(ids).logits, model.new_cache()
        steps = [model(ids[:, t : t + 1], cache=cache, use_cache=True).logits for t in range(70)]
    assert not torch.allclose(expected, wide, atol=1e-3)
    torch.testing.assert_close(at_once[:, :32], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.cat(steps, dim=1), at_once, atol=1e-4, rtol=0)


def test_a_window_beyond_learned_positions_is_refused():
    with pytest.raises(LongMemError, match="window is 128"):
        make_longmem("gpt2", window=128)


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


def test_memory_counts_where_bloom_multiplies_slices_of_its_output_weights():
    logits = []
    for options in ({}, {"slow_but_exact": True, "pretraining_tp": 2}):
        torch.manual_seed(0)
        config = BloomConfig(**CONFIGS["bloom"].to_diff_dict() | options)
        model = LongMemForCausalLM.from_backbone(
            AutoModelForCausalLM.from_config(config).eval(), memory_layers=[1], window=32, initialization="paper"
        ).eval()
        ids = torch.randint(2, 128, (1, 70), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            logits.append(model(ids).logits)
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)


def test_the_backbone_inside_a_saved_model_is_found(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "whole")
    found = load_backbone(tmp_path / "whole")
    ids = torch.randint(2, 300, (1, 20))
    with torch.no_grad():
        torch.testing.assert_close(found(ids).logits, tiny_model.backbone.causal_lm(ids).logits)
    again = LongMemForCausalLM.from_backbone(found, memory_layers=[1, 3], window=32)
    assert again.fingerprint == tiny_model.fingerprint
    assert again.config.backbone_name_or_path == str(tmp_path / "whole")
    assert again.tokenizer("The keeper")["input_ids"] == tiny_model.tokenizer("The keeper")["input_ids"]
