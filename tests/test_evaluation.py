"""The evaluations on a tiny random model: what they count is right, whatever the numbers are."""

import json
import math

import pytest
import torch

from longmem.errors import LongMemError
from longmem.evaluation.efficiency import measure_efficiency
from longmem.evaluation.needle import measure_needle
from longmem.evaluation.perplexity import measure_perplexity, summarize
from longmem.training.facts import TRAINING_TEMPLATES

TEXT = "The keeper wrote the name of every ship in a ledger, and in the morning the ship returned. " * 30


@pytest.fixture(scope="module")
def saved_model(tiny_model, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny_model.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "books.jsonl"
    rows = [{"title": f"Book {i}", "text": TEXT[i:]} for i in range(2)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_perplexity_of_the_backbone_is_that_of_its_plain_windows(saved_model, tiny_model, book):
    result = measure_perplexity(saved_model, [book], max_tokens=100)
    ids = torch.tensor(tiny_model.tokenizer(TEXT)["input_ids"][:100])
    window, loss = tiny_model.config.window, 0.0
    for start in range(0, 99, window):
        logits = tiny_model.backbone.causal_lm(ids[None, start : start + window]).logits[0]
        targets = ids[start + 1 : start + window + 1]
        loss += torch.nn.functional.cross_entropy(logits[: len(targets)], targets, reduction="sum").item()
    assert result["items"][0]["nll"]["backbone"] == pytest.approx(loss, rel=1e-3)
    assert result["items"][0]["scored"] == 99


def test_memory_is_empty_in_the_first_window_and_not_after_it(saved_model, tiny_model, book):
    window = tiny_model.config.window
    first = measure_perplexity(saved_model, [book], max_tokens=window + 1)["items"][0]["nll"]
    assert first["longmem"] == pytest.approx(first["empty_bank"], rel=1e-5)
    both = measure_perplexity(saved_model, [book], max_tokens=2 * window)["items"][0]["nll"]
    assert abs(both["longmem"] - both["empty_bank"]) > 1e-4


def test_only_every_nth_window_is_scored_but_all_are_read(saved_model, tiny_model, book):
    window = tiny_model.config.window
    item = measure_perplexity(saved_model, [book], max_tokens=4 * window, score_every=3)["items"][0]
    assert item["scored"] == 2 * window - 1


def test_intervals_contain_the_estimate():
    items = [{"nll": {"a": 10.0 * i}, "scored": 10, "characters": 40} for i in range(1, 6)]
    row = summarize(items, "a")
    assert row["perplexity"] == pytest.approx(math.exp(3))
    assert row["perplexity_low"] < row["perplexity"] < row["perplexity_high"]


def test_a_text_shorter_than_a_window_is_refused(saved_model, tmp_path):
    (tmp_path / "short.txt").write_text("Too short.")
    with pytest.raises(LongMemError, match="one window"):
        measure_perplexity(saved_model, [tmp_path / "short.txt"])


def test_a_random_model_recalls_no_planted_fact(saved_model, book, tmp_path):
    result = measure_needle(saved_model, [book], lengths=[200], facts=5, json_path=tmp_path / "needle.json")
    assert result["systems"]["longmem"]["200"] == 0.0
    assert len(result["items"]) == len(TRAINING_TEMPLATES)  # one haystack, one fact of each template
    assert json.loads((tmp_path / "needle.json").read_text())["hit_rate"]


def test_the_full_bank_of_the_speed_measurement_is_full(saved_model, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    options = {"read_tokens": 128, "new_tokens": 2, "rounds": 1}
    result = measure_efficiency(saved_model, tmp_path / "text.txt", **options)
    assert result["generation"]["bank_tokens"] == 4096
    assert result["reading"]["ratio_to_decoder"] > 0
