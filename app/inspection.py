"""What the inspector shows of a run, as plain data for the page: every token's words, passages, weights and gates.

The page gets all of it at once, so that choosing a token needs no question to the server. Strings stay as they are:
the page puts them in as text, never as HTML.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from app import theme
from app.methods import METHODS
from app.session import Run, Source

CHUNKS_PER_LAYER = 8  # the heaviest chunks of a token and layer that become passages
PASSAGES_PER_LAYER = 4
CONTEXT = 90  # characters of the document around a passage
JOIN = 60  # chunks nearer than this many characters share one passage
HARDLY_NATS = 0.02  # an effect smaller than this is called no change: 2 % of the probability
DECIDED_NATS = 1.0  # memory "decided" a token that it made e times as probable


def describe(run: Run) -> dict:
    """The run as JSON-able data: `run, kind, method, share, focus, layer, layers, documents, steps`, each step with its
    layers' passages; `share` is what the number is called that a layer gives as its `gate`.

    `focus` and `layer` are the token to point out first and the layer that looked at one place most for it.
    """
    layers = sorted(int(layer) for layer in run.gates.layer.unique())
    gates = run.gates.groupby(["step", "layer"])["gate"].mean()
    passages = _passages(run)
    focus = focus_step(run.tokens)
    heaviest = {layer: max((p["weight"] for p in passages.get((focus, layer), [])), default=0.0) for layer in layers}
    return {
        "run": run.number,
        "kind": run.recipe.kind,
        "method": run.recipe.method,
        "share": METHODS[run.recipe.method].share,
        "focus": focus,
        "layer": max(heaviest, key=heaviest.get, default=None),
        "layers": layers,
        "documents": {str(i): _document(i, source) for i, source in run.sources.items()},
        "steps": [
            {
                **_step(token),
                "layers": [
                    {
                        "layer": layer,
                        "gate": round(float(gates.get((token.step, layer), 0.0)), 4),
                        "passages": passages.get((token.step, layer), []),
                    }
                    for layer in layers
                ],
            }
            for token in run.tokens.itertuples()
        ],
    }


def focus_step(tokens: pd.DataFrame) -> int | None:
    """The token to point out: the first that memory decided, else the one it changed most; None without tokens."""
    if tokens.empty:
        return None
    if tokens.effect.isna().all():  # nothing was predicted: the last query is what a reader asks about
        return int(tokens.step.iloc[-1])
    decided = tokens[tokens.effect >= DECIDED_NATS]
    row = decided.iloc[0] if len(decided) else tokens.loc[tokens.effect.abs().idxmax()]
    return int(row.step)


def tone(effect: float) -> str:
    """Whether memory "raised" or "lowered" a token's probability, or hardly changed it (""); effect in nats."""
    if abs(effect) < HARDLY_NATS:
        return ""
    return "raised" if effect > 0 else "lowered"


def sentence(logprob: float, logprob_empty: float) -> str:
    """What memory did to one token, in words."""
    before, after = percent(math.exp(logprob_empty)), percent(math.exp(logprob))
    verb = tone(logprob - logprob_empty)
    if not verb or before == after:
        return f"Memory hardly changed the probability of this token: it is {after} either way."
    return f"Memory {verb} the probability of this token from {before} to {after}."


def percent(probability: float) -> str:
    """A probability for people: two digits where they tell something, never a false 0 or 100."""
    value = 100 * probability
    if value < 0.001:
        return "less than 0.001 %"
    if value > 99.9:
        return "more than 99.9 %"
    if value < 0.095:
        return f"{value:.1g} %"
    return f"{value:.1f} %" if value < 9.95 or value > 98.95 else f"{value:.0f} %"


def passages_of(run: Run, step: int) -> dict[int, list[dict]]:
    """The passages of one token by layer, as `describe` gives them."""
    one = replace(run, trace=run.trace[run.trace.step == step])
    return {layer: rows for (_, layer), rows in _passages(one).items()}


def _document(document: int, source: Source) -> dict:
    return {"name": source.name, "colour": theme.document_colour(document)}


def _step(token) -> dict:
    if math.isnan(token.effect):
        words = "Nothing was predicted here: this is what the query at this token finds in memory."
        return {"step": int(token.step), "token": token.token, "effect": None, "tone": "", "sentence": words}
    return {
        "step": int(token.step),
        "token": token.token,
        "p": percent(math.exp(token.logprob)),
        "p_empty": percent(math.exp(token.logprob_empty)),
        "effect": round(float(token.effect), 3),
        "tone": tone(token.effect),
        "sentence": sentence(token.logprob, token.logprob_empty),
    }


def _passages(run: Run) -> dict[tuple[int, int], list[dict]]:
    """(step, layer) -> its heaviest chunks as passages of their documents, heaviest passage first."""
    if run.trace.empty:
        return {}
    heads = run.gates.groupby("layer")["head"].nunique()
    located = run.trace.merge(run.chunks[["chunk", "document_id"]], on="chunk")
    merged = located.groupby(["step", "layer", "chunk"], as_index=False).agg(
        weight=("weight", "sum"),
        score=("score", "max"),
        heads=("head", "nunique"),
        document=("document_id", "first"),
        start=("start", "first"),
        stop=("end", "first"),
    )
    merged["weight"] /= merged.layer.map(heads)
    merged = merged.sort_values("weight", ascending=False, kind="stable")
    merged["place"] = merged.groupby(["step", "layer"]).cumcount()
    kept = merged[merged.place < CHUNKS_PER_LAYER].sort_values(["step", "layer", "document", "start"])
    grouped = {key: list(group.itertuples()) for key, group in kept.groupby(["step", "layer"])}
    return {(int(step), int(layer)): _ranked(chunks, run.sources) for (step, layer), chunks in grouped.items()}


def _ranked(chunks: list, sources: dict[int, Source]) -> list[dict]:
    """Chunks of one (step, layer), in the order of their documents -> the heaviest PASSAGES_PER_LAYER passages."""
    top = max(chunk.weight for chunk in chunks) or 1.0
    passages = [_passage(group, sources, top) for group in _neighbours(chunks)]
    return sorted(passages, key=lambda passage: -passage["weight"])[:PASSAGES_PER_LAYER]


def _neighbours(chunks: list) -> Iterator[list]:
    """Split chunks into runs of the same document that lie within JOIN characters of each other."""
    cuts = [
        i
        for i in range(1, len(chunks))
        if chunks[i].document != chunks[i - 1].document or chunks[i].start - chunks[i - 1].stop > JOIN
    ]
    for start, stop in zip([0, *cuts], [*cuts, len(chunks)], strict=True):
        yield chunks[start:stop]


def _passage(chunks: list, sources: dict[int, Source], top: float) -> dict:
    """One stretch of a document: `parts` are [text] around and [text, chunk id, strength 0..1] for each chunk.

    Chunks may share a character that takes several tokens: it is shown once, with the first.
    """
    text = sources[chunks[0].document].text
    at = max(0, chunks[0].start - CONTEXT)
    parts = [["…"]] if at else []
    for chunk in chunks:
        if chunk.start > at:
            parts.append([text[at : chunk.start]])
        parts.append([text[max(at, chunk.start) : chunk.stop], int(chunk.chunk), round(chunk.weight / top, 3)])
        at = max(at, chunk.stop)
    end = min(len(text), at + CONTEXT)
    parts.append([text[at:end] + ("…" if end < len(text) else "")])
    return {
        "document": int(chunks[0].document),
        "weight": round(float(np.sum([chunk.weight for chunk in chunks])), 5),
        "score": round(float(max(chunk.score for chunk in chunks)), 3),
        "heads": int(max(chunk.heads for chunk in chunks)),
        "parts": parts,
    }
