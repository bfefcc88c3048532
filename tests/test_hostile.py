"""Hostile inputs of `tests.hostile`: refused in words or read as harmless text, within their limits.

Here a sample of those that take a while; `python -m tests.hostile` tries all, and what it recorded is looked at too.
"""

import json
import re
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.hostile import ROOT, Outcome, run_all

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


def test_no_record_holds_a_path_of_the_machine_that_made_it(outcomes, recorded):
    """Not of the checkout, nor of Python, nor of the folder that the run was made in."""
    made_here = json.dumps([asdict(outcome) for outcome in outcomes])
    for own in (str(ROOT), sys.prefix, f"{tempfile.gettempdir()}/tmp"):
        assert own not in made_here
    places = {word for row in recorded for word in re.findall(r"/(?:home|root|work|Users|tmp)/[^\s\"']*", str(row))}
    assert places <= {"/tmp/evil.txt"}
