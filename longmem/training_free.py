"""Training-free memory: kNN attention in a language model as it is. This is *not LongMem*: nothing here was trained.

A backbone's own queries look things up among its own keys, in the same bank that LongMem fills, and what was found
joins the memory layers' own attention. The layers from the first memory layer on run a second time, with memory, on
the backbone's own weights; there is no SideNet. An empty memory changes nothing.

Local window and memory share one softmax: `gate` is the share of its mass that falls on memory. As memory is compared
without positions, so is the window here; within the window, attention is the model's own.
Sources: Wu et al. 2022, "Memorizing Transformers" (arXiv 2203.08913) for attention over retrieved keys and values;
Bertsch et al. 2023, "Unlimiformer" (arXiv 2305.01625) for retrieval in a model that was not trained for it.

Shapes: B batch, T tokens, N tokens of the window so far, H query heads, G key-value heads, K retrieved tokens,
D head dimension, E hidden size.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from longmem.backbone import BackboneStates, Family, attention_scaling, load_backbone
from longmem.cache import MemoryCache
from longmem.config import LongMemConfig, choose_device
from longmem.errors import LongMemError
from longmem.fusion import attach_memory, memory_scores, recalling
from longmem.induction import suggest_memory_layers
from longmem.model import LongMemForCausalLM
from longmem.retrieval import Retrieval
from longmem.row_memory import Sources
from longmem.sidenet import Recorder

LABEL = "training-free: not LongMem"
METHOD = "training-free kNN attention (not LongMem: no SideNet, nothing trained)"

_WINDOW: ContextVar[MemoryCache] = ContextVar("longmem_window")


@contextmanager
def _in_window(cache: MemoryCache) -> Iterator[None]:
    token = _WINDOW.set(cache)
    try:
        yield
    finally:
        _WINDOW.reset(token)


class SharedSoftmax:
    """The weight of memory where it shares one softmax with the window: sum exp(memory) / sum exp(memory and window).

    The window's keys are those that its tokens will have in memory, so that like is compared with like.
    """

    def __init__(self, memory_layer: int, scaling: float) -> None:
        self.memory_layer, self.scaling = memory_layer, scaling

    def __call__(self, q_BHTD: Tensor, retrieval: Retrieval) -> Tensor:
        """Returns gate_BHT in fp32, 0 (local attention alone) to 1 (memory alone)."""
        keys_BHTKD = retrieval.keys_BHTKD.to(q_BHTD.dtype)
        scores_BHTK = memory_scores(q_BHTD, keys_BHTKD, retrieval.mask_BHTK, self.scaling)
        return (scores_BHTK.logsumexp(dim=-1) - self._window_BHT(q_BHTD)).sigmoid()

    def _window_BHT(self, q_BHTD: Tensor) -> Tensor:
        """log sum exp of each query's scores against its window."""
        cache = _WINDOW.get()
        k_BGND = cache.keys[self.memory_layer].to(q_BHTD.dtype)
        (_, H, T, _), (G, N) = q_BHTD.shape, k_BGND.shape[1:3]
        scores_BHTN = (q_BHTD @ k_BGND.repeat_interleave(H // G, dim=1).mT).float() * self.scaling
        seen_TN = torch.ones(T, N, dtype=torch.bool, device=q_BHTD.device).tril(N - T)
        seen_BHTN = (seen_TN & cache.valid_BT[:, None])[:, None]
        return scores_BHTN.masked_fill(~seen_BHTN, torch.finfo(torch.float32).min).logsumexp(dim=-1)


class UpperLayers(nn.Module):
    """The backbone's layers from the first memory layer on, once more, with memory, on the same weights."""

    def __init__(self, config: LongMemConfig, layers: nn.ModuleList, norm: nn.Module, family: Family) -> None:
        super().__init__()
        self.first = min(config.memory_layers)
        self.sources = tuple(range(self.first, len(layers)))
        self.memory_of = {b - self.first: b for b in config.memory_layers}
        self.layers = nn.ModuleList(_with_the_same_weights(layer) for layer in layers[self.first :])
        self.norm = _with_the_same_weights(norm)
        for i, layer in enumerate(self.layers):
            attention = layer.get_submodule(family.attention)
            attention.layer_idx = len(layers) + i
            if (b := self.first + i) in config.memory_layers:
                attach_memory(b, attention, family, SharedSoftmax(b, attention_scaling(attention)))

    def forward(
        self, states: BackboneStates, sources: Sources | None = None, recorder: Recorder | None = None
    ) -> Tensor:
        """Returns the last hidden states after the final norm [B, T, E]."""
        hidden_BTE = self.start(states)
        with self.running(states), recalling(sources, recorder):
            for i in range(len(self.layers)):
                hidden_BTE = self._layer(i, hidden_BTE, states)
        return self.norm(hidden_BTE)

    def start(self, states: BackboneStates) -> Tensor:
        """The states [B, T, E] that the first of these layers takes."""
        return states.hidden[self.first]

    def running(self, states: BackboneStates) -> AbstractContextManager:
        """Within it layers may run: they find the window that the backbone's pass has filled."""
        return _in_window(_cache_of(states, self.first))

    def step(self, index: int, hidden_BTE: Tensor, states: BackboneStates) -> tuple[Tensor, Tensor]:
        """As `SideNet.step`: what layer `index` adds, in fp32, and no residual."""
        entering_BTE = hidden_BTE.to(self.norm.weight.dtype)
        change_BTE = (self._layer(index, entering_BTE, states) - entering_BTE).float()
        return change_BTE, torch.zeros_like(change_BTE)

    def _layer(self, index: int, hidden_BTE: Tensor, states: BackboneStates) -> Tensor:
        positional, named = states.arguments[self.first + index]
        output = self.layers[index](hidden_BTE, *positional, **named)
        return output[0] if isinstance(output, tuple) else output


def _cache_of(states: BackboneStates, layer: int) -> MemoryCache:
    """The cache that the backbone's pass has filled, found among what it gave its layers."""
    positional, named = states.arguments[layer]
    return next(value for value in (*positional, *named.values()) if isinstance(value, MemoryCache))


def _with_the_same_weights(module: nn.Module) -> nn.Module:
    """A copy with hooks and settings of its own whose parameters are those of the original."""
    return copy.deepcopy(module, {id(parameter): parameter for parameter in module.parameters()})


class TrainingFreeMemory(LongMemForCausalLM):
    """A causal language model, as it is, whose memory layers retrieve. Not LongMem: there is no SideNet.

    It reads, generates (by transformers' own `generate`), scores and traces as `LongMemForCausalLM` does, over texts of
    any length, and its banks are those of a LongMem model of the same backbone and memory layers.
    """

    label = LABEL
    has_sidenet = False

    @classmethod
    def from_backbone(
        cls,
        name_or_path: str | Path | PreTrainedModel,
        *,
        memory_layers: Sequence[int] | None = None,
        preset: str = "measured",
        device: str | torch.device | None = None,
        **options: Any,
    ) -> "TrainingFreeMemory":
        """Memory in a causal language model from the hub, a folder (see `load_backbone`), or loaded; in eval mode.

        Args:
            memory_layers: 0-based; by default those that `suggest_memory_layers` finds.
            device: for a model that is named: "cpu", "cuda", "mps", or None for the best there is; in bf16 on a GPU
                and fp32 elsewhere.
            options: settings of `LongMemConfig` that concern memory. `read_overlap` is half a window unless it is
                given: the first token of a segment draws attention whatever it says, and everybody would retrieve it.

        Raises:
            LongMemError: no model is there, or a setting outside what is allowed.
        """
        reason = "it was loaded there"
        if not isinstance(name_or_path, PreTrainedModel):
            place, reason = choose_device(device)
            dtype = torch.bfloat16 if place.type == "cuda" else torch.float32
            name_or_path = load_backbone(name_or_path).to(place, dtype)
        name_or_path.eval()
        if memory_layers is None:
            memory_layers = suggest_memory_layers(name_or_path, layer_reduction_factor=1).memory_layers
        options["layer_reduction_factor"] = 1
        model = super().from_backbone(name_or_path, memory_layers=memory_layers, preset=preset, **options)
        if "read_overlap" not in options:
            model.config.read_overlap = model.config.window // 2
        model.device_reason = reason
        return model.eval()

    @classmethod
    def from_pretrained(cls, *_args: Any, **_kwargs: Any) -> "TrainingFreeMemory":
        """Raises LongMemError: nothing was trained, so nothing was saved."""
        raise LongMemError("Training-free memory is not saved; make it from its backbone with `from_backbone`.")

    def save_pretrained(self, *_args: Any, **_kwargs: Any) -> None:
        """Raises LongMemError: nothing was trained, so there is nothing to save."""
        raise LongMemError("Training-free memory has nothing to save; save the backbone, `backbone.causal_lm`.")

    def _second_network(
        self, config: LongMemConfig, layers: nn.ModuleList, norm: nn.Module, family: Family
    ) -> nn.Module:
        return UpperLayers(config, layers, norm, family)

    def read_window(self, ids_BT: Tensor) -> BackboneStates:
        """Through a cache, where the second pass finds the window's keys."""
        cache = self.new_cache()
        valid_BT = torch.ones_like(ids_BT, dtype=torch.bool)
        positions_BT = cache.begin_block(ids_BT, valid_BT)
        states = self.backbone(ids_BT, position_ids_BT=positions_BT, cache=cache)
        for layer, (_, k_BGTD, v_BGTD) in states.qkv.items():
            cache.keep_position_free(layer, k_BGTD, v_BGTD)
        return states

    def _one_window(
        self, ids_BT: Tensor, attention_mask: Tensor | None, sources: Sources, recorder: Recorder | None
    ) -> Tensor:
        """Through a cache, which keeps the window's keys before positions."""
        first_recorded = 0 if recorder is None else ids_BT.shape[1] - recorder.keep
        return self._blocks(ids_BT, attention_mask, self.new_cache(), sources, recorder, first_recorded, None)
