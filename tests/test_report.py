"""The tables in README and model card are those of the recorded results."""

import json
from pathlib import Path

import pytest

from longmem.backbone import weights_hash
from longmem.errors import LongMemError
from longmem.evaluation.attribution import KINDS, times
from longmem.evaluation.report import GOALS, MODULES, filled, goals, markdown, rewrite
from longmem.model import LongMemForCausalLM

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "assets" / "results"


@pytest.mark.parametrize("path", ["README.md", "assets/model/README.md"])
def test_tables_are_those_of_the_results(path):
    """`python -m longmem evaluate report` writes them."""
    text = (ROOT / path).read_text(encoding="utf-8")
    assert filled(text, RESULTS, (ROOT / path).parent) == text
    assert "<!-- measured: " in text


@pytest.fixture(scope="module")
def sidenet_hash() -> str:
    return weights_hash(LongMemForCausalLM.from_pretrained(ROOT / "assets" / "model", device="cpu").sidenet)


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_result_names_its_command_and_the_model_that_is_here(path, sidenet_hash):
    result = json.loads(path.read_text(encoding="utf-8"))
    config = json.loads((ROOT / "assets" / "model" / "config.json").read_text())
    if "evaluation" not in result:  # of the application, not of the model
        assert result["command"].startswith("python -m tests.")
        return
    assert result["evaluation"] in MODULES
    bench = ("python -m longmem bench ", "python -m tests.browser.page_speed")
    assert result["command"].startswith(bench if result["evaluation"] == "bench" else "python -m longmem evaluate ")
    if result["evaluation"] != "comparison":  # which compares short trainings on a backbone that it names
        assert result["model"]["fingerprint"] == config["backbone_fingerprint"]
        assert result["model"].get("sidenet", sidenet_hash) == sidenet_hash  # older results name the backbone alone


def test_a_changed_number_is_seen_and_mended(tmp_path):
    (tmp_path / "perplexity-x.json").write_text(json.dumps(perplexity(57.0)))
    path = tmp_path / "card.md"
    path.write_text("before\n<!-- measured: perplexity-x -->\n<!-- end -->\nafter\n")
    assert rewrite(path, tmp_path)
    assert "| longmem | 57.00 |" in path.read_text()
    assert path.read_text().startswith("before\n")
    assert path.read_text().endswith("<!-- end -->\nafter\n")
    assert not rewrite(path, tmp_path)
    (tmp_path / "perplexity-x.json").write_text(json.dumps(perplexity(58.0)))
    assert filled(path.read_text(), tmp_path, tmp_path) != path.read_text()


def perplexity(value: float) -> dict:
    row = {"perplexity_low": 50.0, "perplexity_high": 70.0, "bits_per_character": 1.6, "n": 15}
    systems = {"backbone": row | {"perplexity": 60.0}, "longmem": row | {"perplexity": value}}
    gain = {"against": "backbone", "change": value / 60 - 1, "low": -0.1, "high": 0.0}
    return {
        "evaluation": "perplexity",
        "command": "python -m longmem evaluate perplexity",
        "date": "2026-11-26",
        "systems": systems,
        "gains": {"backbone": gain, "better_control": gain},
    }


def test_a_missing_result_is_named(tmp_path):
    with pytest.raises(LongMemError, match="no result 'nothing'"):
        filled("<!-- measured: nothing -->\n<!-- end -->", tmp_path, tmp_path)


def test_goals_say_what_was_reached_and_what_has_not_been_measured(tmp_path):
    (tmp_path / "perplexity-books-test.json").write_text(json.dumps(perplexity(57.0)))
    lines = goals(tmp_path).splitlines()
    assert len(lines) == 2 + len(GOALS)
    assert "-5.0 % (-10.0 to +0.0)" in lines[2]
    assert sum("not measured yet" in line for line in lines) == len(GOALS) - 2


def test_an_infinite_ratio_that_a_file_cannot_hold_is_shown(tmp_path):
    kinds = {f"{kind}{end}": 0.1 for kind in KINDS for end in ("", "_low", "_high")}
    ratio = {"ratio": 8.6, "ratio_low": 4.2, "ratio_high": None}
    result = {
        "evaluation": "attribution",
        "command": "python",
        "date": "2026-11-26",
        "curve": [ratio | kinds | {"removed": 1}],
        "groups": {"helped": ratio | kinds | {"tokens": 5}, "hurt": {"tokens": 0}},
        "gains": {"random_retrieved": {"difference": 0.031, "low": -0.008, "high": 0.073}},
    }
    (tmp_path / "attribution.json").write_text(json.dumps(result | {"systems": {"longmem": ratio}}))
    assert "8.6 (4.2 to ∞)" in filled("<!-- measured: attribution -->\n<!-- end -->", tmp_path, tmp_path)
    reached = "8.6 (4.2 to ∞) times over all tokens, +0.031 nats (-0.008 to +0.073); 8.6 (4.2 to ∞) times"
    assert reached in goals(tmp_path)
    unbounded = {"ratio": 149.0, "ratio_low": None, "ratio_high": None}
    assert times(unbounded) == "149.0 (-∞ to ∞)"
    assert times({name: float("inf") for name in unbounded}) == "∞ (∞ to ∞)"


def test_cells_cannot_break_a_table():
    assert markdown([["a", "b"], ["x|y", "1"]]).splitlines()[-1] == "| x/y | 1 |"
