"""Every hostile input of `tests.hostile`: refused in words or read as harmless text, within its limits."""

import json
from pathlib import Path

import pytest

from tests.hostile import Outcome, run_all, summary

RECORD = Path(__file__).parent.parent / "assets" / "results" / "hostile-inputs.json"


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return run_all()


def test_no_hostile_input_does_harm(outcomes):
    assert [(o.kind, o.title, o.harm) for o in outcomes if o.harm] == []
    assert len(outcomes) >= 200


def test_the_recorded_run_is_of_these_inputs(outcomes):
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    assert record["harmful"] == 0
    assert {kind: row["inputs"] for kind, row in record["kinds"].items()} == {
        kind: row["inputs"] for kind, row in summary(outcomes)["kinds"].items()
    }


def test_refusals_say_different_things(outcomes):
    """A sentence of its own for what has a cause of its own, not one for all."""
    for kind, least in (("text", 5), ("PDF", 2), ("EPUB", 5), ("DOCX", 3), ("examples", 8), ("memory file", 25)):
        assert len({o.message for o in outcomes if o.kind == kind and o.message}) >= least, kind
