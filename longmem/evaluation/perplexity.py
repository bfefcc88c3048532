"""Perplexity of held-out documents: backbone alone, SideNet with an empty bank, SideNet with the bank it has filled.

Protocol of the paper: each document alone, consecutive windows, the bank emptied between documents and filled as
reading goes on. The three systems share one backbone pass and score the same tokens.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from longmem.documents import segments
from longmem.errors import LongMemError
from longmem.evaluation.settings import load_model, memory_settings
from longmem.memory_bank import MemoryBank
from longmem.model import LongMemForCausalLM
from longmem.row_memory import Sources
from longmem.training.data import read_packs

SYSTEMS = ("backbone", "empty_bank", "longmem")


def measure_perplexity(
    model_path: str,
    documents: list[Path],
    *,
    max_tokens: int | None = None,
    score_every: int = 1,
    read_overlap: int | None = None,
    json_path: Path | None = None,
) -> dict:
    """Measure, print a table, and return (and write) {"systems": {name: {...}}, "items": [...], "settings": {...}}.

    Args:
        documents: .txt, .jsonl or .jsonl.xz files.
        max_tokens: of each document; None for all.
        score_every: score every n-th window only; all are read.
        read_overlap: 0 or half a window of context before each segment that enters the bank; by default the model's.
    """
    model = load_model(model_path, read_overlap)
    items = []
    for title, text in read_packs(documents):
        all_ids = model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        ids = torch.tensor(all_ids[:max_tokens])
        if len(ids) > model.config.window:
            items.append(_document(model, title, ids, len(text) / len(all_ids), score_every))
    if not items:
        raise LongMemError(f"documents hold no text longer than one window ({model.config.window} tokens).")
    settings = {"documents": [p.name for p in documents], "max_tokens": max_tokens, "score_every": score_every}
    result = {
        "evaluation": "perplexity",
        "model": {"fingerprint": model.fingerprint},
        "settings": settings | memory_settings(model),
        "systems": {name: summarize(items, name) for name in SYSTEMS},
        "items": items,
    }
    _print_table(result)
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=1))
    return result


def _document(
    model: LongMemForCausalLM, title: str, ids: Tensor, characters_per_token: float, score_every: int
) -> dict:
    """Sums of negative log-likelihood in nats over the scored tokens of one document."""
    bank = model.new_bank()
    number = bank.begin_document(title)
    sums, scored = dict.fromkeys(SYSTEMS, 0.0), 0
    window = model.config.window
    waiting = segments(len(ids), window, model.config.read_overlap)
    for index, start in enumerate(tqdm(range(0, len(ids) - 1, window), desc=title[:30], leave=False)):
        if index % score_every == 0:
            inputs, targets = ids[start : start + window], ids[start + 1 : start + window + 1]
            for name, loss in window_losses(model, inputs.to(model.device), targets.to(model.device), bank).items():
                sums[name] += loss
            scored += len(targets)
        while waiting and waiting[0].end <= start + window:
            model.read_segments(ids, [waiting.pop(0)], memory=bank, document=number)
    return {
        "title": title,
        "tokens": len(ids),
        "scored": scored,
        "characters": characters_per_token * scored,
        "nll": sums,
    }


@torch.no_grad()
def window_losses(model: LongMemForCausalLM, inputs_T: Tensor, targets_T: Tensor, bank: MemoryBank) -> dict[str, float]:
    """Summed negative log-likelihood of each system over one window, from one pass of the backbone."""
    states = model.backbone(inputs_T[None])
    sources = Sources(model.config.retrieved_chunks, bank)
    logits = {
        "backbone": model.backbone.logits(states),
        "empty_bank": model.backbone.head(model.sidenet(states)),
        "longmem": model.backbone.head(model.sidenet(states, sources)),
    }
    size = len(targets_T)
    return {
        name: nn.functional.cross_entropy(x[0, :size].float(), targets_T, reduction="sum").item()
        for name, x in logits.items()
    }


def summarize(items: list[dict], name: str, *, draws: int = 2000) -> dict:
    """Token perplexity and bits per character over all documents, with 95 % bootstrap intervals over documents."""
    nll = np.array([item["nll"][name] for item in items])
    tokens = np.array([item["scored"] for item in items])
    characters = np.array([item["characters"] for item in items])
    choice = np.random.default_rng(0).integers(0, len(items), (draws, len(items)))
    resampled = np.exp(nll[choice].sum(1) / tokens[choice].sum(1))
    low, high = np.percentile(resampled, [2.5, 97.5])
    return {
        "perplexity": math.exp(nll.sum() / tokens.sum()),
        "perplexity_low": float(low),
        "perplexity_high": float(high),
        "bits_per_character": nll.sum() / math.log(2) / characters.sum(),
        "n": len(items),
    }


def _print_table(result: dict) -> None:
    print(f"{'system':<12} {'perplexity':>10} {'95 %':>16} {'bits/char':>10}")
    base = result["systems"]["backbone"]["perplexity"]
    for name, row in result["systems"].items():
        interval = f"{row['perplexity_low']:.2f}-{row['perplexity_high']:.2f}"
        change = f"{100 * (row['perplexity'] / base - 1):+.1f} %"
        print(f"{name:<12} {row['perplexity']:>10.2f} {interval:>16} {row['bits_per_character']:>10.3f} {change}")
    print(f"{len(result['items'])} documents, {sum(_scored(result['items']))} tokens scored")


def _scored(items: list[dict]) -> Iterable[int]:
    return (item["scored"] for item in items)
