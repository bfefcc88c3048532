"""What removing chunks does to a token is measured as a person would do it by hand, on a tiny random model."""

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from longmem.documents import Document
from longmem.errors import LongMemError
from longmem.evaluation import attribution
from longmem.evaluation.attribution import (
    AttributionOptions,
    Removal,
    candidates,
    drops,
    measure_attribution,
    ranked_chunks,
    table,
    token_drops,
)
from longmem.evaluation.results import Items
from longmem.memory_bank import MemoryBank
from longmem.model import LongMemForCausalLM
from longmem.row_memory import Sources
from longmem.scoring import score
from longmem.trace import Seen
from tests.conftest import CORPUS, tiny_smollm3

# Words in random order, so that no two chunks are alike: equal scores could be ranked either way.
WORDS = " ".join(CORPUS).split()
TEXT = " ".join(Random(0).choices(WORDS, k=400))
WINDOW, READ = 32, 128


@pytest.fixture(scope="module")
def saved_model(tiny_model, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny_model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("books") / "books.jsonl"
    rows = [{"title": f"Book {i}", "text": TEXT[100 * i :]} for i in range(2)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def saved_result(book) -> Path:
    return book.with_name("result.json")


@pytest.fixture(scope="module")
def result(saved_model, book, saved_result) -> dict:
    return attribution_of(saved_model, book, json=saved_result)


@pytest.fixture(scope="module")
def ids(tiny_model) -> torch.Tensor:
    return Document.from_text("Book 0", TEXT).encode(tiny_model.tokenizer).token_ids


@pytest.fixture(scope="module")
def bank(tiny_model, ids) -> MemoryBank:
    return filled_bank(tiny_model, ids)


def filled_bank(model: LongMemForCausalLM, ids: torch.Tensor) -> MemoryBank:
    """The first READ tokens, read as `Systems.read` does."""
    bank = model.new_bank()
    document = bank.begin_document("Book 0", TEXT)
    for start in range(0, READ, WINDOW):
        states = model.backbone(ids[None, start : start + WINDOW])
        keys, values = (torch.cat([states.qkv[b][i] for b in model.config.memory_layers]) for i in (1, 2))
        bank.add(document, keys, values)
    return bank


def attribution_of(model: str, *documents: Path, **options: object) -> dict:
    settings = {"read_tokens": READ, "tokens_per_document": 3, "removed": (1, 2, 4)} | options
    return measure_attribution(AttributionOptions(model, documents=documents, **settings))


def by_hand(model: LongMemForCausalLM, ids: torch.Tensor, token: int, memory: MemoryBank | None, exclude=()) -> float:
    """log p of a token of the document after those of its window that precede it."""
    with torch.no_grad():
        logits = model(ids[None, READ:token], memory=memory, exclude=exclude).logits[0, -1]
    return logits.log_softmax(-1)[ids[token]].item()


def test_effects_and_drops_are_those_computed_by_hand(tiny_model, result, ids, bank):
    scored = result["items"][0]["scored"]
    assert len(scored) == 3
    for found in scored:
        token = found["token"]
        whole = by_hand(tiny_model, ids, token, bank)
        assert found["effect"] == pytest.approx(whole - by_hand(tiny_model, ids, token, None), abs=1e-5)
        context, text = (tiny_model.tokenizer.decode(part) for part in (ids[READ:token], ids[token : token + 1]))
        trace = score(tiny_model, text, context=context, memory=bank)
        assert trace.token_ids == [int(ids[token])]
        weights = trace.to_frame().groupby("chunk")["weight"].sum().sort_values(ascending=False)
        assert found["retrieved"] == len(weights)
        for place, k in enumerate((1, 2, 4)):
            top = weights.index[:k].tolist()
            without = score(tiny_model, text, context=context, memory=bank, exclude=top)
            assert found["top"][place] == pytest.approx(trace.logprobs[0] - without.logprobs[0], abs=1e-5)
            assert found["top"][place] == pytest.approx(whole - by_hand(tiny_model, ids, token, bank, top), abs=1e-5)
    assert max(abs(found["top"][0]) for found in scored) > 1e-4


def test_removing_a_chunk_is_scoring_with_a_bank_without_it(tiny_model, ids, bank):
    chunks = [3, 9, 20]
    smaller = filled_bank(tiny_model, ids)
    smaller.remove_chunks(chunks)
    for token in (READ + 9, READ + WINDOW):
        with torch.no_grad():
            found = token_drops(tiny_model, ids[READ : token + 1], bank, {"top": [chunks[:1], chunks]})
        expected = by_hand(tiny_model, ids, token, bank) - by_hand(tiny_model, ids, token, smaller)
        assert found["top"][1] == pytest.approx(expected, abs=1e-5)
        assert abs(expected) > 1e-5


@pytest.mark.parametrize("layers", [[1, 3], [1, 2, 3], [3], [1, 2]])
def test_searching_only_where_it_matters_changes_nothing(tiny_tokenizer, ids, layers):
    model = LongMemForCausalLM.from_backbone(
        tiny_smollm3(len(tiny_tokenizer)),
        memory_layers=layers,
        window=WINDOW,
        layer_reduction_factor=1,
        retrieved_tokens=16,
        initialization="paper",
    )
    bank, states = filled_bank(model, ids), model.backbone(ids[None, READ : READ + 20])
    removal = Removal(model, bank, most=30)
    with torch.no_grad():
        for removed in ((), (1, 7), range(30), range(31)):
            removal.removed = removed
            exact = model.sidenet(states, Sources(model.config.retrieved_chunks, bank, exclude=removed))
            torch.testing.assert_close(model.sidenet(states, removal)[:, -1], exact[:, -1], atol=1e-6, rtol=0)


def test_only_tokens_on_which_memory_had_more_effect_than_the_median_are_kept(saved_model, book):
    result = attribution_of(saved_model, book, full=True, removed=(1,), max_items=1)
    for item in result["items"]:
        assert len(item["scored"]) == WINDOW // 2
        assert all(abs(found["effect"]) > item["median"] for found in item["scored"])
        assert all(READ < found["token"] <= READ + WINDOW for found in item["scored"])


def test_chunks_are_ranked_by_their_weight_over_all_layers_and_heads():
    def seen(chunks: list, weights: list) -> Seen:
        chunks, weights = np.array(chunks)[:, None], np.array(weights)[:, None]
        return Seen(np.repeat(chunks, 2, axis=1), weights, np.repeat(weights, 2, axis=1), np.zeros((2, 2)))

    first = seen([[7, 5], [5, -1]], [[0.30, 0.20], [0.05, 0.0]])
    second = seen([[5, 8], [8, 9]], [[0.10, 0.01], [0.02, 0.0]])
    assert ranked_chunks({1: first, 3: second}, 1) == [5, 7, 8, 9]


def test_random_chunks_are_never_the_top_one(bank):
    ranked, stored = [4, 2, 6, 1, 9], {chunk.id for chunk in bank.chunks()}
    singles = {"random_retrieved": set(), "random_stored": set()}
    for seed in range(300):
        found = candidates(Random(seed), ranked, bank, 3)
        assert found["top"] == [4, 2, 6]
        for kind, single in singles.items():
            assert len(set(found[kind])) == 3
            assert 4 not in found[kind]
            single.add(found[kind][0])
    assert singles["random_retrieved"] == {2, 6, 1, 9}
    assert singles["random_stored"] == stored - {4}
    assert len(candidates(Random(0), ranked, bank, 16)["random_retrieved"]) == 4


def test_means_go_over_tokens_and_intervals_over_documents():
    def token(top: float, retrieved: float, stored: float) -> dict:
        return {"top": [9.0, top], "random_retrieved": [9.0, retrieved], "random_stored": [9.0, stored], "effect": 1.0}

    items = [{"scored": [token(1.0, 0.5, 0.0)] * 3}, {"scored": [token(2.0, 0.1, 0.2)]}]
    row = drops(items, 1)
    assert row["top"] == pytest.approx(5 / 4)
    assert (row["top_low"], row["top_high"]) == (pytest.approx(1.0), pytest.approx(2.0))
    assert row["random_stored"] == pytest.approx(0.05)
    assert row["ratio"] == pytest.approx(5 / 1.6)
    assert (row["ratio_low"], row["ratio_high"]) == (pytest.approx(2.0), pytest.approx(20.0))
    assert (row["n"], row["tokens"]) == (2, 4)
    assert drops([{"scored": [token(1.0, 0.0, 0.0)]}], 1)["ratio"] == float("inf")
    assert drops([{"scored": [token(-1.0, -0.5, 0.0)]}], 1, sign=-1)["ratio"] == pytest.approx(2)
    assert drops([], 1) == {"n": 0, "tokens": 0}


def test_the_result_holds_drops_ratio_curve_and_groups(result):
    row, curve = result["systems"]["longmem"], result["curve"]
    assert [point["removed"] for point in curve] == [1, 2, 4]
    assert row["drop_top"] == curve[0]["top"]
    assert row["drop_random_stored_low"] <= row["drop_random_stored"] <= row["drop_random_stored_high"]
    assert (row["n"], row["tokens"]) == (2, 6)
    difference = result["gains"]["random_retrieved"]["difference"]
    assert difference == pytest.approx(row["drop_top"] - row["drop_random_retrieved"])
    assert sum(group["tokens"] for group in result["groups"].values()) == 6
    assert len(table(result)) == 1 + 3 + 2  # head, numbers removed, groups


def test_a_run_that_was_cut_goes_on_and_gives_the_same_result(
    saved_model, book, result, saved_result, tmp_path, monkeypatch
):
    path = tmp_path / "again.json"
    add = Items.add

    def cut(self: Items, key: str, item: dict) -> None:
        add(self, key, item)
        raise KeyboardInterrupt

    monkeypatch.setattr(Items, "add", cut)
    with pytest.raises(KeyboardInterrupt):
        attribution_of(saved_model, book, json=path)
    monkeypatch.setattr(Items, "add", add)
    measure, titles = attribution.measure_document, []

    def noted(systems: object, document: Document, options: AttributionOptions) -> dict:
        titles.append(document.name)
        return measure(systems, document, options)

    monkeypatch.setattr(attribution, "measure_document", noted)
    attribution_of(saved_model, book, json=path, resume=True)
    assert titles == ["Book 1"]
    assert path.read_text() == saved_result.read_text()


def test_wrong_options_and_short_texts_are_named(saved_model, book):
    with pytest.raises(LongMemError, match=r"read_tokens is 8; .* \(32 tokens\)"):
        attribution_of(saved_model, book, read_tokens=8)
    with pytest.raises(LongMemError, match="tokens_per_document is 0"):
        attribution_of(saved_model, book, tokens_per_document=0)
    for wrong in ((2, 4), (1, 4, 2), (1, 1), ()):
        with pytest.raises(LongMemError, match=r"removed is .* must begin with 1"):
            attribution_of(saved_model, book, removed=wrong)
    with pytest.raises(LongMemError, match="100032 tokens"):
        attribution_of(saved_model, book, read_tokens=100_000)
    with pytest.raises(LongMemError, match="'memtrm'"):
        attribution_of(saved_model, book, systems=("memtrm",))
