"""The tables of a run as files: CSV for a spreadsheet, Parquet and JSON for programs. The numbers are those on screen.

Formats:
  csv       the trace as one file that a spreadsheet opens at once
  csv-zip   every table, one CSV file each
  parquet   every table, one Parquet file each, in a zip; dtypes and floats as they are
  json      one record (see `run_records`) without the documents' texts; floats come back to the last bit

CSV is UTF-8 with a byte order mark (else Excel takes it for another encoding), with floats of 9 digits: enough for the
last bit of a float32. A cell of text that a spreadsheet would take for a formula gets an apostrophe before it. So does
what follows a semicolon, a bar, a tab or a new line inside a cell: a spreadsheet that parts cells there, as many do
outside America, would begin a cell with it. To have the text back, take the apostrophes away (`plain_cell`,
`read_csv`).
"""

import io
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from app.run_records import TABLES, TEXTS, RunFileError, tables_of, to_record
from app.session import Run
from longmem.errors import LongMemError

MAIN = "trace"
GUARD = "'"
# Where a cell begins, or would if it were parted there; then what a spreadsheet passes over before a formula. The wide
# signs begin one where the language of the system is an East Asian one.
_BEGINS = r"(?:\A|(?<=[;|\t\r\n]))"
_FORMULA = r'(?:[^\S\t\r\n]|")*[=+\-@＝＋－＠]'
_UNGUARDED = re.compile(rf"{_BEGINS}(?={GUARD}*{_FORMULA})|\A(?={GUARD}*[\t\r\n])")
_GUARDED = re.compile(rf"{_BEGINS}{GUARD}(?={GUARD}*{_FORMULA})|\A{GUARD}(?={GUARD}*[\t\r\n])")
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the same run gives the same bytes


@dataclass(frozen=True)
class ExportedFile:
    """A file to be offered under a harmless name."""

    name: str
    data: bytes


def export_trace(run: Run, format: str) -> ExportedFile:
    """The run's tables in one of FORMATS. Errors: LongMemError where there is no such format."""
    if format not in FORMATS:
        raise LongMemError(f"format is {format!r}; it must be one of {', '.join(FORMATS)}.")
    suffix, make = FORMATS[format]
    return ExportedFile(file_name(run, suffix), make(run))


def file_name(run: Run, suffix: str) -> str:
    """`longmem-run-3-` and the suffix, or the method where it is not LongMem: no word of a visitor is in it."""
    return f"{_method_name(run) or 'longmem'}-run-{int(run.number)}-{suffix}"


def _method_name(run: Run) -> str:
    """The label of the run's method as a part of a file's name."""
    return "-".join(re.findall("[a-z]+", run.recipe.method.lower()))


def _tables(run: Run) -> dict[str, pd.DataFrame]:
    """The run's tables; of a method that is not LongMem every row says so in a last column, `method`."""
    labels = {"method": run.recipe.method} if run.recipe.method else {}
    return {name: frame.assign(**labels) for name, frame in tables_of(run).items()}


def spreadsheet_cell(text: str) -> str:
    """Text of which no spreadsheet computes anything."""
    return _UNGUARDED.sub(GUARD, text)


def plain_cell(cell: str) -> str:
    """What `spreadsheet_cell` was given."""
    return _GUARDED.sub("", cell)


def to_csv(frame: pd.DataFrame) -> bytes:
    """One table as CSV."""
    guarded = frame.assign(**{c: frame[c].map(spreadsheet_cell) for c in frame.columns if c in TEXTS})
    return guarded.to_csv(index=False, float_format="%.9g", lineterminator="\r\n").encode("utf-8-sig")


def read_csv(data: bytes, table: str) -> pd.DataFrame:
    """A table of TABLES from what `to_csv` wrote: texts and whole numbers as they were, floats to 9 digits."""
    frame = pd.read_csv(io.BytesIO(data), dtype=TABLES[table], keep_default_na=False, encoding="utf-8-sig")
    return frame.assign(**{c: frame[c].map(plain_cell).astype("str") for c in frame.columns if c in TEXTS})


def _csv(run: Run) -> bytes:
    return to_csv(_tables(run)[MAIN])


def _csv_zip(run: Run) -> bytes:
    return _zipped({f"{name}.csv": to_csv(frame) for name, frame in _tables(run).items()})


def _parquet(run: Run) -> bytes:
    files = {}
    for name, frame in _tables(run).items():
        buffer = io.BytesIO()
        frame.to_parquet(buffer, engine="pyarrow", index=False)
        files[f"{name}.parquet"] = buffer.getvalue()
    return _zipped(files)


def _json(run: Run) -> bytes:
    try:
        return json.dumps(to_record(run, with_sources=False), allow_nan=False).encode()
    except ValueError as error:
        raise RunFileError(
            "The run holds a number that is not finite, which JSON cannot hold: take Parquet."
        ) from error


def _zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, LONG_AGO), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


FORMATS: dict[str, tuple[str, Callable[[Run], bytes]]] = {
    "csv": ("trace.csv", _csv),
    "csv-zip": ("tables-csv.zip", _csv_zip),
    "parquet": ("tables-parquet.zip", _parquet),
    "json": ("tables.json", _json),
}
