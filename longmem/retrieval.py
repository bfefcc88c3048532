"""What a search gives back, and where it comes from.

Shapes: B rows, T tokens, H query heads, D head dimension, C chunks, S token slots per chunk, K retrieved tokens
(K = C * S).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Chunk(NamedTuple):
    """Consecutive tokens of a document: tokens token_start..token_stop, characters start..stop of its text."""

    id: int
    document: int
    token_start: int
    token_stop: int
    start: int
    stop: int


@dataclass(frozen=True)
class DocumentRecord:
    """A document of which something is in the bank; n_tokens and n_chunks count what still is."""

    id: int
    name: str
    text: str
    n_tokens: int
    n_chunks: int


@dataclass(frozen=True)
class Retrieval:
    """What each query found, best chunk first.

    Keys and values are in the bank's dtype and zero where mask is False; a chunk id of -1 (score -inf) is no chunk.
    """

    keys_BHTKD: Tensor
    values_BHTKD: Tensor
    scores_BHTC: Tensor
    chunks_BHTC: Tensor
    mask_BHTK: Tensor


def merge(first: Retrieval, second: Retrieval, n_chunks: int) -> Retrieval:
    """The best `n_chunks` chunks of two retrievals for the same queries."""
    scores = torch.cat([first.scores_BHTC, second.scores_BHTC], dim=-1)
    best_scores, best = scores.topk(n_chunks, dim=-1)

    def pick(a: Tensor, b: Tensor) -> Tensor:
        """Choose whole chunks of tensors whose axis 3 counts tokens."""
        size = a.shape[3] // first.scores_BHTC.shape[3]
        joined = torch.cat([a, b], dim=3).unflatten(3, (-1, size))
        index = best.reshape(*best.shape, *[1] * (joined.ndim - 4)).expand(*best.shape, *joined.shape[4:])
        return joined.gather(3, index).flatten(3, 4)

    return Retrieval(
        keys_BHTKD=pick(first.keys_BHTKD, second.keys_BHTKD),
        values_BHTKD=pick(first.values_BHTKD, second.values_BHTKD),
        scores_BHTC=best_scores,
        chunks_BHTC=torch.cat([first.chunks_BHTC, second.chunks_BHTC], dim=-1).gather(-1, best),
        mask_BHTK=pick(first.mask_BHTK, second.mask_BHTK),
    )
