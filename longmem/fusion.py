"""Joint attention: what a head found nearby and what it retrieved, weighed by its gate.

Shapes: B batch, T tokens, H query heads, K retrieved tokens, D head dimension.
"""

import math

import torch
from torch import Tensor, nn

from longmem.memory_bank import Retrieval


class MemoryGate(nn.Module):
    """The weight of memory against local attention, per query head.

    kind "scalar" is sigmoid(g_h), the paper's (in this sign, as in its code, the weight of memory); "query" is
    sigmoid(g_h + w_h . q) with w at zero in the beginning, so that a token can decide whether memory matters to it.
    """

    def __init__(self, heads: int, head_dim: int, kind: str, start: float) -> None:
        super().__init__()
        self.bias_H = nn.Parameter(torch.full((heads,), math.log(start / (1 - start))))
        self.weight_HD = nn.Parameter(torch.zeros(heads, head_dim)) if kind == "query" else None

    def forward(self, q_BHTD: Tensor) -> Tensor:
        """Returns gate_BHT in fp32, 0 (local attention alone) to 1 (memory alone)."""
        logits_BHT = self.bias_H.float()[:, None].expand(q_BHTD.shape[:3])
        if self.weight_HD is not None:
            logits_BHT = logits_BHT + torch.einsum("bhtd,hd->bht", q_BHTD.float(), self.weight_HD.float())
        return logits_BHT.sigmoid()


def attend_memory(q_BHTD: Tensor, retrieval: Retrieval, scaling: float) -> tuple[Tensor, Tensor]:
    """Attention of each query over the tokens it retrieved, without positions.

    Returns: M_BHTD, and the attention weights_BHTK in fp32, which are 0 everywhere where nothing was retrieved.
    """
    keys_BHTKD, values_BHTKD = retrieval.keys_BHTKD.to(q_BHTD.dtype), retrieval.values_BHTKD.to(q_BHTD.dtype)
    scores_BHTK = torch.matmul(keys_BHTKD, q_BHTD.unsqueeze(-1)).squeeze(-1).float() * scaling
    scores_BHTK = scores_BHTK.masked_fill(~retrieval.mask_BHTK, torch.finfo(torch.float32).min)
    weights_BHTK = scores_BHTK.softmax(dim=-1) * retrieval.mask_BHTK
    memory_BHTD = torch.matmul(weights_BHTK.to(q_BHTD.dtype).unsqueeze(-2), values_BHTKD).squeeze(-2)
    return memory_BHTD, weights_BHTK


def fuse(local_BHTD: Tensor, memory_BHTD: Tensor, gate_BHT: Tensor) -> Tensor:
    """(1 - gate) * A + gate * M, per head."""
    gate_BHT1 = gate_BHT.unsqueeze(-1).to(local_BHTD.dtype)
    return local_BHTD + gate_BHT1 * (memory_BHTD.to(local_BHTD.dtype) - local_BHTD)
