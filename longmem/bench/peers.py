"""LongMem's bank against the memory of `memorizing-transformers-pytorch`, on the same keys and values.

Its `KNNMemory` holds an approximate index (HNSW) of single tokens for each row of a batch; here each key-value head is
one. It is given room for what is added: once full, it drops its whole index.

Shapes: L memory layers, G key-value heads, T tokens, D head dimension, K retrieved tokens.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longmem.bench.bank_speed import SEARCHES, adding, searching
from longmem.bench.timing import AS_FAST, Timed, compared, in_turn
from longmem.bench.workbench import Workbench
from longmem.errors import LongMemError
from longmem.memory_bank import MemoryBank


class MissingPeerError(LongMemError):
    """The package to compare with is not installed."""


def peers(bench: Workbench) -> dict:
    """Adding a segment, and searching for one query and for many: how many times as fast as the peer."""
    memory_class = _peer()
    model, sizes = bench.model, bench.sizes
    bank = bench.bank(sizes.full)
    segment = bench.segment()
    room = sizes.full + (bench.rounds + 1) * segment[0].shape[2]
    with tempfile.TemporaryDirectory() as folder:
        settings = {"dim": model.head_dim, "max_memories": room, "num_indices": model.kv_heads}
        peer = memory_class(**settings, memmap_filename=str(Path(folder) / "memory"), multiprocessing=False)
        for start in range(0, sizes.full, 8_192):
            peer.add(_pairs([part[:, :, start : start + 8_192] for part in bench.keys_values_LGTD]))
        found = _measured(bench, bank, peer, segment)
        del peer
    return found


def _measured(bench: Workbench, bank: MemoryBank, peer: Any, segment: tuple[Tensor, Tensor]) -> dict:
    heads, wanted = bench.model.kv_heads, bench.model.config.retrieved_tokens
    one, many = bench.queries_1HTD(1), bench.queries_1HTD(bench.sizes.queries)
    one_GQD, many_GQD = (q[0].float().unflatten(0, (heads, -1)).flatten(1, 2) for q in (one, many))
    pairs = _pairs(segment)
    hits = recall_of_tokens(peer.search(many_GQD, wanted), many_GQD, bench.keys_values_LGTD[0][0], wanted)
    seconds = in_turn(
        bench.rounds,
        bench.device,
        peer_search_one=Timed(lambda: peer.search(one_GQD, wanted), times=SEARCHES),
        search_one=Timed(searching(bench, bank, one), times=SEARCHES),
        peer_search_many=Timed(lambda: peer.search(many_GQD, wanted)),
        search_many=Timed(searching(bench, bank, many)),
        peer_add=Timed(lambda: peer.add(pairs)),
        add=Timed(adding(bench, bank)),
    )
    layers = len(bench.model.config.memory_layers)
    seconds["add"] = [taken / layers for taken in seconds["add"]]  # the peer's memory is of one layer
    recalls = {"recall": 1.0 if bank.recall is None else bank.recall.share, "peer_recall": hits}
    return {
        "peers_search_one": compared(seconds, "peer_search_one", "search_one", AS_FAST, **recalls),
        "peers_search_many": compared(seconds, "peer_search_many", "search_many", AS_FAST, **recalls),
        "peers_add": compared(seconds, "peer_add", "add", AS_FAST),
    }


def _pairs(keys_values_LGTD: tuple[Tensor, Tensor] | list[Tensor]) -> Tensor:
    """Keys and values of the first memory layer as the peer takes them: [G, T, 2, D] in fp32, on the CPU."""
    return torch.stack([part[0] for part in keys_values_LGTD], dim=2).float().cpu()


def recall_of_tokens(found: tuple[Tensor, Tensor], queries_GQD: Tensor, keys_GND: Tensor, wanted: int) -> float:
    """The share of the best `wanted` tokens that was found, by score: found are keys and values [G, Q, K, 2, D], mask.

    A score counts as found where it is no smaller than the last of the exact best, to within rounding.
    """
    keys_values, mask_GQK = found
    exact_GQ = (queries_GQD @ keys_GND.float().mT).topk(wanted).values[..., -1:]
    scores_GQK = torch.einsum("gqd,gqkd->gqk", queries_GQD, keys_values[..., 0, :].to(queries_GQD))
    near_GQ = exact_GQ - 1e-4 * exact_GQ.abs()
    return float(((scores_GQK >= near_GQ) & mask_GQK.to(scores_GQK.device)).float().mean())


def _peer() -> type:
    """The peer's KNNMemory. Errors: MissingPeerError says how to install it."""
    try:
        from memorizing_transformers_pytorch import KNNMemory
    except ImportError as error:
        raise MissingPeerError(
            f"peers compares with memorizing-transformers-pytorch, which cannot be imported ({error}); "
            "install it with: pip install memorizing-transformers-pytorch einops-exts"
        ) from error
    return KNNMemory
