"""Joint attention: what a head found nearby and what it retrieved, weighed by its gate.

`attach_memory` puts it into an attention module, `recalling` says what that module retrieves from during one call.

Shapes: B batch, T tokens, H query heads, K retrieved tokens, D head dimension.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from longmem.backbone import Family, Taps, attention_scaling, call_output_module, tap_projections, tapping
from longmem.retrieval import Retrieval
from longmem.row_memory import Sources


class Recorder(Protocol):
    """Anything that wants to see what a memory layer retrieved at the last `keep` positions of a block (None: all)."""

    keep: int | None

    def record(self, layer: int, retrieval: Retrieval, weights_BHTK: Tensor, gate_BHT: Tensor) -> None:
        """Called once per memory layer and block; weights are attention inside memory, before the gate."""

    def see_logits(self, logits_BTV: Tensor) -> None:
        """Called at the end of each forward call."""


class MemoryGate(nn.Module):
    """The weight of memory against local attention, per query head.

    kind "scalar" is sigmoid(g_h), the paper's (in this sign, as in its code, the weight of memory); "query" is
    sigmoid(g_h + w_h . q) with w at zero in the beginning, so that a token can decide whether memory matters to it.
    """

    def __init__(self, heads: int, head_dim: int, kind: str, start: float) -> None:
        super().__init__()
        self.bias_H = nn.Parameter(torch.full((heads,), math.log(start / (1 - start))))
        self.weight_HD = nn.Parameter(torch.zeros(heads, head_dim)) if kind == "query" else None

    def forward(self, q_BHTD: Tensor, retrieval: Retrieval | None = None) -> Tensor:
        """Returns gate_BHT in fp32, 0 (local attention alone) to 1 (memory alone), whatever was retrieved."""
        logits_BHT = self.bias_H.float()[:, None].expand(q_BHTD.shape[:3])
        if self.weight_HD is not None:
            logits_BHT = logits_BHT + torch.einsum("bhtd,hd->bht", q_BHTD.float(), self.weight_HD.float())
        return logits_BHT.sigmoid()


def memory_scores(q_BHTD: Tensor, keys_BHTKD: Tensor, mask_BHTK: Tensor, scaling: float) -> Tensor:
    """The fp32 scores_BHTK of each query against its own keys, of the queries' dtype; the least where masked."""
    scores_BHTK = torch.matmul(keys_BHTKD, q_BHTD.unsqueeze(-1)).squeeze(-1).float() * scaling
    return scores_BHTK.masked_fill(~mask_BHTK, torch.finfo(torch.float32).min)


def attend_memory(q_BHTD: Tensor, retrieval: Retrieval, scaling: float) -> tuple[Tensor, Tensor]:
    """Attention of each query over the tokens it retrieved, without positions.

    Returns: M_BHTD, and the attention weights_BHTK in fp32, which are 0 everywhere where nothing was retrieved.
    """
    keys_BHTKD, values_BHTKD = retrieval.keys_BHTKD.to(q_BHTD.dtype), retrieval.values_BHTKD.to(q_BHTD.dtype)
    scores_BHTK = memory_scores(q_BHTD, keys_BHTKD, retrieval.mask_BHTK, scaling)
    weights_BHTK = scores_BHTK.softmax(dim=-1) * retrieval.mask_BHTK
    memory_BHTD = torch.matmul(weights_BHTK.to(q_BHTD.dtype).unsqueeze(-2), values_BHTKD).squeeze(-2)
    return memory_BHTD, weights_BHTK


def fuse(local_BHTD: Tensor, memory_BHTD: Tensor, gate_BHT: Tensor) -> Tensor:
    """(1 - gate) * A + gate * M, per head."""
    gate_BHT1 = gate_BHT.unsqueeze(-1).to(local_BHTD.dtype)
    return local_BHTD + gate_BHT1 * (memory_BHTD.to(local_BHTD.dtype) - local_BHTD)


@dataclass
class _Recall:
    """What the fusion hooks of one call need."""

    taps: Taps
    sources: Sources | None
    recorder: Recorder | None


_RECALL: ContextVar[_Recall | None] = ContextVar("longmem_recall", default=None)


@contextmanager
def recalling(sources: Sources | None, recorder: Recorder | None = None) -> Iterator[Taps]:
    """Let memory layers that run in this thread retrieve until the block ends; yields what their hooks see."""
    with tapping() as taps:
        token = _RECALL.set(_Recall(taps, sources, recorder))
        try:
            yield taps
        finally:
            _RECALL.reset(token)


def attach_memory(
    memory_layer: int, attention: nn.Module, family: Family, gate: Callable[[Tensor, Retrieval], Tensor]
) -> None:
    """Make an attention module retrieve while `recalling`: a pre-hook of its output projection fuses what it found.

    The input of that projection is local attention A [B, T, H * D]. gate: gate_BHT in fp32 of q_BHTD and what these
    queries retrieved, such as a `MemoryGate`.
    """
    tap_projections(attention, family, memory_layer)
    call_output_module(attention)
    scaling = attention_scaling(attention)

    def hook(_module: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor] | None:
        recall = _RECALL.get()
        if recall is None or recall.sources is None:
            return None
        q_BHTD = family.split(attention, recall.taps.projected[memory_layer])[0]
        retrieval = recall.sources.retrieve(memory_layer, q_BHTD)
        if retrieval is None:
            return None
        gate_BHT = gate(q_BHTD, retrieval) * retrieval.mask_BHTK.any(dim=-1)
        if silent := recall.sources.silent_heads(memory_layer):
            gate_BHT[:, silent] = 0
        memory_BHTD, weights_BHTK = attend_memory(q_BHTD, retrieval, scaling)
        if recall.recorder is not None:
            recall.recorder.record(memory_layer, retrieval, weights_BHTK, gate_BHT)
        local_BHTD = arguments[0].unflatten(-1, (q_BHTD.shape[1], -1)).transpose(1, 2)
        recall.taps.local_BHTD[memory_layer] = local_BHTD
        return (fuse(local_BHTD, memory_BHTD, gate_BHT).transpose(1, 2).flatten(2),)

    attention.get_submodule(family.output).register_forward_pre_hook(hook)
