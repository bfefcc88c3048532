"""Staleness on a tiny random model: LongMem's memory stays as it is, MemTRM's does not, and both are treated alike."""

import json
import math
import threading
from pathlib import Path
from random import Random

import pytest
import torch

from longmem.documents import Document, Segment
from longmem.errors import LongMemError
from longmem.evaluation import staleness
from longmem.evaluation.results import Items
from longmem.evaluation.staleness import (
    Learner,
    StalenessOptions,
    key_cosines,
    measure_staleness,
    same_states,
    shares_in_common,
    staleness_steps,
    table,
)
from longmem.memorizing import MemorizingTransformer
from longmem.model import LongMemForCausalLM
from longmem.row_memory import RowMemory
from longmem.training.adapt import LaneStep
from longmem.training.memorize import MemorizingStep
from tests.conftest import CORPUS

WORDS = " ".join(CORPUS).split()
MARKS = "①②③④"  # one in each text, so that one sees whose tokens a batch holds
SMALL = {"steps": 4, "every": 2, "lanes": 2, "memory_tokens": 128, "probes": 2, "probe_tokens": 64, "warmup": 1}


@pytest.fixture(scope="module")
def saved_model(tiny_model, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny_model.save_pretrained(folder)
    return str(folder)


def text_of(mark: str) -> str:
    words = Random(mark).choices(WORDS, k=120)
    return " ".join(f"{word} {mark}" if i % 10 == 0 else word for i, word in enumerate(words))


@pytest.fixture(scope="module")
def books(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("books") / "books.jsonl"
    path.write_text("\n".join(json.dumps({"title": mark, "text": text_of(mark)}) for mark in MARKS))
    return path


def small(model: str, *documents: Path, **options: object) -> StalenessOptions:
    return StalenessOptions(model, documents=documents, **SMALL | options)


@pytest.fixture(scope="module")
def saved_result(books) -> Path:
    return books.with_name("result.json")


@pytest.fixture(scope="module")
def result(saved_model, books, saved_result) -> dict:
    return measure_staleness(small(saved_model, books, json=saved_result))


@pytest.fixture(scope="module")
def rows(result) -> list[dict]:
    return result["curve"]


@pytest.fixture
def batches(monkeypatch) -> dict[str, list]:
    """What each system is trained on, as it is trained."""
    seen, forward = {"LaneStep": [], "MemorizingStep": []}, LaneStep.forward

    def noted(self: LaneStep, batch: dict, memory: object, search: bool) -> tuple:
        seen[type(self).__name__].append(({name: part.clone() for name, part in batch.items()}, search))
        return forward(self, batch, memory, search)

    monkeypatch.setattr(LaneStep, "forward", noted)
    return seen


def test_before_training_stale_and_fresh_memory_are_the_same(rows):
    for name in ("longmem", "memtrm"):
        row = rows[0][name]
        assert row["cosine"] == row["overlap"] == 1
        assert row["perplexity_stale"] == row["perplexity_fresh"]
        assert row["change"] == 0


def test_memory_of_the_frozen_backbone_stays_exactly_the_same(rows):
    assert [row["step"] for row in rows] == [0, 2, 4]
    for row in rows:
        assert row["longmem_is_exact"]
        assert row["longmem"]["cosine"] == row["longmem"]["overlap"] == 1
        assert row["longmem"]["change"] == row["longmem"]["change_low"] == row["longmem"]["change_high"] == 0
    learned = [row["longmem"]["perplexity_fresh"] for row in rows]
    assert len(set(learned)) == 3


def test_memory_of_a_trained_model_grows_stale(rows):
    cosines = [row["memtrm"]["cosine"] for row in rows]
    assert cosines[0] == 1
    assert cosines[0] > cosines[1] > cosines[2]
    last = rows[-1]["memtrm"]
    assert last["overlap"] < 1
    assert last["perplexity_stale"] != last["perplexity_fresh"]
    assert last["change"] == pytest.approx(last["perplexity_stale"] / last["perplexity_fresh"] - 1)


def test_it_is_training_that_makes_memory_stale(saved_model, books):
    rows = list(staleness_steps(small(saved_model, books, matrix_lr=0.0, other_lr=0.0, steps=2)))
    assert rows[1]["step"] == 2
    assert rows[1]["memtrm"] == rows[0]["memtrm"]


def test_a_backbone_that_is_trained_after_all_is_found_out(saved_model, books, monkeypatch):
    build = staleness.build_model

    def thawed(*settings: object) -> LongMemForCausalLM:
        model = build(*settings)
        model.backbone.requires_grad_(True)
        return model

    monkeypatch.setattr(staleness, "build_model", thawed)
    rows = list(staleness_steps(small(saved_model, books, steps=2)))
    assert [row["longmem_is_exact"] for row in rows] == [True, False]


def test_both_systems_see_the_same_batches_and_none_of_the_probes(saved_model, tiny_tokenizer, books, batches):
    list(staleness_steps(small(saved_model, books, steps=3, lanes=8)))
    longmem, memtrm = batches.values()
    assert len(longmem) == len(memtrm) == 3
    for (first, searched), (second, searched_too) in zip(longmem, memtrm, strict=True):
        assert searched == searched_too
        assert first.keys() == second.keys() == {"input_ids", "labels", "asked", "starts"}
        assert all(torch.equal(first[name], second[name]) for name in first)
    read = " ".join(tiny_tokenizer.decode(row) for batch, _ in longmem for row in batch["input_ids"])
    assert {mark for mark in MARKS if mark in read} == set(probe_marks(rest=True))


def probe_marks(*, rest: bool = False) -> list[str]:
    """The texts that are held back, or all others."""
    chosen = staleness.draw(list(MARKS), SMALL["probes"], StalenessOptions("").seed)
    return [mark for mark in MARKS if (mark in chosen) != rest]


@pytest.mark.parametrize("name", ["longmem", "memtrm"])
def test_perplexity_is_that_of_the_window_after_what_was_read(saved_model, tiny_model, rows, name):
    config, losses = tiny_model.config, []
    settings = {key: getattr(config, key) for key in staleness.SHARED}
    if name == "memtrm":
        model = MemorizingTransformer.from_backbone(saved_model, **settings)
    else:
        settings |= {key: getattr(config, key) for key in staleness.OF_SIDENET}
        model = LongMemForCausalLM.from_backbone(saved_model, **settings)
    model.tokenizer = tiny_model.tokenizer
    for mark in probe_marks():
        ids = Document.from_text(mark, text_of(mark)).encode(model.tokenizer).token_ids
        bank = model.new_bank()
        document = bank.begin_document(mark)
        for start in range(0, 64, 32):
            model.read_segments(ids, [Segment(start, start, start + 32)], memory=bank, document=document)
        with torch.no_grad():
            found = model(ids[None, 64:96], memory=bank)
        logits = found.logits_BTV if name == "memtrm" else found.logits
        losses.append(torch.nn.functional.cross_entropy(logits[0], ids[65:97]).item())
    assert rows[0][name]["perplexity_fresh"] == pytest.approx(math.exp(sum(losses) / 2), rel=1e-4)


def test_memtrm_reads_each_window_of_a_probe_with_what_it_has_read_before(saved_model, books, monkeypatch):
    read, held = MemorizingStep.read, []

    def noted(self: MemorizingStep, ids_BT: torch.Tensor, memory: RowMemory | None) -> tuple:
        held.append(memory.n_tokens if isinstance(memory, RowMemory) else "compared")
        return read(self, ids_BT, memory)

    monkeypatch.setattr(MemorizingStep, "read", noted)
    next(staleness_steps(small(saved_model, books)))
    assert held == [0, 32, 0, 32, "compared", 64]


def test_the_overlap_is_the_share_of_found_chunks_that_both_found():
    first = torch.tensor([[4, 7, 2, -1], [1, 2, 3, 5]]).view(2, 1, 1, 4)
    second = torch.tensor([[2, 9, 4, -1], [5, 3, 2, 1]]).view(2, 1, 1, 4)
    assert shares_in_common(first, second).tolist() == [pytest.approx(2 / 3), 1.0]


def test_cosines_are_means_over_layers_heads_and_tokens_of_each_row():
    def memory(*keys_BGTD: torch.Tensor) -> RowMemory:
        memory = RowMemory([1, 3], capacity=64, chunk_size=4)
        layers = dict(zip((1, 3), keys_BGTD, strict=True))
        memory.add(layers, layers, torch.ones(2, 4, dtype=torch.bool))
        return memory

    torch.manual_seed(0)
    keys = torch.randn(2, 2, 4, 8).to(torch.bfloat16)
    turned = keys.clone()
    turned[0, 1, :2] *= -1  # of 16 keys of row 0, in the two layers, two point the other way
    assert key_cosines(memory(keys, keys), memory(keys, turned)) == [pytest.approx(12 / 16), 1.0]
    assert key_cosines(memory(keys, keys), memory(2 * keys, keys)) == [1.0, 1.0]
    assert same_states(memory(keys, keys), memory(keys, keys.clone()))
    assert not same_states(memory(keys, keys), memory(keys, turned))


def test_the_result_holds_the_end_and_the_curve(result, saved_result, rows):
    assert json.loads(saved_result.read_text())["curve"][1]["step"] == rows[1]["step"] == 2
    assert result["systems"] == {name: rows[-1][name] for name in ("longmem", "memtrm")}
    assert result["longmem_is_exact"] is True
    assert result["systems"]["memtrm"]["n"] == 2
    assert len(table(result)) == 1 + 2 * 3


def test_a_run_that_was_cut_goes_on_without_measuring_again(
    saved_model, books, result, saved_result, tmp_path, monkeypatch
):
    path = tmp_path / "again.json"
    options = small(saved_model, books, json=path)
    add, compare, compared = Items.add, Learner.compare, []

    def cut(self: Items, key: str, item: dict) -> None:
        add(self, key, item)
        if key == "2":
            raise KeyboardInterrupt

    def noted(self: Learner, probe: object) -> dict:
        compared.append(self)
        return compare(self, probe)

    monkeypatch.setattr(Items, "add", cut)
    with pytest.raises(KeyboardInterrupt):
        measure_staleness(options)
    monkeypatch.setattr(Items, "add", add)
    monkeypatch.setattr(Learner, "compare", noted)
    with pytest.raises(LongMemError, match="other settings"):
        measure_staleness(small(saved_model, books, json=path, resume=True, other_lr=0.5))
    measure_staleness(small(saved_model, books, json=path, resume=True))
    assert len(compared) == 2  # each system, at the last step alone
    assert path.read_text() == saved_result.read_text()


def test_stopping_ends_training_after_the_current_step(saved_model, books, batches):
    stop, found = threading.Event(), []
    for row in staleness_steps(small(saved_model, books, every=1), stop):
        found.append(row["step"])
        if row["step"] == 1:
            stop.set()
    assert found == [0, 1]
    assert [len(seen) for seen in batches.values()] == [1, 1]


def test_wrong_options_and_too_few_texts_are_named(saved_model, books):
    wrong = {"steps": 0, "every": 0, "lanes": 0, "probes": 0, "matrix_lr": -1.0, "other_lr": -0.1}
    for name, value in wrong.items():
        with pytest.raises(LongMemError, match=rf"{name} is {value}; it must be at least"):
            next(staleness_steps(small(saved_model, books, **{name: value})))
    with pytest.raises(LongMemError, match=r"probe_tokens is 48; .* window \(32\)"):
        next(staleness_steps(small(saved_model, books, probe_tokens=48)))
    with pytest.raises(LongMemError, match="probes is 4; documents hold 4 texts, 4 of them"):
        next(staleness_steps(small(saved_model, books, probes=4)))
    with pytest.raises(LongMemError, match="documents hold 4 texts, 0 of them with the 32033 tokens"):
        next(staleness_steps(small(saved_model, books, probe_tokens=32_000)))
    with pytest.raises(LongMemError, match="--systems is 'longmem'; staleness always compares longmem, memtrm"):
        measure_staleness(small(saved_model, books, systems=("longmem",)))
    with pytest.raises(LongMemError, match="probes is 2; documents"):
        next(staleness_steps(small(saved_model, books, probes=4, max_items=2, probe_tokens=32_000)))


def test_a_loaded_model_is_shown_in_smaller_windows_and_left_as_it_was(tiny_model, books):
    weights = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    rows = list(staleness_steps(small(tiny_model, books, window=16, steps=2)))
    assert rows[-1]["memtrm"]["cosine"] < 1
    assert rows[-1]["longmem_is_exact"]
    assert all(torch.equal(weights[name], value) for name, value in tiny_model.state_dict().items())
    with pytest.raises(LongMemError, match="window is 0"):
        next(staleness_steps(small(tiny_model, books, window=0)))


def test_a_loaded_model_is_trained_as_the_saved_one(saved_model, tiny_model, books, rows):
    loaded = list(staleness_steps(small(tiny_model, books)))
    assert loaded[-1]["memtrm"]["cosine"] == pytest.approx(rows[-1]["memtrm"]["cosine"], abs=1e-3)
