"""Results of evaluations as tables: one pure function for each chart, a result in, a frame of points out.

Columns: `panel` (a chart within the chart, or ""), `series`, `x` (a label, or a number where the axis is one), `value`,
`low`, `high` (the 95 % interval; NaN where there is none, as of a single item) and `n` (0: not recorded). Names are
plain text: whoever draws them escapes them.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

COLUMNS = ["panel", "series", "x", "value", "low", "high", "n"]
DRAWS = 2_000  # of the bootstrap, as the evaluations have it
FRESH_KEYS, OLD_KEYS = "with fresh keys", "with the keys of the start"
SYSTEM_NAMES = {
    "backbone": "backbone, window only",
    "backbone_sliding": "backbone, sliding window",
    "empty_bank": "LongMem, empty memory",
    "sidenet_only": "SideNet trained without memory",
    "longmem": "LongMem",
    "memtrm": "Memorizing Transformer",
    "full_attention": "full attention",
    "sliding_window": "sliding window",
    "longmem_1_memory_layer": "LongMem, 1 memory layer",
    "longmem_3_memory_layers": "LongMem, 3 memory layers",
    "longmem_all_memory_layers": "LongMem, all layers",
}
KIND_NAMES = {
    "known": "known templates",
    "held_out": "held-out templates",
    "distractors": "eight distractors of the same form",
    "top": "the chunk with the largest weight",
    "random_retrieved": "a random retrieved chunk",
    "random_stored": "a random chunk of memory",
}


def name_of(system: str) -> str:
    """A system or kind in words; one that nobody knows by its own name."""
    return SYSTEM_NAMES.get(system) or KIND_NAMES.get(system) or str(system).replace("_", " ")


def points(rows: Iterable[Sequence]) -> pd.DataFrame:
    """Rows in the order of COLUMNS; points without a value are left out, an interval of one item is none."""
    frame = pd.DataFrame(list(rows), columns=COLUMNS)
    for column in ("value", "low", "high"):
        frame[column] = frame[column].astype("float64")
    frame.loc[frame.n == 1, ["low", "high"]] = math.nan
    return frame[np.isfinite(frame.value)].reset_index(drop=True)


def _row(panel: str, series: str, x: object, row: dict, metric: str) -> tuple:
    """A point of a summary `{metric, metric_low, metric_high, n}`."""
    interval = (row.get(f"{metric}_low"), row.get(f"{metric}_high"))
    return panel, series, x, row.get(metric), *interval, row.get("n", 0)


# Perplexity --------------------------------------------------------------------------------------------------------


def perplexity_by_length(result: dict) -> pd.DataFrame:
    """Perplexity of the beginnings of all documents that are long enough, and of whole documents."""
    groups = result["groups"].items()
    return points(_row("", name_of(s), group, row, "perplexity") for group, found in groups for s, row in found.items())


def perplexity_by_position(result: dict) -> pd.DataFrame:
    """Perplexity by the place in the document; intervals over documents, from the recorded windows."""
    rows = []
    for part, (names, nll_NS, tokens_N) in _positions(result):
        drawn_RN = _drawn(len(tokens_N))
        for i, system in enumerate(names):
            values_R = np.exp(nll_NS[drawn_RN, i].sum(1) / tokens_N[drawn_RN].sum(1))
            value = part["perplexity"][system]
            rows.append(("", name_of(system), _span(part), value, *_interval(values_R), part["n"]))
    return points(rows)


def perplexity_change(result: dict) -> pd.DataFrame:
    """Relative change of perplexity against the backbone by the place in the document: below 0 is better."""
    rows = []
    for part, (names, nll_NS, tokens_N) in _positions(result):
        if "backbone" not in names:
            continue
        drawn_RN, base = _drawn(len(tokens_N)), names.index("backbone")
        for i, system in enumerate(names):
            if i != base:
                more_N = nll_NS[:, i] - nll_NS[:, base]
                values_R = np.exp(more_N[drawn_RN].sum(1) / tokens_N[drawn_RN].sum(1)) - 1
                value = part["perplexity"][system] / part["perplexity"]["backbone"] - 1
                rows.append(("", name_of(system), _span(part), value, *_interval(values_R), part["n"]))
    return points(rows)


def _positions(result: dict) -> Iterable[tuple[dict, tuple[list[str], np.ndarray, np.ndarray]]]:
    """Each part of `positions` with its systems, losses [documents, systems] and tokens [documents]."""
    for part in result["positions"]:
        last = math.inf if part["to"] is None else part["to"]
        nll, tokens = [], []
        for item in result["items"]:
            chosen = [window for window in item["windows"] if part["from"] <= window[0] < last]
            if chosen:
                nll.append(np.sum([window[3] for window in chosen], axis=0))
                tokens.append(sum(window[1] for window in chosen))
        yield part, (list(part["perplexity"]), np.array(nll, dtype=float), np.array(tokens, dtype=float))


def _drawn(n: int) -> np.ndarray:
    """Indices [DRAWS, n] of resampled documents, the same ones every time."""
    return np.random.default_rng(0).integers(0, max(n, 1), (DRAWS, n))


def _interval(values_R: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values_R, [2.5, 97.5])
    return float(low), float(high)


def _span(part: dict) -> str:
    return f"{part['from']:,} to {part['to']:,}" if part["to"] else f"{part['from']:,} and more"


# Accuracy ----------------------------------------------------------------------------------------------------------


def suffix_by_prefix(result: dict) -> pd.DataFrame:
    """Accuracy by the number of tokens before the passage."""
    return points(
        _row("", name_of(system), f"{part['prefix']:,}", row, "accuracy")
        for part in result["by_prefix"]
        for system, row in part["systems"].items()
    )


def icl_by_setting(result: dict) -> pd.DataFrame:
    """Mean accuracy over the data sets by the number of demonstrations in the window and in memory."""
    return points(
        _row("", name_of(system), f"{part['in_window']:,} + {part['in_memory']:,}", row, "accuracy")
        for part in result["by_setting"]
        for system, row in part["systems"].items()
    )


def icl_by_set(result: dict) -> pd.DataFrame:
    """Accuracy in each data set, in the largest setting."""
    return points(
        _row("", name_of(system), data, row, "accuracy")
        for system, found in result["systems"].items()
        for data, row in found["sets"].items()
    )


# Needle ------------------------------------------------------------------------------------------------------------


def needle_by_depth(result: dict) -> pd.DataFrame:
    """Recall by length (`x`) and depth (`series`, the beginning first) in a panel for each kind and system with memory.

    A system whose recall is nowhere above 0 has no panel, but for LongMem: its row of the other chart says it all.
    """
    systems = [s for s in result["systems"] if s == "longmem" or _ever_right(result, s)]
    rows = []
    for part in result["by_depth"]:
        for band in part["bands"]:
            depth = f"{100 * band['from']:.0f} to {100 * band['to']:.0f} %"
            for system in systems:
                panel = f"{name_of(part['kind'])} · {name_of(system)}"
                rows.append((panel, depth, f"{part['length']:,}", band[system], None, None, band["n"]))
    return points(rows).sort_values("panel", kind="stable", key=lambda c: c.map(_places(c))).reset_index(drop=True)


def _ever_right(result: dict, system: str) -> bool:
    return any(band[system] > 0 for part in result["by_depth"] for band in part["bands"])


def _places(column: pd.Series) -> dict[str, int]:
    return {value: place for place, value in enumerate(column.drop_duplicates())}


def needle_by_length(result: dict) -> pd.DataFrame:
    """Recall by the length of the haystack, a panel for each kind of fact."""
    return points(
        _row(name_of(kind), name_of(system), f"{int(length):,}", row, "recall")
        for kind, lengths in result["by_length"].items()
        for length, found in lengths.items()
        for system, row in found.items()
    )


def needle_by_head(result: dict) -> pd.DataFrame:
    """Share of questions for which each head retrieved the chunk where the answer begins."""
    rows = []
    heads = sorted({head for found in result["hit_rate"].values() for head in found}, key=_head_place)
    for part in result["by_depth"]:
        found = result["hit_rate"].get(f"{part['kind']} {part['length']}", {})
        n = sum(band["n"] for band in part["bands"])
        for head in heads:
            layer, _, number = str(head).partition(".")
            label = f"layer {layer}, head {number}"
            rows.append((name_of(part["kind"]), label, f"{part['length']:,}", found.get(head, 0.0), None, None, n))
    return points(rows)


def _head_place(head: str) -> list[int]:
    return [int(part) if part.isdigit() else 0 for part in str(head).split(".")]


# Staleness, efficiency ---------------------------------------------------------------------------------------------


def staleness_curve(metric: str):
    """The table of one measure, "cosine" or "overlap", by step of training."""

    def table(result: dict) -> pd.DataFrame:
        return points(
            _row("", name_of(system), point["step"], point[system], metric)
            for system in result["systems"]
            for point in result["curve"]
        )

    return table


def staleness_perplexity(result: dict) -> pd.DataFrame:
    """Perplexity with the keys that were stored at the start, and with keys that are written now; a panel a system."""
    return points(
        _row(name_of(system), words, point["step"], point[system], f"perplexity_{metric}")
        for system in result["systems"]
        for metric, words in (("fresh", FRESH_KEYS), ("stale", OLD_KEYS))
        for point in result["curve"]
    )


def efficiency_by_length(metric: str):
    """The table of one measure by the length of the context: medians of rounds, without an interval."""

    def table(result: dict) -> pd.DataFrame:
        rounds = result["settings"].get("rounds", 1)
        return points(
            ("", name_of(system), f"{item['length']:,}", row.get(metric), None, None, rounds)
            for item in result["items"]
            for system, row in item["systems"].items()
        )

    return table


# Attribution, comparison -------------------------------------------------------------------------------------------


KINDS = ("top", "random_retrieved", "random_stored")


def attribution_by_removed(result: dict) -> pd.DataFrame:
    """Fall of log-probability, in nats, by the number of removed chunks."""
    return points(
        _row("", name_of(kind), f"{point['removed']:,}", point, kind) for kind in KINDS for point in result["curve"]
    )


def attribution_by_sign(result: dict) -> pd.DataFrame:
    """The same for one chunk, of the tokens that memory helped and of those that it hurt."""
    found = {name: group for name, group in result["groups"].items() if group.get("tokens")}
    return points(
        _row("", name_of(kind), f"{name} by memory", group, kind) for kind in KINDS for name, group in found.items()
    )


def attribution_by_token(result: dict) -> pd.DataFrame:
    """Every token: the effect of memory on it (`x`) and how far it falls without one chunk; in nats."""
    rows = [
        ("", name_of(kind), token["effect"], token[kind][0], None, None, 1)
        for kind in ("random_retrieved", "top")
        for item in result["items"]
        for token in item["scored"]
        if token[kind]
    ]
    return points(rows)


def comparison_change(result: dict) -> pd.DataFrame:
    """Change of perplexity by memory against the backbone for each variant, the best one first."""
    n = result.get("documents", 0)
    rows = []
    for item in result["items"]:
        gain = item["change"]
        rows.append(("", _differs(item), item["name"], gain["change"], gain["low"], gain["high"], n))
    return points(rows).sort_values("value", kind="stable").reset_index(drop=True)


def comparison_recall(result: dict) -> pd.DataFrame:
    """Share of asked tokens that were right at the end of training, for each variant in the order of its change."""
    found = {item["name"]: item for item in result["items"]}
    order = comparison_change(result).x
    return points(("", _differs(found[name]), name, found[name].get("recall"), None, None, 0) for name in order)


def _differs(item: dict) -> str:
    """In what a variant differs from the others' common settings."""
    changes = [f"{name.replace('_', ' ')} {value}" for name, value in item.get("changes", {}).items()]
    return ", ".join(changes) or "nothing"
