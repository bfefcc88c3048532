"""The command line as people and scripts use it."""

import json
import math
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from longmem import kept_index
from longmem.__main__ import app
from longmem.evaluate_commands import typed
from longmem.model import LongMemForCausalLM
from longmem.trace import RetrievalTrace

STORY = "The keeper wrote the name of every ship in a ledger. In the morning the ship returned. " * 12


@pytest.fixture(scope="module")
def folder(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    tiny_model.save_pretrained(folder / "model")
    (folder / "story.txt").write_text(STORY)
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 and then nothing")
    return folder


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def generate(folder, *arguments: object) -> dict:
    given = ["generate", "--model", folder / "model", "--prompt", "The ship", "--max-new-tokens", 6, "--json"]
    result = invoke(*given, *arguments)
    assert result.exit_code == 0, result.output
    return parse(result.stdout)


def parse(text: str) -> dict:
    """JSON as the standard has it: NaN and Infinity, which Python would read, are errors."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_generate_prints_one_json_object_and_nothing_else_on_standard_output(folder):
    command = [sys.executable, "-m", "longmem", "generate", "--model", folder / "model", "--json", "--greedy"]
    options = ["--document", folder / "story.txt", "--prompt", "The ship", "--max-new-tokens", "6"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    found = parse(done.stdout)
    assert list(found) == ["text", "tokens", "memory", "effect", "trace"]
    assert "".join(found["tokens"]) == found["text"]
    assert len(found["effect"]) == len(found["tokens"]) == 6
    assert found["memory"]["documents"][0]["name"] == "story.txt"
    assert found["memory"]["tokens"] == found["memory"]["documents"][0]["tokens"]
    assert all(row["text"] == STORY[row["start"] : row["end"]] for row in found["trace"])
    assert {row["step"] for row in found["trace"]} == set(range(6))
    assert "story.txt" in done.stderr


@pytest.fixture
def small_index(monkeypatch):
    monkeypatch.setattr(kept_index, "LEAST_TOKENS", 64)


def test_a_search_by_index_says_its_recall(folder, small_index, tmp_path):
    options = ["--document", folder / "story.txt", "--backend", "faiss-sq8", "--values-folder", tmp_path]
    found = generate(folder, *options)["memory"]["search"]
    assert (found["backend"], found["queries"] > 0) == ("faiss-sq8", True)
    assert 0.9 < found["recall"] <= 1
    shown = invoke("generate", "--model", folder / "model", "--prompt", "The ship", "--max-new-tokens", 3, *options)
    assert "% of what an exact search finds was found (recall, over" in shown.stdout


def test_reading_for_a_search_by_index_says_its_recall_and_saves_the_backend(folder, small_index, tmp_path):
    given = ["read", folder / "story.txt", "--model", folder / "model", "--output", tmp_path / "bank"]
    done = invoke(*given, "--backend", "faiss-hnsw")
    assert done.exit_code == 0, done.output
    assert "faiss-hnsw: 100.0% of what an exact search finds" in done.stderr
    assert parse(done.stdout)["search"]["queries"] > 0
    assert generate(folder, "--memory", tmp_path / "bank")["memory"]["search"]["backend"] == "faiss-hnsw"
    assert "search" not in generate(folder, "--memory", tmp_path / "bank", "--backend", "torch")["memory"]


def test_a_bank_too_small_for_an_index_is_searched_exactly_and_that_is_said(folder):
    options = ["--document", folder / "story.txt", "--backend", "faiss-ivf"]
    assert generate(folder, *options)["memory"]["search"] == {"backend": "faiss-ivf", "recall": None, "queries": 0}
    shown = invoke("generate", "--model", folder / "model", "--prompt", "The ship", "--max-new-tokens", 3, *options)
    assert "faiss-ivf: every search was exact" in shown.stdout


def test_trace_ranks_limits_what_is_printed(folder):
    trace = generate(folder, "--document", folder / "story.txt", "--trace-ranks", 2)["trace"]
    assert {row["rank"] for row in trace} == {0, 1}
    assert len(trace) == 6 * 2 * 4 * 2


def test_a_number_that_json_does_not_know_becomes_null(folder, monkeypatch):
    effects = [0.5, math.nan, math.inf, -math.inf, 0.0, 1.0]
    monkeypatch.setattr(RetrievalTrace, "effects", property(lambda trace: effects))
    assert generate(folder)["effect"] == [0.5, None, None, None, 0.0, 1.0]


def test_no_memory_retrieves_nothing(folder):
    found = generate(folder, "--document", folder / "story.txt", "--no-memory")
    assert found["trace"] == []
    assert set(found["effect"]) == {0.0}
    assert found["memory"]["tokens"] > 0


def test_a_saved_bank_gives_what_reading_again_gives(folder):
    result = invoke("read", folder / "story.txt", "--output", folder / "bank", "--model", folder / "model")
    assert result.exit_code == 0, result.output
    options = ["--greedy", "--trace-ranks", 1]
    loaded = generate(folder, "--memory", folder / "bank", *options)
    assert loaded == generate(folder, "--document", folder / "story.txt", *options)


def test_the_readable_form_names_the_passages(folder):
    options = ["--prompt", "The ship", "--document", folder / "story.txt", "--max-new-tokens", 3]
    result = invoke("generate", "--model", folder / "model", *options)
    assert result.exit_code == 0
    assert "story.txt, character" in result.stdout


def test_a_console_of_few_characters_does_not_end_the_run(folder):
    (folder / "cafe.txt").write_text("Élodie smiled: the café was closed — “again”. " * 20, encoding="utf-8")
    options = ["--model", folder / "model", "--document", folder / "cafe.txt", "--max-new-tokens", 24]
    arguments = ["generate", "--prompt", "The ship", *options]
    result = CliRunner(charset="ascii").invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    assert "cafe.txt, character" in result.stdout


@pytest.mark.parametrize("file", ["broken.pdf", "absent.txt", "story.exe"])
def test_a_file_that_cannot_be_read_gives_one_line_and_exit_code_2(folder, file):
    (folder / "story.exe").write_bytes(b"MZ")
    result = invoke("generate", "--model", folder / "model", "--prompt", "x", "--document", folder / file)
    assert result.exit_code == 2
    lines = [line for line in result.stderr.splitlines() if file in line]
    assert len(lines) == 1
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--temperature", "0"], "temperature is 0.0"),
        (["--max-new-tokens", "0"], "max_new_tokens is 0"),
        (["--trace-ranks", "-1"], "--trace-ranks is -1"),
        (["--device", "abacus"], "device is 'abacus'"),
        (["--device", "meta"], "device is 'meta'"),
        (["--seed", 2**70], "--seed"),
    ],
)
def test_a_wrong_option_is_named(folder, options, said):
    result = invoke("generate", "--model", folder / "model", "--prompt", "x", *options)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_document_is_continued_with_what_comes_before_only(folder):
    story = (folder / "story.txt").read_text()
    options = ["--model", folder / "model", "--document", folder / "story.txt", "--max-new-tokens", 4, "--json"]
    by_share, by_character = (parse(invoke("generate", "--at", at, *options).stdout) for at in ("50%", len(story) // 2))
    assert by_share == by_character
    rows = [row for row in by_share["trace"] if row["document"] == "story.txt"]
    assert rows
    assert max(row["end"] for row in rows) <= len(story) // 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "Give --prompt or --at"),
        (["--prompt", "x", "--at", "3"], "Give --prompt or --at"),
        (["--at", "3"], "no --document"),
        (["--at", "half", "--document", "story.txt"], "--at is 'half'"),
        (["--at", "140%", "--document", "story.txt"], "can be continued from 1 to"),
        (["--at", "nan%", "--document", "story.txt"], "--at is 'nan%'"),
    ],
)
def test_a_place_that_is_none_is_named(folder, monkeypatch, options, said):
    monkeypatch.chdir(folder)
    result = invoke("generate", "--model", folder / "model", *options)
    assert result.exit_code == 2, result.output
    assert said in result.stderr


def test_a_bank_of_no_tokens_is_refused(folder):
    options = ["--output", folder / "none", "--model", folder / "model", "--capacity", 0]
    result = invoke("read", folder / "story.txt", *options)
    assert result.exit_code == 2
    assert "--capacity" in result.stderr
    assert not (folder / "none").exists()


def test_a_backbone_without_a_sidenet_and_damaged_weights_are_named(folder, tiny_model):
    tiny_model.backbone.causal_lm.save_pretrained(folder / "plain")
    shutil.copytree(folder / "model", folder / "damaged")
    (folder / "damaged" / "model.safetensors").write_bytes(b"\x00" * 64)
    for name in ("plain", "damaged"):
        result = invoke("info", "--model", folder / name, "--device", "cpu")
        assert result.exit_code == 2, result.output
        assert result.stderr.startswith(f"--model is '{folder / name}'")
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 99 bytes"), "out of memory"),
        (MemoryError(), "out of memory"),
        (RuntimeError("CUDA error: device-side assert triggered\nCompile with"), "The device failed"),
    ],
)
def test_trouble_with_the_device_is_one_line(folder, monkeypatch, error, said):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(LongMemForCausalLM, "from_pretrained", fail)
    result = invoke("info", "--model", folder / "model")
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_mistake_of_the_program_keeps_its_traceback(folder, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(LongMemForCausalLM, "from_pretrained", fail)
    result = invoke("info", "--model", folder / "model")
    assert result.exit_code == 1
    assert "shapes do not match" in str(result.exception)


def test_info_says_what_runs_where_and_why(folder):
    result = invoke("info", "--model", folder / "model", "--json", "--device", "cpu")
    facts = json.loads(result.stdout)
    assert facts["memory_layers"] == [1, 3]
    assert facts["reason"] == "it was asked for"


def test_a_result_says_what_was_typed_without_the_places_of_this_machine(tmp_path, monkeypatch):
    files = [tmp_path / folder / "train.jsonl" for folder in ("sst2", "mr")] + [tmp_path / "books.jsonl"]
    for path in files:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    argv = ["longmem", "evaluate", "icl", "--train", files[0], "--train", files[1], "--data", files[2]]
    monkeypatch.setattr("sys.argv", [*map(str, argv), "--json", "/out/x.json", "--resume", "--template", "{text} a/b"])
    assert typed() == (
        "python -m longmem evaluate icl --train sst2/train.jsonl --train mr/train.jsonl --data books.jsonl "
        "--template '{text} a/b'"
    )


def test_an_unknown_training_configuration_names_those_there_are():
    result = invoke("train", "backbone", "--config", "quantum", "--data", "x.jsonl")
    assert result.exit_code == 2
    assert "cpu, cpu-longer, gpu" in result.stderr
