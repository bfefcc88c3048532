"""Options of a dataclass, given in words where typer is not installed."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

from longmem.evaluation.__main__ import MODULES
from longmem.evaluation.results import Options
from longmem.options import add_options


@dataclass(frozen=True)
class Wanted:
    model: str | Callable
    lengths: tuple[int, ...] = (1, 2)
    files: tuple[Path, ...] = ()
    names: tuple[str, ...] | None = None
    most: int | None = None
    full: bool = False
    tell: Callable | None = None
    command: str = ""


def given(*words: str) -> Wanted:
    parser = argparse.ArgumentParser()
    add_options(parser, Wanted, leave_out=["command"])
    return Wanted(**vars(parser.parse_args(words)))


def test_every_field_that_words_can_give_has_an_option():
    words = ["--model", "m", "--lengths", "4,8", "--files", "a", "b", "--files", "c", "--names", "x, y", "--most", "3"]
    files = (Path("a"), Path("b"), Path("c"))
    assert given(*words, "--full") == Wanted("m", (4, 8), files, ("x", "y"), 3, True)


def test_what_is_not_given_is_as_the_dataclass_has_it():
    assert given("--model", "m") == Wanted("m")


@pytest.mark.parametrize("words", [[], ["--model", "m", "--lengths", "4,b"], ["--model", "m", "--command", "x"]])
def test_what_is_missing_or_wrong_is_said(words, capsys):
    with pytest.raises(SystemExit) as ended:
        given(*words)
    assert ended.value.code == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize("name", MODULES)
def test_every_evaluation_has_what_starting_it_needs(name):
    module = import_module(f"longmem.evaluation.{MODULES[name]}")
    assert issubclass(getattr(module, f"{name.title()}Options"), Options)
    assert callable(getattr(module, f"measure_{name}"))
    assert callable(module.table)
