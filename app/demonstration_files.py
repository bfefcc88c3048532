"""Files of labelled examples: which columns they have, and how their demonstrations will be written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from app import demonstration_markup, markup
from app.handlers import said
from app.reading import SAMPLES
from longmem.demonstrations import (
    SENTIMENT_TEMPLATE,
    SUBJECTIVITY_TEMPLATE,
    Demonstration,
    DemonstrationSet,
    Template,
    column_names,
    read_demonstrations,
    sort_rows,
)
from longmem.errors import LongMemError

FILE_TYPES = [".csv", ".tsv", ".jsonl", ".ndjson"]
COUNTED = 50  # demonstrations whose tokens are counted to estimate those of all
TEXT_COLUMNS = "text sentence review entry input question phrase content".split()
LABEL_COLUMNS = "label class sentiment course type category target answer output".split()


@dataclass(frozen=True)
class Source:
    """A file of labelled examples and how to read it; `skip_wrong` leaves out the rows that cannot be used."""

    path: str
    text_column: str
    label_column: str
    pattern: str
    skip_wrong: bool = False

    def load(self) -> DemonstrationSet:
        """The demonstrations as a document. Errors: DemonstrationError."""
        return DemonstrationSet.from_demonstrations(self.rows(), Template(self.pattern), self.name)

    def rows(self) -> list[Demonstration]:
        """The demonstrations themselves. Errors: DemonstrationError."""
        return read_demonstrations(self.path, skip_bad=self.skip_wrong, **self.columns)

    @property
    def name(self) -> str:
        return Path(self.path).name

    @property
    def columns(self) -> dict[str, str]:
        return {"text_column": self.text_column, "label_column": self.label_column}


SAMPLE = Source(str(SAMPLES / "sailings.csv"), "entry", "course", "{text} {label}.\n")
SAMPLE_TEST = Source(str(SAMPLES / "sailings-test.csv"), "entry", "course", "{text} {label}.\n")
SAMPLE_TEXT = "Sailed at dusk, with green ink, the Wild Sparrow"
TEMPLATES = {
    "text, label": "{text} {label}.\n",
    "text => label": "{text} => {label}\n",
    "Review … Sentiment": SENTIMENT_TEMPLATE.pattern,
    "Input … Type": SUBJECTIVITY_TEMPLATE.pattern,
    "Question, answer": "Q: {text} A: {label}. ",
}


@dataclass(frozen=True)
class FileView:
    """A file that was chosen: its columns, those that look like text and label, and what is wrong with it."""

    columns: list[str]
    text_column: str | None
    label_column: str | None
    notice: str = ""


def inspect_file(path: str | None) -> FileView:
    """The columns of a file that the server itself gave to an upload, or of the sample."""
    if not path:
        return FileView([], None, None)
    try:
        columns = column_names(path)
    except LongMemError as error:
        return FileView([], None, None, said(error))
    text = next((c for c in columns if c.lower() in TEXT_COLUMNS), columns[0])
    label = next((c for c in columns if c.lower() in LABEL_COLUMNS and c != text), columns[-1])
    return FileView(columns, text, label)


def preview(tokenizer: PreTrainedTokenizerFast, capacity: int, source: Source | None, text: str) -> str:
    """HTML of the first demonstrations as they will be written, the prompt of `text`, and the wrong rows.

    capacity: tokens that memory holds.
    """
    if source is None:
        return markup.note("Choose a file, or take the sample: its first demonstrations appear here.")
    try:
        template = Template(source.pattern)
        demonstrations, wrong = sort_rows(source.path, **source.columns)
        about = _about(tokenizer, capacity, demonstrations, template)
        return demonstration_markup.preview(
            demonstrations, wrong, template, text or "a new text", about, left_out=source.skip_wrong
        )
    except LongMemError as error:
        return markup.note(str(error), "failed")


def _about(
    tokenizer: PreTrainedTokenizerFast, capacity: int, demonstrations: Sequence[Demonstration], template: Template
) -> str:
    """How many tokens they will take, estimated by the first of them, and whether memory holds so many."""
    first = "".join(template.render(demonstration) for demonstration in demonstrations[:COUNTED])
    if not first:
        return "nothing to read"
    counted = len(tokenizer(first, add_special_tokens=False, verbose=False)["input_ids"])
    tokens = round(counted / min(COUNTED, len(demonstrations)) * len(demonstrations))
    if tokens <= capacity:
        return f"about {tokens:,} tokens of the {capacity:,} that memory holds"
    kept = round(len(demonstrations) * capacity / tokens)
    return f"about {tokens:,} tokens: memory holds {capacity:,}, the newest {kept:,} or so will stay, the oldest leave"
