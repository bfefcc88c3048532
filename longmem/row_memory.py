"""Memory that belongs to the rows of one batch, and everything a call may retrieve from.

`RowMemory` keeps what has left the local window of each row, and, in training, what each lane has read. `Sources` joins
it with a bank of documents.

Shapes: B rows, T tokens, H query heads, G key-value heads, D head dimension, N stored tokens, C chunks, S tokens per
chunk.
"""

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from longmem.memory_bank import MemoryBank
from longmem.retrieval import Retrieval, merge
from longmem.search import top_chunks

# Chunk ids of a row's own memory are negative, so that they never meet those of a bank; -1 means nothing.
FIRST_ROW_CHUNK = -2


def row_chunk_id(index: int | Tensor) -> int | Tensor:
    """The id of chunk `index` of the running text, counted from its beginning (its own inverse)."""
    return FIRST_ROW_CHUNK - index


class RowMemory:
    """Keys and values for every row of a batch: all rows as long, oldest out, each token valid or not.

    Tensors are replaced, never changed in place, so a copy of the fields is a snapshot.
    """

    def __init__(
        self,
        memory_layers: Sequence[int],
        *,
        capacity: int,
        chunk_size: int,
        chunk_key: str = "max",
        backend: str = "torch",
    ) -> None:
        self.memory_layers = list(memory_layers)
        self.capacity = capacity - capacity % chunk_size
        self.chunk_size, self.chunk_key, self.backend = chunk_size, chunk_key, backend
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.valid_BN: Tensor | None = None
        self.dropped_chunks = 0

    @property
    def n_tokens(self) -> int:
        return 0 if self.valid_BN is None else self.valid_BN.shape[1]

    @property
    def is_empty(self) -> bool:
        return self.n_tokens == 0

    def add(self, keys_BGTD: dict[int, Tensor], values_BGTD: dict[int, Tensor], valid_BT: Tensor) -> None:
        """Append T tokens (whole chunks) to every row; what exceeds the capacity leaves at the front."""
        total = self.n_tokens + valid_BT.shape[1]
        cut = max(0, total - self.capacity)
        self.dropped_chunks += cut // self.chunk_size
        for layer in self.memory_layers:
            for store, new in ((self.keys, keys_BGTD[layer]), (self.values, values_BGTD[layer])):
                old = store.get(layer)
                joined = new.detach() if old is None else torch.cat([old, new.detach()], dim=2)
                store[layer] = joined[:, :, cut:] if cut else joined
        joined = valid_BT if self.valid_BN is None else torch.cat([self.valid_BN, valid_BT], dim=1)
        self.valid_BN = joined[:, cut:]

    def forget_rows(self, rows_B: Tensor) -> None:
        """Empty the memory of the rows marked True."""
        if self.valid_BN is not None:
            self.valid_BN = self.valid_BN & ~rows_B[:, None]

    def select_rows(self, indices: Tensor) -> None:
        """Reorder, repeat or drop rows, as beams do."""
        if self.valid_BN is None:
            return
        self.valid_BN = self.valid_BN.index_select(0, indices)
        for store in (self.keys, self.values):
            for layer, tensor in store.items():
                store[layer] = tensor.index_select(0, indices)

    def to(self, device: str | torch.device) -> "RowMemory":
        """The same memory on a device."""
        twin = copy.copy(self)
        twin.keys, twin.values = ({b: t.to(device) for b, t in store.items()} for store in (self.keys, self.values))
        twin.valid_BN = None if self.valid_BN is None else self.valid_BN.to(device)
        return twin

    def search(self, layer: int, queries_BHTD: Tensor, *, n_chunks: int) -> Retrieval:
        """Like `MemoryBank.search`, for each row in its own memory."""
        keys_BGND, values_BGND = self.keys[layer], self.values[layer]
        B, H, T, D = queries_BHTD.shape
        G, N = keys_BGND.shape[1:3]
        valid_BCS = self.valid_BN.unflatten(1, (-1, self.chunk_size))
        allowed = flat_valid = None
        if not bool(valid_BCS.all()):
            allowed = valid_BCS.any(dim=2).repeat_interleave(G, dim=0)
            if bool((valid_BCS.any(dim=2) != valid_BCS.all(dim=2)).any()):
                flat_valid = self.valid_BN.repeat_interleave(G, dim=0)
        scores, slots = top_chunks(
            queries_BHTD.detach().reshape(B * G, -1, D).to(keys_BGND.dtype),
            keys_BGND.reshape(B * G, N, D),
            n_chunks=n_chunks,
            chunk_size=self.chunk_size,
            chunk_key=self.chunk_key,
            valid_N=flat_valid,
            allowed_C=allowed,
            backend=self.backend,
        )
        scores_BHTC, slots_BHTC = (x.view(B, H, T, n_chunks) for x in (scores, slots))
        rows = torch.arange(B * G, device=slots.device)[:, None, None]
        found = slots >= 0
        all_found = bool(found.all())
        place = slots if all_found else slots.clamp(min=0)

        def gather(stored_BGND: Tensor) -> Tensor:
            chunks = stored_BGND.reshape(B * G, N // self.chunk_size, self.chunk_size, D)[rows, place]
            if not all_found:
                chunks.masked_fill_(~found[..., None, None], 0)
            return chunks.view(B, H, T, n_chunks * self.chunk_size, D)

        mask = found[..., None].expand(*found.shape, self.chunk_size)
        if flat_valid is not None:
            mask = mask & flat_valid.view(B * G, -1, self.chunk_size)[rows, place]
        return Retrieval(
            keys_BHTKD=gather(keys_BGND),
            values_BHTKD=gather(values_BGND),
            scores_BHTC=scores_BHTC,
            chunks_BHTC=torch.where(slots_BHTC >= 0, row_chunk_id(slots_BHTC + self.dropped_chunks), -1),
            mask_BHTK=mask.reshape(B, H, T, -1),
        )


@dataclass(frozen=True)
class Sources:
    """What one call retrieves from: a bank shared by all rows, and the rows' own memory.

    before: (document, token): of this document only what ends at or before this token may be retrieved.
    exclude: ids of bank chunks that are switched off.
    silence: (memory layer, query head) that do without memory; None instead of a head for all of its layer.
    """

    n_chunks: int
    bank: MemoryBank | None = None
    rows: RowMemory | None = None
    before: tuple[int, int] | None = None
    exclude: Collection[int] = ()
    silence: Collection[tuple[int, int | None]] = ()

    def silent_heads(self, layer: int) -> list[int]:
        """Query heads of a layer that do without memory, where not all do."""
        return [head for where, head in self.silence if where == layer and head is not None]

    @torch.no_grad()
    def retrieve(self, layer: int, queries_BHTD: Tensor) -> Retrieval | None:
        """The best chunks for each query, or None where there is no memory at all, or the layer does without."""
        if (layer, None) in self.silence:
            return None
        found = []
        if self.bank is not None and not self.bank.is_empty:
            options = {"n_chunks": self.n_chunks, "before": self.before, "exclude": self.exclude}
            found.append(self.bank.search(layer, queries_BHTD, **options))
        if self.rows is not None and not self.rows.is_empty:
            found.append(self.rows.search(layer, queries_BHTD, n_chunks=self.n_chunks))
        if not found:
            return None
        return found[0] if len(found) == 1 else merge(*found, self.n_chunks)
