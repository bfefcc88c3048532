"""The SideNet: copies of some backbone layers, joined to the backbone by residuals and to memory by joint attention.

S^0 = H^0;  S^l = f_l(S^(l-1)) + (H^(r*l) - H^(r*(l-1))),  l = 1..L/r, with r = layer_reduction_factor.

Shapes: B batch, T tokens, H query heads, K retrieved tokens, D head dimension, E hidden size.
"""

import copy
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from longmem.backbone import BackboneStates, Family
from longmem.config import LongMemConfig
from longmem.fusion import MemoryGate, Recorder, attach_memory, recalling
from longmem.low_rank import LowRankLinear, borrow_layer
from longmem.row_memory import Sources


class SideNet(nn.Module):
    """L / r layers with memory; its embeddings and head are the backbone's."""

    def __init__(self, config: LongMemConfig, layers: nn.ModuleList, norm: nn.Module, family: Family) -> None:
        """Copy the layers the configuration names from fresh or loaded backbone layers that have no hooks yet.

        With `config.sidenet_rank`, linear layers are borrowed instead, and only low-rank deltas of them are trained.
        """
        super().__init__()
        self.config, self.family = config, family
        r, L = config.layer_reduction_factor, len(layers)
        self.sources = tuple(config.source_layer(i) for i in range(L // r))
        rank = config.sidenet_rank
        copied = [layers[b] for b in self.sources]
        self.layers = nn.ModuleList(copy.deepcopy(s) if rank is None else borrow_layer(s, rank) for s in copied)
        self.norm = copy.deepcopy(norm)
        self.memory_of = {config.side_layer(b): b for b in config.memory_layers}
        self.gates = nn.ModuleDict()
        for i, layer in enumerate(self.layers):
            attention = layer.get_submodule(family.attention)
            attention.layer_idx = L + i
            if i in self.memory_of:
                self._attach_memory(self.memory_of[i], attention)
            self._scale_outputs(i, layer)
        self.requires_grad_(True)

    def _attach_memory(self, memory_layer: int, attention: nn.Module) -> None:
        heads = self.config.backbone_config.num_attention_heads
        head_dim = getattr(attention, "head_dim", None) or attention.head_size
        gate = MemoryGate(heads, head_dim, self.config.gate, self.config.gate_start)
        self.gates[str(memory_layer)] = gate
        attach_memory(memory_layer, attention, self.family, gate)

    @torch.no_grad()
    def _scale_outputs(self, index: int, layer: nn.Module) -> None:
        """Zero or scale the copied output projections as `config.initialization` says."""
        if self.config.initialization == "paper":
            zeroed, kept = [], [f"{self.family.attention}.{self.family.output}", self.family.mlp_output]
        else:
            zeroed = [self.family.mlp_output]
            attends = self.config.initialization == "attend" and index in self.memory_of
            kept = [f"{self.family.attention}.{self.family.output}"] if attends else []
            if not attends:
                zeroed.append(f"{self.family.attention}.{self.family.output}")
        for names, factor in ((zeroed, 0.0), (kept, self.config.initialization_scale)):
            for module in map(layer.get_submodule, names):
                if isinstance(module, LowRankLinear):
                    module.factor = factor
                    continue
                for parameter in module.parameters():
                    parameter.mul_(factor)

    def forward(
        self, states: BackboneStates, sources: Sources | None = None, recorder: Recorder | None = None
    ) -> Tensor:
        """Returns S^(L/r) after the final norm [B, T, E]. The running sum is kept in fp32."""
        side_BTE = self.start(states).float()
        with recalling(sources, recorder):
            for i in range(len(self.layers)):
                change_BTE, residual_BTE = self.step(i, side_BTE, states)
                side_BTE = side_BTE + change_BTE + residual_BTE
        return self.norm(side_BTE.to(self.norm.weight.dtype))

    def start(self, states: BackboneStates) -> Tensor:
        """S^0: the states [B, T, E] that the first layer takes."""
        return states.hidden[0]

    def running(self, states: BackboneStates) -> AbstractContextManager:
        """Within it layers may run by `step`; these need nothing for it."""
        return nullcontext()

    def step(self, index: int, side_BTE: Tensor, states: BackboneStates) -> tuple[Tensor, Tensor]:
        """What layer `index` adds to the running sum, both in fp32: its own change f(S) - S, and the residual."""
        r = self.config.layer_reduction_factor
        positional, named = states.arguments[self.config.source_layer(index)]
        entering_BTE = side_BTE.to(self.norm.weight.dtype)
        output = self.layers[index](entering_BTE, *positional, **named)
        output_BTE = output[0] if isinstance(output, tuple) else output
        residual_BTE = states.hidden[r * (index + 1)].float() - states.hidden[r * index].float()
        return (output_BTE - entering_BTE).float(), residual_BTE
