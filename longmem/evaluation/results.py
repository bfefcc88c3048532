"""What all evaluations share: items that survive a kill, intervals, gains, and one form of result.

A result is {"evaluation", "command", "settings", "model", "date", "systems", "gains", "items"}; "systems" maps a name
to numbers with "_low" and "_high", the 95 % interval of a bootstrap over items, and "n".
"""

import datetime
import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from tqdm import tqdm

from longmem.errors import LongMemError, Stopped
from longmem.evaluation.systems import Systems
from longmem.model import LongMemForCausalLM
from longmem.records import write_json

DRAWS = 2_000


@dataclass(frozen=True)
class Options:
    """What every evaluation takes.

    model: a folder, a name on the hub, or a loaded model, which is measured without the baselines that lie beside it.
    max_items: measure at most so many, drawn with `seed`; systems: of `longmem.evaluation.systems`, None for all there
    are; json: file for the result; resume: go on with the items of an interrupted run; full: everything there is.
    command: what was typed, for the result.
    progress: called with (items done, items in all), instead of a progress bar. stop: set it to end before the next
    item; the result is then of the items measured until then, has "stopped", and is not written as JSON.
    """

    model: str | LongMemForCausalLM
    max_items: int | None = None
    seed: int = 1
    systems: tuple[str, ...] | None = None
    json: Path | None = None
    resume: bool = False
    full: bool = False
    command: str = ""
    progress: Callable[[int, int], None] | None = None
    stop: threading.Event | None = None


class Items:
    """The measured items of one run, by key; with a JSON file for the result each is kept beside it at once."""

    def __init__(self, evaluation: str, options: Options, systems: Systems, settings: dict) -> None:
        """Begin, or with `resume` go on. Errors: LongMemError where the run to go on with was another one."""
        self.evaluation, self.options, self.systems = evaluation, options, systems
        self.settings = settings | {"seed": options.seed, "max_items": options.max_items, "full": options.full}
        self.found: dict[str, dict] = {}
        self.is_stopped = False
        self._path = options.json.with_suffix(".items.jsonl") if options.json is not None else None
        if options.resume and self._path is None:
            raise LongMemError("--resume needs --json FILE, beside which the items of the run are kept.")
        self._begin()

    def each(self, keys: Iterable[str]) -> Iterator[str]:
        """The keys that have not been measured yet, with a progress bar on standard error or `options.progress`.

        Errors: Stopped where `options.stop` was set before anything had been measured.
        """
        keys = list(keys)
        waiting = [key for key in keys if key not in self.found]
        done, tell = len(keys) - len(waiting), self.options.progress or (lambda done, total: None)
        bar = tqdm(
            waiting, desc=self.evaluation, initial=done, total=len(keys), disable=self.options.progress is not None
        )
        tell(done, len(keys))
        for key in bar:
            if self.options.stop is not None and self.options.stop.is_set():
                if not self.found:
                    raise Stopped
                self.is_stopped = True
                return
            yield key
            done += 1
            tell(done, len(keys))

    def add(self, key: str, item: dict) -> None:
        self.found[key] = item
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([key, item]) + "\n")

    def finish(self, systems: dict, **more: object) -> dict:
        """The result; written as JSON if that was asked for, and then the kept items are deleted."""
        result = {
            "evaluation": self.evaluation,
            "command": self.options.command,
            "settings": self.settings,
            "model": self.systems.description(),
            "date": datetime.date.today().isoformat(),
            "systems": systems,
            **more,
            "items": list(self.found.values()),
        }
        if self.is_stopped:
            return result | {"stopped": True}
        if self.options.json is not None:
            write_json(self.options.json, result)
            self._path.unlink(missing_ok=True)
        return result

    def _begin(self) -> None:
        if self._path is None:
            return
        head = {"evaluation": self.evaluation, "settings": self.settings, "model": self.systems.description()}
        head = json.loads(json.dumps(head | {"systems": self.systems.names, "files": _files(self.options)}))
        lines = _whole_lines(self._path) if self.options.resume else []
        if lines:
            if lines[0] != head:
                raise LongMemError(f"--resume: {self._path} is of a run with other settings, or of another model.")
            self.found = dict(lines[1:])
        text = "".join(json.dumps(line) + "\n" for line in [head, *lines[1:]])
        self._path.write_text(text, encoding="utf-8")


def _files(options: Options) -> dict[str, str]:
    """What was in the files that a run is of, as hashes by their names."""
    given = [getattr(options, field.name) for field in fields(options) if field.name not in ("json", "model")]
    paths = [path for value in given for path in (value if isinstance(value, tuple) else (value,))]
    found = {}
    for path in paths:
        if isinstance(path, Path) and path.is_file():
            with path.open("rb") as file:
                found[str(path)] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _whole_lines(path: Path) -> list:
    """The lines of a file that a kill may have cut in its last one."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def titled(documents: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Documents under titles that differ; those without a text are passed over."""
    seen: dict[str, int] = {}
    for title, text in documents:
        if not text.strip():
            continue
        seen[title] = seen.get(title, 0) + 1
        yield (title if seen[title] == 1 else f"{title} ({seen[title]})"), text


def draw(items: Sequence, most: int | None, seed: int) -> list:
    """At most so many of the items, in their order, the same ones for a seed."""
    if most is None or len(items) <= most:
        return list(items)
    chosen = np.random.default_rng(seed).choice(len(items), most, replace=False)
    return [items[i] for i in sorted(chosen)]


def bootstrap(statistic: Callable[[np.ndarray], np.ndarray], n: int) -> tuple[float, float]:
    """95 % interval of a statistic over resampled items.

    statistic: takes indices [draws, n] of items and gives the statistic of each draw [draws].
    """
    if n == 0:
        return float("nan"), float("nan")
    choice = np.random.default_rng(0).integers(0, n, (DRAWS, n))
    low, high = np.nanpercentile(statistic(choice), [2.5, 97.5])
    return float(low), float(high)


def share(name: str, right: Sequence[float]) -> dict:
    """Mean of a 0-or-1 measure over items, with its interval and n."""
    values = np.asarray(right, dtype=float)
    if not len(values):
        return {name: None, f"{name}_low": None, f"{name}_high": None, "n": 0}
    low, high = bootstrap(lambda choice: values[choice].mean(axis=1), len(values))
    return {name: float(values.mean()), f"{name}_low": low, f"{name}_high": high, "n": len(values)}


def difference(first: Sequence[float], second: Sequence[float]) -> dict:
    """Mean difference of two measures over the same items, with its interval."""
    values = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    low, high = bootstrap(lambda choice: values[choice].mean(axis=1), len(values))
    return {"difference": float(values.mean()) if len(values) else None, "low": low, "high": high, "n": len(values)}


def best_control(systems: dict, controls: Sequence[str], metric: str, *, lowest: bool = False) -> str | None:
    """The better of the systems without memory."""
    there = [name for name in controls if systems.get(name, {}).get(metric) is not None]
    if not there:
        return None
    return (min if lowest else max)(there, key=lambda name: systems[name][metric])


def gains_in_accuracy(right: dict[str, Sequence[float]], systems: dict, controls: Sequence[str], metric: str) -> dict:
    """What memory gains, item by item: against the backbone, and against the better of the controls."""
    gains = {}
    if "longmem" not in right:
        return gains
    if "backbone" in right:
        gains["backbone"] = difference(right["longmem"], right["backbone"])
    if control := best_control(systems, controls, metric):
        gains["better_control"] = {"control": control, **difference(right["longmem"], right[control])}
    return gains


def always_compares(options: Options, evaluation: str, names: Sequence[str]) -> None:
    """For an evaluation whose systems cannot be chosen. Errors: LongMemError where others were asked for."""
    if options.systems is not None and set(options.systems) != set(names):
        asked = ",".join(options.systems)
        raise LongMemError(f"--systems is {asked!r}; {evaluation} always compares {', '.join(names)}.")


def settings_of(options: object, *names: str) -> dict:
    """Some fields of a dataclass as a result records them: files by their names, not by where they lie."""
    return {name: _plain(getattr(options, name)) for name in names}


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return value.name
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
