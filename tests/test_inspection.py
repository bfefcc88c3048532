"""What the page gets of a run: words, passages in their place, and the chunk that was asked for."""

import json
import math

import pandas as pd
import pytest

from app import inspection
from app.session import Recipe, Run, Source
from longmem.trace import TOKEN_WEIGHT_COLUMNS
from tests.test_charts import make_chunks, make_gates, make_tokens, make_trace

NO_WEIGHTS = pd.DataFrame(columns=TOKEN_WEIGHT_COLUMNS)


@pytest.fixture
def run() -> Run:
    """Three tokens over two documents, whose text at a chunk says which chunk it is."""
    chunks = make_chunks()
    trace = make_trace(chunks)
    texts = {0: [], 1: []}
    for row in chunks.itertuples():
        texts[row.document_id].append(f"<{row.chunk}> some words. "[:20].ljust(20))
    start = {row.chunk: 20 * (i % 5) for i, row in enumerate(chunks.itertuples())}
    trace["start"] = trace.chunk.map(start)
    trace["end"] = trace.start + 20
    sources = {i: Source(f"book-{i}.txt", "".join(parts)) for i, parts in texts.items()}
    return Run(1, Recipe("scored", "prompt"), make_tokens(), trace, make_gates(trace), NO_WEIGHTS, chunks, sources)


def words(passage: dict) -> str:
    return "".join(part[0] for part in passage["parts"])


def test_description_is_plain_data_that_json_can_hold(run):
    assert json.loads(json.dumps(inspection.describe(run)))["layers"] == [4, 7]


def test_every_step_says_its_probabilities_and_every_layer_its_gate(run):
    steps = inspection.describe(run)["steps"]
    assert [step["p"] for step in steps] == ["20 %", "40 %", "60 %"]
    assert [step["tone"] for step in steps] == ["lowered", "raised", "raised"]
    assert all(layer["gate"] == 0.6 for step in steps for layer in step["layers"])


def test_marked_chunks_stand_in_their_place_in_the_document(run):
    for step in inspection.describe(run)["steps"]:
        for passage in (passage for layer in step["layers"] for passage in layer["passages"]):
            text = run.sources[passage["document"]].text
            assert words(passage).strip("…") in text
            for part in passage["parts"]:
                if len(part) == 3:
                    assert f"<{part[1]}>" in part[0]


def test_passage_weights_sum_to_the_mean_gate_when_all_are_shown(run):
    for step in inspection.describe(run)["steps"]:
        for layer in step["layers"]:
            shown = sum(passage["weight"] for passage in layer["passages"])
            assert shown == pytest.approx(layer["gate"], abs=1e-3)


def test_neighbouring_chunks_share_a_passage_and_far_ones_do_not(run):
    near = run.trace[(run.trace.step == 0) & (run.trace.layer == 4)].head(2).copy()
    near["chunk"], near["start"], near["end"] = [100, 101], [0, 20], [20, 40]
    one = Run(1, run.recipe, run.tokens, near, run.gates, NO_WEIGHTS, run.chunks, run.sources)
    assert [len(x["passages"]) for x in inspection.describe(one)["steps"][0]["layers"]] == [1, 0]
    far = near.assign(chunk=[100, 105], start=[0, 0], end=[20, 20])
    two = Run(1, run.recipe, run.tokens, far, run.gates, NO_WEIGHTS, run.chunks, run.sources)
    assert [len(x["passages"]) for x in inspection.describe(two)["steps"][0]["layers"]] == [2, 0]


def test_a_character_shared_by_two_chunks_is_shown_once(run):
    rows = run.trace[(run.trace.step == 0) & (run.trace.layer == 4)].head(2).copy()
    rows["chunk"], rows["start"], rows["end"] = [100, 101], [0, 19], [20, 40]
    shared = Run(1, run.recipe, run.tokens, rows, run.gates, NO_WEIGHTS, run.chunks, run.sources)
    (passage,) = inspection.describe(shared)["steps"][0]["layers"][0]["passages"]
    assert words(passage).strip("…") == run.sources[0].text[: 40 + inspection.CONTEXT]


def test_the_first_decided_token_is_pointed_out_else_the_most_changed():
    tokens = make_tokens(4)
    assert inspection.focus_step(tokens.assign(effect=[0.1, 1.2, 3.0, 0.0])) == 1
    assert inspection.focus_step(tokens.assign(effect=[0.1, -0.9, 0.5, 0.0])) == 1
    assert inspection.focus_step(tokens.iloc[:0]) is None


def test_sentences_say_what_memory_did():
    assert inspection.sentence(math.log(0.62), math.log(0.08)) == (
        "Memory raised the probability of this token from 8.0 % to 62 %."
    )
    assert "lowered" in inspection.sentence(math.log(0.1), math.log(0.3))
    assert "hardly changed" in inspection.sentence(math.log(0.5), math.log(0.501))


@pytest.mark.parametrize(
    ("probability", "said"),
    [
        (0.0, "less than 0.001 %"),
        (0.00042, "0.04 %"),
        (0.0042, "0.4 %"),
        (0.62, "62 %"),
        (0.996, "99.6 %"),
        (1.0, "more than 99.9 %"),
    ],
)
def test_probabilities_are_never_a_false_zero_or_hundred(probability, said):
    assert inspection.percent(probability) == said


def test_the_layer_that_looked_at_one_place_most_is_shown_first(run):
    description = inspection.describe(run)
    layers = description["steps"][description["focus"]]["layers"]
    heaviest = {entry["layer"]: max(passage["weight"] for passage in entry["passages"]) for entry in layers}
    assert description["layer"] == max(heaviest, key=heaviest.get)


def test_a_run_without_retrievals_still_describes_its_tokens(run):
    silent = Run(1, run.recipe, run.tokens, run.trace.iloc[:0], run.gates.iloc[:0], NO_WEIGHTS, run.chunks.iloc[:0], {})
    description = inspection.describe(silent)
    assert len(description["steps"]) == 3
    assert description["layers"] == []
