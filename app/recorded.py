"""What was measured and recorded in result files, as the lesson tells it; where a file is missing nothing is told."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent.parent / "assets" / "results"


@dataclass(frozen=True)
class Recorded:
    """One measured answer to "can it?"; shares are 0..1, `interval` holds 95 %, `control` is the better one without."""

    asked: str
    reached: float
    interval: tuple[float, float]
    control: float
    items: str
    source: str


@dataclass(frozen=True)
class Aged:
    """After so many training steps: cosine of old and new keys, and the share of chunks that both would retrieve."""

    step: int
    longmem_cosine: float
    longmem_chunks: float
    memtrm_cosine: float
    memtrm_chunks: float
    memtrm_change: float


def result(name: str, folder: Path = RESULTS) -> dict | None:
    """A result file by its name without extension; None where there is none that can be read."""
    try:
        return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def staleness(folder: Path = RESULTS) -> list[Aged]:
    """The recorded curve, step by step; empty where none was recorded."""
    found = result("staleness", folder)
    rows = found["curve"] if found else []
    return [
        Aged(
            row["step"],
            row["longmem"]["cosine"],
            row["longmem"]["overlap"],
            row["memtrm"]["cosine"],
            row["memtrm"]["overlap"],
            row["memtrm"]["change"],
        )
        for row in rows
    ]


def limits(folder: Path = RESULTS) -> list[Recorded]:
    """What the model in the box can and cannot do, from the easiest to the hardest; only what was recorded."""
    rows = [
        _needle("needle-8k", "known", "Repeat a fact of a form that it was trained on", folder),
        _needle("needle-8k", "held_out", "Repeat a fact of a form that it has never seen", folder),
        _needle("needle", "distractors", "The same with eight other facts of one form in memory", folder),
        _of("icl", "Say what kind of text it is, with 2,000 examples in memory", _accuracy, folder),
        _of("suffix", "Tell which of six passages begins the next chapter (by chance: 17 %)", _accuracy, folder),
    ]
    return [row for row in rows if row is not None]


def _needle(name: str, kind: str, asked: str, folder: Path) -> Recorded | None:
    """Facts planted in a novel, at 8,192 tokens."""
    return _of(name, asked, lambda found: (found["by_length"][kind]["8192"], "recall", "facts"), folder)


def _accuracy(found: dict) -> tuple[dict, str, str]:
    return found["systems"], "accuracy", "texts" if found["evaluation"] == "icl" else "chapters"


def _of(name: str, asked: str, pick: Callable[[dict], tuple[dict, str, str]], folder: Path) -> Recorded | None:
    found = result(name, folder)
    if found is None:
        return None
    systems, measure, things = pick(found)
    ours = systems["longmem"]
    control = max(systems[other][measure] for other in ("backbone", "empty_bank"))
    interval = (ours[f"{measure}_low"], ours[f"{measure}_high"])
    return Recorded(asked, ours[measure], interval, control, f"{ours['n']} {things}", f"{name}.json")
