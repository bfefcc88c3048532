"""Which layers can be memory layers: how well each head finds "what came after this last time".

Two measurements on random tokens that come twice, the prefix-matching score of induction heads: as the model attends,
with positions, and as memory is searched, by queries and keys without any.
Source: Olsson et al. 2022, "In-context Learning and Induction Heads".

Shapes: L layers, H query heads, G key-value heads, T tokens, D head dimension, R rows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from longmem.backbone import attention_scaling, family_of, tap_projections, tapping
from longmem.config import LongMemConfig

LENGTH = 256
FINDS = 0.1  # a head below this finds next to nothing; chance is about 1 / length


@torch.no_grad()
def prefix_matching(model: PreTrainedModel, *, length: int, rows: int = 4, seed: int = 0) -> Tensor:
    """Induction score of every head: attention, on random tokens seen twice, to the token after the first time.

    Args:
        length: tokens of a row, of which the second half repeats the first.

    Returns: fp32 [L, H], 0 to 1.
    """
    before, training = model.config._attn_implementation, model.training
    model.eval().set_attn_implementation("eager")
    found = [
        _matching(model(ids_1T, output_attentions=True, use_cache=False).attentions)
        for ids_1T in _repeated(model, length, rows, seed)
    ]
    model.set_attn_implementation(before)
    model.train(training)
    return torch.stack(found).mean(dim=0)


@torch.no_grad()
def content_matching(model: PreTrainedModel, *, length: int, rows: int = 4, seed: int = 0) -> Tensor:
    """The same score of queries and keys before any position encoding, which is how memory is searched.

    Returns: fp32 [L, H], 0 to 1.

    Raises:
        UnknownFamilyError: longmem does not know how to read this model.
    """
    family, training = family_of(model.config), model.training
    attentions = [layer.get_submodule(family.attention) for layer in model.base_model.get_submodule(family.layers)]
    handles = [handle for i, a in enumerate(attentions) for handle in tap_projections(a, family, i)]
    model.eval()
    found = []
    for ids_1T in _repeated(model, length, rows, seed):
        with tapping() as taps:
            model.base_model(input_ids=ids_1T, use_cache=False)
        queries_and_keys = [family.split(a, taps.projected[i])[:2] for i, a in enumerate(attentions)]
        pairs = zip(attentions, queries_and_keys, strict=True)
        found.append(_matching(_attend(q_BHTD, k_BGTD, attention_scaling(a)) for a, (q_BHTD, k_BGTD) in pairs))
    for handle in handles:
        handle.remove()
    model.train(training)
    return torch.stack(found).mean(dim=0)


def _repeated(model: PreTrainedModel, length: int, rows: int, seed: int) -> list[Tensor]:
    """Rows of random tokens that come twice, each [1, T]: attention of all layers is too large for many at once."""
    generator, half = torch.Generator().manual_seed(seed), length // 2
    spans_RT = torch.randint(8, model.config.vocab_size, (rows, half), generator=generator)
    return list(torch.cat([spans_RT, spans_RT], dim=1).to(model.device).split(1))


def _matching(attentions) -> Tensor:
    """[L, H] of the attention_BHTT of every layer."""
    return torch.stack([_looked_where_it_should(a_BHTT) for a_BHTT in attentions]).cpu()


def _looked_where_it_should(a_BHTT: Tensor) -> Tensor:
    half = a_BHTT.shape[-1] // 2
    query = torch.arange(half, 2 * half - 1, device=a_BHTT.device)
    return a_BHTT[:, :, query, query - half + 1].float().mean(dim=(0, 2))


def _attend(q_BHTD: Tensor, k_BGTD: Tensor, scaling: float) -> Tensor:
    """Causal attention_BHTT of queries and keys alone."""
    k_BHTD = k_BGTD.repeat_interleave(q_BHTD.shape[1] // k_BGTD.shape[1], dim=1)
    scores_BHTT = (q_BHTD @ k_BHTD.mT).float() * scaling
    later = torch.ones(scores_BHTT.shape[-2:], dtype=torch.bool, device=scores_BHTT.device).triu(1)
    return scores_BHTT.masked_fill(later, -torch.inf).softmax(dim=-1)


@dataclass(frozen=True)
class Suggestion:
    """Layers to remember with, and a sentence that says why; `with_positions` and `by_content` are [L, H]."""

    memory_layers: list[int]
    reason: str
    with_positions: Tensor
    by_content: Tensor


def suggest_memory_layers(
    model: PreTrainedModel, *, count: int = 2, layer_reduction_factor: int = 2, length: int | None = None
) -> Suggestion:
    """Measure every head, and choose the layers with the best ones, as memory is searched.

    No two of them in one SideNet layer. A second layer is chosen only if its best head finds something.

    Args:
        count: at most so many layers.
        length: tokens of a row; by default 256, or as many as the model has positions for.

    Raises:
        UnknownFamilyError: longmem does not know how to read this model.
        LongMemError: the factor does not divide the layers.
    """
    family_of(model.config)
    LongMemConfig(model.config, memory_layers=[0], layer_reduction_factor=layer_reduction_factor)  # checks the factor
    length = length or probe_length(model.config)
    with_positions, by_content = (measure(model, length=length) for measure in (prefix_matching, content_matching))
    best_L = by_content.max(dim=1).values
    chosen: list[int] = []
    for layer in best_L.argsort(descending=True).tolist():
        taken = {b // layer_reduction_factor for b in chosen}
        finds = not chosen or best_L[layer] >= FINDS
        if finds and layer // layer_reduction_factor not in taken and len(chosen) < count:
            chosen.append(layer)
    return Suggestion(
        sorted(chosen), _reason(sorted(chosen), best_L, layer_reduction_factor), with_positions, by_content
    )


def probe_length(config: PreTrainedConfig) -> int:
    """Tokens of a row that this model can see whole."""
    limits = [getattr(config, name, None) for name in ("max_position_embeddings", "sliding_window")]
    return min([LENGTH, *[limit for limit in limits if limit]])


def _reason(chosen: list[int], best_L: Tensor, factor: int) -> str:
    scores = ", ".join(f"{best_L[b]:.2f} in layer {b}" for b in chosen)
    rule = f"best heads by content: {scores}; at most one in every {factor} layers, which share a SideNet layer"
    if best_L[chosen].max() < FINDS:
        return f"{rule}. None reaches {FINDS}: no head here looks things up without positions, so memory may not help."
    return f"{rule}."
