"""How often labels are right, against the number of demonstrations in memory; each number on a bank of its own.

The banks are filled and measured one after another and let go: the visitor's own memory is neither searched nor
changed. Demonstrations that stand in the window are not in these memories.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import sqrt

import numpy as np

from app import markup
from app.reading import read
from longmem.classification import ROWS_AT_ONCE, Classifier, Task
from longmem.demonstrations import Demonstration, DemonstrationSet
from longmem.errors import LongMemError
from longmem.memory_bank import MemoryBank
from longmem.model import LongMemForCausalLM

SIZES = (0, 20, 200, 2_000)
NORMAL_95 = 1.96  # standard deviations on each side that hold 95 %


@dataclass
class Tally:
    """What was said with one number of demonstrations in memory; None where two labels shared the highest score."""

    in_memory: int
    n_tokens: int
    calibrated: list[int | None] = field(default_factory=list)
    uncalibrated: list[int | None] = field(default_factory=list)


@dataclass(frozen=True)
class Measuring:
    """How far it is, as HTML, and the result so far where that has changed."""

    progress: str
    result: dict | None = None


def draw(shown: DemonstrationSet, in_window: int, seed: int = 0) -> tuple[list[Demonstration], list[Demonstration]]:
    """Those that stand in the window, each label in turn, and all others, in an order drawn with a seed."""
    order = [shown.demonstrations[i] for i in np.random.default_rng(seed).permutation(len(shown.demonstrations))]
    turns = dict.fromkeys(shown.labels, 0)
    places = []
    for demonstration in order:
        places.append((turns[demonstration.label], demonstration.label))
        turns[demonstration.label] += 1
    first = sorted(range(len(order)), key=places.__getitem__)[:in_window]
    chosen = set(first)
    return [order[i] for i in first], [demonstration for i, demonstration in enumerate(order) if i not in chosen]


def sizes_of(wanted: Sequence[int | None], available: int) -> list[int]:
    """Numbers of demonstrations to measure, the smallest first; None is all there are, and what is more is left out."""
    return sorted({available if size is None else size for size in wanted if size is None or size <= available})


def measure(
    model: LongMemForCausalLM,
    shown: DemonstrationSet,
    tests: Sequence[Demonstration],
    *,
    in_window: int,
    sizes: Sequence[int | None],
    stop: threading.Event,
    reserve: Callable[[MemoryBank, int, str], None] | None,
    silence: Collection[tuple[int, int | None]] = (),
) -> Iterator[Measuring]:
    """Measure with each number of demonstrations in memory; a stop keeps what has been asked until then.

    reserve: told of each bank, and of the tokens and text that it will hold, before it is filled, or None. silence:
    layers and heads that do without memory.
    Errors: LongMemError where there are fewer demonstrations than the smallest number asked for.
    """
    window, rest = draw(shown, in_window)
    task = Task(shown.labels, shown.template, tuple(window))
    tallies: list[Tally] = []
    numbers = sizes_of(sizes, len(rest))
    if not numbers:
        smallest = min(size for size in sizes if size is not None)
        raise LongMemError(
            f"At least {smallest:,} demonstrations in memory are asked for; besides those in the window there are "
            f"{len(rest):,}: choose a smaller number, or all."
        )
    for place, size in enumerate(numbers, start=1):
        title = f"{size:,} in memory ({place} of {len(numbers)})"
        bank = model.new_bank()
        if size:
            part = DemonstrationSet.from_demonstrations(rest[:size], shown.template, "measured")
            bank = _bank_for(model, part, reserve)
            for progress in read(model, part.document, bank, stop):
                yield Measuring(markup.progress(f"{title}: reading", progress.done, progress.total, progress.seconds))
        if stop.is_set():
            return
        tally = Tally(size, bank.n_tokens)
        tallies.append(tally)
        searched, texts = None if bank.is_empty else bank, [test.text for test in tests]
        made = partial(Classifier, model, task, searched, texts, silence=silence)
        for progress in _ask(made, tests, tally, title, stop):
            yield Measuring(progress)
        yield Measuring("", result(shown.labels, tests, tallies, window))


def _bank_for(
    model: LongMemForCausalLM, part: DemonstrationSet, reserve: Callable[[MemoryBank, int, str], None] | None
) -> MemoryBank:
    """An empty bank with room for all of these demonstrations."""
    n_tokens = len(part.document.encode(model.need_tokenizer()).token_ids)
    chunk = model.config.chunk_size
    bank = model.new_bank(capacity=-(-n_tokens // chunk) * chunk)
    if reserve is not None:
        reserve(bank, n_tokens, part.document.text)
    return bank


def _ask(
    made: Callable[[], Classifier], tests: Sequence[Demonstration], tally: Tally, title: str, stop: threading.Event
) -> Iterator[str]:
    """Ask for some texts at a time and note the answers; gives the HTML of the progress."""
    began = time.monotonic()
    yield progress_line(title, 0, len(tests), 0.0)
    classifier = made()
    for start in range(0, len(tests), ROWS_AT_ONCE):
        if stop.is_set():
            return
        answers = classifier.ask([test.text for test in tests[start : start + ROWS_AT_ONCE]])
        tally.calibrated += [answer.choice() for answer in answers]
        tally.uncalibrated += [answer.choice(calibrated=False) for answer in answers]
        yield progress_line(title, len(tally.calibrated), len(tests), time.monotonic() - began)


def progress_line(title: str, done: int, total: int, seconds: float) -> str:
    """As `markup.progress`, counting texts."""
    return markup.progress(f"{title}: classifying", done, total, seconds).replace(" tokens", " texts")


def check_tests(tests: Sequence[Demonstration], labels: Sequence[str], name: str) -> None:
    """Errors: LongMemError where a text has a label that no demonstration has."""
    for test in tests:
        if test.label not in labels:
            known = ", ".join(map(repr, labels[:12])) + (" …" if len(labels) > 12 else "")
            raise LongMemError(f"Line {test.line} of {name} has the label {test.label!r}; those in memory are {known}.")


# Summing up --------------------------------------------------------------------------------------------------------


def result(
    labels: Sequence[str],
    tests: Sequence[Demonstration],
    tallies: Sequence[Tally],
    window: Sequence[Demonstration],
) -> dict:
    """JSON-able: `labels, texts, in_window, chance, by_size`; see `summarize` for the last."""
    return {
        "labels": list(labels),
        "texts": len(tests),
        "in_window": len(window),
        "chance": 1 / len(labels),
        "by_size": [summarize(labels, tests, tally) for tally in tallies if tally.calibrated],
    }


def summarize(labels: Sequence[str], tests: Sequence[Demonstration], tally: Tally) -> dict:
    """One number of demonstrations: accuracies in 0..1, the confusion matrix and every wrong case.

    `n` texts were asked for; `low, high`: 95 % interval (Wilson) of the accuracy; `majority`: of the label that these
    texts have most; `macro`: mean over their labels of each label's accuracy. `confusion`: a row per label that is
    right, a column per label that was said, and a last one for ties.
    """
    place = {label: i for i, label in enumerate(labels)}
    asked = tests[: len(tally.calibrated)]
    gold = [place[test.label] for test in asked]
    hits = np.equal(gold, [-1 if said is None else said for said in tally.calibrated])
    plain_hits = np.equal(gold, [-1 if said is None else said for said in tally.uncalibrated])
    confusion = np.zeros((len(labels), len(labels) + 1), dtype=int)
    for right, said in zip(gold, tally.calibrated, strict=True):
        confusion[right, len(labels) if said is None else said] += 1
    low, high = wilson(int(hits.sum()), len(hits))
    counts = np.bincount(gold, minlength=len(labels))
    there = counts > 0
    return {
        "in_memory": tally.in_memory,
        "tokens": tally.n_tokens,
        "n": len(asked),
        "accuracy": float(hits.mean()),
        "low": low,
        "high": high,
        "uncalibrated": float(plain_hits.mean()),
        "majority": float(counts.max() / len(asked)),
        "macro": float((np.diag(confusion[:, :-1])[there] / counts[there]).mean()),
        "confusion": confusion.tolist(),
        "wrong": [
            {"line": test.line, "text": test.text, "label": test.label, "said": None if said is None else labels[said]}
            for test, said, hit in zip(asked, tally.calibrated, hits, strict=True)
            if not hit
        ],
    }


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a share: unlike a bootstrap it has a width where all, or none, are right (Wilson 1927)."""
    if n == 0:
        return 0.0, 1.0
    share, square = hits / n, NORMAL_95**2
    centre = (share + square / (2 * n)) / (1 + square / n)
    half = NORMAL_95 * sqrt(share * (1 - share) / n + square / (4 * n * n)) / (1 + square / n)
    return max(0.0, centre - half), min(1.0, centre + half)
