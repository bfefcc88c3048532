"""What the pages of the experiments do: recorded results are looked up and drawn, small runs measured and drawn.

Plain values in and out, no components. A visitor's small runs are kept in their session; recorded results are files
that anyone may replace, so they are read whenever they are shown.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from app import charts, experiment_charts, experiment_markup, experiment_runs, markup
from app.charts import Figure
from app.experiment_page import Page
from app.experiment_pages import PAGES
from app.experiment_runs import Job, Update
from app.experiment_words import sample_size, verdict
from app.handlers import Studio, alone, said
from app.session import Session
from longmem.errors import LongMemError, Stopped

RESULTS = Path(__file__).parent.parent / "assets" / "results"
OWN_RUN = "own run"
NO_SIDENET = (
    "Small runs compare LongMem with its baselines and need a SideNet, which a training-free model does not have. What "
    "is recorded was measured with LongMem."
)
MALFORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


@dataclass(frozen=True)
class PageView:
    """What a page shows of one result: HTML, a figure and the HTML of its table for each chart, and the choice."""

    said: str
    figures: list[Figure]
    tables: list[str]
    choices: list[tuple[str, str]]
    chosen: str | None


@dataclass(frozen=True)
class RunView:
    """A small run as it goes; `page` is None where what is shown stays as it is."""

    status: str
    notice: str = ""
    busy: bool = False
    page: PageView | None = None


@dataclass(frozen=True)
class Wishes:
    """What a visitor chose for a small run: where the text comes from, the knobs, and files of demonstrations."""

    source: str | None
    numbers: dict[str, object]
    files: tuple[str | None, str | None] = field(default=(None, None))


class Experiments:
    """Recorded results in a folder, and small runs on the studio's model. `key` tells whose session is meant."""

    def __init__(self, studio: Studio, results: Path = RESULTS):
        self.studio = studio
        self.results = results

    # Looking -----------------------------------------------------------------------------------------------------

    def show(self, key: str, page: str, chosen: str | None = None) -> PageView:
        """A page with the chosen result; with the visitor's own run, or else the recorded one, if none is chosen."""
        session = self.studio.store.get(key)
        choices = self._choices(session, page)
        values = [value for _, value in choices]
        if chosen not in values:
            usual = f"{PAGES[page].recorded_as}.json"
            chosen = next((value for value in (OWN_RUN, usual, *values) if value in values), None)
        if chosen is None:
            return _view(page, experiment_markup.missing(PAGES[page]), None, choices, chosen)
        if chosen == OWN_RUN:
            return self._own(session.measured[page], page, choices)
        return self._recorded(chosen, page, choices)

    def sources(self, key: str) -> list[tuple[str, str]]:
        """(name, value) of the texts that a small run can use: those in memory, then the samples."""
        documents = list(self.studio.store.get(key).bank.documents.values())
        found = [(f"in memory: {record.name}", f"memory:{record.id}") for record in documents]
        if len(found) > 1:
            found.insert(0, ("in memory: all documents", "memory:all"))
        return found + [(f"sample: {name}", f"sample:{name}") for name in self.studio.shelf.names]

    def _choices(self, session: Session, page: str) -> list[tuple[str, str]]:
        files = [path for path in sorted(self.results.glob("*.json")) if self._is_of(path, page)]
        found = [(f"recorded: {path.stem}", path.name) for path in files]
        return [*found, ("small run: yours", OWN_RUN)] if page in session.measured else found

    def _is_of(self, path: Path, page: str) -> bool:
        """Whether a file is a result of this page's evaluation; a damaged one goes by its name."""
        try:
            return _read(path)["evaluation"] == page
        except LongMemError:
            return path.stem.partition("-")[0] == page

    def _recorded(self, name: str, page: str, choices: list[tuple[str, str]]) -> PageView:
        try:
            result = _read(self.results / name)
            words = experiment_markup.recorded(verdict(page, result), self._facts(page, result), result["command"])
            return _view(page, words, result, choices, name)
        except LongMemError as error:
            reason = str(error)
        except MALFORMED as error:
            reason = f"It has not the form of a result of this evaluation ({type(error).__name__}: {error})."
        return _view(page, experiment_markup.damaged(name, reason, PAGES[page]), None, choices, name)

    def _own(self, result: dict, page: str, choices: list[tuple[str, str]]) -> PageView:
        size = sample_size(page, result)
        words = experiment_markup.small_run(
            verdict(page, result), self._facts(page, result), size, bool(result.get("stopped"))
        )
        return _view(page, words, result, choices, OWN_RUN, small=size)

    def _facts(self, page: str, result: dict) -> list[tuple[str, str]]:
        fingerprint = result["model"]["fingerprint"]
        ours = self.studio.model.has_sidenet and fingerprint == self.studio.model.fingerprint
        other = "" if ours else ", another one than is loaded here"
        facts = [
            ("measured", result["date"]),
            ("how many", sample_size(page, result)),
            ("model", f"{fingerprint}{other}"),
        ]
        source = [("text", result["source"])] if "source" in result else []
        return [*facts, *source, ("settings", _settings(result["settings"]))]

    @property
    def refusal(self) -> str:
        """Why nothing can be run here; empty where it can."""
        return "" if self.studio.model.has_sidenet else NO_SIDENET

    # Running -----------------------------------------------------------------------------------------------------

    def prepare(self, key: str, page: str) -> None:
        """A stop of its own before the run waits for its turn: pressed while it waits it then still counts."""
        self.studio.prepare(key, page)

    def stop(self, key: str, page: str) -> None:
        """End the run after the item that it is at."""
        self.studio.stop(key, page)

    def run(self, key: str, page: str, wishes: Wishes) -> Iterator[RunView]:
        """Measure small, and show it; what had been measured before a stop stays."""
        session = self.studio.store.get(key)
        last = Update(0, 0, 0.0)
        try:
            if self.refusal:
                raise LongMemError(self.refusal)
            with session.stops.working(page) as stop:
                with alone(session):
                    texts, source = self._texts(session, page, wishes.source)
                job = Job(self.studio.model, texts, numbers(PAGES[page], wishes.numbers), *wishes.files)
                for last in experiment_runs.run(page, job, stop):
                    if last.result is not None:
                        session.measured[page] = last.result | {"source": source}
                    yield self._running(key, page, last)
            status = markup.note(*_ended(session.measured[page], last))
            yield RunView(status, page=self.show(key, page, OWN_RUN))
        except Stopped:
            yield RunView(markup.note("Stopped before anything had been measured: run it again any time.", "stopped"))
        except Exception as error:
            yield RunView(markup.note("Not measured: what to change is said above.", "failed"), notice=said(error))

    def _running(self, key: str, page: str, update: Update) -> RunView:
        status = experiment_markup.run_progress(PAGES[page].unit, update.done, update.total, update.seconds)
        seen = self.show(key, page, OWN_RUN) if update.result is not None and not update.ended else None
        return RunView(status, busy=True, page=seen)

    def _texts(self, session: Session, page: str, source: str | None) -> tuple[list[tuple[str, str]], str]:
        """The texts of a source, and what it is called. Errors: LongMemError where there is none."""
        if not PAGES[page].takes_text:
            return [], "labelled examples"
        place, _, name = (source or "").partition(":")
        if place == "sample":
            return [(name, self.studio.shelf.document(name).text)], f"sample {name}"
        documents = session.bank.documents
        chosen = [record for i, record in documents.items() if name in ("all", str(i))] if place == "memory" else []
        if not chosen:
            raise LongMemError("The text to measure on is not in memory any more: choose another one.")
        return [(record.name, record.text) for record in chosen], ", ".join(record.name for record in chosen)


def numbers(page: Page, given: dict[str, object]) -> dict[str, int]:
    """The numbers of a page's knobs. Errors: LongMemError naming the knob, the value and what is allowed."""
    found = {}
    for name, knob in page.knobs.items():
        value = given.get(name)
        whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
        if not whole or not knob.least <= value <= knob.most:
            shown = "empty" if value is None else value
            raise LongMemError(
                f"{knob.label} is {shown}; it must be a whole number from {knob.least:,} to {knob.most:,}."
            )
        found[name] = int(value)
    return found


def _read(path: Path) -> dict:
    """A result. Errors: LongMemError where the file is not one."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LongMemError(f"It cannot be read as JSON ({type(error).__name__}).") from error
    if not isinstance(result, dict) or "evaluation" not in result:
        raise LongMemError("It holds no result of an evaluation.")
    return result


def _view(
    page: str, words: str, result: dict | None, choices: list[tuple[str, str]], chosen: str | None, small: str = ""
) -> PageView:
    """A page of a result, or, without one, with empty charts."""
    drawn, tables = [], []
    for chart in PAGES[page].charts:
        if result is None:
            drawn.append(charts.empty_figure("Nothing to draw: see above."))
            tables.append("")
            continue
        figure, rows = experiment_charts.figure_of(chart, result, small=small)
        drawn.append(figure)
        tables.append(experiment_markup.details_table(chart.title, rows))
    return PageView(words, drawn, tables, choices, chosen)


def _ended(result: dict, last: Update) -> tuple[str, str]:
    """How a run ended, as a note and its kind."""
    took = markup.duration(last.seconds)
    if result.get("stopped"):
        return f"Stopped after {took}: what had been measured is shown.", "stopped"
    return f"Done in {took}: shown as «small run: yours».", "done"


def _settings(settings: dict) -> str:
    """Settings that say something, in one line."""
    shown = []
    for name, value in settings.items():
        if isinstance(value, list):
            value = ", ".join(dict.fromkeys(map(str, value)))
        if value in (None, "", False) or isinstance(value, dict):
            continue
        shown.append(f"{name.replace('_', ' ')} {value}")
    return " · ".join(shown)
