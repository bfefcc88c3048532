"""Perplexity of held-out documents.

Protocol of the paper: each document alone, consecutive windows, the bank emptied between documents and filled as
reading goes on. All systems score the same tokens. Where only every n-th window is scored, the first of them is drawn
for each document: else the first window, before which nothing can be in memory, would be scored n times too often.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from longmem.documents import Document
from longmem.errors import LongMemError
from longmem.evaluation.results import Items, Options, best_control, bootstrap, draw, settings_of, titled
from longmem.evaluation.systems import Memories, Reading, Systems
from longmem.training.data import read_packs

# Groups of tokens: the beginnings of all documents that are longer, and everything.
GROUPS = {"first 8k": 8_192, "first 50k": 50_000, "whole": None}
POSITIONS = (0, 512, 2_048, 8_192, 16_384, 32_768, 65_536, 131_072, 262_144)


@dataclass(frozen=True)
class PerplexityOptions(Options):
    """documents: txt, jsonl or jsonl.xz files; max_tokens: of each; score_every: score every n-th window, read all."""

    documents: tuple[Path, ...] = ()
    max_tokens: int | None = 65_536
    score_every: int = 8
    read_overlap: int | None = None


def measure_perplexity(options: PerplexityOptions) -> dict:
    """Measure, and return (and write) the result; `groups` and `positions` divide it by how far a document has gone.

    Raises:
        LongMemError: no document is longer than one window.
    """
    systems = Systems(options.model, options.systems, read_overlap=options.read_overlap)
    most = None if options.full else options.max_tokens
    every = 1 if options.full else options.score_every
    settings = settings_of(options, "documents") | {"max_tokens": most, "score_every": every, "first_window": "drawn"}
    items = Items("perplexity", options, systems, settings)
    texts = dict(titled(read_packs(options.documents)))
    for title in items.each(draw(list(texts), options.max_items, options.seed)):
        document = Document.from_text(title, texts[title])
        items.add(title, measure_document(systems, document, most, every, f"{options.seed}-{title}"))
    measured = [item for item in items.found.values() if item["windows"]]
    if not measured:
        raise LongMemError(f"documents hold no text longer than one window ({systems.window} tokens).")
    names = _scoring(systems)
    groups = {group: _group(measured, names, until) for group, until in GROUPS.items()}
    found = groups["whole"] | _full_attention(systems, measured)
    positions = _positions(measured, names)
    return items.finish(found, gains=_gains(measured, found, systems), groups=groups, positions=positions)


def measure_document(systems: Systems, document: Document, max_tokens: int | None, score_every: int, seed: str) -> dict:
    """`windows`: [first token, tokens, characters, sum of negative log-likelihood in nats of each system] each."""
    encoded = document.encode(systems.model.tokenizer)
    ids = encoded.token_ids[:max_tokens]
    lengths = encoded.spans[:, 1] - encoded.spans[:, 0]
    memories, window, windows = systems.new_memories(), systems.window, []
    reading = Reading(systems, memories, ids, document.name)
    starts = range(0, len(ids) - 1, window) if len(ids) > window else []
    first = Random(seed).randrange(max(1, min(score_every, len(starts))))
    for index, start in enumerate(tqdm(starts, desc=document.name[:30], leave=False)):
        if index % score_every == first:
            n = min(window, len(ids) - 1 - start)
            losses = window_losses(systems, ids, start, memories)
            characters = int(lengths[start + 1 : start + 1 + n].sum())
            windows.append([start, n, characters, [losses[name] for name in _scoring(systems)]])
        reading.read_to(start + window)
    item = {"title": document.name, "tokens": len(ids), "windows": windows}
    if "full_attention" in systems.names and windows and len(ids) <= systems.trained_positions:
        whole_T = _losses(_backbone_logits(systems, ids), ids[1:].to(systems.model.device))
        item["full_attention"] = sum(whole_T[start : start + n].sum().item() for start, n, *_ in windows)
    return item


def window_losses(systems: Systems, ids_T: Tensor, start: int, memories: Memories) -> dict[str, float]:
    """Summed negative log-likelihood of each system over the window that begins at `start`."""
    window, device = systems.window, systems.model.device
    inputs, targets = ids_T[start : start + window], ids_T[start + 1 : start + window + 1].to(device)
    logits = {name: x[0, : len(targets)] for name, x in systems.logits(inputs[None], memories).items()}
    losses = {name: _losses(x, targets) for name, x in logits.items()}
    found = {name: x.sum().item() for name, x in losses.items()}
    if "backbone_sliding" in systems.names:
        half, first = window // 2, losses["backbone"]
        if start:
            earlier = _backbone_logits(systems, ids_T[start - half : start + half])
            first = torch.cat([_losses(earlier[half:], targets[:half])[: len(targets)], first[half:]])
        found["backbone_sliding"] = first.sum().item()
    return found


@torch.no_grad()
def _backbone_logits(systems: Systems, ids_T: Tensor) -> Tensor:
    backbone = systems.model.backbone
    return backbone.logits(backbone(ids_T[None].to(systems.model.device)))[0]


def _losses(logits_TV: Tensor, targets_T: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits_TV[: len(targets_T)].float(), targets_T, reduction="none")


def _scoring(systems: Systems) -> list[str]:
    return [name for name in systems.names if name != "full_attention"]


def _full_attention(systems: Systems, items: list[dict]) -> dict:
    if "full_attention" not in systems.names:
        return {}
    if all("full_attention" in item for item in items):
        _, tokens, characters = _sums(items)
        return {"full_attention": summarize(np.array([item["full_attention"] for item in items]), tokens, characters)}
    trained = systems.trained_positions
    longest = max(item["tokens"] for item in items)
    reason = f"the backbone was trained for {trained} positions, the documents have up to {longest}"
    return {"full_attention": {"perplexity": None, "reason": reason, "n": 0}}


def _sums(items: Sequence[dict], first: int = 0, until: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per document: negative log-likelihoods [documents, systems], tokens and characters of the windows in a range."""
    nll, tokens, characters = [], [], []
    for item in items:
        chosen = [w for w in item["windows"] if first <= w[0] and (until is None or w[0] < until)]
        if chosen:
            tokens.append(sum(w[1] for w in chosen))
            characters.append(sum(w[2] for w in chosen))
            nll.append(np.sum([w[3] for w in chosen], axis=0))
    return np.array(nll), np.array(tokens), np.array(characters)


def _group(items: Sequence[dict], names: Sequence[str], until: int | None) -> dict:
    """Perplexity and bits per character of each system over the documents at least `until` tokens long, up to there."""
    nll, tokens, characters = _sums([item for item in items if until is None or item["tokens"] >= until], 0, until)
    return {name: summarize(nll[:, i], tokens, characters) for i, name in enumerate(names)} if len(nll) else {}


def summarize(nll_N: np.ndarray, tokens_N: np.ndarray, characters_N: np.ndarray) -> dict:
    """Token perplexity and bits per character over N documents, with intervals over documents."""
    low, high = bootstrap(lambda choice: np.exp(nll_N[choice].sum(1) / tokens_N[choice].sum(1)), len(nll_N))
    bits = nll_N / math.log(2)
    bits_low, bits_high = bootstrap(lambda choice: bits[choice].sum(1) / characters_N[choice].sum(1), len(nll_N))
    return {
        "perplexity": math.exp(nll_N.sum() / tokens_N.sum()),
        "perplexity_low": low,
        "perplexity_high": high,
        "bits_per_character": bits.sum() / characters_N.sum(),
        "bits_per_character_low": bits_low,
        "bits_per_character_high": bits_high,
        "n": len(nll_N),
        "tokens": int(tokens_N.sum()),
    }


def _positions(items: Sequence[dict], names: Sequence[str]) -> list[dict]:
    """Perplexity of each system by the place in the document."""
    found = []
    for first, until in zip(POSITIONS, [*POSITIONS[1:], None], strict=True):
        nll, tokens, _ = _sums(items, first, until)
        if len(nll):
            values = {name: math.exp(nll[:, i].sum() / tokens.sum()) for i, name in enumerate(names)}
            found.append({"from": first, "to": until, "n": len(nll), "tokens": int(tokens.sum()), "perplexity": values})
    return found


def _gains(items: Sequence[dict], found: dict, systems: Systems) -> dict:
    """Relative change of perplexity by memory, with intervals over documents: below 0 is better."""
    names = _scoring(systems)
    if "longmem" not in names:
        return {}
    nll, tokens, _ = _sums(items)
    others = {"backbone": "backbone"} if "backbone" in names else {}
    if control := best_control(found, systems.controls, "perplexity", lowest=True):
        others["better_control"] = control
    gains = {}
    for label, other in others.items():
        a, b = nll[:, names.index("longmem")], nll[:, names.index(other)]

        def change(choice: np.ndarray, a: np.ndarray = a, b: np.ndarray = b) -> np.ndarray:
            return np.exp((a - b)[choice].sum(1) / tokens[choice].sum(1)) - 1

        low, high = bootstrap(change, len(nll))
        gains[label] = {
            "against": other,
            "change": math.exp((a - b).sum() / tokens.sum()) - 1,
            "low": low,
            "high": high,
        }
    return gains


def table(result: dict) -> list[list[str]]:
    """Rows for people: system, perplexity, interval, bits per character, change against the backbone.

    Then the gain of memory, against the better control; and LongMem by length group and by place in the documents.
    """
    base = (result["systems"].get("backbone") or {}).get("perplexity")
    rows = [["system", "perplexity", "95 %", "bits/char", "against backbone"]]
    for name, row in result["systems"].items():
        if row["perplexity"] is None:
            rows.append([name, "-", "", "", row["reason"]])
            continue
        change = f"{100 * (row['perplexity'] / base - 1):+.1f} %" if base else ""
        interval = f"{row['perplexity_low']:.2f} to {row['perplexity_high']:.2f}"
        rows.append([name, f"{row['perplexity']:.2f}", interval, f"{row['bits_per_character']:.3f}", change])
    if gain := result["gains"].get("better_control"):
        interval = f"{100 * gain['low']:+.1f} to {100 * gain['high']:+.1f} %"
        rows.append([f"longmem against {gain['against']}", f"{100 * gain['change']:+.1f} %", interval, "", ""])
    parts = [
        (name, found, "longmem", "backbone") for name, found in result.get("groups", {}).items() if name != "whole"
    ]
    for name, found, own, other in parts:
        if own in found and other in found:
            row, interval = found[own], f"{found[own]['perplexity_low']:.2f} to {found[own]['perplexity_high']:.2f}"
            change = f"{100 * (row['perplexity'] / found[other]['perplexity'] - 1):+.1f} %"
            bits = f"{row['bits_per_character']:.3f}"
            rows.append([f"longmem, {name}, n = {row['n']}", f"{row['perplexity']:.2f}", interval, bits, change])
    for part in result.get("positions", []):
        values = part["perplexity"]
        if "longmem" in values and "backbone" in values:
            place = f"{part['from']:,} to {part['to']:,}" if part["to"] else f"from {part['from']:,}"
            change = f"{100 * (values['longmem'] / values['backbone'] - 1):+.1f} %"
            rows.append([f"longmem, tokens {place}, n = {part['n']}", f"{values['longmem']:.2f}", "", "", change])
    return rows
