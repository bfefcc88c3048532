"""The arithmetic of training, by hand, and the configurations for a GPU."""

import json

import pytest
import torch

from longmem.training import throughput
from longmem.training.adapt import SideNetTraining
from longmem.training.pretrain import BackboneTraining, build_backbone
from longmem.training.run import Run
from longmem.training.settings import load_settings
from longmem.training.throughput import flops_per_token, matrix_rate
from tests.conftest import tiny_smollm3
from tests.test_training import a_run


class Vocabulary:
    """What building a backbone asks of a tokenizer."""

    bos_token_id = eos_token_id = 0
    pad_token_id = 1

    def __len__(self) -> int:
        return 8_192


def attention_of(model) -> torch.nn.Module:
    return model.model.layers[0].self_attn


@pytest.fixture(scope="module")
def full_size():
    settings = load_settings(BackboneTraining, "gpu", "backbone")
    with torch.device("meta"):
        return settings, build_backbone(settings, Vocabulary())


def test_the_backbone_for_a_gpu_is_what_its_configuration_says(full_size):
    settings, model = full_size
    attention, feed_forward, norms = 4 * 384 * 384, 3 * 384 * 1024, 2 * 384
    by_hand = 12 * (attention + feed_forward + norms) + 384 + 8_192 * 384
    assert sum(p.numel() for p in model.parameters()) == by_hand == 24_388_992
    assert (settings.window, model.config.num_attention_heads, attention_of(model).head_dim) == (1_024, 6, 64)
    assert (settings.mixed_precision, settings.compile, settings.vocab_size) == ("bf16", True, 8_192)
    assert settings.total_tokens >= 500_000_000


def test_the_sidenet_for_a_gpu_remembers_in_layers_without_positions(full_size):
    backbone, model = full_size
    settings = load_settings(SideNetTraining, "gpu", "sidenet")
    assert settings.memory_tokens >= 16_000
    assert set(settings.memory_layers) <= set(backbone.nope_layers)
    assert [model.config.no_rope_layers[layer] for layer in settings.memory_layers] == [0, 0]
    assert settings.window == backbone.window
    assert settings.backbone == f"{backbone.output}/model"


def test_operations_of_a_token_by_hand(full_size):
    linear = 12 * (4 * 384 * 384 + 3 * 384 * 1024) + 384 * 8_192
    scores_and_values = 12 * 6 * 64 * (2 + 2) * 1025 / 2
    assert flops_per_token(full_size[1], 1_024) == 6 * linear + 3 * scores_and_values == 174_615_552


def test_operations_count_grouped_keys_and_values_as_the_products_they_are():
    linear = 4 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64) + 32 * 384
    assert flops_per_token(tiny_smollm3(), 31) == 6 * linear + 6 * 4 * 32 * 32


def test_the_rate_is_operations_over_the_seconds_that_all_layers_take(monkeypatch):
    """Every product takes a second here: 4 layers of 7, and the head, of 16 rows."""
    monkeypatch.setattr(throughput, "_seconds", lambda run, device, repeats: run() is None or 1.0)
    linear = 4 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64) + 32 * 384
    assert matrix_rate(tiny_smollm3(), 16, torch.device("cpu"), "bf16") == pytest.approx(2 * 16 * linear / 29)


def test_a_rate_is_measured_in_the_precision_of_the_run(monkeypatch):
    seen = set()
    linear = torch.nn.functional.linear

    def see(inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        seen.add((inputs.dtype, weight.dtype, inputs.shape[0]))
        return linear(inputs, weight)

    monkeypatch.setattr(torch.nn.functional, "linear", see)
    assert matrix_rate(tiny_smollm3(), 64, torch.device("cpu"), "bf16") > 0
    assert matrix_rate(tiny_smollm3(), 10**9, torch.device("cpu"), "no") > 0
    assert seen == {(torch.bfloat16, torch.bfloat16, 64), (torch.float32, torch.float32, throughput.CPU_ROWS)}


def test_speed_is_of_the_time_since_the_line_before_and_its_share_of_the_rate(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("longmem.training.run.time.monotonic", lambda: clock[0])
    run: Run = a_run(tmp_path)
    run.flops_per_token, run.matrix_rate = 1_000, 4e6
    for seconds, tokens in ((10, 1_000), (5, 10_000)):
        clock[0] += seconds
        run.advance(tokens)
        run.log(loss=1.0)
        run.log(prefix_matching=[[0.5]])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["tokens_per_second"] for line in lines] == [100.0, 100.0, 2000.0, 2000.0]
    assert [line.get("matrix_share") for line in lines] == [0.025, None, 0.5, None]
