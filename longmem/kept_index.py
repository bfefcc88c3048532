"""Search for banks of millions of tokens: faiss indexes that are kept beside the keys, one per layer and head.

An entry is the key of a token slot (the mean of a chunk, where the bank has means). The index proposes the chunks of
its best entries; those are scored exactly, from the real keys, and the best of them are what was found. So scores are
exact, and what may be wrong is the choice: `recall` compares some of the searches with exact ones.

- `faiss-ivf`: k-means lists of entries of 8 bits a number, of which the nearest are read.
- `faiss-hnsw`: a graph of such entries. The slowest to make.
- `faiss-sq8`: all entries of 8 bits a number, read one after the other.
- `faiss-shards`: all entries in fp32, nothing approximate; faiss's own sharding shares them among the GPUs that it sees
  (`index_cpu_to_all_gpus`), or, where there are fewer than two, among parts of the host's memory (`IndexShards`). With
  several GPUs this has not been run.

Below LEAST_TOKENS, and for more chunks than a sixteenth of the bank, search is exact. What was added since entries were
last made is searched exactly too, until it is a thirty-second of the bank. Nothing is taken out of an index (a graph
cannot): chunks that have left, or may not be retrieved, are hidden from the search, and the index is made anew once
half of it is hidden, and with more lists once the bank is four times what they were made for. A search that found fewer
chunks than there are is repeated exactly.

Shapes in names: G key-value heads, Q queries, D head dimension, C chunks, S token slots per chunk, I indexed chunks,
E entries of a head, k entries found.
"""

import copy
from collections import deque
from dataclasses import dataclass
from math import log2, sqrt
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from longmem.chunk_ring import ID, TOKEN_STOP, ChunkRing
from longmem.errors import LongMemError
from longmem.search import NOTHING, candidate_scores, load_faiss, repeated, top_chunks

LEAST_TOKENS = 16_384
LEAST_NEW_TOKENS = 4_096
NEW_SHARE = 32
MOST_GROWTH = 4
TRAINED_ENTRIES = 65_536  # what ranges, and up to 840 lists, are made from, at most
ENTRIES_PER_LIST = 39  # faiss warns of fewer
BLOCK_ENTRIES = 65_536  # turned into fp32 and added at once
BLOCK_QUERIES = 128
COMPARED_QUERIES = 4  # of a search that is compared with an exact one
COMPARED_EVERY = 64  # searches of a layer; the first, second, fourth, eighth and so on too
COMPARISONS_KEPT = 256
_GPU_MOST = 2_048  # faiss sorts at most so many results on a GPU


@dataclass(frozen=True)
class IndexSettings:
    """What the indexes are made with; None: by the number of tokens. Errors: LongMemError.

    nlist, nprobe: lists of `faiss-ivf`, and how many of them a search reads.
    links, ef_search: neighbours of each entry of `faiss-hnsw`, and how many candidates a search keeps.
    shards: of `faiss-shards` where there are fewer than two GPUs.
    """

    nlist: int | None = None
    nprobe: int | None = None
    links: int = 32
    ef_search: int = 512
    shards: int = 2

    def __post_init__(self) -> None:
        for name in ("nlist", "nprobe", "links", "ef_search", "shards"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise LongMemError(f"{name} is {number}; it must be at least 1.")
        if self.links < 2:
            raise LongMemError(f"links is {self.links}; it must be at least 2.")

    def lists(self, n_tokens: int) -> int:
        """About the square root, so that finding lists costs less than reading them."""
        most = max(1, n_tokens // ENTRIES_PER_LIST)
        return min(most, self.nlist or 2 ** round(log2(sqrt(n_tokens))))

    def probes(self, lists: int) -> int:
        return min(lists, self.nprobe or max(64, lists // 16))


class Recall(NamedTuple):
    """The share of the chunks of an exact search that was found, over so many queries of single heads."""

    share: float
    queries: int


class KeptIndex:
    """The indexes of one bank, made from its ring and renewed as the ring changes."""

    def __init__(self, backend: str, ring: ChunkRing, settings: IndexSettings | None = None) -> None:
        self.backend, self.settings = backend, settings or IndexSettings()
        self._ring, self._faiss = ring, load_faiss()
        self._compared: deque[tuple[int, int, int]] = deque(maxlen=COMPARISONS_KEPT)
        self._searches = [0] * len(ring.keys)
        self._drop()

    def __deepcopy__(self, memo: dict) -> "KeptIndex":
        """One for the copy of the ring, which makes its indexes anew: faiss's own cannot all be copied."""
        return KeptIndex(self.backend, copy.deepcopy(self._ring, memo), self.settings)

    @property
    def is_used(self) -> bool:
        """Whether the bank is large enough for an index, and it has been made."""
        return bool(self._indexes)

    @property
    def recall(self) -> Recall | None:
        """Over the latest searches that were compared with exact ones; None where none was."""
        compared = tuple(self._compared)  # a page may ask while a run searches
        if not compared:
            return None
        found, there, queries = map(sum, zip(*compared, strict=True))
        return Recall(found / there, queries)

    @property
    def nbytes(self) -> int:
        return len(self._ids_I) * self._entries_per_chunk * self._entry_bytes

    def nbytes_with(self, n_chunks: int) -> int:
        """Bytes once so many more chunks have been put in."""
        chunks = min(self._ring.n_chunks + n_chunks, self._ring.most_chunks)
        enough = chunks * self._ring.chunk_size >= LEAST_TOKENS
        return max(self.nbytes, enough * chunks * self._entries_per_chunk * self._entry_bytes)

    @property
    def _entries_per_chunk(self) -> int:
        return 1 if self._ring.means else self._ring.chunk_size

    @property
    def _entry_bytes(self) -> int:
        """Of all layers and heads together: a number, with its place in a list or its neighbours."""
        G, _, D = self._ring.keys[0].shape
        graph = D + 4 * 2 * self.settings.links + 4
        each = {"faiss-ivf": D + 8, "faiss-hnsw": graph, "faiss-sq8": D, "faiss-shards": 4 * D}[self.backend]
        return each * G * len(self._ring.keys)

    # Keeping up with the ring

    def update(self) -> None:
        """Put in what was added to the ring, or make the index anew, where it is worth it."""
        self._look()
        indexed, size, total = len(self._ids_I), self._ring.chunk_size, self._ring.n_chunks
        live = total - len(self._new_slots)
        if total * size < LEAST_TOKENS:
            self._drop()
        elif live <= indexed // 2 or (self.backend == "faiss-ivf" and total > MOST_GROWTH * self._made_for):
            self._make()
        elif len(self._new_slots) * size >= max(LEAST_NEW_TOKENS, live * size // NEW_SHARE):
            if self.backend == "faiss-shards":  # takes entries once
                self._make()
            else:
                self._put_in(self._new_slots)

    def _drop(self) -> None:
        self._indexes: list[list[Any]] = []
        self._ids_I = self._stops_I = np.empty(0, dtype=np.int64)
        self._made_for, self._revision = 0, -1

    def _look(self) -> None:
        """Where the indexed chunks are in the ring now (-1: nowhere), and which chunks of the ring are not indexed.

        A chunk that was completed after its entries were made has another stop: they are as good as gone.
        """
        ring = self._ring
        if self._revision == ring.revision:
            return
        oldest_C, rows_C6 = ring.oldest_first(), ring.rows_C6
        is_new_C = np.ones(ring.n_chunks, dtype=bool)
        self._slots_I = np.full(len(self._ids_I), -1, dtype=np.int64)
        if ring.n_chunks:
            place_I = np.searchsorted(rows_C6[oldest_C, ID], self._ids_I)  # ids ascend with age
            slots_I = oldest_C[np.minimum(place_I, ring.n_chunks - 1)]
            same_I = (rows_C6[slots_I, ID] == self._ids_I) & (rows_C6[slots_I, TOKEN_STOP] == self._stops_I)
            self._slots_I[same_I] = slots_I[same_I]
            is_new_C[slots_I[same_I]] = False
        self._new_slots = oldest_C[is_new_C[oldest_C]]
        self._new_keys: dict[int, Tensor] = {}
        self._selector = self._selecting(self._slots_I >= 0)
        self._revision = ring.revision

    def _make(self) -> None:
        """New indexes of all that is in the ring."""
        self._drop()
        slots_C = self._ring.oldest_first()
        G = len(self._ring.keys[0])
        if self.backend != "faiss-shards":
            self._indexes = [
                [self._trained(layer, h, slots_C) for h in range(G)] for layer in range(len(self._searches))
            ]
            self._put_in(slots_C)
        else:
            self._indexes = [
                [self._sharded(layer, h, slots_C) for h in range(G)] for layer in range(len(self._searches))
            ]
            self._note(slots_C)
        self._made_for = self._ring.n_chunks

    def _trained(self, layer: int, head: int, slots_C: np.ndarray) -> Any:
        """An empty index for the keys of a head, which has seen an even sample of them."""
        D = self._ring.keys[0].shape[2]
        n_entries = len(slots_C) * self._entries_per_chunk
        lists, links = self.settings.lists(n_entries), self.settings.links
        kinds = {"faiss-ivf": f"IVF{lists},SQ8", "faiss-hnsw": f"HNSW{links}_SQ8", "faiss-sq8": "SQ8"}
        index = self._faiss.index_factory(D, kinds[self.backend], self._faiss.METRIC_INNER_PRODUCT)
        step = -(-n_entries // max(TRAINED_ENTRIES, 2 * ENTRIES_PER_LIST * lists))
        index.train(self._entries(layer, head, slots_C[::step]))
        return index

    def _sharded(self, layer: int, head: int, slots_C: np.ndarray) -> Any:
        """An index of all keys of a head, shared among the GPUs or, without several, among parts of the memory."""
        faiss, entries_ED = self._faiss, self._entries(layer, head, slots_C)
        D = entries_ED.shape[1]
        if faiss.get_num_gpus() > 1:
            whole, options = faiss.IndexFlatIP(D), faiss.GpuMultipleClonerOptions()
            whole.add(entries_ED)
            options.shard = True
            return faiss.index_cpu_to_all_gpus(whole, co=options)
        shards = faiss.IndexShards(D, True, True)
        for _ in range(self.settings.shards):
            shards.add_shard(faiss.IndexFlatIP(D))
        shards.add(entries_ED)
        return shards

    def _put_in(self, slots_C: np.ndarray) -> None:
        """Entries for the chunks of these slots, oldest first."""
        step = max(1, BLOCK_ENTRIES // self._entries_per_chunk)
        for layer, of_heads in enumerate(self._indexes):
            for head, index in enumerate(of_heads):
                for first in range(0, len(slots_C), step):
                    index.add(self._entries(layer, head, slots_C[first : first + step]))
        self._note(slots_C)

    def _note(self, slots_C: np.ndarray) -> None:
        self._ids_I = np.concatenate([self._ids_I, self._ring.rows_C6[slots_C, ID]])
        self._stops_I = np.concatenate([self._stops_I, self._ring.rows_C6[slots_C, TOKEN_STOP]])
        self._revision = -1
        self._look()

    def _entries(self, layer: int, head: int, slots_C: np.ndarray) -> np.ndarray:
        """The keys of a head in these slots, as faiss takes them: [E, D] in fp32."""
        keys_GND, per_chunk = self._ring.searched(layer)
        keys_CSD = keys_GND[head].unflatten(0, (-1, per_chunk))
        chosen_CSD = keys_CSD[torch.from_numpy(slots_C).to(keys_GND.device)]
        return chosen_CSD.flatten(0, 1).float().cpu().contiguous().numpy()

    # Searching

    @torch.no_grad()
    def search(
        self, layer: int, queries_GQD: Tensor, n_chunks: int, allowed_C: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `search.top_chunks` over the layer at this place in the ring: scores and slots [G, Q, n_chunks]."""
        self.update()
        if not self.is_used or n_chunks > self._ring.n_chunks // 16:
            return self._exact(layer, queries_GQD, n_chunks, allowed_C)
        found = [
            self._block(layer, block_GQD, n_chunks, allowed_C) for block_GQD in queries_GQD.split(BLOCK_QUERIES, dim=1)
        ]
        scores_GQC, slots_GQC = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        self._compare(layer, queries_GQD, scores_GQC, allowed_C)
        return scores_GQC, slots_GQC

    def _exact(self, layer: int, queries_GQD, n_chunks: int, allowed_C) -> tuple[Tensor, Tensor]:
        keys_GND, per_chunk = self._ring.searched(layer)
        options = {"n_chunks": n_chunks, "chunk_size": per_chunk, "allowed_C": allowed_C}
        return top_chunks(queries_GQD, keys_GND, **options, norms_H=self._ring.norms[layer])

    def _block(self, layer: int, queries_GQD, n_chunks: int, allowed_C) -> tuple[Tensor, Tensor]:
        """What the index proposes, scored exactly, and what is not in it yet; the best of both."""
        keys_GND, per_chunk = self._ring.searched(layer)
        proposed_GQk = self._proposed(layer, queries_GQD, n_chunks, allowed_C)
        scores_GQk = candidate_scores(queries_GQD, keys_GND, per_chunk, proposed_GQk.clamp(min=0))
        scores_GQk.masked_fill_((proposed_GQk < 0) | repeated(proposed_GQk), NOTHING)
        new_scores_GQC, new_slots_GQC = self._of_new(layer, queries_GQD, n_chunks, allowed_C)
        scores_GQC, place_GQC = torch.cat([scores_GQk, new_scores_GQC], dim=-1).topk(n_chunks, dim=-1)
        slots_GQC = torch.cat([proposed_GQk, new_slots_GQC], dim=-1).gather(-1, place_GQC)
        slots_GQC.masked_fill_(scores_GQC == NOTHING, -1)
        there = self._ring.n_chunks if allowed_C is None else int(allowed_C.sum())
        short_Q = (slots_GQC[..., : min(n_chunks, there)] < 0).any(-1).any(0)
        if short_Q.any():
            again = self._exact(layer, queries_GQD[:, short_Q], n_chunks, allowed_C)
            scores_GQC[:, short_Q], slots_GQC[:, short_Q] = again
        return scores_GQC, slots_GQC

    def _proposed(self, layer: int, queries_GQD, n_chunks: int, allowed_C) -> Tensor:
        """Slots [G, Q, k] of the chunks of the best entries, -1 for none: some more than those of n_chunks chunks."""
        k = min(n_chunks * max(2, self._entries_per_chunk), len(self._ids_I) * self._entries_per_chunk)
        options = {"params": self._parameters(k, allowed_C)}
        hidden_I = None
        if self.backend == "faiss-shards":  # takes no parameters: what is hidden is found, and then left out
            k, options = min(k, _GPU_MOST), {}
            hidden_I = None if allowed_C is None else ~self._allowed(allowed_C)
        found = []
        for index, queries_QD in zip(self._indexes[layer], queries_GQD, strict=True):
            entries_Qk = index.search(queries_QD.float().cpu().contiguous().numpy(), k, **options)[1]
            indexed_Qk = entries_Qk // self._entries_per_chunk  # -1, no entry, stays -1
            slots_Qk = np.where(indexed_Qk < 0, -1, self._slots_I[indexed_Qk])
            if hidden_I is not None:
                slots_Qk[(indexed_Qk >= 0) & hidden_I[indexed_Qk]] = -1
            found.append(torch.from_numpy(slots_Qk))
        return torch.stack(found).to(queries_GQD.device)

    def _of_new(self, layer: int, queries_GQD, n_chunks: int, allowed_C) -> tuple[Tensor, Tensor]:
        """The best of what is not in the index yet."""
        slots_P = torch.from_numpy(self._new_slots).to(queries_GQD.device)
        keys_GND, per_chunk = self._ring.searched(layer)
        if layer not in self._new_keys:
            self._new_keys[layer] = keys_GND.unflatten(1, (-1, per_chunk))[:, slots_P].flatten(1, 2)
        allowed_P = None if allowed_C is None else allowed_C[slots_P]
        options = {"n_chunks": n_chunks, "chunk_size": per_chunk, "allowed_C": allowed_P}
        scores_GQC, place_GQC = top_chunks(queries_GQD, self._new_keys[layer], **options)
        if not len(slots_P):
            return scores_GQC, place_GQC
        return scores_GQC, torch.where(place_GQC < 0, -1, slots_P[place_GQC.clamp(min=0)])

    def _parameters(self, k: int, allowed_C: Tensor | None) -> Any:
        """How one search goes: which entries it may find, and how far it looks."""
        faiss, settings = self._faiss, self.settings
        selector = self._selector if allowed_C is None else self._selecting(self._allowed(allowed_C))
        if self.backend == "faiss-ivf":
            lists = self._indexes[0][0].nlist
            return faiss.SearchParametersIVF(sel=selector, nprobe=settings.probes(lists))
        if self.backend == "faiss-hnsw":
            return faiss.SearchParametersHNSW(sel=selector, efSearch=max(k, settings.ef_search))
        return faiss.SearchParameters(sel=selector)

    def _allowed(self, allowed_C: Tensor) -> np.ndarray:
        """Which indexed chunks are still there and may be retrieved."""
        return (self._slots_I >= 0) & allowed_C.cpu().numpy()[np.maximum(self._slots_I, 0)]

    def _selecting(self, shown_I: np.ndarray) -> Any:
        """What faiss is told of the entries that it may find: None where it may find all."""
        if shown_I.all() or self.backend == "faiss-shards":
            return None
        return self._faiss.IDSelectorBitmap(np.packbits(shown_I.repeat(self._entries_per_chunk), bitorder="little"))

    def _compare(self, layer: int, queries_GQD, scores_GQC: Tensor, allowed_C) -> None:
        """Now and then, find the same exactly. By score: of chunks that score alike one is as good as the other."""
        self._searches[layer] += 1
        n = self._searches[layer]
        Q = queries_GQD.shape[1]
        if Q == 0 or (n % COMPARED_EVERY and n & (n - 1)):
            return
        chosen_q = torch.linspace(Q - 1, 0, min(Q, COMPARED_QUERIES), device=queries_GQD.device).long()
        n_chunks = scores_GQC.shape[-1]
        exact_GqC, _ = self._exact(layer, queries_GQD[:, chosen_q], n_chunks, allowed_C)
        is_there = exact_GqC > NOTHING
        least_Gq1 = torch.where(is_there, exact_GqC, float("inf")).amin(-1, keepdim=True)
        found_GqC = scores_GQC[:, chosen_q] >= least_Gq1 - 1e-4 * least_Gq1.abs()
        self._compared.append((int(found_GqC.sum()), int(is_there.sum()), is_there[..., 0].numel()))
