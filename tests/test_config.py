"""Settings: what is allowed, what is derived from them, and the choice of a device."""

import pytest
import torch
from transformers import AutoConfig, LlamaConfig

from longmem.config import LongMemConfig, choose_device, preset_settings
from longmem.errors import LongMemError

BACKBONE = LlamaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=8, num_attention_heads=4)


def config(**options: object) -> LongMemConfig:
    return LongMemConfig(BACKBONE, **({"memory_layers": [5, 2], "window": 32} | options))


def test_settings_are_the_same_after_saving_and_loading(tmp_path):
    saved = config(gate="scalar", chunk_key="mean", read_overlap=16, source="shared", gate_start=0.4)
    saved.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, LongMemConfig)
    assert isinstance(loaded.backbone_config, LlamaConfig)
    assert loaded.memory_layers == [2, 5]
    names = "gate chunk_key read_overlap source gate_start window retrieved_tokens memory_size initialization"
    assert all(getattr(loaded, name) == getattr(saved, name) for name in names.split())


def test_forged_settings_are_refused_on_loading(tmp_path):
    config().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"window": 32', '"window": 33'))
    with pytest.raises(LongMemError, match="window is 33"):
        LongMemConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("source", "copied"),
    [("next", [1, 3, 5, 7]), ("shared", [0, 2, 4, 6]), ("memory", [1, 2, 5, 7])],
)
def test_each_sidenet_layer_is_a_copy_of_the_layer_its_source_names(source, copied):
    chosen = config(source=source)
    assert [chosen.source_layer(i) for i in range(4)] == copied
    assert [chosen.side_layer(b) for b in chosen.memory_layers] == [1, 2]


def test_a_reduction_of_one_gives_every_backbone_layer_a_sidenet_layer():
    chosen = config(layer_reduction_factor=1, source="next")
    assert [chosen.source_layer(i) for i in range(8)] == [1, 2, 3, 4, 5, 6, 7, 7]
    assert chosen.side_layer(5) == 5


def test_the_papers_own_setting_is_allowed():
    backbone = LlamaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=24, num_attention_heads=4)
    paper = LongMemConfig(backbone, memory_layers=[17], **preset_settings("paper"))
    assert (paper.chunk_key, paper.gate, paper.gate_start, paper.initialization) == ("mean", "scalar", 0.5, "paper")
    assert (paper.retrieved_tokens, paper.retrieved_chunks, paper.chunk_size) == (64, 16, 4)
    assert (paper.side_layer(17), paper.source_layer(8), paper.memory_size) == (8, 17, 65_536)


def test_an_unknown_preset_is_named_with_those_there_are():
    with pytest.raises(LongMemError, match="preset is 'papers'; it must be one of measured, paper"):
        preset_settings("papers")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("memory_layers", [-1]),
        ("memory_layers", [8]),
        ("memory_layers", [3, 3]),
        ("memory_layers", [2, 3]),
        ("layer_reduction_factor", 0),
        ("window", 0),
        ("window", 4),
        ("window", 36),
        ("memory_size", 3),
        ("initialization", "best"),
        ("source", "last"),
        ("gate_start", 0.0),
        ("read_overlap", 32),
    ],
)
def test_a_setting_outside_what_is_allowed_is_named_with_its_value(option, value):
    with pytest.raises(LongMemError, match=f"{option} is ") as error:
        config(**{option: value})
    assert str(value) in str(error.value)


def test_a_device_comes_with_the_reason_for_it():
    device, reason = choose_device("cpu")
    assert (device, reason) == (torch.device("cpu"), "it was asked for")
    device, reason = choose_device()
    assert device.type in ("cpu", "cuda", "mps")
    assert "found" in reason
    assert choose_device("auto") == (device, reason)


@pytest.mark.parametrize("name", ["abacus", f"cuda:{torch.cuda.device_count()}"])
def test_a_device_that_is_not_here_is_named(name):
    with pytest.raises(LongMemError, match=name):
        choose_device(name)
