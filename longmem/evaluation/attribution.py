"""How faithful the charts are: what a token loses when the chunk that they weigh highest is not there.

A text is read into a bank, then its next window is scored. For tokens on which memory had an effect, chunks are removed
from all layers and the fall of the token's log-probability, in nats, is measured: the highest-weighted chunks (weight:
attention times gate, summed over layers and heads), random ones of those the token retrieved, random ones of the bank.

Shapes: B rows, T tokens, H query heads, C chunks, V vocabulary.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from longmem.documents import Document
from longmem.errors import LongMemError
from longmem.evaluation.results import Items, Options, bootstrap, difference, draw, settings_of, titled
from longmem.evaluation.systems import Systems
from longmem.memory_bank import MemoryBank
from longmem.model import LongMemForCausalLM
from longmem.retrieval import Retrieval
from longmem.row_memory import Sources
from longmem.trace import Seen, TraceRecorder, token_logprobs
from longmem.training.data import read_packs

KINDS = ("top", "random_retrieved", "random_stored")


@dataclass(frozen=True)
class AttributionOptions(Options):
    """documents: txt, jsonl or jsonl.xz files; read_tokens: of each, before the window that is scored.

    tokens_per_document: of the tokens whose effect is above the median; removed: how many chunks, 1 and more.
    """

    documents: tuple[Path, ...] = ()
    read_tokens: int = 16_384
    tokens_per_document: int = 32
    removed: tuple[int, ...] = (1, 2, 4, 8, 16)


def measure_attribution(options: AttributionOptions) -> dict:
    """Measure, and return (and write) the result.

    `systems` has the drops for one chunk, `curve` for more, `groups` those of tokens that memory helped and hurt.
    n counts documents, over which the intervals go; tokens counts tokens.

    Raises:
        LongMemError: an option outside what is allowed, or no document long enough.
    """
    systems = Systems(options.model, options.systems, allowed=("longmem",))
    _check(options, systems.window)
    most = None if options.full else options.tokens_per_document
    settings = settings_of(options, "documents", "read_tokens", "removed") | {"tokens_per_document": most}
    items = Items("attribution", options, systems, settings)
    texts = dict(titled(read_packs(options.documents)))
    for title in items.each(draw(list(texts), options.max_items, options.seed)):
        items.add(title, measure_document(systems, Document.from_text(title, texts[title]), options))
    measured = [item for item in items.found.values() if item["scored"]]
    if not measured:
        needed = options.read_tokens + systems.window
        raise LongMemError(f"documents hold no text longer than read_tokens and one window ({needed} tokens).")
    curve = [{"removed": k} | drops(measured, i) for i, k in enumerate(options.removed)]
    groups = {name: drops(_of_sign(measured, sign), 0, sign) for name, sign in (("helped", 1), ("hurt", -1))}
    found = {f"drop_{name}" if name.startswith(KINDS) else name: x for name, x in drops(measured, 0).items()}
    return items.finish({"longmem": found}, gains=_gains(measured), groups=groups, curve=curve)


def _check(options: AttributionOptions, window: int) -> None:
    if options.read_tokens < window:
        raise LongMemError(f"read_tokens is {options.read_tokens}; it must be at least one window ({window} tokens).")
    if options.tokens_per_document < 1:
        raise LongMemError(f"tokens_per_document is {options.tokens_per_document}; it must be at least 1.")
    if options.removed[:1] != (1,) or list(options.removed) != sorted(set(options.removed)):
        raise LongMemError(f"removed is {options.removed}; it must begin with 1 and grow, as in (1, 2, 4).")


@torch.no_grad()
def measure_document(systems: Systems, document: Document, options: AttributionOptions) -> dict:
    """`median`: of |effect| in the window; `scored`: {token, effect, retrieved, drops of each kind} each.

    A token is named by its place in the document. Drops are in the order of `options.removed`.
    """
    ids_T = document.encode(systems.model.tokenizer).token_ids.to(systems.model.device)
    start, window, scored = options.read_tokens, systems.window, []
    if len(ids_T) <= start + window:
        return {"title": document.name, "tokens": len(ids_T), "median": None, "scored": scored}
    memories = systems.new_memories()
    systems.read(memories, ids_T[:start], name=document.name)
    window_ids = ids_T[start : start + window + 1]
    effects, layers = effects_and_layers(systems.model, window_ids, memories.longmem)
    strong = np.flatnonzero(np.abs(effects) > np.median(np.abs(effects))).tolist()
    rng = Random(f"{options.seed}-{document.name}")
    most = None if options.full else options.tokens_per_document
    for place in tqdm(draw(strong, most, options.seed), desc=document.name[:30], leave=False):
        ranked = ranked_chunks(layers, place)
        if len(ranked) > 1:
            chosen = candidates(rng, ranked, memories.longmem, options.removed[-1])
            sets = {kind: [chunks[:k] for k in options.removed] for kind, chunks in chosen.items()}
            found = token_drops(systems.model, window_ids[: place + 2], memories.longmem, sets)
            about = {"token": start + place + 1, "effect": float(effects[place]), "retrieved": len(ranked)}
            scored.append(about | found)
    return {
        "title": document.name,
        "tokens": len(ids_T),
        "median": float(np.median(np.abs(effects))),
        "scored": scored,
    }


def effects_and_layers(
    model: LongMemForCausalLM, ids_T: Tensor, bank: MemoryBank
) -> tuple[np.ndarray, dict[int, Seen]]:
    """Of all tokens but the first: the effect of memory [T - 1], and what each layer retrieved for them."""
    states, recorder = model.backbone(ids_T[None, :-1]), TraceRecorder()
    sources = Sources(model.config.retrieved_chunks, bank)
    with_bank, empty = (
        token_logprobs(model.backbone.head(side_BTE)[0], ids_T[1:])
        for side_BTE in (model.sidenet(states, sources, recorder), model.sidenet(states))
    )
    return np.subtract(with_bank, empty), {layer: blocks[0] for layer, blocks in recorder.layers.items()}


def ranked_chunks(layers: dict[int, Seen], place: int) -> list[int]:
    """Chunks that were retrieved for the token after `place`, the highest weight over all layers and heads first."""
    chunks = np.concatenate([seen.chunks_HTC[:, place].ravel() for seen in layers.values()])
    weights = np.concatenate([seen.weights_HTC[:, place].ravel() for seen in layers.values()])
    ids, inverse = np.unique(chunks, return_inverse=True)
    order = np.argsort(-np.bincount(inverse, weights=weights), kind="stable")
    return [chunk for chunk in ids[order].tolist() if chunk != -1]


def candidates(rng: Random, ranked: Sequence[int], bank: MemoryBank, most: int) -> dict[str, list[int]]:
    """Which chunks each kind removes, in this order; the random ones are never the top one."""
    top, *others = ranked
    stored = [chunk.id for chunk in bank.chunks() if chunk.id != top]
    return {
        "top": list(ranked[:most]),
        "random_retrieved": rng.sample(others, min(most, len(others))),
        "random_stored": rng.sample(stored, min(most, len(stored))),
    }


def token_drops(
    model: LongMemForCausalLM, ids_T: Tensor, bank: MemoryBank, sets: dict[str, list[list[int]]]
) -> dict[str, list[float]]:
    """How far log p of the last token falls when each set of chunks is removed, as `exclude=` does it.

    The window is cut at the token, since what follows cannot reach it.
    """
    states = model.backbone(ids_T[None, :-1])
    removal = Removal(model, bank, most=max(len(chunks) for kind in sets.values() for chunks in kind))

    def logprob(chunks: Collection[int]) -> float:
        removal.removed = chunks
        side_BTE = model.sidenet(states, removal)
        return token_logprobs(model.backbone.head(side_BTE[:, -1]), ids_T[-1:])[0]

    whole = logprob(())
    return {kind: [whole - logprob(chunks) for chunks in removed] for kind, removed in sets.items()}


class Removal:
    """`Sources` with `exclude`, for many exclusions and one token: it searches only where the answer can differ.

    What the first memory layer asks is the same whatever is removed: it is searched once, for as many more chunks as
    may be removed. In the last layer of the SideNet only the last position counts, and only its query is searched.
    """

    def __init__(self, model: LongMemForCausalLM, bank: MemoryBank, *, most: int) -> None:
        self.bank, self.most, self.n_chunks = bank, most, model.config.retrieved_chunks
        self.removed: Collection[int] = ()
        sides = {model.config.side_layer(layer): layer for layer in model.config.memory_layers}
        self._first, self._last = sides[min(sides)], sides.get(len(model.sidenet.layers) - 1)
        self._found: Retrieval | None = None

    def silent_heads(self, layer: int) -> list[int]:
        """None: all heads have their memory."""
        return []

    def retrieve(self, layer: int, queries_BHTD: Tensor) -> Retrieval:
        dtype, T = queries_BHTD.dtype, queries_BHTD.shape[2]
        if layer == self._first:
            if self._found is None:
                found = self.bank.search(layer, queries_BHTD, n_chunks=self.n_chunks + self.most)
                self._found = _raised(found, dtype)
            return without(self._found, self.removed, self.n_chunks)
        searched = queries_BHTD[:, :, -1:] if layer == self._last else queries_BHTD
        found = self.bank.search(layer, searched, n_chunks=self.n_chunks, exclude=self.removed)
        parts = vars(_raised(found, dtype))
        return Retrieval(**{name: x.expand(-1, -1, T, *x.shape[3:]) for name, x in parts.items()})


def _raised(retrieval: Retrieval, dtype: torch.dtype) -> Retrieval:
    """Keys and values in the dtype that attention wants, once and not at each use."""
    return replace(retrieval, keys_BHTKD=retrieval.keys_BHTKD.to(dtype), values_BHTKD=retrieval.values_BHTKD.to(dtype))


def without(retrieval: Retrieval, removed: Collection[int], n_chunks: int) -> Retrieval:
    """The best `n_chunks` of a retrieval that are not among the removed."""
    chunks_BHTC = retrieval.chunks_BHTC
    C, size = chunks_BHTC.shape[-1], retrieval.mask_BHTK.shape[-1] // chunks_BHTC.shape[-1]
    gone = torch.tensor(list(removed), dtype=chunks_BHTC.dtype, device=chunks_BHTC.device)
    scores_BHTC = retrieval.scores_BHTC.masked_fill(torch.isin(chunks_BHTC, gone), -torch.inf)
    scores_BHTC, best_BHTC = scores_BHTC.topk(n_chunks, dim=-1)
    queries = torch.arange(best_BHTC[..., 0].numel(), device=gone.device).view(*best_BHTC.shape[:3], 1)
    rows = (queries * C + best_BHTC).flatten()

    def pick(x: Tensor) -> Tensor:
        """Whole chunks of a tensor whose axis 3 counts tokens."""
        chunks_NE = x.reshape(-1, size * x[0, 0, 0, 0].numel())
        return chunks_NE.index_select(0, rows).view(*best_BHTC.shape[:3], n_chunks * size, *x.shape[4:])

    there_BHTC = scores_BHTC > -torch.inf
    return Retrieval(
        keys_BHTKD=pick(retrieval.keys_BHTKD),
        values_BHTKD=pick(retrieval.values_BHTKD),
        scores_BHTC=scores_BHTC,
        chunks_BHTC=chunks_BHTC.gather(-1, best_BHTC).masked_fill(~there_BHTC, -1),
        mask_BHTK=pick(retrieval.mask_BHTK) & there_BHTC.repeat_interleave(size, dim=-1),
    )


# Summaries ---------------------------------------------------------------------------------------------------------


def _of_sign(items: Sequence[dict], sign: int) -> list[dict]:
    """The documents with those of their tokens whose probability memory raised (1) or lowered (-1)."""
    kept = [item | {"scored": [t for t in item["scored"] if sign * t["effect"] > 0]} for item in items]
    return [item for item in kept if item["scored"]]


def drops(items: Sequence[dict], column: int, sign: int = 1) -> dict:
    """Mean drop of each kind with its interval, and how many times as far the top chunks let a token fall.

    column: which of the numbers of removed chunks; sign: -1 where a token should rise without them.
    """
    if not items:
        return {"n": 0, "tokens": 0}
    tokens_N = np.array([len(item["scored"]) for item in items])
    sums = {kind: np.array([sum(t[kind][column] for t in item["scored"]) for item in items]) for kind in KINDS}
    found: dict = {}
    for kind, sums_N in sums.items():
        found[kind] = float(sums_N.sum() / tokens_N.sum())
        low, high = bootstrap(lambda choice, x=sums_N: x[choice].sum(1) / tokens_N[choice].sum(1), len(items))
        found |= {f"{kind}_low": low, f"{kind}_high": high}
    top, other = sign * sums["top"], sign * sums["random_retrieved"]
    # The interval is one of angles, which have no gap where the fall for random chunks passes through 0.
    low, high = bootstrap(lambda choice: np.arctan2(top[choice].sum(1), other[choice].sum(1)), len(items))
    angles = {"ratio": np.arctan2(top.sum(), other.sum()), "ratio_low": low, "ratio_high": high}
    found |= {name: _ratio(float(angle)) for name, angle in angles.items()}
    return found | {"n": len(items), "tokens": int(tokens_N.sum())}


def _ratio(angle: float) -> float:
    """The ratio whose angle this is; infinite where the denominator is not above 0."""
    return math.tan(angle) if abs(angle) < math.pi / 2 else math.copysign(math.inf, angle)


def _gains(items: Sequence[dict]) -> dict:
    """By how many nats more the top chunk counts than a random one, over documents."""
    means = {kind: [np.mean([t[kind][0] for t in item["scored"]]) for item in items] for kind in KINDS}
    return {kind: difference(means["top"], means[kind]) for kind in KINDS[1:]}


def table(result: dict) -> list[list[str]]:
    """Rows for people: chunks removed, and the mean drop for each kind of chunk, in nats.

    Over all tokens the drops of those that memory helped and hurt cancel in part: both are shown by themselves too.
    """
    rows = [["removed", *(kind.replace("_", " ") for kind in KINDS), "top / random retrieved"]]
    named = [(str(point["removed"]), point) for point in result["curve"]]
    named += [(f"1, tokens that memory {name}", group) for name, group in result["groups"].items() if group["tokens"]]
    for label, point in named:
        cells = [f"{point[kind]:.3f} ({point[f'{kind}_low']:.3f} to {point[f'{kind}_high']:.3f})" for kind in KINDS]
        rows.append([label, *cells, times(point)])
    return rows


def times(row: dict) -> str:
    """A ratio and its interval for people; what has no bound is null in a file, and below a finite ratio it is -∞."""
    bounds = {name: _finite(row[name]) for name in ("ratio", "ratio_low", "ratio_high")}
    shown = {name: "∞" if value is None else f"{value:.1f}" for name, value in bounds.items()}
    if bounds["ratio_low"] is None and bounds["ratio"] is not None:
        shown["ratio_low"] = "-∞"
    return f"{shown['ratio']} ({shown['ratio_low']} to {shown['ratio_high']})"


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isinf(value) else value
