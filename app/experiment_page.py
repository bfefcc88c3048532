"""What a page of the experiments is made of; the pages themselves are in `app.experiment_pages_paper` and `_own`."""

from dataclasses import dataclass
from pathlib import Path

from app.experiment_charts import Chart


@dataclass(frozen=True)
class Knob:
    """A whole number of a small run, `least` to `most`, that the visitor may change."""

    label: str
    value: int
    least: int
    most: int


@dataclass(frozen=True)
class Page:
    """One evaluation. published: rows of a table, the first its head; caveat: how sure they are.

    command: makes a recorded result; unit: what a run counts; small: what its small run does and how long it takes.
    """

    title: str
    heading: str
    question: str
    method: str
    published: tuple[tuple[str, ...], ...]
    caveat: str
    command: str
    charts: tuple[Chart, ...]
    unit: str
    small: str
    knobs: dict[str, Knob]
    takes_text: bool = True

    @property
    def recorded_as(self) -> str:
        """The file, without its ending, that the command writes."""
        return Path(self.command.rpartition("--json ")[2]).stem
