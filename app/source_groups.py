"""Weights of a run grouped to places of its documents: tokens, chunks, sentences or whole documents.

A weight here is a share of a head's attention: attention inside memory times gate, summed over what is grouped and
averaged over the heads, layers and tokens that are looked at. Tables, one row per group:
  groups  `document, start, end, weight, chunk, place`: characters of the document's text; `chunk` is the heaviest in
          the group and `place` the token's index in it (0 where the group is no token). Groups of single tokens have
          the characters of their chunk until `exact` has found their own.
"""

import numpy as np
import pandas as pd

from app.session import Run
from app.source_choice import LAYER, RUN
from app.source_spans import TokenSpans

Chosen = tuple[int | None, int | None]  # step and layer; no layer is all of them
COLUMNS = ["document", "start", "end", "weight", "chunk", "place"]


def layers_in_scope(run: Run, chosen: Chosen, scope: str) -> list[int]:
    """The memory layers that are looked at."""
    layer = chosen[1]
    return [layer] if scope == LAYER and layer is not None else sorted(int(x) for x in run.gates.layer.unique())


def text_of(run: Run, document: int) -> str:
    """The text of one of the run's documents; "" where it is gone."""
    return run.sources[document].text if document in run.sources else ""


def group_by_chunk(run: Run, chosen: Chosen, scope: str) -> pd.DataFrame:
    """Groups of single chunks, heaviest first."""
    return _by_place(run, _weights(run, run.trace, chosen, scope).assign(place=0))


def group_by_token(run: Run, chosen: Chosen, scope: str) -> pd.DataFrame:
    """Groups of single tokens, heaviest first."""
    return _by_place(run, _weights(run, run.token_weights, chosen, scope))


def group_by_sentence(run: Run, tokens: pd.DataFrame, spans: TokenSpans) -> pd.DataFrame:
    """Groups of tokens -> groups of sentences, heaviest first; a token belongs to the sentence that it ends in."""
    parts = [_sentences(run, int(document), group, spans) for document, group in tokens.groupby("document")]
    return _heaviest_first(pd.concat(parts)) if parts else tokens


def group_by_document(run: Run, chunks: pd.DataFrame) -> pd.DataFrame:
    """Groups of chunks -> a group for each document, heaviest first."""
    sums = chunks.groupby("document", as_index=False).agg({"weight": "sum", "chunk": "first", "end": "max"})
    ends = [len(text_of(run, row.document)) or row.end for row in sums.itertuples()]
    return _heaviest_first(sums.assign(start=0, end=ends, place=0))


def exact(run: Run, tokens: pd.DataFrame, spans: TokenSpans) -> pd.DataFrame:
    """Groups of single tokens with the characters of each."""
    tokens = tokens.copy()
    for document, rows in tokens.groupby("document"):
        chunks = run.chunks[run.chunks.chunk.isin(rows.chunk)]
        found = spans.of(int(document), text_of(run, int(document)), chunks)
        own = [
            found[chunk][min(place, len(found[chunk]) - 1)] for chunk, place in zip(rows.chunk, rows.place, strict=True)
        ]
        tokens.loc[rows.index, ["start", "end"]] = np.array(own)
    return tokens


def _weights(run: Run, frame: pd.DataFrame, chosen: Chosen, scope: str) -> pd.DataFrame:
    """The rows of a trace that are looked at, each with its part of the average."""
    step, layer = chosen
    heads = run.gates.groupby("layer")["head"].nunique()
    rows = frame if scope == RUN else frame[frame.step == step]
    if scope == LAYER and layer is not None:
        rows = rows[rows.layer == layer]
    n_averaged = len(layers_in_scope(run, chosen, scope)) * (len(run.tokens) if scope == RUN else 1)
    weight = rows.weight.astype("float64") / rows.layer.map(heads).astype("float64") / max(1, n_averaged)
    return rows.assign(weight=weight)


def _by_place(run: Run, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with `chunk, place, weight` -> groups; what has no weight is left out."""
    sums = rows.astype({"chunk": "int64", "place": "int64"}).groupby(["chunk", "place"], as_index=False)["weight"].sum()
    where = run.chunks[["chunk", "document_id", "start", "end"]].rename(columns={"document_id": "document"})
    return _heaviest_first(sums[sums.weight > 0].merge(where, on="chunk"))


def _sentences(run: Run, document: int, tokens: pd.DataFrame, spans: TokenSpans) -> pd.DataFrame:
    """Groups of one document's tokens -> of its sentences; only chunks that reach into a second one are encoded."""
    text = text_of(run, document)
    starts = spans.sentences(document, text)

    def sentence(character: pd.Series) -> np.ndarray:
        return np.searchsorted(starts, character.clip(lower=0), side="right") - 1

    cut = sentence(tokens.start) != sentence(tokens.end - 1)
    tokens = pd.concat([tokens[~cut], exact(run, tokens[cut], spans)]).sort_values("weight", ascending=False)
    at = sentence(tokens.end - 1)
    ends = np.append(starts[1:], max(len(text), int(tokens.end.max())))
    tokens = tokens.assign(start=starts[at], end=ends[at], place=0)
    firsts = {"weight": "sum", "end": "first", "chunk": "first", "place": "first"}
    return tokens.groupby(["document", "start"], as_index=False).agg(firsts)


def _heaviest_first(groups: pd.DataFrame) -> pd.DataFrame:
    ordered = groups[COLUMNS].sort_values(["document", "start", "place"])
    return ordered.sort_values("weight", ascending=False, kind="stable", ignore_index=True)
