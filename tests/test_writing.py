"""Texts written by threads: side by side, left at once, and never left behind."""

import threading
import time
from collections.abc import Iterator

import pytest

from app.generating import begin
from app.settings import Settings
from app.writing import Writing, write
from longmem.generation import GeneratedToken

TOKEN = GeneratedToken(0, 5, "a", -1.0, -1.0)
NEVER = threading.Event()


def writing_of(tokens: Iterator[GeneratedToken], stop: threading.Event | None = None) -> Writing:
    return Writing(tokens, stop or threading.Event())


def test_a_text_that_ends_first_does_not_stop_the_other(tiny_model):
    short = begin(tiny_model, "The", Settings(2, 0.5, 0.9, 0), None)
    long = begin(tiny_model, "The", Settings(9, 0.5, 0.9, 0), None)
    pairs = list(write([short, long], NEVER))
    assert [pair[0] is None for pair in pairs] == [False] * 2 + [True] * 7


def test_a_stop_is_seen_while_a_token_is_awaited():
    release, stop = threading.Event(), threading.Event()

    def slow() -> Iterator[GeneratedToken]:
        yield TOKEN
        release.wait(20)
        yield TOKEN

    writing = writing_of(slow())
    tokens = write([writing], stop)
    assert next(tokens) == [TOKEN]
    threading.Timer(0.1, stop.set).start()
    began = time.monotonic()
    assert list(tokens) == []
    assert time.monotonic() - began < 2
    release.set()
    assert writing.end() == [TOKEN]  # what came too late is not lost: the trace has it too
    assert not writing.is_running


def test_ending_tells_the_generation_to_stop():
    stop = threading.Event()

    def endless() -> Iterator[GeneratedToken]:
        while not stop.is_set():
            time.sleep(0.001)
            yield TOKEN

    writing = writing_of(endless(), stop)
    writing.end()
    assert not writing.is_running


def test_errors_of_a_generation_are_raised_once_and_do_not_block_its_end():
    def broken() -> Iterator[GeneratedToken]:
        yield TOKEN
        raise RuntimeError("out of memory")

    writing = writing_of(broken())
    tokens = write([writing], NEVER)
    next(tokens)
    with pytest.raises(RuntimeError, match="out of memory"):
        next(tokens)
    assert writing.end() == []
