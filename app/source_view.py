"""The source view as plain data: a page of a document with its weights, a map of the whole, and who looked at a chunk.

Only a page of a document is ever shown, however long it is.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from app.session import Run
from app.source_choice import SourceChoice
from app.source_groups import (
    Chosen,
    exact,
    group_by_chunk,
    group_by_document,
    group_by_sentence,
    group_by_token,
    layers_in_scope,
    text_of,
)
from app.source_spans import TokenSpans

PAGE = 3_000  # characters shown
BEFORE = 900  # of them before a place that was gone to
MAX_BINS = 240  # of a map: a bin is two or three pixels wide
MAX_ROWS = 20  # of the table: the heaviest
MAX_USES = 12  # tokens that looked at a chunk: the heaviest
EXCERPT = 90  # characters


@dataclass(frozen=True)
class Part:
    """A stretch of a page: `weight` and the heaviest `chunk` of its group, or None between groups."""

    text: str
    weight: float | None = None
    chunk: int | None = None
    here: bool = False  # the place that was gone to


@dataclass(frozen=True)
class Page:
    """Characters start..end of a document's text, `length` in all, cut into parts."""

    start: int
    end: int
    length: int
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class DocumentLine:
    """A document that was looked at: its weight, also by bins of its text, and the characters that memory held."""

    document: int
    name: str
    weight: float
    n_chunks: int
    length: int
    bins: tuple[float, ...]
    held: tuple[int, int]


@dataclass(frozen=True)
class HitLine:
    """A group in the table; `share` (0..1) says how far into its document it is."""

    rank: int
    document: int
    name: str
    share: float
    text: str
    weight: float


@dataclass(frozen=True)
class Use:
    """A token that looked at a chunk; weight averaged over the layer's heads."""

    step: int
    token: str
    layer: int
    weight: float


@dataclass(frozen=True)
class ChunkPlace:
    """A chunk in its document, the heaviest of the tokens of the run that looked at it, and how many did."""

    chunk: int
    document: int
    name: str
    position: int
    start: int
    end: int
    text: str
    uses: tuple[Use, ...]
    n_uses: int


@dataclass(frozen=True)
class SourceView:
    """Everything that is shown.

    choice: with the document and place that it came to; token: of the chosen step; layers: those looked at; total:
    weight of all groups, `top` of the heaviest; hit: rank of the group that the page is at, and its weight; page: None
    where there is nothing to show, or its text is gone.
    """

    choice: SourceChoice
    step: int | None
    token: str
    layers: tuple[int, ...]
    n_steps: int
    total: float
    top: float
    n_groups: int
    hit: int | None
    hit_weight: float
    documents: tuple[DocumentLine, ...]
    page: Page | None
    rows: tuple[HitLine, ...]
    chunk: ChunkPlace | None


def view_source(run: Run, chosen: Chosen, choice: SourceChoice, spans: TokenSpans) -> SourceView:
    """What the source view shows of a run for the chosen (step, layer)."""
    chunks = group_by_chunk(run, chosen, choice.scope)
    groups = _grouped(run, chosen, choice, chunks, spans)
    choice, hit = _located(run, choice, groups, spans)
    chunk = chunk_place(run, choice.chunk) if choice.chunk is not None else None
    tokens = dict(zip(run.tokens.step, run.tokens.token, strict=True))
    return SourceView(
        choice=choice,
        step=chosen[0],
        token=tokens.get(chosen[0], ""),
        layers=tuple(layers_in_scope(run, chosen, choice.scope)),
        n_steps=len(run.tokens),
        total=float(chunks.weight.sum()),
        top=float(groups.weight.max()) if len(groups) else 0.0,
        n_groups=len(groups),
        hit=hit,
        hit_weight=0.0 if hit is None else float(groups.weight[hit]),
        documents=document_lines(run, chunks, choice.document),
        page=_page(run, choice, groups, hit, chunk, spans),
        rows=_rows(run, choice, groups.head(MAX_ROWS), spans),
        chunk=chunk,
    )


def chunk_place(run: Run, chunk: int) -> ChunkPlace | None:
    """Where a chunk stands and who looked at it; None where it was not in memory during the run."""
    found = run.chunks[run.chunks.chunk == chunk]
    if found.empty:
        return None
    where = next(found.itertuples())
    heads = run.gates.groupby("layer")["head"].nunique()
    rows = run.trace[(run.trace.chunk == chunk) & (run.trace.weight > 0)]
    uses = rows.groupby(["step", "token", "layer"], as_index=False)["weight"].sum()
    uses = uses.assign(weight=uses.weight / uses.layer.map(heads)).sort_values("weight", ascending=False)
    document = int(where.document_id)
    return ChunkPlace(
        chunk=int(chunk),
        document=document,
        name=_name(run, document),
        position=int(where.position),
        start=int(where.start),
        end=int(where.end),
        text=text_of(run, document)[where.start : where.end],
        uses=tuple(Use(int(u.step), u.token, int(u.layer), float(u.weight)) for u in uses.head(MAX_USES).itertuples()),
        n_uses=len(uses),
    )


def page_bounds(text: str, start: int) -> tuple[int, int]:
    """The page that begins about there: PAGE characters and a few more, cut between words where there are any."""
    start = max(0, min(start, len(text) - PAGE))
    end = min(len(text), start + PAGE)
    space = text.rfind(" ", max(0, start - 40), start)
    start = space + 1 if space >= 0 else start
    space = text.find(" ", end, end + 40)
    return start, space if end < len(text) and space >= 0 else end


def page_parts(text: str, start: int, end: int, groups: pd.DataFrame) -> tuple[Part, ...]:
    """The page cut at the groups on it; their column `here` says whether it is the place that was gone to.

    Groups may share a character that takes several tokens: it is shown once, with the first; a group of which nothing
    else is left is added to that one.
    """
    parts: list[Part] = []
    at = start
    for group in groups.sort_values(["start", "end", "place"]).itertuples():
        first, last = max(group.start, at), min(group.end, end)
        if first >= last:
            if parts and parts[-1].weight is not None:
                before = parts.pop()
                weight = before.weight + group.weight
                parts.append(Part(before.text, weight, before.chunk, before.here or group.here))
            continue
        if first > at:
            parts.append(Part(text[at:first]))
        parts.append(Part(text[first:last], group.weight, int(group.chunk), bool(group.here)))
        at = last
    return (*parts, Part(text[at:end])) if at < end else tuple(parts)


def weight_bins(groups: pd.DataFrame, length: int) -> tuple[float, ...]:
    """The weights of one document's groups by where the middle of each is: at most MAX_BINS equal stretches."""
    n_bins = max(1, min(MAX_BINS, length))
    at = (groups.start + groups.end) // 2 * n_bins // max(1, length)
    return tuple(np.bincount(at.clip(0, n_bins - 1), weights=groups.weight, minlength=n_bins).tolist())


def document_lines(run: Run, chunks: pd.DataFrame, shown: int | None) -> tuple[DocumentLine, ...]:
    """The documents that were looked at, heaviest first, and the one that is shown; from groups of single chunks."""
    documents = [int(document) for document in group_by_document(run, chunks).document]
    documents += [shown] if shown is not None and shown not in documents else []
    return tuple(_document_line(run, document, chunks[chunks.document == document]) for document in documents)


def _document_line(run: Run, document: int, chunks: pd.DataFrame) -> DocumentLine:
    held = run.chunks[run.chunks.document_id == document]
    extent = (int(held.start.min()), int(held.end.max())) if len(held) else (0, 0)
    length = len(text_of(run, document)) or extent[1]
    bins = weight_bins(chunks, length)
    return DocumentLine(document, _name(run, document), float(chunks.weight.sum()), len(chunks), length, bins, extent)


def _grouped(run: Run, chosen: Chosen, choice: SourceChoice, chunks: pd.DataFrame, spans: TokenSpans) -> pd.DataFrame:
    if choice.grouping == "chunk":
        return chunks
    if choice.grouping == "document":
        return group_by_document(run, chunks)
    tokens = group_by_token(run, chosen, choice.scope)
    return tokens if choice.grouping == "token" else group_by_sentence(run, tokens, spans)


def _located(
    run: Run, choice: SourceChoice, groups: pd.DataFrame, spans: TokenSpans
) -> tuple[SourceChoice, int | None]:
    """The choice with the document and place that it comes to, and the rank of the group that is there."""
    hit = choice.hit
    if hit is None and choice.document not in run.sources:
        hit = 0
    elif hit is None and choice.page is None:
        found = groups[groups.document == choice.document]
        if choice.place is not None:  # of single tokens, the heaviest of the chunk that is there
            found = found[(found.start <= choice.place) & (found.end > choice.place)]
        hit = int(found.index[0]) if len(found) else None
    if hit is None:
        return (choice, None) if choice.place is not None else (replace(choice, page=choice.page or 0), None)
    if groups.empty:
        known = choice.document in run.sources
        return (choice if known else choice.at_place(None, None)), None
    hit = min(hit, len(groups) - 1)
    group = next(_exact_if_tokens(run, choice, groups.iloc[[hit]], spans).itertuples())
    if choice.grouping == "document":
        return replace(choice, document=int(group.document)), hit
    place = int(group.start)
    if choice.grouping == "sentence":  # its heaviest chunk, so that smaller groups are found there too
        place = max(place, int(run.chunks.start[run.chunks.chunk == group.chunk].iloc[0]))
    return replace(choice, document=int(group.document), place=place, page=None), hit


def _exact_if_tokens(run: Run, choice: SourceChoice, groups: pd.DataFrame, spans: TokenSpans) -> pd.DataFrame:
    return exact(run, groups, spans) if choice.grouping == "token" else groups


def _page(
    run: Run,
    choice: SourceChoice,
    groups: pd.DataFrame,
    hit: int | None,
    chunk: ChunkPlace | None,
    spans: TokenSpans,
) -> Page | None:
    """The page that was gone to, or None where there is no text. The hit on it, or the chunk, is `here`."""
    text = text_of(run, choice.document) if choice.document is not None and choice.grouping != "document" else ""
    if not text:
        return None
    wanted = choice.page if choice.page is not None else (choice.place or 0) - BEFORE
    start, end = page_bounds(text, wanted)
    on_page = groups[(groups.document == choice.document) & (groups.start < end) & (groups.end > start)]
    on_page = _exact_if_tokens(run, choice, on_page, spans).assign(here=on_page.index == hit)
    if chunk is not None and chunk.document == choice.document:
        on_page = _with_chunk(on_page, chunk)
    return Page(start, end, len(text), page_parts(text, start, end, on_page))


def _with_chunk(groups: pd.DataFrame, chunk: ChunkPlace) -> pd.DataFrame:
    """The groups with those marked `here` in which the chunk is; without weight where it is in none."""
    inside = (groups.start < chunk.end) & (groups.end > chunk.start)
    if inside.any():
        return groups.assign(here=inside)
    row = {"document": chunk.document, "start": chunk.start, "end": chunk.end, "chunk": chunk.chunk, "place": 0}
    return pd.concat([groups.assign(here=False), pd.DataFrame([{**row, "weight": 0.0, "here": True}])])


def _rows(run: Run, choice: SourceChoice, groups: pd.DataFrame, spans: TokenSpans) -> tuple[HitLine, ...]:
    rows = []
    for rank, group in enumerate(_exact_if_tokens(run, choice, groups, spans).itertuples()):
        text = text_of(run, group.document)
        share = group.start / max(1, len(text), group.end)
        words = text[group.start : group.end] if choice.grouping != "document" else ""
        words = words.strip() if choice.grouping == "sentence" else words
        excerpt = words if len(words) <= EXCERPT else words[:EXCERPT] + "…"
        name = _name(run, group.document)
        rows.append(HitLine(rank, int(group.document), name, share, excerpt, float(group.weight)))
    return tuple(rows)


def _name(run: Run, document: int) -> str:
    return run.sources[document].name if document in run.sources else f"document {document}"
