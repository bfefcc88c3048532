"""Demonstrations: labelled examples from JSONL, CSV or TSV, and the template that turns them into a document.

The paper fills its memory with 2,000 of them and asks for the label of a new text (section 3.4 of arXiv 2306.07174).
"""

import csv
import io
import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path, PurePath
from typing import Self

from longmem.confined import decode
from longmem.documents import Document, clean_name, clean_text
from longmem.errors import DemonstrationError, DocumentError
from longmem.readers import MEGABYTE, read_bytes

JSON_LINES = (".jsonl", ".ndjson")
N_LISTED = 10  # wrong rows, or columns, that an error lists one by one
MOST_BYTES = 16 * MEGABYTE  # the paper's 2,000 demonstrations are 0.3 MB
MOST_ROWS = 200_000
MOST_ROW = 1_000_000  # characters
QUOTED = re.compile('"((?:[^"]|"")*)"')


@dataclass(frozen=True)
class Demonstration:
    """A labelled example and the line of its file (from 1) on which it starts."""

    text: str
    label: str
    line: int


@dataclass(frozen=True)
class WrongRow:
    """A row that is no demonstration: the line on which it starts, and what is wrong with it."""

    line: int
    problem: str


@dataclass(frozen=True)
class Template:
    """How a demonstration is written: text with `{text}` and, after it, `{label}`, each once.

    Everything else is taken as it stands, in the pattern and above all in the demonstrations: nothing is formatted, so
    braces are safe in both. Errors: DemonstrationError where a field is missing, repeated or out of order.
    """

    pattern: str

    def __post_init__(self) -> None:
        shown = f"The template {self.pattern[:200]!r}"
        for field in ("{text}", "{label}"):
            if (count := self.pattern.count(field)) != 1:
                times = "not at all" if count == 0 else f"{count} times"
                raise DemonstrationError(f"{shown} holds {field} {times}: it must hold it once.")
        if self.pattern.index("{label}") < self.pattern.index("{text}"):
            raise DemonstrationError(f"{shown} has {{label}} before {{text}}: the label must come after its text.")

    def render(self, demonstration: Demonstration) -> str:
        """The demonstration as it stands in the document."""
        before, between, after = self._pieces()
        return clean_text(f"{before}{demonstration.text}{between}{demonstration.label}{after}")

    def prompt(self, text: str) -> str:
        """What stands before the label of `text`, without white space at its end (a label's token begins with one)."""
        before, between, _ = self._pieces()
        return clean_text(f"{before}{text}{between}").rstrip()

    def _pieces(self) -> tuple[str, str, str]:
        """What stands before the text, between text and label, and after the label."""
        before, _, rest = self.pattern.partition("{text}")
        between, _, after = rest.partition("{label}")
        return before, between, after


# The paper's, for SST-2, SST-5, MR and MPQA, and for Subj.
SENTIMENT_TEMPLATE = Template("Review: {text} Sentiment: {label}. ")
SUBJECTIVITY_TEMPLATE = Template("Input: {text} Type: {label}. ")
PAPER_TEMPLATES = {
    "sst2": SENTIMENT_TEMPLATE,
    "sst5": SENTIMENT_TEMPLATE,
    "mr": SENTIMENT_TEMPLATE,
    "mpqa": SENTIMENT_TEMPLATE,
    "subj": SUBJECTIVITY_TEMPLATE,
}


@dataclass(frozen=True)
class DemonstrationSet:
    """A document made of demonstrations: number i begins at character `starts[i]` and ends where i + 1 begins."""

    document: Document
    demonstrations: tuple[Demonstration, ...]
    starts: tuple[int, ...]
    template: Template

    @classmethod
    def from_demonstrations(cls, demonstrations: Sequence[Demonstration], template: Template, name: str) -> Self:
        """All demonstrations rendered one after another. Errors: DemonstrationError where there are none."""
        if not demonstrations:
            raise DemonstrationError(f"{name} holds no demonstrations: give one at least.")
        rendered = [template.render(demonstration) for demonstration in demonstrations]
        starts = tuple(accumulate((len(text) for text in rendered[:-1]), initial=0))
        return cls(Document(name, "".join(rendered)), tuple(demonstrations), starts, template)

    @property
    def labels(self) -> tuple[str, ...]:
        """The different labels, in alphabetical order."""
        return tuple(sorted({demonstration.label for demonstration in self.demonstrations}))

    def at(self, character: int) -> Demonstration:
        """The demonstration to which a character of the document belongs. Errors: DemonstrationError outside of it."""
        if not 0 <= character < len(self.document.text):
            last = len(self.document.text) - 1
            raise DemonstrationError(f"Character {character} is not in {self.document.name}: 0 to {last} are.")
        return self.demonstrations[bisect_right(self.starts, character) - 1]

    def shares(self, start: int, stop: int) -> list[tuple[int, float]]:
        """The numbers of the demonstrations that characters start..stop belong to, and the share of each (sum 1)."""
        first, last = bisect_right(self.starts, start) - 1, bisect_right(self.starts, max(start, stop - 1)) - 1
        cuts = [start, *self.starts[first + 1 : last + 1], max(stop, start + 1)]
        return [(first + i, (cuts[i + 1] - cuts[i]) / (cuts[-1] - start)) for i in range(len(cuts) - 1)]


def to_document(demonstrations: Sequence[Demonstration], template: Template, name: str) -> Document:
    """The document of `DemonstrationSet.from_demonstrations`, for whoever does not ask which character is whose."""
    return DemonstrationSet.from_demonstrations(demonstrations, template, name).document


def read_demonstrations(
    path_or_name_and_bytes: str | Path | tuple[str, bytes],
    *,
    text_column: str = "text",
    label_column: str = "label",
    skip_bad: bool = False,
) -> list[Demonstration]:
    """The labelled examples of a JSONL, CSV or TSV file, given by path or as (name, bytes).

    JSONL: an object a line. CSV: a header, quotes as in RFC 4180. TSV: a header, tabs separate, a line is a row, and
    quotes count only around a whole field. White space around texts and labels goes; a label may be a whole number.
    Errors: DemonstrationError with the first wrong rows by line number, or, if `skip_bad`, where no row is left.
    """
    demonstrations, wrong = sort_rows(path_or_name_and_bytes, text_column=text_column, label_column=label_column)
    name = _name(path_or_name_and_bytes)
    if wrong and not (skip_bad and demonstrations):
        listed = [f"line {row.line}: {row.problem}" for row in wrong]
        raise DemonstrationError(_complaint(name, listed, len(wrong) + len(demonstrations)))
    if not demonstrations:
        raise DemonstrationError(f"{name} holds no demonstrations: give one at least.")
    return demonstrations


def sort_rows(
    path_or_name_and_bytes: str | Path | tuple[str, bytes], *, text_column: str = "text", label_column: str = "label"
) -> tuple[list[Demonstration], list[WrongRow]]:
    """The rows of such a file that are demonstrations, and those that are not.

    Errors: DemonstrationError where the file cannot be read, or has not these columns.
    """
    name, text = _name_and_text(path_or_name_and_bytes)
    demonstrations, wrong = [], []
    for number, (line, fields) in enumerate(_rows(name, text, (text_column, label_column))):
        if number == MOST_ROWS:
            raise DemonstrationError(f"{name} has more than {MOST_ROWS:,} rows, the most that are read: split it.")
        problem = fields if isinstance(fields, str) else _problem(fields, text_column, label_column)
        if problem:
            wrong.append(WrongRow(line, problem))
        else:
            demonstrations.append(Demonstration(_field(fields[text_column]), _field(fields[label_column]), line))
    return demonstrations, wrong


def column_names(path_or_name_and_bytes: str | Path | tuple[str, bytes]) -> list[str]:
    """The columns of such a file: of its header, or of the objects in its first lines, in their order.

    Errors: DemonstrationError where the file cannot be read, or has none.
    """
    name, text = _name_and_text(path_or_name_and_bytes)
    rows = _raw_rows(name, text)
    if PurePath(name).suffix.lower() in JSON_LINES:
        rows = (fields for _, fields in islice(rows, N_LISTED) if isinstance(fields, dict))
        columns = list(dict.fromkeys(column for fields in rows for column in fields))
    else:
        _, header = next(rows, (1, []))
        columns = [column.strip() for column in header] if isinstance(header, list) else []
    if not columns:
        raise DemonstrationError(f"{name} names no columns: its first line must name them, or be a JSON object.")
    return columns


def _name(path_or_name_and_bytes: str | Path | tuple[str, bytes]) -> str:
    given = path_or_name_and_bytes
    return clean_name(given[0] if isinstance(given, tuple) else Path(given).name)


def _name_and_text(path_or_name_and_bytes: str | Path | tuple[str, bytes]) -> tuple[str, str]:
    given, name = path_or_name_and_bytes, _name(path_or_name_and_bytes)
    try:
        data = given[1] if isinstance(given, tuple) else read_bytes(given)
        if len(data) > MOST_BYTES:
            raise DemonstrationError(f"{name} is larger than {MOST_BYTES // MEGABYTE} MB, the most that is read.")
        return name, clean_text(decode(name, data))
    except DocumentError as error:
        raise DemonstrationError(str(error)) from error


def _rows(name: str, text: str, columns: tuple[str, str]) -> Iterator[tuple[int, dict[str, object] | str]]:
    """Each row as (line, its fields by column, or what is wrong with it)."""
    rows = _raw_rows(name, text)
    return rows if PurePath(name).suffix.lower() in JSON_LINES else _table_rows(name, rows, columns)


def _raw_rows(name: str, text: str) -> Iterator[tuple[int, dict[str, object] | list[str] | str]]:
    """Each row as (line, its object or its fields, or what is wrong with it); of a table the first is the header."""
    extension = PurePath(name).suffix.lower()
    if extension in JSON_LINES:
        return _json_rows(text)
    if extension == ".csv":
        return _csv_rows(text)
    if extension == ".tsv":
        return _tsv_rows(text)
    raise DemonstrationError(f"{name} has the extension {extension!r}: allowed are .jsonl, .ndjson, .csv and .tsv.")


def _json_rows(text: str) -> Iterator[tuple[int, dict[str, object] | str]]:
    for line, row in enumerate(_lines(text), start=1):
        if len(row) > MOST_ROW:
            yield line, f"longer than {MOST_ROW:,} characters"
        elif row.strip():
            try:
                fields = json.loads(row)
            except (ValueError, RecursionError):
                fields = None
            yield line, fields if isinstance(fields, dict) else "not a JSON object"


def _lines(text: str) -> Iterator[str]:
    """One line after another, without a list of all; not splitlines: JSON strings may hold U+2028."""
    return (line.removesuffix("\n") for line in io.StringIO(text, newline="\n"))


def _csv_rows(text: str) -> Iterator[tuple[int, list[str] | str]]:
    reader = csv.reader(io.StringIO(text), strict=True)
    while True:
        line = reader.line_num + 1  # a quoted field may hold newlines: where the row starts, not where it ends
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, f"not CSV ({error})"
        else:
            if row:
                yield line, row


def _tsv_rows(text: str) -> Iterator[tuple[int, list[str] | str]]:
    for line, row in enumerate(_lines(text), start=1):
        if row.strip():
            yield line, [_unquote(field) for field in row.split("\t")]


def _unquote(field: str) -> str:
    """A field that a spreadsheet has put in quotes, without them; any other as it is."""
    quoted = QUOTED.fullmatch(field)
    return quoted[1].replace('""', '"') if quoted else field


def _table_rows(
    name: str, rows: Iterator[tuple[int, list[str] | str]], columns: tuple[str, str]
) -> Iterator[tuple[int, dict[str, object] | str]]:
    """Rows below a header, whose columns must include `columns`."""
    _, header = next(rows, (1, []))
    header = [column.strip() for column in header] if isinstance(header, list) else [header]
    for column in columns:
        if column not in header:
            found = ", ".join(repr(named[:80]) for named in header[:N_LISTED]) or "none"
            found += f" and {len(header) - N_LISTED:,} more" if len(header) > N_LISTED else ""
            raise DemonstrationError(f"{name} has no column {column!r}: its first line names {found}.")
    for line, row in rows:
        if isinstance(row, list) and len(row) != len(header):
            row = f"{len(row)} fields where the header names {len(header)}"
        yield line, row if isinstance(row, str) else dict(zip(header, row, strict=True))


def _problem(fields: dict[str, object], text_column: str, label_column: str) -> str | None:
    """What keeps a row from being a demonstration, or None."""
    for column in (text_column, label_column):
        value = fields.get(column)
        whole_number = column == label_column and isinstance(value, int) and not isinstance(value, bool)
        if column not in fields:
            return f"no {column!r}"
        if not isinstance(value, str) and not whole_number:
            return f"{column!r} is not text"
        if not _field(value):
            return f"{column!r} is empty"
    return None


def _field(value: object) -> str:
    """A field as text, cleaned as documents are, without white space around it."""
    return clean_text(str(value)).strip()


def _complaint(name: str, wrong: Sequence[str], n_rows: int) -> str:
    """One sentence listing the first wrong rows."""
    listed = "; ".join(wrong[:N_LISTED])
    rest = f"; and {len(wrong) - N_LISTED:,} more" if len(wrong) > N_LISTED else ""
    return f"{name}: {len(wrong):,} of {n_rows:,} rows cannot be used, mend or skip them: {listed}{rest}."
