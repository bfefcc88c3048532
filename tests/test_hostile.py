"""Hostile inputs of `tests.hostile`: refused in words or read as harmless text, within their limits.

Here a sample of those that take a while; `python -m tests.hostile` tries all, and what it recorded is looked at too.
"""

import json
from pathlib import Path

import pytest

from tests.hostile import Outcome, run_all

RECORD = Path(__file__).parent.parent / "assets" / "results" / "hostile-inputs.json"


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return run_all(sample=True)


@pytest.fixture(scope="module")
def recorded() -> list[dict]:
    return json.loads(RECORD.read_text(encoding="utf-8"))["outcomes"]


def test_no_hostile_input_does_harm(outcomes, recorded):
    assert [(o.kind, o.title, o.harm) for o in outcomes if o.harm] == []
    assert [row for row in recorded if row["harm"]] == []
    assert len(recorded) >= 200


def test_the_recorded_run_is_of_these_inputs(outcomes, recorded):
    refused = {(row["kind"], row["title"]): bool(row["message"]) for row in recorded}
    assert len(outcomes) > 180
    assert {(o.kind, o.title): bool(o.message) for o in outcomes}.items() <= refused.items()


def test_refusals_say_different_things(recorded):
    """A sentence of its own for what has a cause of its own, not one for all."""
    for kind, least in (("text", 5), ("PDF", 2), ("EPUB", 5), ("DOCX", 3), ("examples", 8), ("memory file", 25)):
        assert len({row["message"] for row in recorded if row["kind"] == kind and row["message"]}) >= least, kind
