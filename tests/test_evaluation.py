"""The evaluations on a tiny random model: what they count is right, whatever the numbers are."""

import json
import math
import re
import shutil
import threading
from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch

from longmem.backbone import copy_of
from longmem.documents import Document
from longmem.errors import LongMemError, Stopped, TrainingDataError
from longmem.evaluation.comparison import (
    ComparisonOptions,
    RetrievalOptions,
    measure_comparison,
    measure_retrieval,
    read_variants,
)
from longmem.evaluation.comparison import table as comparison_table
from longmem.evaluation.efficiency import EfficiencyOptions, measure_efficiency, why_not_full_attention
from longmem.evaluation.efficiency import table as efficiency_table
from longmem.evaluation.needle import KINDS, NeedleOptions, ask, draw_facts, measure_needle, plant
from longmem.evaluation.perplexity import PerplexityOptions, measure_perplexity, summarize
from longmem.evaluation.results import Items, draw
from longmem.evaluation.systems import Systems
from longmem.memorizing import MemorizingTransformer
from longmem.model import LongMemForCausalLM
from longmem.training.facts import HELD_OUT_TEMPLATES, Fact
from tests.conftest import tiny_smollm3

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


def perplexity(model: str, *documents, **options: object) -> dict:
    return measure_perplexity(PerplexityOptions(model, documents=documents, **{"score_every": 1} | options))


def losses(result: dict, name: str, item: int = 0) -> float:
    place = [n for n in result["systems"] if n != "full_attention"].index(name)
    return sum(window[3][place] for window in result["items"][item]["windows"])


def test_perplexity_of_the_backbone_is_that_of_its_plain_windows(saved_model, tiny_model, book):
    result = perplexity(saved_model, book, max_tokens=100)
    ids = torch.tensor(tiny_model.tokenizer(TEXT)["input_ids"][:100])
    window, loss, sliding = tiny_model.config.window, 0.0, 0.0
    for start in range(0, 99, window):
        logits = tiny_model.backbone.causal_lm(ids[None, start : start + window]).logits[0]
        targets = ids[start + 1 : start + window + 1]
        loss += torch.nn.functional.cross_entropy(logits[: len(targets)], targets, reduction="sum").item()
    for token in range(1, 100):  # the window of a token begins at a multiple of half a window
        first = max(0, (token - 1) // (window // 2) * (window // 2) - window // 2)
        logits = tiny_model.backbone.causal_lm(ids[None, first:token]).logits[0, -1]
        sliding -= logits.log_softmax(-1)[ids[token]].item()
    assert losses(result, "backbone") == pytest.approx(loss, rel=1e-3)
    assert losses(result, "backbone_sliding") == pytest.approx(sliding, rel=1e-3)
    scored = sum(window[1] for window in result["items"][0]["windows"])
    assert scored == 99
    both = (losses(result, "backbone", 0) + losses(result, "backbone", 1)) / 198
    assert result["systems"]["backbone"]["perplexity"] == pytest.approx(math.exp(both))


def test_memory_is_empty_in_the_first_window_and_not_after_it(saved_model, tiny_model, book):
    window = tiny_model.config.window
    first = perplexity(saved_model, book, max_tokens=window + 1)
    assert losses(first, "longmem") == pytest.approx(losses(first, "empty_bank"), rel=1e-5)
    both = perplexity(saved_model, book, max_tokens=2 * window)
    assert abs(losses(both, "longmem") - losses(both, "empty_bank")) > 1e-4


def test_characters_are_counted_where_tokens_are_scored(saved_model, tiny_model, book):
    result = perplexity(saved_model, book, max_tokens=70)
    spans = Document.from_text("a", TEXT).encode(tiny_model.tokenizer).spans
    counted = sum(window[2] for window in result["items"][0]["windows"])
    assert counted == int(spans[69, 1] - spans[1, 0])


def test_only_every_nth_window_is_scored_but_all_are_read(saved_model, tiny_model, book):
    window = tiny_model.config.window
    thin = perplexity(saved_model, book, max_tokens=4 * window, score_every=3)["items"][0]["windows"]
    every = perplexity(saved_model, book, max_tokens=4 * window)["items"][0]["windows"]
    assert thin == [every[0], every[3]]
    assert sum(part[1] for part in thin) == 2 * window - 1


def test_documents_are_divided_by_length_and_place(saved_model, book, monkeypatch):
    monkeypatch.setattr("longmem.evaluation.perplexity.GROUPS", {"first": 64, "whole": None, "long": 10**6})
    monkeypatch.setattr("longmem.evaluation.perplexity.POSITIONS", (0, 64))
    result = perplexity(saved_model, book, max_tokens=128)
    assert result["groups"]["long"] == {}
    assert result["groups"]["first"]["longmem"]["tokens"] == 2 * 64
    assert result["groups"]["whole"]["longmem"]["tokens"] == 2 * 127
    assert [(part["from"], part["tokens"]) for part in result["positions"]] == [(0, 128), (64, 126)]


def test_the_gain_is_against_the_better_control(saved_model, book):
    result = perplexity(saved_model, book, max_tokens=128)
    gains, systems = result["gains"], result["systems"]
    change = systems["longmem"]["perplexity"] / systems["empty_bank"]["perplexity"] - 1
    assert gains["better_control"]["against"] == "empty_bank"
    assert gains["better_control"]["change"] == pytest.approx(change)
    assert gains["better_control"]["low"] <= gains["better_control"]["change"] <= gains["better_control"]["high"]
    assert systems["full_attention"]["perplexity"] is None
    assert "trained for 32 positions" in systems["full_attention"]["reason"]


def test_full_attention_is_measured_where_the_backbone_was_trained_for_so_many_positions(saved_model, book, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(saved_model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["backbone_config"]["max_position_embeddings"] = 100
    (folder / "config.json").write_text(json.dumps(config))
    row = perplexity(str(folder), book, max_tokens=100)["systems"]["full_attention"]
    model, total = LongMemForCausalLM.from_pretrained(folder, device="cpu"), 0.0
    for start in range(2):
        ids = torch.tensor([model.tokenizer(TEXT[start:])["input_ids"][:100]])
        total += model.backbone.causal_lm(ids, labels=ids).loss.item()
    assert row["perplexity"] == pytest.approx(math.exp(total / 2), rel=1e-4)
    too_long = perplexity(str(folder), book, max_tokens=101)["systems"]["full_attention"]
    assert too_long["perplexity"] is None


def test_intervals_contain_the_estimate():
    nll = np.array([10.0 * i for i in range(1, 6)])
    row = summarize(nll, np.full(5, 10), np.full(5, 40))
    assert row["perplexity"] == pytest.approx(math.exp(3))
    assert row["perplexity_low"] < row["perplexity"] < row["perplexity_high"]
    assert row["bits_per_character"] == pytest.approx(150 / math.log(2) / 200)


def test_a_run_that_was_cut_goes_on_and_gives_the_same_result(saved_model, book, tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    whole = perplexity(saved_model, book, max_tokens=100, json=path)
    saved = path.read_text()
    path.unlink()
    add, measured = Items.add, []

    def cut(self: Items, key: str, item: dict) -> None:
        add(self, key, item)
        measured.append(key)
        if len(measured) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Items, "add", cut)
    with pytest.raises(KeyboardInterrupt):
        perplexity(saved_model, book, max_tokens=100, json=path)
    assert not path.exists()
    with path.with_suffix(".items.jsonl").open("a") as file:
        file.write('["Book 1", {"ti')  # the kill came while the next line was written
    with pytest.raises(LongMemError, match="other settings"):
        perplexity(saved_model, book, max_tokens=99, json=path, resume=True)
    again = perplexity(saved_model, book, max_tokens=100, json=path, resume=True)
    assert measured == ["Book 0", "Book 1"]
    assert again["systems"] == whole["systems"]
    assert path.read_text() == saved
    assert not path.with_suffix(".items.jsonl").exists()


def test_an_unknown_system_and_one_without_weights_are_named(saved_model, book):
    with pytest.raises(LongMemError, match="'magic'"):
        perplexity(saved_model, book, systems=("magic",))
    with pytest.raises(LongMemError, match="memtrm/"):
        perplexity(saved_model, book, systems=("memtrm",))


@pytest.mark.parametrize("with_backbone", [True, False])
def test_baselines_beside_the_model_take_part(tiny_model, tiny_tokenizer, book, tmp_path, with_backbone):
    folder = tmp_path / "model"
    tiny_model.save_pretrained(folder)
    baseline = LongMemForCausalLM.from_pretrained(folder, device="cpu")
    baseline.config.backbone_name_or_path = "not asked for: the model's own is taken"
    baseline.save_pretrained(folder / "sidenet-only", with_backbone=with_backbone)
    memtrm = MemorizingTransformer.from_backbone(
        tiny_smollm3(len(tiny_tokenizer)), memory_layers=[1, 3], window=32, retrieved_tokens=16, memory_size=4096
    )
    memtrm.tokenizer = tiny_tokenizer
    memtrm.save(folder / "memtrm")
    result = perplexity(str(folder), book, max_tokens=100)
    assert [name for name in result["systems"] if name != "full_attention"] == [
        "backbone", "backbone_sliding", "empty_bank", "sidenet_only", "longmem", "memtrm",
    ]  # fmt: skip
    assert losses(result, "sidenet_only") == pytest.approx(losses(result, "empty_bank"))
    assert losses(result, "memtrm") != pytest.approx(losses(result, "backbone"))


def test_going_on_from_a_prefix_is_reading_it_all_at_once(tiny_model):
    systems = Systems(tiny_model, ["backbone", "empty_bank", "longmem"])
    memories = systems.new_memories()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 300, (90,), generator=generator)
    systems.read(memories, ids[:70])
    caches = systems.prefix(ids[70:80].tolist(), memories)
    rows = torch.randint(2, 300, (3, 6), generator=generator)
    for _ in range(2):  # the prefix stays as it was
        found = systems.continued(caches, rows, memories)
        for row in range(3):
            at_once = systems.logits(torch.cat([ids[70:80], rows[row]])[None], memories)
            for name in systems.names:
                torch.testing.assert_close(found[name][row], at_once[name][0, 10:], atol=1e-4, rtol=0)


def test_a_text_shorter_than_a_window_is_refused(saved_model, tmp_path):
    (tmp_path / "short.txt").write_text("Too short.")
    with pytest.raises(LongMemError, match="one window"):
        perplexity(saved_model, tmp_path / "short.txt")


def test_drawn_items_keep_their_order_and_are_the_same_for_a_seed():
    assert draw(list("abcdef"), 3, 5) == draw(list("abcdef"), 3, 5)
    assert sorted(draw(list("abcdef"), 3, 5)) == draw(list("abcdef"), 3, 5)
    assert draw(list("ab"), None, 1) == ["a", "b"]


def needle(model: str, *documents, **options: object) -> dict:
    return measure_needle(NeedleOptions(model, documents=documents, **{"lengths": (400,), "facts": 8} | options))


def test_a_random_model_recalls_no_planted_fact(saved_model, book, tmp_path):
    result = needle(saved_model, book, json=tmp_path / "needle.json")
    recall = {kind: found["400"]["longmem"]["recall"] for kind, found in result["by_length"].items()}
    assert recall == {"known": 0.0, "held_out": 0.0, "distractors": 0.0}
    assert result["systems"]["longmem"]["n"] == 8
    assert json.loads((tmp_path / "needle.json").read_text())["hit_rate"]


def test_answers_stand_where_they_are_looked_for(tiny_model):
    systems = Systems(tiny_model, ["longmem"])
    text = tiny_model.tokenizer(TEXT)["input_ids"][:300]
    for kind in KINDS:
        ids, planted = plant(systems, text, draw_facts(Random(1), kind, 7))
        for place in planted:
            said = tiny_model.tokenizer.decode(ids[place.first : place.last + 1].tolist())
            assert said.startswith(f"{place.fact.answer}.")
        assert [place.depth for place in planted] == sorted(place.depth for place in planted)


@pytest.mark.parametrize("wrong", [None, 0, -1])
def test_a_fact_counts_only_if_its_whole_answer_is_the_most_probable(tiny_model, monkeypatch, wrong):
    systems = Systems(tiny_model, ["longmem"])
    _, (place,) = plant(systems, tiny_model.tokenizer(TEXT)["input_ids"][:100], draw_facts(Random(1), "known", 1))
    prompt, whole = (
        tiny_model.tokenizer(f"\n\n{part}")["input_ids"] for part in (place.fact.question, place.fact.statement)
    )
    answer = whole[len(prompt) : -1]

    def logits(rows_BT, memories, recorder):
        told = torch.zeros(1, rows_BT.shape[1], 400)
        for i, token in enumerate(answer):
            told[0, len(prompt) - 1 + i, 399 if i == (wrong or 0) % len(answer) and wrong is not None else token] = 1.0
        return {"longmem": told}

    monkeypatch.setattr(systems, "logits", logits)
    assert ask(systems, systems.new_memories(), place)["recalled"] == {"longmem": wrong is None}


def name_of(fact: Fact) -> str:
    """The made-up name in a question: the two capitals that stand together."""
    return re.search(r"[A-Z][a-z]+ [A-Z][a-z]+", fact.question.removeprefix("The ")).group()


def test_distractors_have_the_form_of_what_is_asked_and_other_names():
    facts = draw_facts(Random(3), "distractors", 18)
    forms = Counter(fact.question.replace(name_of(fact), "") for fact in facts)
    assert sorted(forms.values()) == [9, 9]
    assert len({name_of(fact) for fact in facts}) == 18


def test_other_facts_have_each_form_once_in_a_haystack(saved_model, book):
    for kind, most in (("known", 24), ("held_out", 16)):
        facts = draw_facts(Random(3), kind, 100)
        assert len({fact.question.replace(name_of(fact), "") for fact in facts}) == len(facts) == most
    result = needle(saved_model, book, lengths=(1500,), facts=30, kinds=("known",))
    asked = result["items"][0]["facts"]
    assert len(asked) == 30
    assert [fact["depth"] for fact in asked].count(asked[0]["depth"]) == 1
    assert asked[24]["depth"] == pytest.approx(0.5 / 6, abs=1e-3)  # the first of a second haystack of six


def test_facts_with_held_out_templates_use_no_template_of_training():
    beginnings = tuple(pattern.split("{name}")[0] for pattern, _ in HELD_OUT_TEMPLATES)
    assert all(fact.question.startswith(beginnings) for fact in draw_facts(Random(1), "held_out", 12))


def test_an_unknown_kind_and_too_short_a_text_are_named(saved_model, book):
    with pytest.raises(LongMemError, match="'loud'"):
        needle(saved_model, book, kinds=("loud",))
    with pytest.raises(LongMemError, match="asks for 100000"):
        needle(saved_model, book, lengths=(100_000,))


def test_speed_is_measured_for_every_system_at_every_length(saved_model, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    settings = {"lengths": (96, 256), "new_tokens": 3, "rounds": 1, "json": tmp_path / "efficiency.json"}
    result = measure_efficiency(EfficiencyOptions(saved_model, documents=(tmp_path / "text.txt",), **settings))
    assert [item["length"] for item in result["items"]] == [96, 256]
    names = "full_attention sliding_window longmem longmem_1_memory_layer longmem_all_memory_layers".split()
    for item in result["items"]:
        assert sorted(item["systems"]) == sorted(names)
        assert all(r["read_tokens_per_second"] > 0 < r["write_tokens_per_second"] for r in item["systems"].values())
    kept = {name: row["state_bytes"] for name, row in result["systems"].items()}
    # Keys and values of 4 layers, 2 heads of 8, in fp32: of 256 tokens read, or half a window, and 3 written.
    assert kept["full_attention"] == 2 * 4 * 2 * 8 * 4 * (256 + 3)
    assert kept["sliding_window"] == 2 * 4 * 2 * 8 * 4 * (16 + 3)
    assert result["ratios"]["bank_tokens"] == 256
    assert result["ratios"]["full_attention_length"] == 256
    assert {len(row) for row in efficiency_table(result)} == {6}
    read = [row for item in result["items"] for row in item["systems"].values() if row["read_tokens_per_second"]]
    counted = [row["peak_bytes"] for row in read if row["peak_bytes"] is not None]
    assert all(most > 2**20 for most in counted)  # a whole process; nobody counts on some systems


def test_full_attention_is_not_measured_where_it_would_take_minutes(tiny_model):
    assert why_not_full_attention(tiny_model, 16_384) is None
    assert "up to 16,384 tokens" in why_not_full_attention(tiny_model, 16_385)
    assert why_not_full_attention(tiny_model, 16_385, however_long=True) is None


def test_speed_can_be_measured_of_some_systems_at_some_lengths(tiny_model, book):
    options = {"documents": (book,), "lengths": (96, 128, 160), "new_tokens": 2, "rounds": 1}
    found = measure_efficiency(EfficiencyOptions(tiny_model, systems=("sliding_window",), max_items=1, **options))
    assert [sorted(item["systems"]) for item in found["items"]] == [["longmem", "sliding_window"]]
    assert "writing_to_full_attention" not in found["ratios"]
    with pytest.raises(LongMemError, match="--systems names 'backbone'; this evaluation measures full_attention, slid"):
        measure_efficiency(EfficiencyOptions(tiny_model, systems=("backbone",), **options))


def test_variants_are_trained_once_and_compared_on_the_same_text(saved_model, book, tmp_path):
    config = tmp_path / "variants.toml"
    config.write_text(
        "window = 32\nmemory_layers = [1, 3]\nretrieved_tokens = 16\nlanes = 2\nmemory_tokens = 128\n"
        'total_steps = 2\nlog_every = 1\n[variants.default]\n[variants.mean]\nchunk_key = "mean"\n'
    )
    options = ComparisonOptions(
        saved_model, config=str(config), output=tmp_path / "runs", packs=(str(book),), documents=(book,), max_tokens=100
    )
    result = measure_comparison(options)
    assert [item["name"] for item in result["items"]] == ["default", "mean"]
    first, second = (item["perplexity"] for item in result["items"])
    assert first["backbone"] == second["backbone"]
    assert first["longmem"] != second["longmem"]
    weights = tmp_path / "runs" / "mean" / "model" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert measure_comparison(options)["items"] == result["items"]
    assert weights.stat().st_mtime_ns == before
    config.write_text(config.read_text().replace("chunk_key", "matrix_lr = 0.5\nchunk_key"))
    with pytest.raises(TrainingDataError, match=r"matrix_lr is 0.5, but the run in .*mean was begun with"):
        measure_comparison(options)


@pytest.mark.parametrize(
    ("text", "said"), [("window = 32", "no variants"), ("[variants.a]\nwings = 2", "unknown settings in a: wings")]
)
def test_a_comparison_of_nothing_or_of_unknown_settings_is_refused(saved_model, tmp_path, text, said):
    (tmp_path / "variants.toml").write_text(text)
    with pytest.raises(TrainingDataError, match=said):
        measure_comparison(ComparisonOptions(saved_model, config=str(tmp_path / "variants.toml")))


def test_the_variants_of_the_package_are_valid():
    _, variants = read_variants("cpu")
    assert "attend" in variants


# Followed, stopped, on a loaded model -----------------------------------------------------------------------------


def test_a_caller_can_follow_the_items_instead_of_a_progress_bar(saved_model, book, capfd):
    seen = []
    perplexity(saved_model, book, max_tokens=64, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 2), (1, 2), (2, 2)]
    assert "perplexity:" not in capfd.readouterr().err


def test_a_run_stopped_between_items_gives_those_it_has_and_writes_no_result(saved_model, book, tmp_path):
    stop, path = threading.Event(), tmp_path / "result.json"

    def progress(done: int, total: int) -> None:
        if done == 1:
            stop.set()

    options = {"max_tokens": 64, "json": path}
    result = perplexity(saved_model, book, **options, progress=progress, stop=stop)
    assert result["stopped"]
    assert [item["title"] for item in result["items"]] == ["Book 0"]
    assert not path.exists()
    whole = perplexity(saved_model, book, **options, resume=True)  # and goes on from there
    assert "stopped" not in whole
    assert [item["title"] for item in whole["items"]] == ["Book 0", "Book 1"]


def test_a_run_stopped_before_its_first_item_says_so(saved_model, book):
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        perplexity(saved_model, book, stop=stop)


def test_a_loaded_model_is_measured_as_the_saved_one(saved_model, tiny_model, book):
    loaded, saved = (perplexity(model, book, max_tokens=96)["systems"] for model in (tiny_model, saved_model))
    assert set(loaded) <= set(saved)
    assert loaded["longmem"]["perplexity"] == pytest.approx(saved["longmem"]["perplexity"], rel=1e-4)


def test_efficiency_of_a_loaded_model_leaves_it_as_it_was(tiny_model, book):
    hooks = sum(len(module._forward_hooks) for module in tiny_model.modules())
    result = measure_efficiency(
        EfficiencyOptions(tiny_model, documents=(book,), lengths=(128,), new_tokens=2, rounds=1)
    )
    assert "longmem_1_memory_layer" in result["systems"]
    assert sum(len(module._forward_hooks) for module in tiny_model.modules()) == hooks


def test_a_copy_of_a_backbone_has_its_weights_and_is_its_own(tiny_model):
    causal_lm = tiny_model.backbone.causal_lm
    copied, ids = copy_of(causal_lm), torch.arange(20)[None]
    assert torch.equal(copied(ids).logits, causal_lm(ids).logits)
    weight = next(copied.parameters())
    with torch.no_grad():
        weight += 1
    assert not torch.equal(weight, next(causal_lm.parameters()))
    assert all(not module._forward_hooks for module in copied.modules())


def test_settings_of_retrieval_are_compared_without_training(tiny_model, book):
    seen = []
    result = measure_retrieval(
        RetrievalOptions(tiny_model, documents=(book,), max_tokens=96, progress=lambda *step: seen.append(step))
    )
    assert seen[-1] == (6, 6)
    found = {item["name"]: item for item in result["items"]}
    assert next(iter(found)) == "as trained"
    assert found["layer 1 alone"]["changes"] == {"memory_layers": [1]}
    assert result["documents"] == 2
    changes = [item["change"]["change"] for item in found.values()]
    assert len(set(changes)) > 3
    plain = perplexity(tiny_model, book, max_tokens=96, score_every=2)["gains"]["backbone"]["change"]
    assert changes[0] == pytest.approx(plain, rel=1e-4)
    assert tiny_model.config.memory_layers == [1, 3]
    assert comparison_table(result)[1][-1] == "-"


def test_settings_of_retrieval_can_be_compared_on_fewer_documents_but_not_by_other_systems(tiny_model, book):
    options = {"documents": (book,), "max_tokens": 64, "progress": lambda *step: None}
    assert measure_retrieval(RetrievalOptions(tiny_model, max_items=1, **options))["documents"] == 1
    with pytest.raises(LongMemError, match="retrieval always compares backbone, empty_bank, longmem"):
        measure_retrieval(RetrievalOptions(tiny_model, systems=("memtrm",), **options))


def test_the_first_scored_window_is_drawn_and_every_nth_follows(saved_model, book):
    def starts(**options) -> list[int]:
        result = perplexity(saved_model, book, systems=("backbone",), score_every=4, max_tokens=600, **options)
        return [window[0] // 32 for window in result["items"][0]["windows"]]

    found = {seed: starts(seed=seed) for seed in range(1, 9)}
    assert all(set(np.diff(windows)) == {4} for windows in found.values())
    assert {windows[0] for windows in found.values()} > {0, 1}
    assert found[1] == starts(seed=1)


def test_a_group_of_distractors_is_whole_and_only_so_many_are_asked(saved_model, book):
    options = NeedleOptions(
        saved_model, documents=(book,), lengths=(512,), kinds=("distractors",), facts=4, systems=("backbone",)
    )
    [item] = measure_needle(options)["items"]
    assert (len(item["facts"]), item["haystacks"]) == (4, 1)
    assert len(draw_facts(Random("1-distractors-512"), "distractors", 4)) == 9


def test_a_run_is_not_gone_on_with_after_its_file_has_changed(saved_model, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("The keeper wrote the name of every ship in a long ledger. " * 60)
    options = PerplexityOptions(saved_model, systems=("backbone",), documents=(path,), json=tmp_path / "r.json")
    Items("perplexity", options, Systems(saved_model, ["backbone"]), {}).add("one", {})
    path.write_text("Another text. " * 200)
    again = replace(options, resume=True)
    with pytest.raises(LongMemError, match="of a run with other settings"):
        Items("perplexity", again, Systems(saved_model, ["backbone"]), {})
