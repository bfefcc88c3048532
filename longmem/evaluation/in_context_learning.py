"""In-context learning: labels of new texts, from a few demonstrations in the window and thousands in memory.

The paper's protocol (section 3.4 of arXiv 2306.07174): demonstrations are drawn from the training file, written with a
template and read into memory as one document; others stand in the window before the text that is asked for.

A label scores the log-probability of all its tokens. Three measures, the first fixed beforehand as the headline:
`accuracy` is calibrated, each label's score less what it has after a text without content, in the same window and with
the same memory (Zhao et al. 2021); `uncalibrated` is not; `whole_vocabulary`, as the official code has it, asks that
the label's first token be the most probable of all tokens. A tie counts as wrong.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from pathlib import Path

import numpy as np
from transformers import Cache, PreTrainedTokenizerFast

from longmem import classification
from longmem.classification import NO_CONTENT, Scores, all_label_tokens, query_tokens
from longmem.demonstrations import (
    SENTIMENT_TEMPLATE,
    SUBJECTIVITY_TEMPLATE,
    Demonstration,
    Template,
    read_demonstrations,
    to_document,
)
from longmem.errors import LongMemError, Stopped
from longmem.evaluation.results import DRAWS, Items, Options, best_control, draw, settings_of
from longmem.evaluation.systems import Memories, Systems

ALLOWED = ("backbone", "empty_bank", "sidenet_only", "longmem", "memtrm")
WITH_MEMORY = ("longmem", "memtrm")
METRICS = ("accuracy", "uncalibrated", "whole_vocabulary")
MOST_TEXTS = 250
SPLITS = ("train", "training", "test", "valid", "validation", "dev")


@dataclass(frozen=True)
class IclOptions(Options):
    """train, test: CSV, JSONL or TSV files, a data set in each place; name: of each, by default its folder's or file's.

    template: with {text} and {label}; by default the paper's. in_window, in_memory: numbers of demonstrations. seeds:
    how many draws of demonstrations, from `seed` on. max_items: texts of each set, by default MOST_TEXTS.
    """

    train: tuple[Path, ...] = ()
    test: tuple[Path, ...] = ()
    name: tuple[str, ...] = ()
    template: str | None = None
    text_column: str = "text"
    label_column: str = "label"
    in_window: tuple[int, ...] = (4, 20)
    in_memory: tuple[int, ...] = (0, 20, 200, 2_000)
    seeds: int = 6
    read_overlap: int | None = None


@dataclass(frozen=True)
class DataSet:
    """Demonstrations to draw from, texts to ask for, and the labels there are, in alphabetical order."""

    name: str
    train: tuple[Demonstration, ...]
    test: tuple[Demonstration, ...]
    labels: tuple[str, ...]
    template: Template


@dataclass(frozen=True)
class Draw:
    """The demonstrations of one seed: what is read into memory does not depend on how many stand in the window."""

    in_window: tuple[Demonstration, ...]
    in_memory: tuple[Demonstration, ...]


# Measuring ---------------------------------------------------------------------------------------------------------


def measure_icl(options: IclOptions) -> dict:
    """Measure, and return (and write) accuracy: `systems` in the largest setting, `by_setting` in all.

    Without memory is always measured, for the systems that have none.

    Raises:
        LongMemError: a file cannot be used, or holds too few demonstrations; none fits in the window.
        Stopped: before one setting had been measured with all sets and seeds.
    """
    _check(options)
    sets = {data.name: data for data in read_sets(options)}
    systems = Systems(options.model, options.systems, read_overlap=options.read_overlap, allowed=ALLOWED)
    in_window = sorted(set(options.in_window))
    in_memory = sorted({0, *options.in_memory}) if {*WITH_MEMORY} & {*systems.names} else [0]
    seeds = list(range(options.seed, options.seed + options.seeds))
    settings = settings_of(options, "train", "test", "text_column", "label_column") | {
        "sets": {name: {"texts": len(data.test), "template": data.template.pattern} for name, data in sets.items()},
        "in_window": in_window,
        "in_memory": in_memory,
        "seeds": seeds,
    }
    for data in sets.values():  # before anything has been measured
        draw_demonstrations(data, seeds[0], max(in_window), max(in_memory))
    items = Items("icl", options, systems, settings)
    # In this order a memory is read once for all windows.
    keys = {_key(*setting): setting for setting in product(sets, seeds, in_memory, in_window)}
    for (name, seed, n_memory), group in groupby(items.each(keys), key=lambda key: keys[key][:3]):
        drawn = draw_demonstrations(sets[name], seed, max(in_window), n_memory)
        memories = fill_memory(systems, sets[name], drawn.in_memory)
        for key in group:
            n_window = keys[key][3]
            item = measure_setting(systems, sets[name], drawn.in_window[:n_window], memories, n_memory > 0)
            items.add(key, {"set": name, "seed": seed, "in_window": n_window, "in_memory": n_memory, **item})
    whole = [
        (w, m)
        for w, m in product(in_window, in_memory)
        if all(_key(name, seed, n, w) in items.found for name, seed, n in product(sets, seeds, {0, m}))
    ]
    if not whole:
        raise Stopped
    by_setting = [summarize(systems, list(items.found.values()), list(sets), w, m) for w, m in whole]
    return items.finish(by_setting[-1]["systems"], gains=by_setting[-1]["gains"], by_setting=by_setting)


def measure_setting(
    systems: Systems, data: DataSet, demonstrations: Sequence[Demonstration], memories: Memories, with_memory: bool
) -> dict:
    """Which texts each system gets right, "1" for right, by measure; with memory only the systems that have one.

    `in_window_used`: how many of the demonstrations fit in the window beside the longest text and label.
    """
    tokenizer = systems.model.tokenizer
    queries = [query_tokens(tokenizer, data.template, text) for text in [*(t.text for t in data.test), NO_CONTENT]]
    labels = all_label_tokens(tokenizer, data.template, data.labels)
    room = systems.window - max(map(len, queries)) - max(map(len, labels)) + 1
    used, prefix = fit_window(tokenizer, data, demonstrations, room)
    # LongMem with an empty bank is the system "empty_bank": one pass serves both.
    copied = not with_memory and {"longmem", "empty_bank"} <= set(systems.names)
    names = [
        name
        for name in systems.names
        if (name in WITH_MEMORY or not with_memory) and not (copied and name == "longmem")
    ]
    caches = systems.prefix(prefix, memories, names)
    gold = [data.labels.index(text.label) for text in data.test]
    right = {
        name: judge(score_labels(systems, name, cache, memories, queries, labels), gold, labels)
        for name, cache in caches.items()
    }
    if copied:
        right["longmem"] = right["empty_bank"]
    return {"in_window_used": used, "right": right}


def score_labels(
    systems: Systems,
    name: str,
    cache: Cache,
    memories: Memories,
    queries: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
) -> Scores:
    """Scores of every label after every query by one system; both are lists of token ids."""
    return classification.score_labels(
        lambda ids_BT: systems.continued({name: cache}, ids_BT, memories)[name], queries, labels
    )


def judge(scores: Scores, gold: Sequence[int], labels: Sequence[Sequence[int]]) -> dict[str, str]:
    """By measure "1" for each text whose label is found. The last of the scored texts is the one without content."""
    plain = scores.label_log_p[:-1]
    calibrated = plain - scores.label_log_p[-1]
    first_tokens = [labels[place][0] for place in gold]
    right = {
        "accuracy": [_wins(row, place) for row, place in zip(calibrated, gold, strict=True)],
        "uncalibrated": [_wins(row, place) for row, place in zip(plain, gold, strict=True)],
        "whole_vocabulary": [a == b for a, b in zip(scores.top_token[:-1], first_tokens, strict=True)],
    }
    return {metric: "".join("1" if hit else "0" for hit in hits) for metric, hits in right.items()}


def _wins(scores: np.ndarray, place: int) -> bool:
    return bool((scores[place] > np.delete(scores, place)).all())


# Demonstrations ----------------------------------------------------------------------------------------------------


def draw_demonstrations(data: DataSet, seed: int, in_window: int, in_memory: int) -> Draw:
    """Different ones for window and memory; a smaller number takes the first of a larger one.

    Errors: LongMemError where there are not so many.
    """
    if len(data.train) < in_window + in_memory:
        raise LongMemError(
            f"--in-window asks for {in_window} and --in-memory for {in_memory} demonstrations of {data.name}; its "
            f"training file holds {len(data.train)}."
        )
    order = np.random.default_rng(seed).permutation(len(data.train))[: in_window + in_memory]
    drawn = tuple(data.train[i] for i in order)
    return Draw(drawn[:in_window], drawn[in_window:])


def fill_memory(systems: Systems, data: DataSet, demonstrations: Sequence[Demonstration]) -> Memories:
    """Memories that hold all the demonstrations, read as one document; empty where there are none."""
    if not demonstrations:
        return systems.new_memories()
    ids = to_document(demonstrations, data.template, data.name).encode(systems.model.tokenizer).token_ids
    chunk = systems.model.config.chunk_size
    memories = systems.new_memories(capacity=-(-len(ids) // chunk) * chunk)
    systems.read(memories, ids, name=data.name)
    return memories


def fit_window(
    tokenizer: PreTrainedTokenizerFast, data: DataSet, demonstrations: Sequence[Demonstration], room: int
) -> tuple[int, list[int]]:
    """As `classification.fit_window`. Errors: LongMemError where not one demonstration fits."""
    used, ids = classification.fit_window(tokenizer, data.template, demonstrations, room)
    if used == 0:
        longest = max(data.test, key=lambda text: len(query_tokens(tokenizer, data.template, text.text)))
        raise LongMemError(
            f"--in-window: not one demonstration of {data.name} fits in the window, which has room for {max(0, room)} "
            f"tokens beside the longest text (line {longest.line} of the test file): shorten or remove it."
        )
    return used, ids


# Data sets ---------------------------------------------------------------------------------------------------------


def _check(options: IclOptions) -> None:
    if not options.train or len(options.train) != len(options.test):
        raise LongMemError(
            f"--train names {len(options.train)} files and --test {len(options.test)}: one of each for every data set."
        )
    if options.name and len(options.name) != len(options.train):
        raise LongMemError(f"--name names {len(options.name)} data sets; there are {len(options.train)}.")
    for option, least, values in (
        ("--in-window", 1, options.in_window),
        ("--in-memory", 0, options.in_memory),
        ("--seeds", 1, (options.seeds,)),
    ):
        if not values or min(values) < least:
            raise LongMemError(f"{option} is {', '.join(map(str, values)) or 'nothing'}; it must be {least} at least.")


def read_sets(options: IclOptions) -> list[DataSet]:
    """The data sets, with the texts that are drawn of each. Errors: LongMemError."""
    names = options.name or tuple(set_name(path) for path in options.train)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise LongMemError(f"--name: two data sets are called {twice[0]!r}; give each its own name.")
    return [_read_set(options, *files) for files in zip(names, options.train, options.test, strict=True)]


def _read_set(options: IclOptions, name: str, train_path: Path, test_path: Path) -> DataSet:
    columns = {"text_column": options.text_column, "label_column": options.label_column}
    train, test = (read_demonstrations(path, **columns) for path in (train_path, test_path))
    labels = tuple(sorted({demonstration.label for demonstration in train}))
    if len(labels) < 2:
        raise LongMemError(f"--train: {train_path} has the label {labels[0]!r} only; there must be two at least.")
    for text in test:
        if text.label not in labels:
            raise LongMemError(
                f"--test: line {text.line} of {test_path} has the label {text.label!r}; those of the training file are "
                f"{', '.join(labels)}."
            )
    template = Template(options.template) if options.template else default_template(labels)
    most = None if options.full else options.max_items or MOST_TEXTS
    return DataSet(name, tuple(train), tuple(draw(test, most, options.seed)), labels, template)


def default_template(labels: Collection[str]) -> Template:
    """The paper's: one for labels subjective and objective, one for all others."""
    return SUBJECTIVITY_TEMPLATE if set(labels) == {"subjective", "objective"} else SENTIMENT_TEMPLATE


def set_name(path: Path) -> str:
    """A data set's name: of the folder where the file is called train or the like, else of the file."""
    path = Path(path).resolve()
    return path.parent.name if path.stem.lower() in SPLITS else path.stem


def _key(name: str, seed: int, in_memory: int, in_window: int) -> str:
    return f"{name}, seed {seed}, {in_window} in window, {in_memory} in memory"


# Summing up --------------------------------------------------------------------------------------------------------


def summarize(systems: Systems, items: Sequence[dict], sets: Sequence[str], in_window: int, in_memory: int) -> dict:
    """One setting: of each system the mean over sets, and each set; gains of memory; how many were in the window."""
    found, right = {}, {}
    for name in systems.names:
        memory = in_memory if name in WITH_MEMORY else 0
        chosen = [item for item in items if (item["in_window"], item["in_memory"]) == (in_window, memory)]
        hits = {
            metric: {data: _hits([i for i in chosen if i["set"] == data], name, metric) for data in sets}
            for metric in METRICS
        }
        right[name] = hits["accuracy"]
        found[name] = _shares(hits, sets) | {"sets": {data: _shares(hits, [data]) for data in sets}}
    same_window = [item for item in items if item["in_window"] == in_window]
    used = {data: [item["in_window_used"] for item in same_window if item["set"] == data] for data in sets}
    return {
        "in_window": in_window,
        "in_memory": in_memory,
        "in_window_used": {data: [min(numbers), max(numbers)] for data, numbers in used.items()},
        "systems": found,
        "gains": _gains(right, found, systems.controls),
    }


def _hits(items: Sequence[dict], name: str, metric: str) -> np.ndarray:
    """1 or 0 for each seed and text [seeds, texts] of one data set."""
    return np.array([[int(hit) for hit in item["right"][name][metric]] for item in items], dtype=float)


def _shares(hits: dict[str, dict[str, np.ndarray]], sets: Sequence[str]) -> dict:
    """Mean over seeds, texts and sets of each measure, the interval of each, and how much seeds differ."""
    found = {}
    for metric in METRICS:
        mean, low, high = over_sets([hits[metric][data].mean(axis=0) for data in sets])
        found |= {metric: mean, f"{metric}_low": low, f"{metric}_high": high}
    by_seed = np.mean([hits["accuracy"][data].mean(axis=1) for data in sets], axis=0)
    spread = float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None
    n = sum(hits["accuracy"][data].shape[1] for data in sets)
    return found | {"accuracy_spread_over_seeds": spread, "n": n}


def over_sets(values: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """Mean over sets of the mean over texts, and its 95 % interval: the texts of each set are drawn again."""
    means = []
    for place, values_N in enumerate(values):
        choice = np.random.default_rng([0, place]).integers(0, len(values_N), (DRAWS, len(values_N)))
        means.append(values_N[choice].mean(axis=1))
    low, high = np.percentile(np.mean(means, axis=0), [2.5, 97.5])
    return float(np.mean([values_N.mean() for values_N in values])), float(low), float(high)


def _gains(right: dict[str, dict[str, np.ndarray]], found: dict, controls: Sequence[str]) -> dict:
    """What memory gains in accuracy over the mean of sets: against the backbone and the better of the controls."""
    if "longmem" not in right:
        return {}
    others = {"backbone": "backbone"} if "backbone" in right else {}
    if control := best_control(found, controls, "accuracy"):
        others["better_control"] = control
    gains = {}
    for label, other in others.items():
        pairs = [(right["longmem"][data] - right[other][data]).mean(axis=0) for data in right["longmem"]]
        mean, low, high = over_sets(pairs)
        gains[label] = {"control": other, "difference": mean, "low": low, "high": high, "n": sum(map(len, pairs))}
    return gains


def table(result: dict) -> list[list[str]]:
    """Rows for people: system, accuracy in each setting, interval in the largest, the other measures, each set.

    Then how many demonstrations stood in the window, where those that were asked for may not fit, and memory's gain.
    """
    settings, sets = result["by_setting"], list(result["settings"]["sets"])
    head = [f"{part['in_window']}+{part['in_memory']}" for part in settings]
    rows = [["system", *head, "95 %", "uncalibrated", "whole vocabulary", *sets]]
    for name, row in result["systems"].items():
        shown = [_percent(part["systems"][name]["accuracy"]) for part in settings]
        interval = f"{_percent(row['accuracy_low'])} to {_percent(row['accuracy_high'])}"
        others = [_percent(row["uncalibrated"]), _percent(row["whole_vocabulary"])]
        rows.append([name, *shown, interval, *others, *(_percent(row["sets"][data]["accuracy"]) for data in sets)])
    used = [sorted({item["in_window_used"] for item in result["items"] if item["set"] == data}) for data in sets]
    fitted = ["-".join(map(str, dict.fromkeys((numbers[0], numbers[-1])))) for numbers in used]
    rows.append(["in the window", *[""] * (len(head) + 3), *fitted])
    if gain := result["gains"].get("better_control"):
        interval = f"{100 * gain['low']:+.1f} to {100 * gain['high']:+.1f}"
        last = [*[""] * (len(head) - 1), f"{100 * gain['difference']:+.1f}", interval]
        rows.append([f"longmem against {gain['control']}", *last, *[""] * (2 + len(sets))])
    return rows


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
