"""Reading documents into a bank: what every model with a memory does in the same way.

Shapes: T tokens, L memory layers, G key-value heads, D head dimension.
"""

import threading
from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from longmem.config import LongMemConfig
from longmem.documents import Document, Segment, segments
from longmem.errors import BankMismatchError, LongMemError
from longmem.kept_index import IndexSettings
from longmem.memory_bank import MemoryBank


class ReadsDocuments:
    """A model that fills banks; it says what of its own a segment leaves in memory (`read_segments`)."""

    config: LongMemConfig
    device: torch.device
    fingerprint: str
    kv_heads: int
    head_dim: int
    tokenizer: PreTrainedTokenizerFast | None

    @property
    @abstractmethod
    def segments_at_once(self) -> int:
        """How many segments are read side by side unless `remember` is told otherwise."""

    @abstractmethod
    def read_segments(
        self,
        token_ids: Tensor,
        parts: Sequence[Segment],
        *,
        memory: MemoryBank,
        document: int,
        spans: Tensor | None = None,
    ) -> None:
        """Read segments of one length in one pass, and add what each keeps to a document of the bank.

        Args:
            token_ids: [T] of the whole document; spans: [T, 2], their character spans.
        """

    def new_bank(
        self,
        *,
        capacity: int | None = None,
        dtype: torch.dtype = torch.bfloat16,
        chunk_key: str | None = None,
        backend: str = "torch",
        values: str = "device",
        values_folder: str | Path | None = None,
        index_settings: IndexSettings | None = None,
    ) -> MemoryBank:
        """An empty bank of the right shape on this model's device; the other arguments are those of `MemoryBank`."""
        return MemoryBank(
            memory_layers=self.config.memory_layers,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            fingerprint=self.fingerprint,
            chunk_size=self.config.chunk_size,
            capacity=self.config.memory_size if capacity is None else capacity,
            chunk_key=chunk_key or self.config.chunk_key,
            device=self.device,
            dtype=dtype,
            backend=backend,
            values=values,
            values_folder=values_folder,
            index_settings=index_settings,
        )

    @torch.no_grad()
    def remember(
        self,
        document: Document,
        *,
        memory: MemoryBank,
        progress: Callable[[int, int], None] | None = None,
        stop: threading.Event | None = None,
        batch_size: int | None = None,
    ) -> int:
        """Read a document into a bank, segment by segment.

        Args:
            progress: called with (tokens read, tokens in all) after every batch of segments.
            stop: set it to end the reading after the current batch; what has been read stays.
            batch_size: segments read at once; by default `segments_at_once`.

        Returns: the document's id in the bank.

        Raises:
            BankMismatchError: the bank belongs to another model.
        """
        self.check_bank(memory)
        encoded = document.encode(self.need_tokenizer())
        total = len(encoded.token_ids)
        number = memory.begin_document(document.name, document.text)
        memory.reserve(total)
        for parts in batches(segments(total, self.config.window, self.config.read_overlap), batch_size, self):
            self.read_segments(encoded.token_ids, parts, memory=memory, document=number, spans=encoded.spans)
            if progress is not None:
                progress(parts[-1].end, total)
            if stop is not None and stop.is_set():
                break
        memory.settle()
        return number

    def forget(self, memory: MemoryBank, document: int | None = None, *, chunks: Collection[int] = ()) -> None:
        """Remove a document, or some chunks, from a bank."""
        if document is not None:
            memory.remove(document)
        if chunks:
            memory.remove_chunks(chunks)

    def check_bank(self, memory: MemoryBank) -> None:
        """Raises BankMismatchError unless the bank was made by this backbone, for these memory layers and chunks."""
        if memory.fingerprint != self.fingerprint:
            raise BankMismatchError(
                f"memory has the fingerprint {memory.fingerprint!r}; this model needs one it made itself "
                f"({self.fingerprint!r})."
            )
        if memory.chunk_size != self.config.chunk_size:
            raise BankMismatchError(
                f"memory has chunks of {memory.chunk_size} tokens; this model retrieves chunks of "
                f"{self.config.chunk_size}."
            )

    def need_tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer, or a LongMemError that says how to set one."""
        if self.tokenizer is None:
            raise LongMemError("tokenizer is None; set model.tokenizer to a fast tokenizer before reading text.")
        return self.tokenizer


def batches(parts: Sequence[Segment], size: int | None, model: ReadsDocuments) -> list[list[Segment]]:
    """Segments of one length share a pass, at most `size` of them; the first and the last may be shorter."""
    size = size or model.segments_at_once
    alike = [list(group) for _, group in groupby(parts, key=lambda part: part.end - part.first)]
    return [group[i : i + size] for group in alike for i in range(0, len(group), size)]
