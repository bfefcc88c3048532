"""The frozen language model: hidden states, and position-free queries, keys and values of its memory layers.

This is the only file that knows model families. Hooks are registered once, when a model is built; what they see goes
to the `Taps` of the call that is running in this thread, never onto a module, so that threads can share one model.

Shapes: B batch, T tokens, H query heads, G key-value heads, D head dimension, E hidden size.
"""

import copy
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    Cache,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import cached_file

from longmem.config import LongMemConfig
from longmem.errors import LongMemError, UnknownFamilyError

QKV = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Family:
    """Where a model family keeps what longmem needs; names are attributes of the decoder, a layer, or its attention.

    split turns the outputs of `projections` into q_BHTD, k_BGTD, v_BGTD before any position encoding.
    position: "rotary" (in some or all layers), "alibi" or "learned"; learned positions cannot go on counting.
    """

    layers: str
    norm: str
    attention: str
    projections: tuple[str, ...]
    output: str
    mlp_output: str
    split: Callable[[nn.Module, list[Tensor]], QKV]
    position: str = "rotary"


def _heads(states_BTE: Tensor, head_dim: int) -> Tensor:
    return states_BTE.unflatten(-1, (-1, head_dim)).transpose(1, 2)


def _split_separate(attention: nn.Module, outputs: list[Tensor]) -> QKV:
    q, k, v = (_heads(output, attention.head_dim) for output in outputs)
    return q, k, v


def _split_normed(attention: nn.Module, outputs: list[Tensor]) -> QKV:
    """Qwen3: the norms of queries and keys come after the projections and give [B, T, heads, D] already."""
    q_BTHD, k_BTGD, v_BTE = outputs
    return q_BTHD.transpose(1, 2), k_BTGD.transpose(1, 2), _heads(v_BTE, attention.head_dim)


def _split_blocks(attention: nn.Module, outputs: list[Tensor]) -> QKV:
    """GPT-2: all queries, then all keys, then all values."""
    q, k, v = (_heads(part, attention.head_dim) for part in outputs[0].chunk(3, dim=-1))
    return q, k, v


def _split_interleaved(attention: nn.Module, outputs: list[Tensor]) -> QKV:
    """GPT-NeoX and BLOOM: query, key and value of one head stand together."""
    head_dim = getattr(attention, "head_size", None) or attention.head_dim
    q, k, v = _heads(outputs[0], 3 * head_dim).chunk(3, dim=-1)
    return q, k, v


_SEPARATE = Family(
    layers="layers",
    norm="norm",
    attention="self_attn",
    projections=("q_proj", "k_proj", "v_proj"),
    output="o_proj",
    mlp_output="mlp.down_proj",
    split=_split_separate,
)
FAMILIES: dict[str, Family] = {
    "smollm3": _SEPARATE,
    "llama": _SEPARATE,
    "qwen2": _SEPARATE,
    "mistral": _SEPARATE,
    "qwen3": Family(
        layers="layers",
        norm="norm",
        attention="self_attn",
        projections=("q_norm", "k_norm", "v_proj"),
        output="o_proj",
        mlp_output="mlp.down_proj",
        split=_split_normed,
    ),
    "gpt2": Family(
        layers="h",
        norm="ln_f",
        attention="attn",
        projections=("c_attn",),
        output="c_proj",
        mlp_output="mlp.c_proj",
        split=_split_blocks,
        position="learned",
    ),
    "gpt_neox": Family(
        layers="layers",
        norm="final_layer_norm",
        attention="attention",
        projections=("query_key_value",),
        output="dense",
        mlp_output="mlp.dense_4h_to_h",
        split=_split_interleaved,
    ),
    "bloom": Family(
        layers="h",
        norm="ln_f",
        attention="self_attention",
        projections=("query_key_value",),
        output="dense",
        mlp_output="mlp.dense_4h_to_h",
        split=_split_interleaved,
        position="alibi",
    ),
}


def family_of(config: PreTrainedConfig) -> Family:
    """The family of a model configuration.

    Raises:
        UnknownFamilyError: longmem does not know how to read this model.
    """
    try:
        return FAMILIES[config.model_type]
    except KeyError:
        raise UnknownFamilyError(
            f"model_type is {config.model_type!r}; longmem reads {', '.join(sorted(FAMILIES))}."
        ) from None


def load_backbone(name_or_path: str | Path) -> PreTrainedModel:
    """A causal language model of a known family from the hub or a folder; of a LongMem model, the one inside it.

    Raises:
        UnknownFamilyError: longmem does not know how to read this model.
        LongMemError: no model is there, or none that transformers can load.
    """
    if _is_path(str(name_or_path)) and not Path(name_or_path).is_dir():
        raise LongMemError(f"backbone is {str(name_or_path)!r}; there is no such folder.")
    try:
        return _load(name_or_path)
    except LongMemError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        # What transformers and safetensors raise for a name of nothing, an unheard-of model and damaged weights.
        reason = " ".join(str(error).split("\n")[0].split()).rstrip(".:")
        said = f"backbone is {str(name_or_path)!r}; no language model can be loaded from it"
        raise LongMemError(f"{said} ({reason}); give a folder or a hub id.") from error


def _is_path(name: str) -> bool:
    """Whether a name can only be that of a folder: a hub id has one slash at most, inside."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name


def _load(name_or_path: str | Path) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(name_or_path)
    if not isinstance(config, LongMemConfig):
        family_of(config)
        return AutoModelForCausalLM.from_pretrained(name_or_path)
    if getattr(config, "sidenet_only", False):
        return load_backbone(config.backbone_name_or_path)
    inside = "backbone.causal_lm."
    weights = load_file(cached_file(str(name_or_path), "model.safetensors"))
    state = {name.removeprefix(inside): weight for name, weight in weights.items() if name.startswith(inside)}
    backbone_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config.backbone_config)]
    backbone = backbone_class.from_pretrained(None, config=config.backbone_config, state_dict=state)
    backbone.name_or_path = str(name_or_path)  # it would say "None", and a tokenizer of that name be asked for
    return backbone


def copy_of(causal_lm: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a model of its own, on the same device, without the hooks of a `Backbone`."""
    copied = MODEL_FOR_CAUSAL_LM_MAPPING[type(causal_lm.config)](copy.deepcopy(causal_lm.config))
    copied.to(causal_lm.device, causal_lm.dtype).load_state_dict(causal_lm.state_dict())
    return copied.eval()


def weights_hash(module: nn.Module, beginning: str = "") -> str:
    """A short hash of samples of all weights, the same in fp32 and bf16."""
    digest = hashlib.sha256(beginning.encode())
    for name, weight in sorted(module.state_dict().items()):
        flat = weight.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 256)].to("cpu", torch.bfloat16).contiguous().view(torch.uint8)
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:16]


def attention_scaling(attention: nn.Module) -> float:
    """The factor on q . k in this attention module."""
    return attention.scaling if hasattr(attention, "scaling") else attention.inv_norm_factor


class _SeenEnough(Exception):
    """Ends a pass from within: what comes after this would be computed for nobody."""


@dataclass
class Taps:
    """What the hooks of one call have seen; `local_BHTD` is local attention where something was retrieved.

    last_wanted: the layer whose projections end the pass, where nothing behind them is wanted.
    """

    last_wanted: int | None = None
    inputs: dict[int, Tensor] = field(default_factory=dict)
    arguments: dict[int, tuple[tuple, dict[str, Any]]] = field(default_factory=dict)
    projected: dict[int, list[Tensor]] = field(default_factory=dict)
    local_BHTD: dict[int, Tensor] = field(default_factory=dict)
    last: Tensor | None = None


_TAPS: ContextVar[Taps | None] = ContextVar("longmem_taps", default=None)


@contextmanager
def tapping(last_wanted: int | None = None) -> Iterator[Taps]:
    """Collect what the hooks see in this thread until the block ends."""
    taps = Taps(last_wanted)
    token = _TAPS.set(taps)
    try:
        yield taps
    finally:
        _TAPS.reset(token)


def tap_projections(attention: nn.Module, family: Family, key: int) -> list[RemovableHandle]:
    """Hook an attention module so that its q, k, v before positions go to `Taps.projected[key]`."""

    def store(place: int) -> Callable:
        def hook(_module: nn.Module, _arguments: tuple, output: Tensor) -> None:
            if (taps := _TAPS.get()) is not None:
                seen = taps.projected.setdefault(key, [None] * len(family.projections))
                seen[place] = output
                if key == taps.last_wanted and all(states is not None for states in seen):
                    raise _SeenEnough

        return hook

    return [
        attention.get_submodule(name).register_forward_hook(store(place))
        for place, name in enumerate(family.projections)
    ]


def call_output_module(attention: nn.Module) -> None:
    """Make an attention module call its output projection, so that a hook there sees what passes.

    BLOOM with `slow_but_exact` multiplies slices of the weights itself; the sum is the same but for rounding.
    """
    if getattr(attention, "slow_but_exact", False):
        attention.slow_but_exact = False


@dataclass(frozen=True)
class BackboneStates:
    """One pass over a segment.

    hidden: layer -> H^layer [B, T, E] for the asked layers; H^L is before the final norm.
    qkv: memory layer -> (q_BHTD, k_BGTD, v_BGTD), before any position encoding.
    arguments: layer -> what its decoder layer was called with besides hidden states, for the SideNet's copies.
    """

    hidden: dict[int, Tensor]
    qkv: dict[int, QKV]
    arguments: dict[int, tuple[tuple, dict[str, Any]]]


class Backbone(nn.Module):
    """A frozen Hugging Face causal language model that shows its inside. Always in eval mode."""

    def __init__(self, causal_lm: PreTrainedModel, memory_layers: list[int]) -> None:
        super().__init__()
        self.causal_lm = causal_lm
        self.family = family_of(causal_lm.config)
        self.memory_layers = memory_layers
        for index, layer in enumerate(self.layers):
            layer.register_forward_pre_hook(self._see_input(index), with_kwargs=True)
        self.layers[-1].register_forward_hook(self._see_last)
        for index in memory_layers:
            tap_projections(self.attention(self.layers[index]), self.family, index)
        self.freeze()

    @property
    def all_tied_weights_keys(self) -> dict[str, str]:
        """Tied parameters under their names in this module, where transformers looks for them."""
        return {f"causal_lm.{k}": f"causal_lm.{v}" for k, v in self.causal_lm.all_tied_weights_keys.items()}

    @property
    def decoder(self) -> PreTrainedModel:
        return self.causal_lm.base_model

    @property
    def layers(self) -> nn.ModuleList:
        return self.decoder.get_submodule(self.family.layers)

    @property
    def norm(self) -> nn.Module:
        return self.decoder.get_submodule(self.family.norm)

    @property
    def head(self) -> nn.Module:
        return self.causal_lm.get_output_embeddings()

    @property
    def kv_heads(self) -> int:
        config = self.causal_lm.config
        return getattr(config, "num_key_value_heads", None) or config.num_attention_heads

    @property
    def query_heads(self) -> int:
        return self.causal_lm.config.num_attention_heads

    @property
    def head_dim(self) -> int:
        config = self.causal_lm.config
        return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads

    def attention(self, layer: nn.Module) -> nn.Module:
        return layer.get_submodule(self.family.attention)

    def freeze(self) -> None:
        """No gradients, no dropout; loading weights makes every parameter trainable again, so call it after that."""
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in eval mode whatever the SideNet does."""
        return super().train(False)

    def forward(
        self,
        input_ids_BT: Tensor,
        *,
        attention_mask: Tensor | None = None,
        position_ids_BT: Tensor | None = None,
        cache: Cache | None = None,
    ) -> BackboneStates:
        """Run the decoder, without its head, over a segment."""
        options: dict[str, Any] = {"attention_mask": attention_mask, "use_cache": cache is not None}
        if self.family.position != "alibi":
            options["position_ids"] = position_ids_BT
        if cache is not None:
            options["cache"] = cache
        with tapping() as taps, torch.no_grad():
            self.decoder(input_ids=input_ids_BT, **options)
        return BackboneStates(taps.inputs | {len(self.layers): taps.last}, self._qkv(taps), taps.arguments)

    @torch.no_grad()
    def read(self, input_ids_BT: Tensor) -> dict[int, QKV]:
        """What `forward` gives as `qkv`; the pass ends at the last memory layer's projections."""
        with tapping(last_wanted=max(self.memory_layers)) as taps, suppress(_SeenEnough):
            self.decoder(input_ids=input_ids_BT, use_cache=False)
        return self._qkv(taps)

    def _qkv(self, taps: Taps) -> dict[int, QKV]:
        attention = [self.attention(self.layers[b]) for b in self.memory_layers]
        return {b: self.family.split(a, taps.projected[b]) for b, a in zip(self.memory_layers, attention, strict=True)}

    def logits(self, states: BackboneStates) -> Tensor:
        """The backbone's own logits [B, T, V] for a pass."""
        return self.head(self.norm(states.hidden[len(self.layers)]))

    def fingerprint(self) -> str:
        """A short hash of the weights and memory layers, the same in fp32 and bf16: whose keys are in a bank."""
        return weights_hash(self.causal_lm, str((self.causal_lm.config.model_type, self.memory_layers)))

    def _see_input(self, index: int) -> Callable:
        def hook(_module: nn.Module, arguments: tuple, options: dict[str, Any]) -> None:
            if (taps := _TAPS.get()) is not None:
                options = dict(options)
                hidden = arguments[0] if arguments else options.pop("hidden_states")
                taps.inputs[index] = hidden
                taps.arguments[index] = (arguments[1:], options)

        return hook

    def _see_last(self, _module: nn.Module, _arguments: tuple, output: Tensor | tuple) -> None:
        if (taps := _TAPS.get()) is not None:
            taps.last = output[0] if isinstance(output, tuple) else output
