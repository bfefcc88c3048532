"""Whose turn it is in a session: what a visitor asks for comes first, what is measured in the background gives way.

And what a stop ends: the work that it was pressed for, whatever else the visitor has asked for meanwhile.
"""

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

PATIENCE = 5.0  # seconds that an action waits for the step that is being measured, and measuring for an action


class TurnLock:
    """A lock with two kinds of holders.

    An action (`acquire`, or `with lock`) is refused while another one holds the lock, but waits for what is measured
    `aside`. Measuring takes the lock for one short step at a time, and no step begins while an action waits.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._acting = self._measuring = False
        self._n_waiting = 0

    def locked(self) -> bool:
        """Whether an action holds the lock."""
        return self._acting

    def acquire(self, timeout: float = 0.0) -> bool:
        """Take the lock for an action; waits for a step that is measured, and `timeout` seconds for another action."""
        with self._changed:
            self._n_waiting += 1
            try:
                free = self._changed.wait_for(lambda: not self._acting, timeout)
                free = free and self._changed.wait_for(lambda: not (self._acting or self._measuring), PATIENCE)
                self._acting |= free
                return free
            finally:
                self._n_waiting -= 1
                self._changed.notify_all()

    def release(self) -> None:
        """Let an action's lock go."""
        with self._changed:
            self._acting = False
            self._changed.notify_all()

    def __enter__(self) -> "TurnLock":
        self.acquire(threading.TIMEOUT_MAX)
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    @contextmanager
    def aside(self, patience: float = PATIENCE) -> Iterator[bool]:
        """Hold the lock for one step of measuring, as soon as no action has it or waits; False where that took long."""
        with self._changed:
            free = self._changed.wait_for(lambda: not (self._acting or self._measuring or self._n_waiting), patience)
            self._measuring |= free
        try:
            yield free
        finally:
            if free:
                with self._changed:
                    self._measuring = False
                    self._changed.notify_all()


class Work(StrEnum):
    """Kinds of work, each with a Stop button of its own. A small run of an evaluation is a kind by the page's name."""

    READING = "reading"
    EXAMPLES = "reading examples"
    GENERATING = "generating"
    SCORING = "scoring"
    AGAIN = "running again"
    EVALUATING = "evaluating examples"


class Stops:
    """The events that end a visitor's work, one for each piece of it.

    Pieces of one kind take their turns in the order in which they were asked for. A stop reaches the one that runs, or,
    where none does yet, the first that waits: never one that is asked for afterwards, or of another kind.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: defaultdict[str, list[threading.Event]] = defaultdict(list)
        self._running: defaultdict[str, list[threading.Event]] = defaultdict(list)

    def prepare(self, work: str) -> None:
        """A piece of work is asked for and waits for its turn; a stop that is pressed meanwhile counts."""
        with self._lock:
            self._waiting[work].append(threading.Event())

    @contextmanager
    def working(self, work: str) -> Iterator[threading.Event]:
        """The event of the piece that begins now: the first that was prepared, or a new one where none was."""
        with self._lock:
            waiting = self._waiting[work]
            stop = waiting.pop(0) if waiting else threading.Event()
            self._running[work].append(stop)
        try:
            yield stop
        finally:
            with self._lock:
                self._running[work].remove(stop)

    def stop(self, work: str) -> None:
        """End the piece of this kind that runs, or else the first that waits and is not stopped already."""
        with self._lock:
            waiting = [stop for stop in self._waiting[work] if not stop.is_set()]
            for stop in (self._running[work] or waiting)[:1]:
                stop.set()

    def stop_all(self) -> None:
        """End everything, whether it runs or waits."""
        with self._lock:
            for events in (*self._running.values(), *self._waiting.values()):
                for stop in events:
                    stop.set()
