"""Low-rank deltas: layers that borrow the frozen weights of others and train only a small change to them.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685), with its scale at 1.

Shapes: I inputs, O outputs, R rank.
"""

import copy
import math

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from longmem.backbone import call_output_module
from longmem.errors import LongMemError


class LowRankLinear(nn.Module):
    """factor * base(x) + up(down(x)): `base` is borrowed and stays as it is, the delta is trained and begins at zero.

    The base is no submodule: it is neither saved, moved, converted nor counted here, since its owner does all that.
    """

    def __init__(self, base: nn.Linear | Conv1D, rank: int) -> None:
        """Raises LongMemError where the rank is not from 1 to the smaller side of the base."""
        super().__init__()
        inputs, outputs = sizes(base)
        if not 1 <= rank <= min(inputs, outputs):
            raise LongMemError(
                f"sidenet_rank is {rank}; it must lie between 1 and {min(inputs, outputs)}, the smaller side of the "
                "backbone's smallest linear layer."
            )
        self._borrowed = (base,)  # a tuple, so that torch does not register it
        self.factor = 1.0
        options = {"device": base.weight.device, "dtype": _delta_dtype(base)}
        self.down_RI = nn.Parameter(torch.empty(rank, inputs, **options))
        self.up_OR = nn.Parameter(torch.zeros(outputs, rank, **options))
        nn.init.kaiming_uniform_(self.down_RI, a=math.sqrt(5))

    @property
    def base(self) -> nn.Linear | Conv1D:
        return self._borrowed[0]

    def forward(self, x: Tensor) -> Tensor:
        """x [..., I] -> [..., O]. The base runs without its hooks: they belong to its owner's pass."""
        delta = nn.functional.linear(nn.functional.linear(x, self.down_RI), self.up_OR)
        if self.factor == 0:
            return delta
        output = self.base.forward(x)
        return (output if self.factor == 1 else self.factor * output) + delta


def sizes(linear: nn.Linear | Conv1D) -> tuple[int, int]:
    """Inputs and outputs; the `Conv1D` of GPT-2 keeps its weight the other way round."""
    if isinstance(linear, Conv1D):
        return linear.nx, linear.nf
    return linear.in_features, linear.out_features


def borrow_layer(layer: nn.Module, rank: int) -> nn.Module:
    """A copy of a decoder layer whose linear layers are those of the original with low-rank deltas; norms are copied.

    Raises:
        LongMemError: the rank does not fit.
    """
    linears = {name: module for name, module in layer.named_modules() if isinstance(module, (nn.Linear, Conv1D))}
    borrowed = copy.deepcopy(layer, {id(module): module for module in linears.values()})
    for name, linear in linears.items():
        parent, _, attribute = name.rpartition(".")
        setattr(borrowed.get_submodule(parent), attribute, LowRankLinear(linear, rank))
    for module in borrowed.modules():
        call_output_module(module)  # nobody may go round the deltas
    return borrowed


def _delta_dtype(base: nn.Linear | Conv1D) -> torch.dtype:
    """That of the base; of a quantised one, fp32."""
    return base.weight.dtype if base.weight.is_floating_point() else torch.float32
