"""The storage of a memory bank: a ring of chunk slots, with keys and values per memory layer and a row of provenance.

New chunks take the slots of the oldest once all slots are taken: a write costs what is written, and nothing is moved.
Slots are allocated in blocks, so that a small bank does not take the memory of a full one.

Shapes in names: L memory layers, B rows, R query heads of each of G key-value heads, T tokens, D head dimension, N
token slots, C chunks (n of them), S token slots per chunk, K retrieved tokens (K = C * S); 6 are the columns of
provenance, CHUNK_FIELDS.
"""

import copy
import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from longmem.value_store import ValueStore

GROWTH_TOKENS = 4_096
COPIED_TOKENS = 65_536  # at once, where buffers grow: values in a file need not fit into memory
CHUNK_FIELDS = ("id", "document", "token_start", "token_stop", "start", "stop")
ID, DOCUMENT, TOKEN_START, TOKEN_STOP, START, STOP = range(len(CHUNK_FIELDS))


class ChunkRing:
    """At most `most_chunks` chunks of `chunk_size` token slots; `keys`, `values` and `means` are L x [G, slots, D].

    A chunk's tokens fill its first slots; the others hold a copy of its last one, so that a search that knows no mask
    is not misled. With `with_means` the mean of each chunk's keys is kept beside them. Values live where `store` puts
    them, everything else on `device`.
    """

    def __init__(
        self,
        *,
        layers: int,
        kv_heads: int,
        head_dim: int,
        chunk_size: int,
        most_chunks: int,
        with_means: bool,
        device: torch.device,
        dtype: torch.dtype,
        store: ValueStore,
    ):
        self.chunk_size, self.most_chunks = chunk_size, most_chunks
        self.n_chunks = self._next_slot = 0
        nothing_GND = torch.empty(kv_heads, 0, head_dim, device=device, dtype=dtype)
        self.keys, self.values = [nothing_GND] * layers, [store.empty(nothing_GND.shape, dtype)] * layers
        self.means = [nothing_GND] * layers if with_means else []
        # No key that is here is longer; those of keys that have left only make it a weaker bound.
        self.norms = [torch.zeros(kv_heads, device=device) for _ in range(layers)]
        self._rows_C6 = np.zeros((0, len(CHUNK_FIELDS)), dtype=np.int64)
        self._tables: tuple[Tensor, Tensor] | None = None
        self.revision = 0  # another after every change
        self._device, self._store = device, store

    def __deepcopy__(self, memo: dict) -> "ChunkRing":
        """Its values live where those of this one do."""
        twin = copy.copy(self)
        twin._rows_C6, twin._tables = self._rows_C6.copy(), None
        twin.keys, twin.means, twin.norms = ([t.clone() for t in ts] for ts in (self.keys, self.means, self.norms))
        twin.values = [self._store.empty(v.shape, v.dtype).copy_(v) for v in self.values]
        return twin

    @property
    def rows_C6(self) -> np.ndarray:
        """Provenance of the used slots, in slot order."""
        return self._rows_C6[: self.n_chunks]

    @property
    def slots_per_head(self) -> int:
        """Chunk slots that are allocated, used or not."""
        return len(self._rows_C6)

    @property
    def nbytes(self) -> int:
        """Bytes in memory; values in a file are not."""
        tensors = itertools.chain(self.keys, self.values if self._store.is_in_memory else (), self.means)
        return sum(tensor.nbytes for tensor in tensors) + self._rows_C6.nbytes

    def oldest_first(self) -> np.ndarray:
        """Used slots by age: only a full ring has wrapped around."""
        first = self._next_slot if self.n_chunks == self.most_chunks else 0
        return (first + np.arange(self.n_chunks)) % self.most_chunks

    def oldest_document(self) -> int | None:
        """The document of the oldest chunk; None where there is no chunk."""
        if self.n_chunks == 0:
            return None
        return int(self._rows_C6[self._next_slot if self.n_chunks == self.most_chunks else 0, DOCUMENT])

    def counted(self) -> Iterator[tuple[int, int, int]]:
        """Every document of which something is here, with its numbers of tokens and chunks."""
        rows_C6 = self.rows_C6
        ids, owner_C = np.unique(rows_C6[:, DOCUMENT], return_inverse=True)
        tokens = np.bincount(owner_C, weights=rows_C6[:, TOKEN_STOP] - rows_C6[:, TOKEN_START]).astype(int)
        return zip(ids.tolist(), tokens.tolist(), np.bincount(owner_C).tolist(), strict=True)

    def tables(self) -> tuple[Tensor, Tensor]:
        """Id and number of tokens of every used slot, on the device of the keys; made anew after each change."""
        if self._tables is None:
            table_2C = np.stack([self.rows_C6[:, ID], self.rows_C6[:, TOKEN_STOP] - self.rows_C6[:, TOKEN_START]])
            self._tables = torch.from_numpy(table_2C).to(self._device).unbind()
        return self._tables

    def searched(self, index: int) -> tuple[Tensor, int]:
        """What a search of a layer reads, [G, used slots, D], and how many slots make a chunk: keys, or means."""
        stored, per_chunk = (self.means, 1) if self.means else (self.keys, self.chunk_size)
        return stored[index][:, : self.n_chunks * per_chunk], per_chunk

    def gather(self, index: int, slots_BGRTC: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Keys and values [B, G, R, T, K, D] of a layer's chunks, their ids, and the mask [B, G, R, T, K] of tokens.

        Slots of -1 are no chunk: their ids are -1, and keys and values zero where the mask is False.
        """
        G, _, D = self.keys[index].shape
        shape = (*slots_BGRTC.shape[:-1], slots_BGRTC.shape[-1] * self.chunk_size)
        if self.n_chunks == 0:
            nothing = self.keys[index].new_zeros(*shape, D)
            return nothing, nothing.clone(), slots_BGRTC, torch.zeros(shape, dtype=torch.bool, device=self._device)
        ids_C, lengths_C = self.tables()
        found = slots_BGRTC.clamp(min=0)
        ids = ids_C[found].masked_fill(slots_BGRTC < 0, -1)
        lengths = lengths_C[found].masked_fill(slots_BGRTC < 0, 0)
        mask = (torch.arange(self.chunk_size, device=self._device) < lengths.unsqueeze(-1)).flatten(-2)
        complete = bool(mask.all())
        rows = (found + torch.arange(G, device=self._device)[:, None, None, None] * self.slots_per_head).flatten()
        gathered = []
        for stored_GND in (self.keys[index], self.values[index]):
            chunks_NE = stored_GND.view(-1, self.chunk_size * D)
            tokens = chunks_NE.index_select(0, rows.to(stored_GND.device)).to(self._device).view(*shape, D)
            gathered.append(tokens if complete else tokens.masked_fill_(~mask.unsqueeze(-1), 0))
        return *gathered, ids, mask

    def append(self, rows_n6: np.ndarray, keys_LGTD, values_LGTD, first_token: int) -> set[int]:
        """New chunks from a segment that begins with `first_token` of its document; only the newest that fit.

        Returns the documents of the chunks that had to leave for them.
        """
        evicted: set[int] = set()
        rows_n6 = rows_n6[-self.most_chunks :]
        source_nS = np.minimum(rows_n6[:, [TOKEN_START]] + np.arange(self.chunk_size), rows_n6[:, [TOKEN_STOP]] - 1)
        written = 0
        used = self.n_chunks
        for slot, n in self._take(len(rows_n6)):
            new = slice(written, written + n)
            evicted |= set(self._rows_C6[slot : min(slot + n, used), DOCUMENT].tolist())
            self._rows_C6[slot : slot + n] = rows_n6[new]
            self._write(slot * self.chunk_size, source_nS[new].ravel() - first_token, keys_LGTD, values_LGTD)
            self._refresh_means(slot, n)
            written += n
        self._changed()
        return evicted

    def complete(self, document: int, end: int, keys_LGTD, values_LGTD, spans_T2: np.ndarray) -> int:
        """Put a segment's first tokens into the short chunk that ends at token `end` of its document, if it is here.

        Returns how many tokens that took.
        """
        n = min(-end % self.chunk_size, len(spans_T2))
        if n == 0:
            return 0
        slots = np.flatnonzero((self.rows_C6[:, DOCUMENT] == document) & (self.rows_C6[:, TOKEN_STOP] == end))
        if not len(slots):
            return 0
        self._extend(int(slots[0]), n, spans_T2[:n, 0].min(), spans_T2[:n, 1].max(), keys_LGTD, values_LGTD)
        return n

    def _extend(self, slot: int, n: int, start: int, stop: int, keys_LGTD, values_LGTD) -> None:
        """Put the segment's first n tokens into the empty slots of a chunk; start and stop are their characters."""
        row_6 = self._rows_C6[slot]
        used = row_6[TOKEN_STOP] - row_6[TOKEN_START]
        row_6[TOKEN_STOP] += n
        row_6[START], row_6[STOP] = min(row_6[START], start), max(row_6[STOP], stop)
        source_n = np.minimum(np.arange(self.chunk_size - used), n - 1)
        self._write(slot * self.chunk_size + used, source_n, keys_LGTD, values_LGTD)
        self._refresh_means(slot, 1)
        self._changed()

    def keep(self, slots_C: np.ndarray) -> None:
        """Drop all chunks but those of these slots, given oldest first, and give their memory back."""
        if len(slots_C) < self.n_chunks:
            self._reallocate(len(slots_C), torch.from_numpy(slots_C))
            self.n_chunks = len(slots_C)
            self._next_slot = self.n_chunks % self.most_chunks
            self._changed()

    def ordered(self) -> tuple[np.ndarray, list[Tensor], list[Tensor]]:
        """Copies of provenance, keys and values of the used slots, oldest first, on the CPU."""
        order_C = self.oldest_first()
        index_C = torch.from_numpy(order_C)

        def chosen(stored_GND: Tensor) -> Tensor:
            chunks_GCSD = stored_GND.unflatten(1, (-1, self.chunk_size))
            return chunks_GCSD.index_select(1, index_C.to(stored_GND.device)).flatten(1, 2).cpu()

        keys, values = ([chosen(stored_GND) for stored_GND in stored] for stored in (self.keys, self.values))
        return self._rows_C6[order_C], keys, values

    def restore(self, rows_C6: np.ndarray, keys: list[Tensor], values: list[Tensor]) -> None:
        """Fill an empty ring with what `ordered` gave, or with the newest of it that fit."""
        rows_C6 = rows_C6[-self.most_chunks :]
        for slot, n in self._take(len(rows_C6)):
            self._rows_C6[slot : slot + n] = rows_C6
            for stored, saved in ((self.keys, keys), (self.values, values)):
                for stored_GND, saved_GND in zip(stored, saved, strict=True):
                    stored_GND[:, : n * self.chunk_size].copy_(saved_GND[:, -n * self.chunk_size :])
            self._refresh_norms(slot * self.chunk_size, n * self.chunk_size)
            self._refresh_means(slot, n)
        self._changed()

    def _changed(self) -> None:
        self._tables = None
        self.revision += 1

    def _take(self, n: int) -> list[tuple[int, int]]:
        """The next n slots of the ring as runs (first slot, number): two where the ring closes between them."""
        self._grow(min(self.n_chunks + n, self.most_chunks))
        first = self._next_slot
        before_end = min(n, self.most_chunks - first)
        self._next_slot = (first + n) % self.most_chunks
        self.n_chunks = min(self.n_chunks + n, self.most_chunks)
        return [(slot, run) for slot, run in ((first, before_end), (0, n - before_end)) if run]

    def _write(self, first: int, source_n: np.ndarray, keys_LGTD, values_LGTD) -> None:
        """Copy tokens `source_n` of a segment to the token slots from `first` on."""
        index_n = torch.from_numpy(source_n).to(keys_LGTD.device)
        for stored, new_LGTD in ((self.keys, keys_LGTD), (self.values, values_LGTD)):
            for stored_GND, new_GTD in zip(stored, new_LGTD, strict=True):
                stored_GND[:, first : first + len(source_n)].copy_(new_GTD.index_select(1, index_n))
        self._refresh_norms(first, len(source_n))

    def _refresh_norms(self, first: int, n: int) -> None:
        """Let the largest norms know of the keys in n token slots."""
        for norms_G, keys_GND in zip(self.norms, self.keys, strict=True):
            longest_G = torch.linalg.vector_norm(keys_GND[:, first : first + n], dim=-1, dtype=torch.float32).amax(1)
            torch.maximum(norms_G, longest_G, out=norms_G)

    def _refresh_means(self, slot: int, n: int) -> None:
        """Mean of the keys of n chunks, in fp32, kept in the dtype of the keys."""
        lengths_n = self._rows_C6[slot : slot + n, TOKEN_STOP] - self._rows_C6[slot : slot + n, TOKEN_START]
        used_nS1 = torch.from_numpy(np.arange(self.chunk_size) < lengths_n[:, None]).to(self._device).unsqueeze(-1)
        for means_GCD, keys_GND in zip(self.means, self.keys, strict=False):  # without means there is nothing to do
            keys_GnSD = keys_GND.unflatten(1, (-1, self.chunk_size))[:, slot : slot + n].float()
            means_GCD[:, slot : slot + n] = (keys_GnSD * used_nS1).sum(2) / used_nS1.sum(1)

    def reserve(self, n_chunks: int) -> None:
        """Allocate for so many more chunks at once, as far as they can be held."""
        wanted = min(self.n_chunks + n_chunks, self.most_chunks)
        if wanted > self.slots_per_head:
            self._reallocate(wanted, torch.arange(self.n_chunks))

    def nbytes_with(self, n_chunks: int) -> int:
        """Bytes in memory once so many more chunks have been reserved."""
        slots = max(self.slots_per_head, self._rounded(min(self.n_chunks + n_chunks, self.most_chunks)))
        values = self.values if self._store.is_in_memory else []
        tensors = ((self.keys, self.chunk_size), (values, self.chunk_size), (self.means, 1))
        per_slot = sum(t.shape[0] * t.shape[2] * t.element_size() * per for stored, per in tensors for t in stored)
        return slots * (per_slot + len(CHUNK_FIELDS) * self._rows_C6.itemsize)

    def _grow(self, n_chunks: int) -> None:
        """Allocate for n_chunks at least, and half as much again as there is: few copies, however large the bank."""
        allocated = len(self._rows_C6)
        if n_chunks > allocated:
            self._reallocate(max(n_chunks, allocated + allocated // 2), torch.arange(self.n_chunks))

    def _rounded(self, n_chunks: int) -> int:
        """Whole blocks for n_chunks, at most what the ring may hold."""
        block = max(1, GROWTH_TOKENS // self.chunk_size)
        return min(-(-n_chunks // block) * block, self.most_chunks)

    def _reallocate(self, n_chunks: int, keep_C: Tensor) -> None:
        """New buffers for at least n_chunks, holding the chunks of the slots `keep_C`; one layer after the other."""
        allocated = self._rounded(n_chunks)
        for tensors, per_chunk in ((self.keys, self.chunk_size), (self.values, self.chunk_size), (self.means, 1)):
            for layer, old_GND in enumerate(tensors):
                G, _, D = old_GND.shape
                shape = (G, allocated, per_chunk, D)
                to_store = tensors is self.values
                new_GCsD = self._store.empty(shape, old_GND.dtype) if to_store else old_GND.new_empty(shape)
                _copy_chunks(old_GND.unflatten(1, (-1, per_chunk)), keep_C, new_GCsD)
                tensors[layer] = new_GCsD.flatten(1, 2)
        rows_C6 = np.zeros((allocated, len(CHUNK_FIELDS)), dtype=np.int64)
        rows_C6[: len(keep_C)] = self._rows_C6[keep_C.numpy()]
        self._rows_C6 = rows_C6


def _copy_chunks(old_GCsD: Tensor, keep_C: Tensor, new_GCsD: Tensor) -> None:
    """The chunks of these slots, to the first slots of a new buffer."""
    step = COPIED_TOKENS // old_GCsD.shape[2] + 1
    for first in range(0, len(keep_C), step):
        index_C = keep_C[first : first + step].to(old_GCsD.device)
        new_GCsD[:, first : first + len(index_C)] = old_GCsD.index_select(1, index_C)


def new_rows(document: int, begin: int, first_id: int, spans_T2: np.ndarray, chunk_size: int) -> np.ndarray:
    """Provenance [n, 6] of a document's tokens from `begin` on: chunks cut at multiples of chunk_size from its start.

    first_id: of the first chunk; the others' ids follow it.
    """
    end = begin + len(spans_T2)
    cuts = np.arange(begin - begin % chunk_size + chunk_size, end, chunk_size)
    first_n = np.concatenate([[begin], cuts])
    ids_n = first_id + np.arange(len(first_n))
    starts_n = np.minimum.reduceat(spans_T2[:, 0], first_n - begin)
    stops_n = np.maximum.reduceat(spans_T2[:, 1], first_n - begin)
    return np.stack([ids_n, np.full_like(ids_n, document), first_n, np.append(cuts, end), starts_n, stops_n], axis=1)
