"""A run as a record: it comes back as it was, and a forged one is refused in words."""

import copy
import json

import pandas as pd
import pytest

from app import inspection
from app.run_records import RunFileError, from_record, tables_of, to_record
from app.session import Run
from tests.made_runs import CELLS, HOSTILE, run_by_hand, studio_with_a_run


@pytest.fixture(scope="module")
def run(tiny_model, tmp_path_factory) -> Run:
    return studio_with_a_run(tiny_model, tmp_path_factory.mktemp("samples")).store.get("me").run


@pytest.fixture(scope="module")
def whole(run) -> dict:
    return json.loads(json.dumps(to_record(run), allow_nan=False))


@pytest.fixture
def record(whole) -> dict:
    return copy.deepcopy(whole)


def test_a_run_comes_back_as_it_was(run, record):
    again = from_record(record)
    for name, frame in tables_of(run).items():
        pd.testing.assert_frame_equal(getattr(again, name), frame, check_exact=True)
    assert (again.number, again.recipe, again.sources) == (run.number, run.recipe, run.sources)
    assert inspection.describe(again) == inspection.describe(run)


def test_hostile_words_come_back_as_they_were():
    run = run_by_hand([HOSTILE, *CELLS], name=HOSTILE, text=HOSTILE * 9)
    again = from_record(json.loads(json.dumps(to_record(run))))
    assert list(again.tokens.token) == [HOSTILE, *CELLS]
    assert inspection.describe(again) == inspection.describe(run)


@pytest.mark.parametrize("found", [None, [], {}, {"format": "pickle"}, "run", 7])
def test_what_is_no_record_is_refused(found):
    with pytest.raises(RunFileError, match="it is not of the format 'longmem run 1'"):
        from_record(found)


FORGERIES = {
    "'tables' is missing": lambda r: r.pop("tables"),
    "'sources' is missing": lambda r: r.pop("sources"),
    "the table trace has other columns": lambda r: r["tables"]["trace"].pop("weight"),
    "table gates has other columns": lambda r: r["tables"]["gates"].update(evil=[]),
    "columns of trace are no lists of one length": lambda r: r["tables"]["trace"]["weight"].pop(),
    "columns of tokens are no lists": lambda r: r["tables"]["tokens"].update(step="01234567"),
    "trace.weight holds something else than numbers": lambda r: put(r, "trace", "weight", "1"),
    "trace.chunk holds something else than whole": lambda r: put(r, "trace", "chunk", 1.5),
    "trace.step holds something else than whole": lambda r: put(r, "trace", "step", True),
    "trace.text holds something else than text": lambda r: put(r, "trace", "text", ["x"]),
    "trace.score holds a number that is not finite": lambda r: put(r, "trace", "score", 1e300),
    "tokens.logprob holds a number that is not finite": lambda r: put(r, "tokens", "logprob", float("nan")),
    "too large|too big|int64": lambda r: put(r, "trace", "start", 2**70),
    "tokens are not counted from 0": lambda r: put(r, "tokens", "step", 5),
    "a probability is above 1": lambda r: put(r, "tokens", "logprob", 800.0),
    "an effect is not the difference": lambda r: put(r, "tokens", "effect", 9.0),
    "a chunk is there twice": lambda r: put(r, "chunks", "chunk", r["tables"]["chunks"]["chunk"][1]),
    "belongs to no document": lambda r: put(r, "chunks", "document_id", 99),
    "trace speaks of a token": lambda r: put(r, "trace", "step", -1),
    "gates speaks of a layer": lambda r: put(r, "gates", "layer", 10**6),
    "trace speaks of a layer from 256 or a head": lambda r: put(r, "trace", "head", 10**6),
    "trace holds a stretch of text": lambda r: put(r, "trace", "end", -1),
    "chunks holds a stretch of text": lambda r: put(r, "chunks", "end", 2**40),
    "a chunk has no place": lambda r: put(r, "chunks", "n_tokens", 0),
    "a chunk has no place in": lambda r: put(r, "chunks", "position", 2**40),
    "a weight or gate is not": lambda r: put(r, "trace", "weight", -0.5),
    "a weight or gate is not from 0": lambda r: put(r, "gates", "gate", 7.0),
    "a document's id": lambda r: r["sources"].update({"-2": {"name": "a", "text": "b"}}),
    "invalid literal": lambda r: r["sources"].update(x={"name": "a", "text": "b"}),
    "a document's name is no text": lambda r: r["sources"]["0"].update(name=7),
    "names 10001 documents": lambda r: r["sources"].update({str(i): {} for i in range(10_000)}),
    "its kind is 'evil'": lambda r: r["recipe"].update(kind="evil"),
    "the prompt is no text": lambda r: r["recipe"].update(prompt=None),
    "before is not 2 whole numbers": lambda r: r["recipe"].update(before=[1]),
    "version is": lambda r: r["recipe"].update(version=[1, 2, -3]),
    "Temperature is 99": lambda r: r["recipe"]["settings"].update(temperature=99),
    "unexpected keyword": lambda r: r["recipe"]["settings"].update(evil=1),
    "number is '0'": lambda r: r.update(number=0),
}


def put(record: dict, table: str, column: str, value: object) -> None:
    record["tables"][table][column][0] = value


@pytest.mark.parametrize("message", FORGERIES)
def test_a_forged_record_is_refused_in_words(record, message):
    FORGERIES[message](record)
    with pytest.raises(RunFileError, match=r"The run in this file cannot be shown: .*(" + message + ")"):
        from_record(record)


def test_too_many_rows_are_refused(record, monkeypatch):
    monkeypatch.setattr("app.run_records.MOST_ROWS", 10)
    with pytest.raises(RunFileError, match="one length, at most 10"):
        from_record(record)
