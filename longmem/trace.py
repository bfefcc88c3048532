"""What was retrieved for every token: arrays while the model runs, tables when somebody asks.

Rows of step s belong to the query at the position before token s, the one that produced it. Where nothing was
retrieved there are no rows.

Shapes: L memory layers, H query heads, T steps, C chunks, K retrieved tokens.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from longmem.errors import LongMemError
from longmem.retrieval import Retrieval

COLUMNS = [
    "step",
    "token",
    "layer",
    "head",
    "rank",
    "chunk",
    "score",
    "weight",
    "gate",
    "document",
    "start",
    "end",
    "text",
]
TOKEN_COLUMNS = ["step", "token", "token_id", "logprob", "logprob_empty", "effect"]
GATE_COLUMNS = ["step", "layer", "head", "gate"]
TOKEN_WEIGHT_COLUMNS = ["step", "layer", "head", "chunk", "place", "weight"]


class Passage(NamedTuple):
    """Where a chunk stands: document name, character span, and its text (`text == document.text[start:end]`)."""

    document: str
    start: int
    end: int
    text: str


@dataclass
class Seen:
    """What one memory layer showed over the steps of one block; `weights_HTK` are of single tokens."""

    chunks_HTC: np.ndarray
    scores_HTC: np.ndarray
    weights_HTK: np.ndarray
    gate_HT: np.ndarray

    @property
    def weights_HTC(self) -> np.ndarray:
        """Weights of whole chunks."""
        return self.weights_HTK.reshape(*self.chunks_HTC.shape, -1).sum(axis=-1)


@dataclass
class TraceRecorder:
    """Collects retrievals of one row while the model runs; only the last `keep` positions of each call are kept.

    Weights are attention inside memory times gate, so that those of a (step, layer, head) sum to its gate.
    `waiting_logits` are those of the last position of the latest calls.
    """

    layers: dict[int, list[Seen]] = field(default_factory=dict)
    keep: int | None = None
    waiting_logits: deque[Tensor] = field(default_factory=lambda: deque(maxlen=4))
    steps: int = 0
    first_step: dict[int, int] = field(default_factory=dict)

    def see_logits(self, logits_BTV: Tensor) -> None:
        """The end of a call: its positions count as steps, and a layer that spoke for the first time began here."""
        self.waiting_logits.append(logits_BTV[0, -1])
        self.steps += logits_BTV.shape[1]
        for layer, blocks in self.layers.items():
            self.first_step.setdefault(layer, self.steps - sum(block.gate_HT.shape[1] for block in blocks))

    def record(self, layer: int, retrieval: Retrieval, weights_BHTK: Tensor, gate_BHT: Tensor) -> None:
        if gate_BHT.shape[0] != 1:
            raise LongMemError(
                f"A trace follows one row, but {gate_BHT.shape[0]} are running; for beams, score the finished text."
            )
        T = gate_BHT.shape[2]
        kept = slice(T - min(T, self.keep) if self.keep is not None else 0, T)
        if kept.start >= T:
            return
        token_BHTK = weights_BHTK[:, :, kept] * gate_BHT[:, :, kept, None]
        seen = Seen(
            retrieval.chunks_BHTC[0, :, kept].cpu().numpy(),
            retrieval.scores_BHTC[0, :, kept].float().cpu().numpy(),
            token_BHTK[0].detach().float().cpu().numpy(),
            gate_BHT[0, :, kept].detach().float().cpu().numpy(),
        )
        self.layers.setdefault(layer, []).append(seen)


@dataclass
class RetrievalTrace:
    """The retrievals of a run of tokens, with their provenance and the effect of memory.

    effect: log p(token | bank) - log p(token | empty bank), in nats, both on the same preceding tokens.
    passages: chunk id -> `Passage`, taken while the chunk was in the bank.
    """

    tokens: list[str]
    token_ids: list[int]
    logprobs: list[float]
    logprobs_empty: list[float]
    layers: dict[int, Seen]
    passages: dict[int, Passage]

    @property
    def effects(self) -> list[float]:
        return [a - b for a, b in zip(self.logprobs, self.logprobs_empty, strict=True)]

    def to_frame(self) -> pd.DataFrame:
        """One row per (step, layer, head, rank), in that order."""
        parts = [self._layer_frame(layer, seen) for layer, seen in sorted(self.layers.items())]
        if not parts:
            return _empty_frame()
        frame = pd.concat(parts, ignore_index=True)
        return frame.sort_values(["step", "layer", "head", "rank"], ignore_index=True)

    def tokens_frame(self) -> pd.DataFrame:
        """One row per token: its log-probability with and without memory, in nats, and the difference."""
        columns = (
            range(len(self.tokens)),
            self.tokens,
            self.token_ids,
            self.logprobs,
            self.logprobs_empty,
            self.effects,
        )
        return pd.DataFrame(dict(zip(TOKEN_COLUMNS, map(list, columns), strict=True)))

    def gates_frame(self) -> pd.DataFrame:
        """One row per (step, layer, head): the weight of memory, 0 where nothing was retrieved."""
        parts = []
        for layer, seen in sorted(self.layers.items()):
            H, T = seen.gate_HT.shape
            head, step = np.divmod(np.arange(H * T), T)
            parts.append(pd.DataFrame({"step": step, "layer": layer, "head": head, "gate": seen.gate_HT.ravel()}))
        if not parts:
            return pd.DataFrame({c: pd.Series(dtype=float if c == "gate" else int) for c in GATE_COLUMNS})
        return pd.concat(parts, ignore_index=True).sort_values(["step", "layer", "head"], ignore_index=True)

    def token_weights(self) -> pd.DataFrame:
        """One row per retrieved token: step, layer, head, chunk, its place in the chunk, and its weight if above 0."""
        parts = []
        for layer, seen in sorted(self.layers.items()):
            weights_HTCS = seen.weights_HTK.reshape(*seen.chunks_HTC.shape, -1)
            head, step, rank, place = np.nonzero((weights_HTCS > 0) & (seen.chunks_HTC != -1)[..., None])
            columns = {"step": step, "layer": layer, "head": head, "chunk": seen.chunks_HTC[head, step, rank]}
            parts.append(pd.DataFrame(columns | {"place": place, "weight": weights_HTCS[head, step, rank, place]}))
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=TOKEN_WEIGHT_COLUMNS)

    def _layer_frame(self, layer: int, seen: Seen) -> pd.DataFrame:
        head, step, rank = np.nonzero(seen.chunks_HTC != -1)
        weights_HTC = seen.weights_HTC
        chunk = seen.chunks_HTC[head, step, rank]
        ids, inverse = np.unique(chunk, return_inverse=True)
        passages = [self.passages[int(i)] for i in ids]

        def of_passage(name: str, dtype: type) -> np.ndarray:
            return np.array([getattr(p, name) for p in passages], dtype=dtype)[inverse]

        return pd.DataFrame(
            {
                "step": step,
                "token": np.array(self.tokens, dtype=object)[step],
                "layer": layer,
                "head": head,
                "rank": rank,
                "chunk": chunk,
                "score": seen.scores_HTC[head, step, rank],
                "weight": weights_HTC[head, step, rank],
                "gate": seen.gate_HT[head, step],
                "document": of_passage("document", object),
                "start": of_passage("start", np.int64),
                "end": of_passage("end", np.int64),
                "text": of_passage("text", object),
            }
        )[COLUMNS]


def join_blocks(recorder: TraceRecorder, steps: int) -> dict[int, Seen]:
    """The recorded blocks of each layer as one array over `steps` steps.

    A layer is silent before anything is in memory; those steps come first, and hold nothing. The model may be ahead of
    `steps`, in another thread: what it has recorded since is left out.
    """
    joined = {}
    for layer, first in list(recorder.first_step.items()):
        blocks = list(recorder.layers[layer])
        parts = [
            np.concatenate([getattr(b, name) for b in blocks], axis=1)
            for name in ("chunks_HTC", "scores_HTC", "weights_HTK", "gate_HT")
        ]
        fills = (-1, -np.inf, 0.0, 0.0)
        padded = [
            np.pad(p, [(0, 0), (first, 0)] + [(0, 0)] * (p.ndim - 2), constant_values=fill)[:, :steps]
            for p, fill in zip(parts, fills, strict=True)
        ]
        joined[layer] = Seen(*padded)
    return joined


def collect_passages(
    layers: dict[int, Seen], known: dict[int, Passage], find: Callable[[int], Passage]
) -> dict[int, Passage]:
    """The passage of every chunk seen, asking `find` only for those not in `known`."""
    passages = dict(known)
    for seen in layers.values():
        for chunk in np.unique(seen.chunks_HTC).tolist():
            if chunk != -1 and chunk not in passages:
                passages[chunk] = find(chunk)
    return passages


def token_logprobs(logits_TV: Tensor, token_ids: Sequence[int] | Tensor) -> list[float]:
    """log p of each token under its row of logits, in nats."""
    ids = torch.as_tensor(token_ids, device=logits_TV.device)
    return logits_TV.float().log_softmax(-1).gather(1, ids[:, None])[:, 0].tolist()


def _empty_frame() -> pd.DataFrame:
    text = {"token", "document", "text"}
    numbers = {"score", "weight", "gate"}
    dtypes = {c: object if c in text else float if c in numbers else int for c in COLUMNS}
    return pd.DataFrame({c: pd.Series(dtype=d) for c, d in dtypes.items()})
