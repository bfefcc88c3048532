"""What the Demonstrations tab does: reading labelled examples into memory, classifying by them, measuring how well.

Plain values in and out, as in `app.handlers`; functions take the `Studio` and the key of the session that is meant.
Those that work for long are generators of views, and errors that a person can mend become a view's `notice`.
"""

import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, isfinite

from app import demonstration_markup, markup
from app.demonstration_accuracy import SIZES, Measuring, check_tests, draw, measure
from app.demonstration_files import Source
from app.generating import keep
from app.handlers import MemoryView, Studio, alone, said
from app.markup import TokenMark
from app.session import Recipe, Session
from app.turns import Work
from app.zero_gpu import Effort
from longmem import classification
from longmem.classification import Answer, Classification, Task, retrieved_demonstrations, vote
from longmem.demonstrations import Demonstration, DemonstrationSet
from longmem.errors import LongMemError
from longmem.evaluation.results import draw as draw_items
from longmem.memory_bank import MemoryBank
from longmem.model import LongMemForCausalLM

MAX_TEXT = 20_000  # characters of a text to classify
MAX_IN_WINDOW = 64
IN_WINDOW = 4
TEXTS = 100  # of a test file, unless told otherwise
NOT_READ = "There are no demonstrations in memory: read some first (1), then classify and evaluate by them."


@dataclass(frozen=True)
class ClassificationView:
    """A classified text as HTML and the inspector's data; None leaves a part of the page as it is."""

    result: str | None
    tokens: str | None
    status: str
    notice: str = ""
    payload: dict | None = None
    busy: bool = False


@dataclass(frozen=True)
class EvaluationView:
    """A measurement: how far it is, and its result where that has changed."""

    status: str
    notice: str = ""
    result: dict | None = None
    busy: bool = False


# Examples ----------------------------------------------------------------------------------------------------------


def read_demonstrations(studio: Studio, key: str, source: Source | None) -> Iterator[MemoryView]:
    """Read a file of demonstrations into the session's memory, as one document, with progress."""
    session = studio.store.get(key)
    made: list[DemonstrationSet] = []

    def make() -> list:
        if source is None:
            raise LongMemError("No file is chosen: choose one, or take the sample.")
        made.append(source.load())
        return [made[0].document]

    for view in studio.read_documents(key, make, Work.EXAMPLES):
        if not view.busy and made:
            remember_set(session, made[0])
        yield view


def remember_set(session: Session, shown: DemonstrationSet) -> None:
    """Keep the demonstrations of the newest document with their text; let go of those that have left memory."""
    texts = {id: record.text for id, record in session.bank.documents.items()}
    newest = max((id for id, text in texts.items() if text == shown.document.text), default=None)
    kept = sets_in_memory(session)
    session.demonstrations = kept if newest is None else {**kept, newest: shown}


def sets_in_memory(session: Session) -> dict[int, DemonstrationSet]:
    """The demonstrations of which something is in memory, by document, the newest last."""
    texts = {id: record.text for id, record in session.bank.documents.items()}
    return {id: shown for id, shown in sorted(session.demonstrations.items()) if texts.get(id) == shown.document.text}


def choices(studio: Studio, key: str) -> list[tuple[str, int]]:
    """(name, document) of the demonstrations in memory, the newest first."""
    session = studio.store.get(key)
    return [
        (f"{shown.document.name} ({len(shown.demonstrations):,})", id)
        for id, shown in reversed(sets_in_memory(session).items())
    ]


def about_memory(studio: Studio, key: str, document: int | None) -> str:
    """HTML that says how many of the demonstrations are in memory, and which are not."""
    session = studio.store.get(key)
    if session.is_busy:
        return ""
    sets = sets_in_memory(session)
    if document not in sets:
        return markup.note(NOT_READ)
    shown = sets[document]
    first, last = demonstrations_held(session.bank, document, shown)
    total = len(shown.demonstrations)
    words = f"{last - first:,} of {total:,} demonstrations of {shown.document.name} are in memory"
    if first:
        words += f": the oldest {first:,} have left it, since it is full"
    if last < total:
        words += f"{';' if first else ':'} the last {total - last:,} were not read"
    return markup.note(f"{words}.", "stopped" if last - first < total else "done")


def demonstrations_held(bank: MemoryBank, document: int, shown: DemonstrationSet) -> tuple[int, int]:
    """The range of demonstrations that are wholly in the bank: (first, one after the last)."""
    chunks = [chunk for chunk in bank.chunks() if chunk.document == document]
    if not chunks:
        return 0, 0
    start, stop = min(chunk.start for chunk in chunks), max(chunk.stop for chunk in chunks)
    first = bisect_right(shown.starts, start - 1) if start else 0
    ends = [*shown.starts[1:], len(shown.document.text)]
    return first, max(first, bisect_right(ends, stop))


# Classifying -------------------------------------------------------------------------------------------------------


def classify_text(
    studio: Studio, key: str, document: int | None, text: str, in_window: float | None, case: dict | None = None
) -> Iterator[ClassificationView]:
    """Classify a text by demonstrations in memory; the last view carries the inspector's data, the session the run.

    case: the wrong case of a measurement that the text is from.
    """
    yield ClassificationView(None, None, markup.note("Classifying…"), busy=True)
    session = studio.store.get(key)
    try:
        with alone(session):
            found, payload, tokens = classified(studio, session, document, text, in_window)
        shown = demonstration_markup.case_line(case, found) if case else ""
        shown += demonstration_markup.classification(found)
        yield ClassificationView(shown, tokens, markup.note("Done", "done"), payload=payload)
    except Exception as error:
        yield ClassificationView(None, None, "", said(error))


def classified(
    studio: Studio, session: Session, document: int | None, text: str, in_window: float | None
) -> tuple[dict, dict, str]:
    """What is said of a text, the inspector's data, and the traced tokens as HTML. Hold the session's lock."""
    document, shown = chosen_set(session, document)
    if len(text) > MAX_TEXT:
        raise LongMemError(f"The text has {len(text):,} characters; at most {MAX_TEXT:,} are allowed.")
    window, _ = draw(shown, whole_number("In the window", in_window, 0, MAX_IN_WINDOW))
    task = Task(shown.labels, shown.template, tuple(window))
    silence = studio.silent_layers(session)
    read = task_length(task, text)
    found = studio.ask(classify_by, session, text, task, silence, effort=Effort(read=4 * read))
    prompt = "".join(shown.template.render(demonstration) for demonstration in window[: found.in_window])
    recipe = Recipe("scored", prompt, version=session.memory_version, silence=tuple(silence), method=studio.model.label)
    payload = keep(session, recipe, found.trace, "")
    point_at(session, payload, found.label_step)
    trace = found.trace
    marks = [
        TokenMark(step, token, exp(log_p), exp(log_p_empty), log_p - log_p_empty)
        for step, (token, log_p, log_p_empty) in enumerate(
            zip(trace.tokens, trace.logprobs, trace.logprobs_empty, strict=True)
        )
    ]
    panel = demonstration_markup.read_text(markup.token_panel(prompt, marks, panel="with", run=session.run.number))
    return described(found, session.bank, document, shown), payload, panel


def classify_by(
    model: LongMemForCausalLM, session: Session, text: str, task: Task, silence: Sequence[tuple[int, int | None]]
) -> Classification:
    """A text classified with the session's memory, and without."""
    return classification.classify(model, text, task, session.bank, silence=silence)


def task_length(task: Task, text: str) -> int:
    """Characters, so tokens at most, that are read to classify a text: the window, the text and every label."""
    window = sum(len(task.template.render(demonstration)) for demonstration in task.in_window)
    return window + (len(text) + 16) * len(task.labels)


def chosen_set(session: Session, document: int | None) -> tuple[int, DemonstrationSet]:
    """The demonstrations of a document, or the newest. Errors: LongMemError where they are not in memory."""
    sets = sets_in_memory(session)
    if not sets:
        raise LongMemError(NOT_READ)
    if document is None:
        document = max(sets)
    if document not in sets:
        raise LongMemError("These demonstrations have left memory: read them again, or choose others.")
    return document, sets[document]


def point_at(session: Session, payload: dict, step: int) -> None:
    """Let the inspector begin at a token, and at the layer that looked at one place most for it."""
    layers = payload["steps"][step]["layers"]
    heaviest = {part["layer"]: max((p["weight"] for p in part["passages"]), default=0.0) for part in layers}
    payload |= {"focus": step, "layer": max(heaviest, key=heaviest.get, default=None)}
    session.chosen = (step, payload["layer"])


def described(found: Classification, bank: MemoryBank, document: int, shown: DemonstrationSet) -> dict:
    """A classification as JSON can hold it: what the page shows, and what the API gives.

    `with_memory`, `without_memory`: label (None for a tie), `probabilities` and `uncalibrated` ones, by label;
    `vote`: weight by label; `retrieved`: `layer, text, label, line, weight`, the heaviest of each layer first;
    `other_documents`: the weight of what is no demonstration of this document.
    """
    table = retrieved_demonstrations(found.trace, found.label_step, bank, document, shown)
    own = table[table.demonstration >= 0]
    votes = vote(table, shown, found.labels)
    return {
        "text": found.text,
        "document": document,
        "labels": list(found.labels),
        "layers": sorted(int(layer) for layer in found.trace.layers),
        "in_window": found.in_window,
        "with_memory": _answer(found.labels, found.with_memory),
        "without_memory": _answer(found.labels, found.without),
        "vote": dict(zip(found.labels, map(float, votes), strict=True)),
        "other_documents": float(table.weight.sum() - own.weight.sum()),
        "retrieved": [_retrieved(row, shown.demonstrations[row.demonstration]) for row in own.itertuples()],
    }


def _answer(labels: Sequence[str], answer: Answer) -> dict:
    choice = answer.choice()
    return {
        "label": None if choice is None else labels[choice],
        "probabilities": dict(zip(labels, map(float, answer.probabilities()), strict=True)),
        "uncalibrated": dict(zip(labels, map(float, answer.probabilities(calibrated=False)), strict=True)),
    }


def _retrieved(row: object, demonstration: Demonstration) -> dict:
    place = {"text": demonstration.text, "label": demonstration.label, "line": demonstration.line}
    return {"layer": int(row.layer), **place, "weight": float(row.weight)}


# Evaluating --------------------------------------------------------------------------------------------------------


def evaluate(
    studio: Studio,
    key: str,
    document: int | None,
    test: Source | None,
    *,
    n_texts: float | None = TEXTS,
    in_window: float | None = IN_WINDOW,
    sizes: Sequence[int | None] = (*SIZES, None),
) -> Iterator[EvaluationView]:
    """Measure accuracy on a test file against the number of demonstrations in memory; None of `sizes` is all.

    A stop keeps what there is.
    """
    session = studio.store.get(key)
    result = None
    try:
        with session.stops.working(Work.EVALUATING) as stop, alone(session):
            for step in measured(studio, session, document, test, n_texts, in_window, sizes, stop):
                result = step.result or result
                yield EvaluationView(step.progress, result=step.result, busy=True)
        if not stop.is_set():
            status = markup.note(f"Done: {result['texts']} texts", "done")
        elif result:
            status = markup.note("Stopped: what was measured until then stays.", "stopped")
        else:
            status = markup.note("Stopped before anything was measured: evaluate again when you like.", "stopped")
        yield EvaluationView(status, result=result)
    except Exception as error:
        yield EvaluationView("", said(error), result=result)


def measured(
    studio: Studio,
    session: Session,
    document: int | None,
    test: Source | None,
    n_texts: float | None,
    in_window: float | None,
    sizes: Sequence[int | None],
    stop: threading.Event,
) -> Iterator[Measuring]:
    """Check what is asked for, then `measure`; the banks count as part of the session's while they are filled."""
    _, shown = chosen_set(session, document)
    if test is None:
        raise LongMemError("No test file is chosen: choose one, or take the sample's.")
    if not sizes:
        raise LongMemError("No number of demonstrations is chosen: choose one at least.")
    tests = test.rows()
    check_tests(tests, shown.labels, test.name)
    tests = draw_items(tests, whole_number("Texts", n_texts, 1, 100_000), seed=1)
    window = whole_number("In the window", in_window, 0, MAX_IN_WINDOW)
    sizes = [None if size is None else whole_number("Demonstrations in memory", size, 0, 10**9) for size in sizes]

    def reserve(bank: MemoryBank, n_tokens: int, text: str) -> None:
        studio.store.reserve(session, session.bank.nbytes + bank.nbytes_with(n_tokens, text))

    n_read = len(shown.document.text) * len(sizes) + sum(len(test.text) for test in tests) * len(shown.labels)
    try:
        # What a worker fills with its own banks is not this process's memory.
        options = {"in_window": window, "sizes": sizes, "reserve": None if studio.zero_gpu else reserve}
        options["silence"] = studio.silent_layers(session)
        effort = Effort(read=n_read)
        yield from studio.work(measure_for, session, shown, tests, options, effort=effort, stop=stop)
    finally:
        studio.store.settle(session)


def measure_for(
    model: LongMemForCausalLM,
    session: Session,
    shown: DemonstrationSet,
    tests: Sequence[Demonstration],
    options: dict,
    *,
    stop: threading.Event,
) -> Iterator[Measuring]:
    """`measure`, of no session."""
    return measure(model, shown, tests, stop=stop, **options)


def whole_number(option: str, value: object, least: int, most: int) -> int:
    """A number from a form. Errors: LongMemError naming the option, the value and what is allowed."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    if not is_number or value != int(value) or not least <= value <= most:
        raise LongMemError(f"{option} is {value!r}; it must be a whole number from {least:,} to {most:,}.")
    return int(value)
