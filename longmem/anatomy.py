"""What a model is made of, and what one forward pass does, in numbers: for teaching and for drawings.

Shapes: T tokens, H query heads, G key-value heads, D head dimension, E hidden size, V vocabulary, C chunks,
S tokens per chunk, K likeliest tokens.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from longmem.errors import LongMemError
from longmem.fusion import recalling
from longmem.memory_bank import MemoryBank
from longmem.model import LongMemForCausalLM
from longmem.retrieval import Retrieval
from longmem.row_memory import Sources


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a model.

    `sources` names, for every SideNet layer, the backbone layer that it was copied from. A model without a SideNet runs
    the layers from the first of `sources` on a second time, with memory, on the backbone's own weights.
    """

    family: str
    layers: int
    hidden_size: int
    vocabulary: int
    query_heads: int
    kv_heads: int
    head_dim: int
    memory_layers: tuple[int, ...]
    layer_reduction_factor: int
    sources: tuple[int, ...]
    window: int
    chunk_size: int
    retrieved_tokens: int
    memory_size: int
    chunk_key: str
    gate: str
    position: str
    read_overlap: int
    shares_embeddings: bool
    frozen_parameters: int
    trained_parameters: int
    has_sidenet: bool = True

    @property
    def side_layers(self) -> int:
        return len(self.sources)

    @property
    def first(self) -> int:
        """The backbone layer beside which the second network begins."""
        return 0 if self.has_sidenet else self.sources[0]

    @property
    def memory_of(self) -> dict[int, int]:
        """Layer of the second network -> the memory layer that it retrieves from."""
        return {(layer - self.first) // self.layer_reduction_factor: layer for layer in self.memory_layers}

    @property
    def retrieved_chunks(self) -> int:
        return self.retrieved_tokens // self.chunk_size

    @property
    def numbers_per_token(self) -> int:
        """How many numbers memory keeps of one token: a key and a value in every memory layer and key-value head."""
        return 2 * len(self.memory_layers) * self.kv_heads * self.head_dim


def shape_of(model: LongMemForCausalLM) -> ModelShape:
    """The sizes of this model, read from the model itself."""
    config, embeddings = model.config, model.get_input_embeddings().weight
    names = ("layer_reduction_factor", "window", "chunk_size", "retrieved_tokens", "memory_size", "chunk_key", "gate")
    trained = model.sidenet.parameters() if model.has_sidenet else ()
    return ModelShape(
        family=model.backbone.causal_lm.config.model_type,
        layers=len(model.backbone.layers),
        hidden_size=embeddings.shape[1],
        vocabulary=embeddings.shape[0],
        query_heads=model.backbone.query_heads,
        kv_heads=model.kv_heads,
        head_dim=model.head_dim,
        memory_layers=tuple(config.memory_layers),
        sources=model.sidenet.sources,
        has_sidenet=model.has_sidenet,
        position=model.backbone.family.position,
        read_overlap=config.read_overlap,
        shares_embeddings=model.backbone.head.weight is embeddings,
        frozen_parameters=sum(parameter.numel() for parameter in model.backbone.parameters()),
        trained_parameters=sum(parameter.numel() for parameter in trained),
        **{name: getattr(config, name) for name in names},
    )


@dataclass(frozen=True)
class MemoryLayerPass:
    """What one memory layer did, in fp32.

    keys and values are the backbone's, before positions: what memory would keep of these tokens. queries are the
    SideNet's. local is A, memory is M, and fused is (1 - gate) * A + gate * M. weights are attention inside memory,
    summed over the tokens of a chunk: those of a head sum to 1, and times the gate they are those of a trace.
    """

    keys_GTD: np.ndarray
    values_GTD: np.ndarray
    queries_HTD: np.ndarray
    local_HTD: np.ndarray
    memory_HTD: np.ndarray
    gate_HT: np.ndarray
    weights_HTC: np.ndarray
    scores_HTC: np.ndarray
    chunks_HTC: np.ndarray

    @property
    def fused_HTD(self) -> np.ndarray:
        gate_HT1 = self.gate_HT[..., None]
        return (1 - gate_HT1) * self.local_HTD + gate_HT1 * self.memory_HTD


@dataclass(frozen=True)
class SideLayerPass:
    """How long (Euclidean length) what a SideNet layer adds is, at every token: its own change, and the residual."""

    change_T: np.ndarray
    residual_T: np.ndarray


@dataclass(frozen=True)
class Likeliest:
    """The most probable next tokens after every token, and their probabilities."""

    token_ids_TK: np.ndarray
    probabilities_TK: np.ndarray


@dataclass(frozen=True)
class Anatomy:
    """One pass over some tokens. `side_TE` is the SideNet's last state after its norm: what the head reads.

    likeliest: what comes next by "backbone", "empty_bank" (the SideNet without memory, where there is one) and
    "longmem" (with memory).
    """

    token_ids: list[int]
    memory: dict[int, MemoryLayerPass]
    side: list[SideLayerPass]
    side_TE: np.ndarray
    likeliest: dict[str, Likeliest]


@dataclass
class _Notes:
    """A recorder that keeps everything of one pass."""

    seen: dict[int, tuple[Retrieval, Tensor, Tensor]] = field(default_factory=dict)
    keep: int | None = None

    def record(self, layer: int, retrieval: Retrieval, weights_BHTK: Tensor, gate_BHT: Tensor) -> None:
        self.seen[layer] = (retrieval, weights_BHTK, gate_BHT)

    def see_logits(self, logits_BTV: Tensor) -> None:
        """Nothing: the logits are taken from the head."""


@torch.no_grad()
def dissect(
    model: LongMemForCausalLM,
    token_ids: Sequence[int],
    *,
    memory: MemoryBank,
    k: int = 3,
    exclude: Collection[int] = (),
) -> Anatomy:
    """Run one window of tokens and keep what every part did; k: how many of the likeliest next tokens.

    exclude: chunk ids that are switched off.

    Raises:
        LongMemError: no token, more than a window, or an empty memory. BankMismatchError: another model's bank.
    """
    _check(model, token_ids, memory)
    ids_BT = torch.tensor([list(token_ids)], device=model.device)
    states = model.read_window(ids_BT)
    sources, notes = Sources(model.config.retrieved_chunks, memory, exclude=exclude), _Notes()
    sidenet, side = model.sidenet, []
    side_BTE = sidenet.start(states).float()
    with sidenet.running(states), recalling(sources, notes) as taps:
        for index in range(len(sidenet.layers)):
            change_BTE, residual_BTE = sidenet.step(index, side_BTE, states)
            side_BTE = side_BTE + change_BTE + residual_BTE
            side.append(SideLayerPass(_lengths(change_BTE), _lengths(residual_BTE)))
    last_BTE = sidenet.norm(side_BTE.to(sidenet.norm.weight.dtype))
    logits = {"backbone": model.backbone.logits(states)}
    if model.has_sidenet:
        logits["empty_bank"] = model.backbone.head(sidenet(states))
    logits["longmem"] = model.backbone.head(last_BTE)
    return Anatomy(
        token_ids=list(token_ids),
        memory={layer: _memory_layer(model, layer, states.qkv[layer], taps, notes) for layer in notes.seen},
        side=side,
        side_TE=_array(last_BTE[0]),
        likeliest={name: _likeliest(logits_BTV[0], k) for name, logits_BTV in logits.items()},
    )


@torch.no_grad()
def every_score(memory: MemoryBank, layer: int, query_HD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The scores of all chunks for one query of every head, by the search that the model uses, best first.

    Returns scores_HC and chunks_HC, the chunks' ids.
    """
    queries_BHTD = torch.from_numpy(query_HD)[None, :, None].to(memory.device)
    found = memory.search(layer, queries_BHTD, n_chunks=memory.n_chunks)
    return _array(found.scores_BHTC[0, :, 0]), _array(found.chunks_BHTC[0, :, 0])


@torch.no_grad()
def stored_states(memory: MemoryBank, layer: int) -> tuple[Tensor, Tensor]:
    """What memory holds of a layer: keys and values [G, C, S * D] of its chunks by age, in the bank's dtype.

    Empty slots of a chunk are zero.
    """
    queries_BHTD = torch.zeros(1, memory.kv_heads, 1, memory.head_dim, device=memory.device)
    found = memory.search(layer, queries_BHTD, n_chunks=memory.n_chunks)
    order_GC = found.chunks_BHTC[0, :, 0].argsort(dim=-1)
    heads_G1 = torch.arange(memory.kv_heads, device=memory.device)[:, None]
    keys, values = (
        part[0, :, 0].unflatten(1, (memory.n_chunks, -1)).flatten(2)[heads_G1, order_GC]
        for part in (found.keys_BHTKD, found.values_BHTKD)
    )
    return keys, values


def _check(model: LongMemForCausalLM, token_ids: Sequence[int], memory: MemoryBank) -> None:
    model.check_bank(memory)
    if not 0 < len(token_ids) <= model.config.window:
        raise LongMemError(f"token_ids are {len(token_ids)}; there must be from 1 to {model.config.window}, a window.")
    if memory.is_empty:
        raise LongMemError("memory is empty; read a document into it first.")


def _memory_layer(model: LongMemForCausalLM, layer: int, qkv: tuple, taps, notes: _Notes) -> MemoryLayerPass:
    retrieval, weights_BHTK, gate_BHT = notes.seen[layer]
    index = next(i for i, b in model.sidenet.memory_of.items() if b == layer)
    attention = model.backbone.attention(model.sidenet.layers[index])
    queries_BHTD = model.backbone.family.split(attention, taps.projected[layer])[0]
    n_chunks = retrieval.chunks_BHTC.shape[-1]
    memory_BHTD = torch.einsum("bhtk,bhtkd->bhtd", weights_BHTK, retrieval.values_BHTKD.float())
    return MemoryLayerPass(
        keys_GTD=_array(qkv[1][0]),
        values_GTD=_array(qkv[2][0]),
        queries_HTD=_array(queries_BHTD[0]),
        local_HTD=_array(taps.local_BHTD[layer][0]),
        memory_HTD=_array(memory_BHTD[0]),
        gate_HT=_array(gate_BHT[0]),
        weights_HTC=_array(weights_BHTK[0].unflatten(-1, (n_chunks, -1)).sum(-1)),
        scores_HTC=_array(retrieval.scores_BHTC[0]),
        chunks_HTC=_array(retrieval.chunks_BHTC[0]),
    )


def _likeliest(logits_TV: Tensor, k: int) -> Likeliest:
    probabilities_TK, ids_TK = logits_TV.float().softmax(-1).topk(min(k, logits_TV.shape[-1]), dim=-1)
    return Likeliest(_array(ids_TK), _array(probabilities_TK))


def _lengths(states_BTE: Tensor) -> np.ndarray:
    return _array(states_BTE[0].norm(dim=-1))


def _array(tensor: Tensor) -> np.ndarray:
    """Whole numbers as they are, all others in fp32."""
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
