"""Anyone's own language model: a SideNet trained on it, its layers inspected, and what it retrieves as it is."""

import json
import lzma
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from longmem.__main__ import app
from longmem.backbone import load_backbone
from longmem.errors import LongMemError
from longmem.model import LongMemForCausalLM
from longmem.training.adapt import SideNetTraining, adapt, build_model
from longmem.training.pretrain import BackboneTraining, pretrain
from tests.conftest import tiny_smollm3
from tests.test_backbone import CONFIGS

STORY = "The keeper wrote the name of every ship in a ledger. In the morning the ship returned to the sea. "
SMALL = """
window = 32
memory_layers = [1, 3]
retrieved_tokens = 8
lanes = 2
memory_tokens = 128
segments = 4
total_steps = 2
log_every = 1
"""


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Documents of each kind, and a configuration for models of four layers."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "story.txt").write_text(STORY * 30)
    lines = "\n".join(json.dumps({"text": STORY[i:] * 20}) for i in range(3))
    (folder / "books.jsonl").write_text(lines)
    with lzma.open(folder / "books.jsonl.xz", "wt") as file:
        file.write(lines)
    (folder / "small.toml").write_text(SMALL)
    return folder


def saved(family: str, folder: Path, tokenizer) -> Path:
    """A random model of a family with a tokenizer, in a folder."""
    settings = CONFIGS[family].to_dict() | {"vocab_size": len(tokenizer), "initializer_range": 0.02}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(type(CONFIGS[family])(**settings)).save_pretrained(folder / family)
    tokenizer.save_pretrained(folder / family)
    return folder / family


@pytest.fixture(scope="module", params=CONFIGS)
def backbone(request, folder, tiny_tokenizer) -> Path:
    return saved(request.param, folder, tiny_tokenizer)


@pytest.mark.parametrize("options", [[], ["--sidenet-rank", 2, "--sidenet-alone"]], ids=["whole", "low-rank"])
def test_a_sidenet_trains_on_plain_documents_and_comes_back(backbone, folder, tmp_path, options):
    documents = [x for name in ("story.txt", "books.jsonl", "books.jsonl.xz") for x in ("--documents", folder / name)]
    common = ["--config", folder / "small.toml", "--backbone", backbone, "--output", tmp_path / "run"]
    result = invoke("train", "sidenet", *common, *documents, *options)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert all(0 < row["loss"] < 20 for row in rows)
    assert rows[1]["gate"] > 0  # the second segment has the first in memory
    model = LongMemForCausalLM.from_pretrained(tmp_path / "run" / "model", device="cpu")
    plain, fresh = (
        load_backbone(backbone),
        LongMemForCausalLM.from_backbone(
            backbone, memory_layers=[1, 3], window=32, sidenet_rank=model.config.sidenet_rank
        ),
    )
    assert model.config.sidenet_rank == (2 if options else None)
    assert any(
        not torch.equal(a, b) for a, b in zip(model.sidenet.parameters(), fresh.sidenet.parameters(), strict=True)
    )
    kept = zip(model.backbone.causal_lm.parameters(), plain.parameters(), strict=True)
    assert all(torch.equal(a, b.bfloat16().float() if not options else b) for a, b in kept)
    size = sum(file.stat().st_size for file in (tmp_path / "run" / "model").glob("*.safetensors"))
    assert (size < 100_000) is bool(options)


def test_a_backbone_in_bf16_trains_a_sidenet_in_fp32(folder, tiny_tokenizer, tmp_path):
    tiny_smollm3(len(tiny_tokenizer)).to(torch.bfloat16).save_pretrained(tmp_path / "bf16")
    tiny_tokenizer.save_pretrained(tmp_path / "bf16")
    options = {"backbone": str(tmp_path / "bf16"), "window": 32, "memory_layers": [1, 3], "retrieved_tokens": 8}
    for rank in (None, 2):
        model = build_model(SideNetTraining(**options, sidenet_rank=rank))
        assert {p.dtype for p in model.sidenet.parameters()} == {torch.float32}
        assert {p.dtype for p in model.backbone.parameters()} == {torch.bfloat16}
        run = {"output": str(tmp_path / f"run-{rank}"), "packs": [str(folder / "books.jsonl")], "total_steps": 2}
        adapt(SideNetTraining(**options, **run, lanes=2, memory_tokens=128, sidenet_rank=rank, log_every=1))
        rows = (tmp_path / f"run-{rank}" / "metrics.jsonl").read_text().splitlines()
        assert all(math.isfinite(json.loads(row)["loss"]) for row in rows)
    assert {p.dtype for p in build_model(SideNetTraining(**options, mixed_precision="no")).parameters()} == {
        torch.float32
    }


# Several processes -----------------------------------------------------------------------------------------------

TWICE = """
import json, sys
from longmem.training.adapt import SideNetTraining, adapt
from longmem.training.pretrain import BackboneTraining, pretrain
backbone, sidenet = json.loads(sys.argv[1])
pretrain(BackboneTraining(**backbone))
adapt(SideNetTraining(**sidenet))
"""


def settings_of(folder: Path, backbone: Path, output: Path, share: int) -> tuple[dict, dict]:
    """What one of `share` processes runs: a backbone and a SideNet, four rows and four lanes together."""
    common = {"packs": [str(folder / "books.jsonl")], "log_every": 1, "mixed_precision": "no", "warmup": 1}
    small = {"layers": 2, "hidden": 32, "intermediate": 48, "heads": 2, "nope_layers": [1], "window": 64}
    small |= {"vocab_size": 400, "compile": False, "total_tokens": 64 * 4 * 3, "batch_rows": 4 // share}
    side = {"backbone": str(backbone), "window": 32, "memory_layers": [1, 3], "retrieved_tokens": 8, "segments": 4}
    side |= {"memory_tokens": 128, "total_steps": 7, "lanes": 4 // share, "asked_weight": 3.0}
    outputs = [{"output": str(output / name)} for name in ("backbone", "sidenet")]
    return common | small | outputs[0], common | side | outputs[1]


def test_two_processes_train_as_one_does_on_all_their_rows(folder, tiny_tokenizer, tmp_path):
    backbone = saved("llama", folder, tiny_tokenizer)
    alone = settings_of(folder, backbone, tmp_path / "one", 1)
    pretrain(BackboneTraining(**alone[0]))
    adapt(SideNetTraining(**alone[1]))
    (tmp_path / "both.py").write_text(TWICE)
    # As `accelerate launch` does for several GPUs; for CPUs it would ask for MPI.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    launch.append(str(tmp_path / "both.py"))
    shared = json.dumps(settings_of(folder, backbone, tmp_path / "two", 2))
    environment = os.environ | {"PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, shared], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    for kind, names in (("backbone", ["loss", "text_loss"]), ("sidenet", ["loss", "text", "asked", "gate"])):
        one, two = (
            [json.loads(line) for line in (tmp_path / run / kind / "metrics.jsonl").read_text().splitlines()]
            for run in ("one", "two")
        )
        one, two = ([row for row in rows if "loss" in row] for rows in (one, two))
        assert len(one) == len(two) == (3 if kind == "backbone" else 7)
        assert [row["tokens"] for row in one] == [row["tokens"] for row in two]
        for name in names:
            assert [row[name] for row in two] == pytest.approx([row[name] for row in one], rel=2e-4), (kind, name)


# As it is --------------------------------------------------------------------------------------------------------


def test_inspect_prints_every_layer_and_suggests_memory_layers_that_may_be_trained(backbone, tmp_path):
    result = invoke("inspect", "--backbone", backbone, "--device", "cpu", "--json", tmp_path / "found.json")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found["prefix_matching"]) == len(found["prefix_matching_by_content"]) == 4
    lines = [line for line in result.stdout.splitlines() if line[:4].strip().isdigit()]
    assert [int(line[:4]) for line in lines] == [0, 1, 2, 3]
    assert [int(line[:4]) for line in lines if "*" in line] == found["memory_layers"]
    assert f"memory_layers = {found['memory_layers']}: {found['reason']}" in result.stdout
    LongMemForCausalLM.from_backbone(backbone, memory_layers=found["memory_layers"], window=32)


def test_retrieve_shows_what_each_layer_found_and_that_it_is_not_longmem(backbone, folder):
    options = ["--backbone", backbone, "--document", folder / "story.txt", "--text", "The keeper wrote"]
    result = invoke("retrieve", *options, "--memory-layers", "1,3", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "not LongMem" in result.stderr
    assert result.stdout.count("story.txt, character") == 10
    found = json.loads(invoke("retrieve", *options, "--memory-layers", "3", "--json").stdout)
    assert "not LongMem" in found["method"]
    assert {row["layer"] for row in found["trace"]} == {3}
    text = (folder / "story.txt").read_text()
    assert all(text[row["start"] : row["end"]] == row["text"] for row in found["trace"])


def test_generate_training_free_continues_with_memory_and_says_what_it_is(backbone, folder):
    options = ["--model", backbone, "--document", folder / "story.txt", "--prompt", "The ship", "--max-new-tokens", 5]
    result = invoke("generate", "--training-free", "--memory-layers", "1,3", *options, "--json", "--device", "cpu")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert "not LongMem" in found["method"]
    assert "not LongMem" in result.stderr
    assert len(found["tokens"]) >= 1
    assert {row["layer"] for row in found["trace"]} == {1, 3}


def test_memory_layers_of_a_longmem_model_cannot_be_chosen_in_generating():
    result = invoke("generate", "--prompt", "x", "--memory-layers", "1")
    assert result.exit_code == 2
    assert "--training-free" in result.stderr


def broken(tmp_path: Path, kind: str) -> Path:
    folder = tmp_path / kind
    folder.mkdir()
    if kind == "unknown":
        (folder / "config.json").write_text(json.dumps({"model_type": "opt"}))
    elif kind == "unheard-of":
        (folder / "config.json").write_text(json.dumps({"model_type": "quantum"}))
    elif kind == "damaged":
        tiny_smollm3().save_pretrained(folder)
        (folder / "model.safetensors").write_bytes(b"\x00" * 64)
    return folder


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("unknown", "model_type is 'opt'; longmem reads bloom, gpt2"),
        ("unheard-of", "no language model can be loaded from it"),
        ("damaged", "no language model can be loaded from it"),
        ("empty", "no language model can be loaded from it"),
        ("absent", "there is no such folder"),
    ],
)
def test_a_backbone_that_cannot_be_loaded_is_said_in_one_line(tmp_path, kind, said):
    folder = tmp_path / "no" / "where" if kind == "absent" else broken(tmp_path, kind)
    with pytest.raises(LongMemError, match=re.escape(said)):
        load_backbone(folder)
    for command in (
        ["inspect", "--backbone", folder],
        ["generate", "--training-free", "--prompt", "x", "--model", folder],
    ):
        result = invoke(*command, "--device", "cpu")
        assert result.exit_code == 2, result.output
        assert said in result.stderr
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--memory-layers", "four"], "--memory-layers is 'four'"),
        (["--memory-layers", "9"], "memory_layers is [9]"),
        (["--device", "abacus"], "--device is 'abacus'"),
        (["--text", ""], "text is empty"),
    ],
)
def test_a_wrong_option_of_retrieve_is_named(folder, tiny_tokenizer, options, said):
    given = ["retrieve", "--backbone", saved("llama", folder, tiny_tokenizer), "--document", folder / "story.txt"]
    result = invoke(*given, "--text", "The ship", *options)
    assert result.exit_code == 2
    assert said in result.stderr
