"""Texts that are being written by threads, several at a time, and that can be left at once."""

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress

from longmem.generation import GeneratedToken, Generation

POLL_SECONDS = 0.05  # how soon a stop is seen while a token is awaited


class Writing:
    """One text; `generation` holds its trace once `end` has been called. `stop` is the generation's own event."""

    def __init__(self, generation: Generation, stop: threading.Event):
        self.generation = generation
        self.is_running = True
        self._stop = stop
        self._inbox: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=self._collect, name="longmem-write", daemon=True).start()

    def next(self, stop: threading.Event) -> GeneratedToken | None:
        """The next token; None where the text has ended or `stop` is set. Errors of the generation are raised here."""
        while self.is_running and not stop.is_set():
            with suppress(queue.Empty):
                return self._take(POLL_SECONDS)
        return None

    def end(self) -> list[GeneratedToken]:
        """Stop, wait until the thread no longer touches the bank, and give the tokens that nobody has taken yet."""
        self._stop.set()
        left = []
        with suppress(Exception):
            while self.is_running:
                left.append(self._take(None))
        return [token for token in left if token is not None]

    def _collect(self) -> None:
        try:
            for token in self.generation:
                self._inbox.put(token)
            self._inbox.put(None)
        except BaseException as error:  # handed to whoever takes the tokens
            self._inbox.put(error)

    def _take(self, timeout: float | None) -> GeneratedToken | None:
        item = self._inbox.get(timeout=timeout)
        self.is_running = isinstance(item, GeneratedToken)
        if isinstance(item, BaseException):
            raise item
        return item


def write(writings: Sequence[Writing], stop: threading.Event) -> Iterator[list[GeneratedToken | None]]:
    """A token of each text at a time, None for those that have ended, until all have or `stop` is set."""
    while any(writing.is_running for writing in writings) and not stop.is_set():
        tokens = [writing.next(stop) for writing in writings]
        if any(token is not None for token in tokens):
            yield tokens
