"""The lock of a session: actions exclude each other, and what is measured aside gives way to them."""

import threading
import time

from app.turns import TurnLock


def in_thread(work) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_an_action_is_refused_at_once_while_another_has_the_lock():
    lock = TurnLock()
    assert lock.acquire()
    assert lock.locked()
    began = time.monotonic()
    assert not lock.acquire()
    assert time.monotonic() - began < 1
    lock.release()
    assert not lock.locked()
    assert lock.acquire()


def test_with_a_timeout_an_action_waits_for_another():
    lock, taken = TurnLock(), []
    with lock:
        waiting = in_thread(lambda: taken.append(lock.acquire(30)))
        time.sleep(0.05)
        assert taken == []
    waiting.join(30)
    assert taken == [True]


def test_an_action_waits_for_the_step_that_is_measured_and_the_next_step_waits_for_the_action():
    lock, order, begun, go_on = TurnLock(), [], threading.Event(), threading.Event()

    def measure() -> None:
        for step in range(2):
            with lock.aside() as has_turn:
                order.append((f"step {step}", has_turn))
                begun.set()
                go_on.wait(30)

    def act() -> None:
        assert lock.acquire()
        order.append(("action", True))
        lock.release()

    measuring = in_thread(measure)
    assert begun.wait(30)
    assert not lock.locked()  # measuring is nothing that a visitor must wait for
    acting = in_thread(act)
    while not lock._n_waiting:
        time.sleep(0.001)
    go_on.set()
    acting.join(30)
    measuring.join(30)
    assert order == [("step 0", True), ("action", True), ("step 1", True)]


def test_a_step_does_not_begin_while_an_action_goes_on_for_long():
    lock = TurnLock()
    with lock, lock.aside(patience=0.01) as has_turn:
        assert not has_turn
    with lock.aside(patience=0.01) as has_turn:
        assert has_turn
