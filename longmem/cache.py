"""The generation cache: one window of states for backbone and SideNet, and what has left it."""

import copy

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from longmem.row_memory import RowMemory


class MemoryCache(DynamicCache):
    """States of the live window of all backbone and SideNet layers; the rows' own memory behind it.

    Layers 0..L-1 are the backbone's, L.. the SideNet's. `get_seq_length()` is the length of the live window, as mask
    building needs it; `seen` counts all columns (padding included) since the beginning.

    Shapes: B rows, T live columns, G key-value heads, D head dimension.
    """

    def __init__(self, n_layers: int, overflow: RowMemory) -> None:
        super().__init__()
        self.layer_class_to_replicate = None
        self.layers = [DynamicLayer() for _ in range(n_layers)]
        self.overflow = overflow
        self.seen = 0
        self.counted_B: Tensor | None = None
        self.ids_BT: Tensor | None = None
        self.valid_BT: Tensor | None = None
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    @property
    def is_croppable(self) -> bool:
        """No: what has left the window cannot come back, so nobody may run ahead of the text and undo a step."""
        return False

    @property
    def live(self) -> int:
        return 0 if self.ids_BT is None else self.ids_BT.shape[1]

    def begin_block(self, ids_BT: Tensor, valid_BT: Tensor) -> Tensor:
        """Count new columns in; returns their absolute positions (of valid tokens, from 0)."""
        if self.ids_BT is None:
            self.ids_BT, self.valid_BT = ids_BT[:, :0], valid_BT[:, :0]
            self.counted_B = torch.zeros(ids_BT.shape[0], dtype=torch.long, device=ids_BT.device)
        positions_BT = (self.counted_B[:, None] + valid_BT.long().cumsum(dim=1) - 1).clamp(min=0)
        self.counted_B = self.counted_B + valid_BT.long().sum(dim=1)
        self.ids_BT = torch.cat([self.ids_BT, ids_BT], dim=1)
        self.valid_BT = torch.cat([self.valid_BT, valid_BT], dim=1)
        self.seen += ids_BT.shape[1]
        return positions_BT

    def keep_position_free(self, layer: int, keys_BGTD: Tensor, values_BGTD: Tensor) -> None:
        """Remember the keys and values that a memory layer will store when these tokens leave the window."""
        for store, new in ((self.keys, keys_BGTD), (self.values, values_BGTD)):
            store[layer] = torch.cat([store[layer], new], dim=2) if layer in store else new

    @property
    def used_B(self) -> Tensor | None:
        """Tokens in the window of each row, padding not counted."""
        return None if self.valid_BT is None else self.valid_BT.sum(dim=1)

    def slide(self, rows_B: Tensor, n: int) -> None:
        """Move the oldest n tokens of the marked rows into the rows' own memory, and drop columns that nobody uses.

        A row's window is where it is valid: rows of unlike length slide each in its own time.
        """
        order_BT = self.valid_BT.cumsum(dim=1)
        leaving_BT = self.valid_BT & (order_BT <= n) & rows_B[:, None]
        # The columns of the n tokens, oldest first; of the other rows any n columns, which enter as invalid.
        columns_Bn = (leaving_BT.int() * 2 + ~rows_B[:, None]).argsort(dim=1, descending=True, stable=True)[:, :n]
        valid_Bn = leaving_BT.gather(1, columns_Bn)
        index_B1n1 = columns_Bn[:, None, :, None]
        leaving = [
            {b: t.gather(2, index_B1n1.expand(-1, t.shape[1], -1, t.shape[3])) for b, t in store.items()}
            for store in (self.keys, self.values)
        ]
        self.overflow.add(*leaving, valid_Bn)
        self.valid_BT = self.valid_BT & ~leaving_BT
        self._drop_columns(int((~self.valid_BT.any(dim=0)).int().cumprod(dim=0).sum()))

    def _drop_columns(self, n: int) -> None:
        """Cut the first n columns off everything that is kept of the window."""
        for store in (self.keys, self.values):
            for layer, tensor in store.items():
                store[layer] = tensor[:, :, n:]
        self.ids_BT, self.valid_BT = self.ids_BT[:, n:], self.valid_BT[:, n:]
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[:, :, n:], layer.values[:, :, n:]

    def restart_window(self) -> tuple[Tensor, Tensor]:
        """Forget the states of the live window and give its tokens back, to be encoded again from position 0."""
        ids_BT, valid_BT = self.ids_BT, self.valid_BT
        self.seen -= ids_BT.shape[1]
        self.ids_BT, self.valid_BT, self.keys, self.values = None, None, {}, {}
        for layer in self.layers:
            layer.reset()
        return ids_BT, valid_BT

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self._select(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        if self.ids_BT is not None:
            rows = torch.arange(self.ids_BT.shape[0], device=self.ids_BT.device)
            self._select(rows.repeat_interleave(repeats))

    def _select(self, indices: Tensor) -> None:
        if self.ids_BT is None:
            return
        self.ids_BT, self.valid_BT = self.ids_BT.index_select(0, indices), self.valid_BT.index_select(0, indices)
        self.counted_B = self.counted_B.index_select(0, indices)
        for store in (self.keys, self.values):
            for layer, tensor in store.items():
                store[layer] = tensor.index_select(0, indices)
        self.overflow.select_rows(indices)


def repeated(cache: Cache, rows: int) -> Cache:
    """A copy of a cache of one row, for so many rows. Tensors are replaced, never changed in place: they are shared."""
    twin = copy.copy(cache)
    twin.layers = [copy.copy(layer) for layer in cache.layers]
    if hasattr(cache, "overflow"):
        twin.overflow, twin.keys, twin.values = copy.copy(cache.overflow), dict(cache.keys), dict(cache.values)
        twin.overflow.keys, twin.overflow.values = dict(cache.overflow.keys), dict(cache.overflow.values)
    if rows > 1:
        twin.batch_repeat_interleave(rows)
    return twin
