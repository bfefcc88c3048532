"""Actions exclude each other, what is measured aside gives way to them, and a stop ends what it was pressed for."""

import threading
import time

from app.turns import Stops, TurnLock, Work


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


def test_a_stop_reaches_what_runs_and_not_what_waits():
    stops = Stops()
    stops.prepare(Work.READING)
    with stops.working(Work.READING) as first:
        stops.prepare(Work.READING)
        stops.stop(Work.READING)
        stops.stop(Work.READING)  # pressed twice
    with stops.working(Work.READING) as second:
        assert first.is_set()
        assert not second.is_set()


def test_a_stop_while_two_wait_reaches_the_one_that_was_asked_for():
    stops = Stops()
    stops.prepare(Work.GENERATING)
    stops.stop(Work.GENERATING)
    stops.prepare(Work.GENERATING)
    with stops.working(Work.GENERATING) as first:
        assert first.is_set()
    with stops.working(Work.GENERATING) as second:
        assert not second.is_set()


def test_a_stop_is_of_one_kind_of_work_and_without_any_it_does_nothing():
    stops = Stops()
    stops.stop(Work.GENERATING)
    with stops.working(Work.GENERATING) as writing, stops.working(Work.READING) as reading:
        stops.stop(Work.READING)
        assert reading.is_set()
        assert not writing.is_set()
        stops.stop_all()
        assert writing.is_set()
