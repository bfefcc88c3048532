"""A run of benchmarks: `{"evaluation": "bench", "command", "settings", "model", "date", "ratios", "skipped"}`.

"ratios" maps a name to what `timing.compared` gives: every ratio is the seconds of "a" divided by those of "b".
"""

import datetime
import sys
from collections.abc import Callable

from tqdm import tqdm

from longmem.bench import bank_speed, index_speed, model_speed, peers
from longmem.bench.workbench import BenchOptions, Workbench
from longmem.errors import LongMemError
from longmem.records import write_json

BENCHMARKS: dict[str, Callable[[Workbench], dict]] = {
    "read": model_speed.read,
    "add": bank_speed.add,
    "search": bank_speed.search,
    "index": index_speed.index,
    "generate": model_speed.generate,
    "context": model_speed.context,
    "peers": peers.peers,
}
ALL = "all"


def chosen(name: str) -> list[str]:
    """The benchmarks that a name, or several with commas between, mean. Errors: LongMemError where one is none."""
    names = list(BENCHMARKS) if name == ALL else name.split(",")
    for each in names:
        if each not in BENCHMARKS:
            allowed = f"{', '.join(BENCHMARKS)}, {ALL}, or several with commas between"
            raise LongMemError(f"NAME is {each!r}; it must be one of {allowed}.")
    return names


def run_bench(name: str, options: BenchOptions) -> dict:
    """Measure one benchmark, or with "all" those that can run; the result is written where it was asked for.

    Errors: LongMemError for a benchmark that does not exist or, named alone, cannot run here.
    """
    bench, ratios, skipped = Workbench(options), {}, {}
    for each in tqdm(chosen(name), desc="bench", file=sys.stderr):
        try:
            ratios |= BENCHMARKS[each](bench)
        except LongMemError as error:
            if name != ALL:
                raise
            skipped[each] = str(error)
    result = {
        "evaluation": "bench",
        "command": options.command,
        "settings": bench.settings(),
        "model": {"fingerprint": options.model.fingerprint, "window": options.model.config.window},
        "date": datetime.date.today().isoformat(),
        "ratios": ratios,
        "skipped": skipped,
    }
    if options.json is not None:
        write_json(options.json, result)
    return result


def table(result: dict) -> list[list[str]]:
    """Rows for people: each ratio with its spread over rounds and its goal, and under them the machine."""
    rows = [["ratio", "of", "measured", "lowest to highest", "goal", "met"]]
    for name, row in result["ratios"].items():
        spread = f"{row['low']:.2f} to {row['high']:.2f}"
        met = "yes" if row["is_met"] else "no"
        recall = "".join(f" ({n.replace('_', ' ')} {row[n]:.3f})" for n in ("recall", "peer_recall") if n in row)
        rows.append([name, f"{row['a']} / {row['b']}{recall}", f"{row['ratio']:.2f}", spread, row["goal"], met])
    rows += [[name, "not measured", "-", "-", "-", "-"] for name in result["skipped"]]
    settings = result["settings"]
    threads = f"{settings['threads']} thread{'' if settings['threads'] == 1 else 's'}"
    where = [settings["machine"], settings["device"], threads, settings["dtype"]]
    return [*rows, ["machine", ", ".join(where), "", "", "", ""]]


def notes(result: dict) -> list[str]:
    """Lines for people: settings, and why something was not measured."""
    lines = [f"{name.replace('_', ' '):<14} {value}" for name, value in result["settings"].items()]
    lines += [f"{name:<14} {value}" for name, value in result["model"].items()]
    lines += [f"{'date':<14} {result['date']}", f"{'command':<14} {result['command']}"]
    return lines + [f"{name} was not measured: {reason}" for name, reason in result["skipped"].items()]
