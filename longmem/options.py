"""What every command line here shares, with typer and without: options of a dataclass, what was typed, tables.

Nothing that is slow to import stands here.
"""

import argparse
import os
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import UnionType
from typing import get_args, get_origin


def typed(module: str = "longmem") -> str:
    """What was typed, as anyone could type it: files by their names, and without where the result went.

    Files of one name are told apart by their folder's.
    """
    names = Counter(os.path.basename(word) for word in sys.argv[1:])
    words, rest = ["python", "-m", module], iter(sys.argv[1:])
    for word in rest:
        if word == "--json":
            next(rest, None)
        elif word != "--resume":
            is_file = os.sep in word and os.path.exists(word)
            words.append("/".join(Path(word).parts[-min(2, names[os.path.basename(word)]) :]) if is_file else word)
    return shlex.join(words)


def show(rows: list[list[str]]) -> None:
    """A table on standard output, the first column to the left and the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(others, widths[1:], strict=True))]
        print("  ".join(cells).rstrip())


def add_options(parser: argparse.ArgumentParser, kind: type, leave_out: Sequence[str] = ()) -> None:
    """An option for every field of a dataclass that words can give: `max_items: int | None` is `--max-items N`.

    A tuple of paths takes several words, any other tuple one word with commas. What is not given is not in the
    namespace, so that the dataclass's own default holds.
    """
    for field in fields(kind):
        if field.name not in leave_out and (found := _argument(field)):
            required = field.default is MISSING and field.default_factory is MISSING
            name = f"--{field.name.replace('_', '-')}"
            parser.add_argument(name, required=required, default=argparse.SUPPRESS, **found)


def _argument(field: Field) -> dict | None:
    """What argparse is told of a field, or None for one that no words can give (a callback, an event)."""
    for kind in get_args(field.type) if isinstance(field.type, UnionType) else (field.type,):
        if kind is bool:
            return {"action": argparse.BooleanOptionalAction}
        if kind in (int, float, str, Path):
            return {"type": kind}
        if get_origin(kind) is tuple:
            return _tuple_argument(get_args(kind)[0])
    return None


def _tuple_argument(kind: type) -> dict:
    if kind is Path:
        return {"action": _AsTuple, "type": Path, "nargs": "+"}

    def commas(text: str) -> tuple:
        return tuple(kind(part.strip()) for part in text.split(","))

    return {"type": commas, "metavar": "A,B"}


class _AsTuple(argparse.Action):
    """Several words, of one option or of a repeated one, as one tuple."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Sequence,
        option: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, (*getattr(namespace, self.dest, ()), *values))
