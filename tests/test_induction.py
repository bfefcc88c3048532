"""The finder of memory layers: what it measures, and what it suggests."""

from dataclasses import replace

import pytest
import torch

from longmem.backbone import family_of
from longmem.config import LongMemConfig
from longmem.errors import LongMemError
from longmem.induction import content_matching, prefix_matching, probe_length, suggest_memory_layers
from tests.conftest import tiny_smollm3
from tests.test_backbone import CONFIGS, WITHOUT_ROTARY, make


@pytest.fixture(params=CONFIGS)
def family(request) -> str:
    return request.param


def test_content_is_what_a_layer_without_positions_attends_to(family):
    model = make(family)
    with_positions, by_content = (measure(model, length=32) for measure in (prefix_matching, content_matching))
    assert with_positions.shape == by_content.shape == (4, 4)
    assert ((by_content >= 0) & (by_content <= 1)).all()
    free = WITHOUT_ROTARY.get(family, []) if family != "bloom" else []  # ALiBi is added to the scores
    for layer in range(4):
        alike = torch.allclose(with_positions[layer], by_content[layer], atol=1e-5)
        assert alike is (layer in free or family == "gpt2")


def hooks_of(layer: torch.nn.Module) -> int:
    """Of the linear layers and norms; transformers keeps hooks of its own on whole layers."""
    return sum(len(module._forward_hooks) for module in layer.modules() if not list(module.children()))


def test_measuring_leaves_the_model_as_it_was(family):
    model = make(family).train()
    before = model.config._attn_implementation
    suggest_memory_layers(model)
    assert model.training
    assert model.config._attn_implementation == before
    assert hooks_of(model.base_model.get_submodule(family_of(model.config).layers)[1]) == 0


def planted(scores: dict[int, float], layers: int = 8):
    """What a measurement of a model would be whose best heads find so much."""
    found = torch.full((layers, 4), 0.01)
    for layer, score in scores.items():
        found[layer, 2] = score
    return lambda *_, **__: found


@pytest.mark.parametrize(
    ("scores", "options", "chosen"),
    [
        ({4: 0.8, 5: 0.9, 7: 0.4}, {}, [5, 7]),
        ({4: 0.8, 5: 0.9, 7: 0.4}, {"layer_reduction_factor": 1}, [4, 5]),
        ({4: 0.8, 5: 0.9, 7: 0.4}, {"layer_reduction_factor": 4}, [5]),
        ({4: 0.8, 5: 0.9, 7: 0.4}, {"count": 1}, [5]),
        ({6: 0.8, 2: 0.09}, {}, [6]),
        ({3: 0.05}, {}, [3]),
    ],
)
def test_the_layers_with_the_best_heads_are_suggested_where_they_may_stand(monkeypatch, scores, options, chosen):
    monkeypatch.setattr("longmem.induction.content_matching", planted(scores))
    model = tiny_smollm3()
    model.config.num_hidden_layers = 8
    monkeypatch.setattr("longmem.induction.prefix_matching", planted({}))
    suggestion = suggest_memory_layers(model, **options)
    assert suggestion.memory_layers == chosen
    factor = options.get("layer_reduction_factor", 2)
    model.config.num_hidden_layers = 8
    LongMemConfig(model.config, memory_layers=chosen, layer_reduction_factor=factor)
    assert ("None reaches" in suggestion.reason) is (max(scores.values()) < 0.1)


def test_a_head_that_finds_the_token_after_the_first_time_scores_one(monkeypatch):
    """Keys of the token before, queries of the token itself: an induction head written by hand."""
    model, identity, seen = tiny_smollm3(), torch.eye(384), []

    def split(attention, outputs):
        ids_T = seen[-1][0]
        queries_and_keys = (40 * identity[x].expand(1, 4, -1, -1) for x in (ids_T, ids_T.roll(1)))
        return *queries_and_keys, None

    by_hand = replace(family_of(model.config), split=split)
    monkeypatch.setattr("longmem.induction.family_of", lambda config: by_hand)
    model.model.register_forward_pre_hook(lambda _, __, options: seen.append(options["input_ids"]), with_kwargs=True)
    scores = content_matching(model, length=64)
    assert scores.min() > 0.95
    assert prefix_matching(model, length=64).max() < 0.5


def test_a_row_is_no_longer_than_what_the_model_sees():
    assert probe_length(CONFIGS["mistral"]) == 64
    assert probe_length(CONFIGS["gpt2"]) == 64
    assert probe_length(CONFIGS["bloom"]) == 256


def test_a_factor_that_does_not_divide_the_layers_is_named():
    with pytest.raises(LongMemError, match="layer_reduction_factor is 3"):
        suggest_memory_layers(tiny_smollm3(), layer_reduction_factor=3)
