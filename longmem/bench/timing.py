"""Things measured in turn (A B A B), and what becomes of their seconds: medians, and ratios with their spread."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timed:
    """What is measured: `times` calls of `run` after one of `prepare`, which is not counted."""

    run: Callable[[], object]
    prepare: Callable[[], object] | None = None
    times: int = 1


@dataclass(frozen=True)
class Goal:
    """What a ratio should be: at least, or at most, so much."""

    least: float | None = None
    most: float | None = None

    def __str__(self) -> str:
        return f"at least {self.least:g}" if self.most is None else f"at most {self.most:g}"

    def is_met_by(self, ratio: float) -> bool:
        return ratio >= self.least if self.most is None else ratio <= self.most


AS_FAST = Goal(least=1)


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, to the end of what it has started on the device."""
    start = time.perf_counter()
    run()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - start


def in_turn(rounds: int, device: torch.device, **measured: Timed) -> dict[str, list[float]]:
    """Seconds of one call of each in each round, after a first round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in measured}
    for round_ in range(rounds + 1):
        for name, timed in measured.items():
            if timed.prepare is not None:
                timed.prepare()
            taken = seconds_of(lambda timed=timed: [timed.run() for _ in range(timed.times)], device)
            if round_:
                seconds[name].append(taken / timed.times)
    return seconds


def compared(seconds: dict[str, list[float]], a: str, b: str, goal: Goal, **more: object) -> dict:
    """The ratio of a's median seconds to b's; "low" and "high" are the smallest and largest ratio of a round.

    The ratio lies between them: where every a is at least `low` times its b, so is the median.
    """
    of_rounds = [x / y for x, y in zip(seconds[a], seconds[b], strict=True)]
    a_seconds, b_seconds = statistics.median(seconds[a]), statistics.median(seconds[b])
    ratio = a_seconds / b_seconds
    found = {"ratio": ratio, "low": min(of_rounds), "high": max(of_rounds)}
    found |= {"goal": str(goal), "is_met": goal.is_met_by(ratio)}
    found |= {"a": a, "a_seconds": a_seconds, "b": b, "b_seconds": b_seconds, "rounds": len(of_rounds)}
    return found | more
