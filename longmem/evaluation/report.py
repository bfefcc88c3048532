"""Tables of results in Markdown, put where a file asks for them: what is written there is what was measured.

`<!-- measured: NAME -->` and `<!-- end -->` hold the table of `NAME.json` between them, `<!-- goals -->` and
`<!-- end -->` the goals with what was reached.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from os.path import relpath
from pathlib import Path

from longmem.errors import LongMemError
from longmem.evaluation.attribution import times

MODULES = {
    "bench": "longmem.bench.run",
    "perplexity": "longmem.evaluation.perplexity",
    "suffix": "longmem.evaluation.suffix_identification",
    "icl": "longmem.evaluation.in_context_learning",
    "needle": "longmem.evaluation.needle",
    "staleness": "longmem.evaluation.staleness",
    "efficiency": "longmem.evaluation.efficiency",
    "attribution": "longmem.evaluation.attribution",
    "comparison": "longmem.evaluation.comparison",
}
BLOCK = re.compile(r"(<!-- (measured: (?P<name>[\w-]+)|goals) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Goal:
    """What was to be reached, by which number of which result."""

    measure: str
    goal: str
    at_least: str
    result: str
    read: Callable[[dict], str]


def percent(value: float | None, low: float | None = None, high: float | None = None, *, sign: bool = False) -> str:
    """A share as people read it, with its interval."""
    if value is None:
        return "-"
    form = "{:+.1f}" if sign else "{:.1f}"
    interval = f" ({form.format(100 * low)} to {form.format(100 * high)})" if low is not None else ""
    return f"{form.format(100 * value)} %{interval}"


def _change(name: str) -> Callable[[dict], str]:
    def read(result: dict) -> str:
        gain = result["gains"][name]
        return percent(gain["change"], gain["low"], gain["high"], sign=True)

    return read


def _accuracy(result: dict) -> str:
    row, gain = result["systems"]["longmem"], result["gains"]["better_control"]
    reached = percent(row["accuracy"], row["accuracy_low"], row["accuracy_high"])
    return f"{reached}; {percent(gain['difference'], gain['low'], gain['high'], sign=True)} against {gain['control']}"


def _against_backbone(result: dict) -> str:
    row, gain = result["systems"]["longmem"], result["gains"]["backbone"]
    reached = percent(row["accuracy"], row["accuracy_low"], row["accuracy_high"])
    return f"{reached}; {percent(gain['difference'], gain['low'], gain['high'], sign=True)} against backbone"


def _recall(kind: str, length: int) -> Callable[[dict], str]:
    def read(result: dict) -> str:
        row = result["by_length"].get(kind, {}).get(str(length), {}).get("longmem")
        return percent(row["recall"], row["recall_low"], row["recall_high"]) if row else "not measured"

    return read


def _ratio(result: dict) -> str:
    every, helped = times(result["systems"]["longmem"]), times(result["groups"]["helped"])
    gain = result["gains"]["random_retrieved"]
    nats = f"{gain['difference']:+.3f} nats ({gain['low']:+.3f} to {gain['high']:+.3f})"
    return f"{every} times over all tokens, {nats}; {helped} times over those that memory helped"


GOALS = (
    Goal(
        "perplexity, bank against backbone",
        "7.5 % lower",
        "lower, interval excludes 0",
        "perplexity-books-test",
        _change("backbone"),
    ),
    Goal(
        "perplexity, bank against the better control",
        "4 % lower",
        "2 % lower",
        "perplexity-books-test",
        _change("better_control"),
    ),
    Goal(
        "suffix identification, 8k prefix (chance 16.7 %)",
        "40.5 %, and 10 points above backbone",
        "above backbone, interval excludes 0",
        "suffix",
        _against_backbone,
    ),
    Goal(
        "in-context learning, five sets, 2,000 in memory",
        "66.7 %, and 7 points above the better control",
        "3 points above it, interval excludes 0",
        "icl",
        _accuracy,
    ),
    Goal("planted facts, known templates, 8k in memory", "", "97 %", "needle-8k", _recall("known", 8_192)),
    Goal("planted facts, known templates, 64k", "99 %", "90 %", "needle", _recall("known", 65_536)),
    Goal("planted facts, known templates, 1M", "95 %", "", "needle-long", _recall("known", 1_048_576)),
    Goal("planted facts, held-out templates, 8k", "", "60 %", "needle-8k", _recall("held_out", 8_192)),
    Goal("planted facts, held-out templates, 64k", "90 %", "", "needle", _recall("held_out", 65_536)),
    Goal("attribution, top chunk against a random retrieved one", "5 times", "3 times", "attribution", _ratio),
)


def rewrite(path: Path, results: Path) -> bool:
    """Put the tables into a file; whether that changed it. Errors: LongMemError where a result is missing."""
    before = path.read_text(encoding="utf-8")
    after = filled(before, results, path.parent)
    if after != before:
        path.write_text(after, encoding="utf-8")
    return after != before


def filled(text: str, results: Path, place: Path) -> str:
    """A text with its tables; `place` is the folder that its links start from."""

    def block(match: re.Match) -> str:
        body = goals(results) if match["name"] is None else measured(match["name"], results, place)
        return f"{match[1]}\n{body}\n\n{match[4]}"

    return BLOCK.sub(block, text)


def measured(name: str, results: Path, place: Path) -> str:
    """The table of one result, and where it comes from."""
    result = load(name, results)
    table = import_module(MODULES[result["evaluation"]]).table
    link = Path(relpath(results / f"{name}.json", place)).as_posix()
    return f"{markdown(table(result))}\n\n`{result['command']}`, {result['date']} ([result]({link}))"


def goals(results: Path) -> str:
    """The goals, and what the results there are say of them."""
    rows = [["measure", "goal", "of a model trained on a CPU, at least", "reached"]]
    for goal in GOALS:
        there = (results / f"{goal.result}.json").is_file()
        reached = goal.read(load(goal.result, results)) if there else "not measured yet"
        rows.append([goal.measure, goal.goal, goal.at_least, reached])
    return markdown(rows)


def load(name: str, results: Path) -> dict:
    """A recorded result. Errors: LongMemError where there is none of that name."""
    path = results / f"{name}.json"
    if not path.is_file():
        raise LongMemError(f"There is no result {name!r} in {results}.")
    return json.loads(path.read_text(encoding="utf-8"))


def markdown(rows: list[list[str]]) -> str:
    """Rows as a Markdown table, the first one its head."""
    head, *body = [[str(cell).replace("|", "/").replace("_", " ") for cell in row] for row in rows]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
