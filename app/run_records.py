"""A run as plain data that JSON can hold, and back: nothing that is read is believed before it has been checked.

A record is `format, number, recipe, tables, sources`. A table is its columns by name, each a list of all rows, so that
`pandas.DataFrame(record["tables"]["trace"])` is the table. Floats are written so that they come back to the last bit.
"""

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import pandas as pd

from app.methods import METHODS
from app.session import OWN_TEXT, Recipe, Run, Source
from app.settings import Settings
from longmem.errors import LongMemError
from longmem.trace import COLUMNS, GATE_COLUMNS, TOKEN_COLUMNS, TOKEN_WEIGHT_COLUMNS

FORMAT = "longmem run 1"
KINDS = ("generated", "scored", "looked up")
TEXTS = {"token", "document", "text"}
EXACT = {"logprob", "logprob_empty", "effect"}  # float64; what the model measured inside is float32
MEASURED = {"score", "weight", "gate"}
CHUNK_COLUMNS = ["chunk", "document_id", "n_tokens", "first_token", "start", "end", "document", "position"]


def _dtypes(columns: list[str]) -> dict[str, str]:
    return {
        c: "str" if c in TEXTS else "float64" if c in EXACT else "float32" if c in MEASURED else "int64"
        for c in columns
    }


# The tables of a run: names, columns in order, dtypes.
TABLES = {
    "tokens": _dtypes(TOKEN_COLUMNS),
    "trace": _dtypes(COLUMNS),
    "gates": _dtypes(GATE_COLUMNS),
    "chunks": _dtypes(CHUNK_COLUMNS),
    "token_weights": _dtypes(TOKEN_WEIGHT_COLUMNS),
}
MOST_ROWS = 2_000_000
MOST_TOKENS = 65_536
MOST_LAYERS, MOST_HEADS = 256, 1024
MOST_SOURCES = 10_000
MOST_NUMBER = 2**31
SLACK = 1e-3  # how far a rounded logarithm may lie above 0, a sum of weights above 1


class RunFileError(LongMemError):
    """A saved run that is damaged or forged."""


def tables_of(run: Run) -> dict[str, pd.DataFrame]:
    """The run's tables with the columns and dtypes of TABLES, also where they are empty; values as they are."""
    return {name: getattr(run, name)[list(dtypes)].astype(dtypes) for name, dtypes in TABLES.items()}


def to_record(run: Run, *, with_sources: bool = True) -> dict:
    """The run as JSON-able data; without its sources the texts of the documents are left out, and it cannot be read."""
    recipe = run.recipe
    record = {
        "format": FORMAT,
        "number": run.number,
        "recipe": {
            "kind": recipe.kind,
            "prompt": recipe.prompt,
            "before": None if recipe.before is None else list(recipe.before),
            "settings": None if recipe.settings is None else asdict(recipe.settings),
            "silence": [list(pair) for pair in recipe.silence],
            "version": list(recipe.version),
            "method": recipe.method,
        },
        "tables": {
            name: {column: frame[column].tolist() for column in frame} for name, frame in tables_of(run).items()
        },
    }
    if with_sources:
        record["sources"] = {str(i): asdict(source) for i, source in run.sources.items()}
    return record


def from_record(record: object) -> Run:
    """The run of a record with sources. Errors: RunFileError, where anything in it is not as a run has it."""
    try:
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise RunFileError(f"it is not of the format {FORMAT!r}")
        tables = {name: _table(record["tables"], name, dtypes) for name, dtypes in TABLES.items()}
        sources = _sources(record["sources"])
        _check_tables(tables, sources)
        return Run(
            number=_whole(record["number"], "number", 1), recipe=_recipe(record["recipe"]), sources=sources, **tables
        )
    except KeyError as error:
        raise _refused(f"{error} is missing") from error
    except (LongMemError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise _refused(error) from error


def _refused(reason: object) -> RunFileError:
    return RunFileError(f"The run in this file cannot be shown: {str(reason).rstrip('.')[:200]}.")


def _whole(number: object, name: str, least: int = 0) -> int:
    if type(number) is not int or not least <= number < MOST_NUMBER:
        raise RunFileError(f"{name} is {str(number)[:40]!r}, not a whole number from {least}")
    return number


def _string(text: object, name: str) -> str:
    if not isinstance(text, str):
        raise RunFileError(f"{name} is no text")
    return text


def _wholes(numbers: object, name: str, n: int) -> tuple[int, ...]:
    if not isinstance(numbers, list) or len(numbers) != n:
        raise RunFileError(f"{name} is not {n} whole numbers")
    return tuple(_whole(number, name) for number in numbers)


def _silent(pair: object) -> tuple[int, int | None]:
    """A layer and a head that were off, or all of its heads."""
    if not isinstance(pair, list) or len(pair) != 2:
        raise RunFileError("what was switched off is not pairs of a layer and a head")
    return _whole(pair[0], "a layer"), None if pair[1] is None else _whole(pair[1], "a head")


def _recipe(found: Mapping) -> Recipe:
    if found["kind"] not in KINDS:
        raise RunFileError(f"its kind is {str(found['kind'])[:40]!r}, not one of {', '.join(KINDS)}")
    if found.get("method", "") not in METHODS:
        raise RunFileError(f"its method is {str(found['method'])[:40]!r}, not one of those known here")
    before, settings = found["before"], found["settings"]
    return Recipe(
        kind=found["kind"],
        prompt=_string(found["prompt"], "the prompt"),
        before=None if before is None else _wholes(before, "before", 2),
        settings=None if settings is None else Settings(**settings),
        silence=tuple(_silent(pair) for pair in found["silence"]),
        version=_wholes(found["version"], "version", 4),
        method=found.get("method", ""),
    )


def _sources(found: Mapping) -> dict[int, Source]:
    if len(found) > MOST_SOURCES:
        raise RunFileError(f"it names {len(found)} documents; at most {MOST_SOURCES} are allowed")
    sources = {}
    for i, source in found.items():
        number = OWN_TEXT if i == str(OWN_TEXT) else _whole(int(i), "a document's id")
        sources[number] = Source(_string(source["name"], "a document's name"), _string(source["text"], "a text"))
    return sources


def _table(found: Mapping, name: str, dtypes: Mapping[str, str]) -> pd.DataFrame:
    """One table with exactly its columns, all of one length, of the right types, all numbers finite."""
    columns = found[name]
    if set(columns) != set(dtypes):
        raise RunFileError(f"the table {name} has other columns than {', '.join(dtypes)}")
    lengths = {len(values) if isinstance(values, list) else -1 for values in columns.values()}
    if len(lengths) != 1 or not 0 <= max(lengths) <= MOST_ROWS:
        raise RunFileError(f"the columns of {name} are no lists of one length, at most {MOST_ROWS:,}")
    return pd.DataFrame({c: _column(columns[c], f"{name}.{c}", dtype) for c, dtype in dtypes.items()})


def _column(values: list, name: str, dtype: str) -> pd.Series:
    if dtype == "str":
        if not all(type(value) is str for value in values):
            raise RunFileError(f"{name} holds something else than text")
        return pd.Series(values, dtype="str")
    allowed = {int} if dtype == "int64" else {int, float}
    if not set(map(type, values)) <= allowed:
        raise RunFileError(f"{name} holds something else than {'whole ' if dtype == 'int64' else ''}numbers")
    with np.errstate(over="ignore"):
        numbers = np.array(values, dtype="int64" if dtype == "int64" else "float64").astype(dtype)
    if not np.isfinite(numbers).all():
        raise RunFileError(f"{name} holds a number that is not finite")
    return pd.Series(numbers)


def _check_tables(tables: dict[str, pd.DataFrame], sources: dict[int, Source]) -> None:
    """What the inspector and the charts rely on."""
    tokens, trace, gates, chunks = (tables[name] for name in ("tokens", "trace", "gates", "chunks"))
    if len(tokens) > MOST_TOKENS or list(tokens.step) != list(range(len(tokens))):
        raise RunFileError(f"its tokens are not counted from 0, or are more than {MOST_TOKENS:,}")
    if (tokens[["logprob", "logprob_empty"]] > SLACK).any(axis=None):
        raise RunFileError("a probability is above 1")
    if not np.allclose(tokens.effect, tokens.logprob - tokens.logprob_empty, rtol=0, atol=1e-6):
        raise RunFileError("an effect is not the difference of the two logarithms")
    if chunks.chunk.duplicated().any() or not set(chunks.document_id) <= set(sources):
        raise RunFileError("a chunk is there twice, or belongs to no document")
    for name in ("trace", "gates", "token_weights"):
        _check_places(name, tables[name], len(tokens))
    for name, spans in (("trace", trace), ("chunks", chunks)):
        if (spans.start < 0).any() or (spans.end < spans.start).any() or (spans.end >= MOST_NUMBER).any():
            raise RunFileError(f"{name} holds a stretch of text that is none")
    whole = chunks[["n_tokens", "first_token", "position"]]
    if (whole < 0).any(axis=None) or (whole >= MOST_NUMBER).any(axis=None) or (chunks.n_tokens < 1).any():
        raise RunFileError("a chunk has no place in memory")
    shares = [trace.weight, trace.gate, gates.gate, tables["token_weights"].weight]
    if any((share < 0).any() or (share > 1 + SLACK).any() for share in shares):
        raise RunFileError("a weight or gate is not from 0 to 1")


def _check_places(name: str, table: pd.DataFrame, n_tokens: int) -> None:
    """Steps, layers and heads that there can be: the charts have a row for each of them."""
    if not table.step.between(0, n_tokens - 1).all():
        raise RunFileError(f"{name} speaks of a token that is not there")
    if not table.layer.between(0, MOST_LAYERS - 1).all() or not table["head"].between(0, MOST_HEADS - 1).all():
        raise RunFileError(f"{name} speaks of a layer from {MOST_LAYERS} or a head from {MOST_HEADS} on, or below 0")
