"""What a result says, in sentences: the number, its interval, and plainly whether anything is shown by it.

Plain text; whoever puts it on the page escapes it.
"""

from collections.abc import Callable

from app.experiment_tables import name_of

NOTHING_SHOWN = "the interval includes 0, so no difference is shown"


def verdict(page: str, result: dict) -> list[str]:
    """Sentences about a result of an evaluation."""
    return [sentence for sentence in WORDS[page](result) if sentence]


def sample_size(page: str, result: dict) -> str:
    """What was measured how many times, as in "n = 25 documents"."""
    n, what = _COUNTS[page](result)
    return f"n = {n:,} {what}" if n else what


def percent(
    value: float | None, low: float | None = None, high: float | None = None, *, sign: bool = False, unit: str = "%"
) -> str:
    """A share in % (or points of %), with its interval where it has one."""
    if value is None:
        return "not measured"
    form = "{:+.1f}" if sign else "{:.1f}"
    bounds = low is not None and high is not None and low != high
    interval = f", 95 % interval {form.format(100 * low)} to {form.format(100 * high)}" if bounds else ""
    return f"{form.format(100 * value)} {unit}{interval}".replace("-", "−")


def judged(low: float | None, high: float | None, above: str, below: str, n: int = 2) -> str:
    """Whether an interval lies above 0, below it, or includes it; one item says nothing."""
    if n < 2:
        return "a single item has no interval, so nothing is shown"
    if low is None or high is None or low <= 0 <= high:
        return NOTHING_SHOWN
    return above if low > 0 else below


def _gains(result: dict) -> list[tuple[str, dict]]:
    """Of each gain the system it is against, in words; the same system is said once."""
    found = {}
    for label, gain in result.get("gains", {}).items():
        found.setdefault(gain.get("against") or gain.get("control") or label, gain)
    return [(name_of(system), gain) for system, gain in found.items()]


def _perplexity(result: dict) -> list[str]:
    n = _count(result)
    sentences = []
    for other, gain in _gains(result):
        shown = judged(gain["low"], gain["high"], "memory makes it worse", "memory helps", n)
        change = percent(gain["change"], *_interval(gain, n), sign=True)
        sentences.append(f"Against «{other}», memory changes perplexity by {change}: {shown}.")
    return sentences


def _suffix(result: dict) -> list[str]:
    sentences = _accuracies(result, "accuracy", "picks the right passage")
    row, chance = result["systems"].get("longmem", {}), result.get("chance")
    if chance is not None and row.get("accuracy") is not None:
        skill = row["accuracy_low"] > chance and row["n"] > 1
        words = (
            "The interval lies above chance." if skill else "The interval is not above chance: no such skill is shown."
        )
        sentences.insert(1, f"Guessing is right in {percent(chance)}. {words}")
    return sentences


def _icl(result: dict) -> list[str]:
    part = result["by_setting"][-1]
    setting = f" with {part['in_memory']:,} demonstrations in memory and {part['in_window']:,} in the window"
    sentences = _accuracies(result, "accuracy", f"labels right{setting}")
    gains = result.get("gains", {}).values()
    if gains and all(gain["low"] is None or gain["low"] <= 0 for gain in gains):
        sentences.append("This model does not show that it learns a task from demonstrations in memory.")
    return sentences


def _needle(result: dict) -> list[str]:
    head = result["headline"]
    sentences = [
        f"{name_of(head['kind']).capitalize()}, {head['length']:,} tokens in memory: "
        + "; ".join(
            f"{name_of(system)} recalls {percent(row['recall'], row['recall_low'], row['recall_high'])}"
            for system, row in result["systems"].items()
            if row.get("recall") is not None
        )
        + "."
    ]
    for kind, lengths in result["by_length"].items():
        longest = max(lengths, key=int)
        row = lengths[longest].get("longmem")
        if row and kind != head["kind"]:
            found = percent(row["recall"], row["recall_low"], row["recall_high"])
            sentences.append(f"LongMem, {name_of(kind)}, {int(longest):,} tokens: {found}.")
    return sentences


def _staleness(result: dict) -> list[str]:
    last = result["curve"][-1]
    sentences = []
    if "memtrm" in last:
        row = last["memtrm"]
        stale = judged(row["change_low"], row["change_high"], "that is worse", "that is better", row["n"])
        sentences.append(
            f"After {last['step']} steps the keys that the Memorizing Transformer stored at the start have a cosine of "
            f"{row['cosine']:.3f} with what it would store now, and {percent(row['overlap'])} of the retrieved chunks "
            f"are still the same. Reading with the old keys changes its perplexity by "
            f"{percent(row['change'], *_interval(row, row['n'], 'change_'), sign=True)}: {stale}."
        )
    exact = "are the same bit for bit" if result.get("longmem_is_exact") else "have changed: that must not be"
    sentences.append(f"LongMem's stored keys and values {exact}, while its SideNet was trained as long.")
    return sentences


def _efficiency(result: dict) -> list[str]:
    ratios, settings = result.get("ratios", {}), result.get("settings", {})
    sentences = [
        f"Measured on {settings.get('device', 'an unknown device')}, {settings.get('threads', '?')} thread(s)."
    ]
    if "full_attention_length" in ratios:
        kept = percent(ratios["state_bytes_to_full_attention"])
        sentences.append(
            f"At {ratios['full_attention_length']:,} tokens LongMem reads {ratios['reading_to_full_attention']:.1f} "
            f"times and writes {ratios['writing_to_full_attention']:.1f} times as fast as full attention, and keeps "
            f"{kept} of its bytes."
        )
    if "writing_full_to_empty_bank" in ratios:
        share = percent(ratios["writing_full_to_empty_bank"])
        full = f"With {ratios['bank_tokens']:,} tokens in memory"
        sentences.append(f"{full} it writes at {share} of its speed with an empty memory.")
    return sentences


def _attribution(result: dict) -> list[str]:
    first, n = result["curve"][0], result["curve"][0]["n"]
    gain = result.get("gains", {}).get("random_retrieved")
    sentences = [
        f"Without its heaviest chunk a token falls by {first['top']:+.4f} nats on average, without a random retrieved "
        f"one by {first['random_retrieved']:+.4f}."
    ]
    if gain:
        shown = judged(gain["low"], gain["high"], "the heaviest chunk matters more", "it matters less", n)
        sentences.append(f"The difference is {_nats(gain['difference'], gain['low'], gain['high'], n)}: {shown}.")
    for name, words in (("helped", "fall"), ("hurt", "change")):
        group = result["groups"].get(name, {})
        if group.get("tokens"):
            change = _nats(group["top"], group["top_low"], group["top_high"], group["n"])
            sentences.append(f"Tokens that memory {name} ({group['tokens']:,}): they {words} by {change}.")
    return sentences


def _comparison(result: dict) -> list[str]:
    items = sorted(result["items"], key=lambda item: item["change"]["change"])
    if not items:
        return ["No variant has been measured."]
    best, worst = items[0], items[-1]
    sentences = [f"Best here: «{best['name']}», {_change(best)}. Worst: «{worst['name']}», {_change(worst)}."]
    within = [item["name"] for item in items[1:] if item["change"]["low"] <= best["change"]["change"]]
    if within:
        sentences.append(
            f"The intervals of {len(within)} other{'s' if len(within) > 1 else ''} reach as low as the best value: "
            "differences that small may be chance."
        )
    return sentences


def _change(item: dict) -> str:
    gain = item["change"]
    return percent(gain["change"], gain["low"], gain["high"], sign=True)


def _accuracies(result: dict, metric: str, words: str) -> list[str]:
    row = result["systems"].get("longmem", {})
    if row.get(metric) is None:
        return []
    n = row["n"]
    bounds = (row[f"{metric}_low"], row[f"{metric}_high"]) if n > 1 else ()
    sentences = [f"LongMem {words} in {percent(row[metric], *bounds)}."]
    for other, gain in _gains(result):
        if gain.get("difference") is None:
            continue
        shown = judged(gain["low"], gain["high"], "memory helps", "memory hurts", n)
        points = percent(gain["difference"], *_interval(gain, n), sign=True, unit="points")
        sentences.append(f"Against «{other}» that is {points}: {shown}.")
    return sentences


def _nats(value: float, low: float, high: float, n: int) -> str:
    interval = f" (95 % interval {low:+.4f} to {high:+.4f})" if n > 1 else ""
    return f"{value:+.4f} nats{interval}".replace("-", "−")


def _interval(row: dict, n: int, prefix: str = "") -> tuple:
    return (row[f"{prefix}low"], row[f"{prefix}high"]) if n > 1 else ()


def _count(result: dict, system: str = "longmem") -> int:
    rows = [row for name, row in result["systems"].items() if name == system or "n" in row]
    return max((row.get("n", 0) for row in rows), default=0)


WORDS: dict[str, Callable[[dict], list[str]]] = {
    "perplexity": _perplexity,
    "suffix": _suffix,
    "icl": _icl,
    "needle": _needle,
    "staleness": _staleness,
    "efficiency": _efficiency,
    "attribution": _attribution,
    "comparison": _comparison,
}
_COUNTS: dict[str, Callable[[dict], tuple[int, str]]] = {
    "perplexity": lambda result: (_count(result), "documents"),
    "suffix": lambda result: (_count(result), "chapter breaks"),
    "icl": lambda result: (_count(result), "texts"),
    "needle": lambda result: (_count(result), "facts of each kind and length"),
    "staleness": lambda result: (result["curve"][-1]["longmem"]["n"], "texts"),
    "efficiency": lambda result: (result["settings"].get("rounds", 0), "rounds"),
    "attribution": lambda result: (result["curve"][0]["n"], f"documents, {result['curve'][0]['tokens']:,} tokens"),
    "comparison": lambda result: (
        (result.get("documents", 0), f"documents for each of {len(result['items'])} variants")
        if result.get("documents")
        else (len(result["items"]), "variants")
    ),
}
