"""The lock of a session: what a visitor asks for comes first, what is measured for them in the background gives way."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

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
