"""The memory bank: keys and values of everything read before, in chunks that know where they come from.

`ChunkRing` holds the tensors, `search` and `KeptIndex` find in them, `bank_files` saves them; here they belong to
documents. Three verbs (after meliad's Memorizing Transformers): `add`, `search`, `remove`/`clear`.

Shapes in names: L memory layers, B rows, T tokens, H query heads, G key-value heads, D head dimension, N token slots,
C chunks, S token slots per chunk, K retrieved tokens (K = C * S).
"""

import itertools
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from longmem import bank_checks, bank_files
from longmem.chunk_ring import DOCUMENT, ID, TOKEN_START, TOKEN_STOP, ChunkRing, new_rows
from longmem.errors import BankFileError, BankMismatchError, LongMemError, MemoryLayerError
from longmem.kept_index import IndexSettings, KeptIndex, Recall
from longmem.retrieval import Chunk, DocumentRecord, Retrieval
from longmem.search import INDEXED, check_backend, top_chunks
from longmem.value_store import ValueStore


@dataclass
class _Document:
    name: str
    text: str
    tokens_read: int = 0


class MemoryBank:
    """Keys and values of documents, at most `capacity` tokens (rounded down to whole chunks), oldest out first.

    memory_layers: backbone layers in the order in which `add` gets them.
    fingerprint: of the model whose keys these are; `load` compares it.
    chunk_key: "max", a chunk scores as its best token; "mean", by the mean of its keys (kept beside them, in `dtype`).
    backend: see `longmem.search`; index_settings: of one that keeps an index (`longmem.kept_index`).
    values, values_folder: "device", with the keys; "pinned" or "mapped": see `longmem.value_store`.
    """

    def __init__(
        self,
        *,
        memory_layers: Sequence[int],
        kv_heads: int,
        head_dim: int,
        fingerprint: str = "",
        chunk_size: int = 4,
        capacity: int = 65_536,
        chunk_key: str = "max",
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        backend: str = "torch",
        values: str = "device",
        values_folder: str | Path | None = None,
        index_settings: IndexSettings | None = None,
    ):
        self._sizes = {"kv_heads": kv_heads, "head_dim": head_dim, "chunk_size": chunk_size}
        bank_checks.check_settings(memory_layers, self._sizes, capacity, chunk_key, dtype)
        self.memory_layers = tuple(memory_layers)
        self.kv_heads, self.head_dim, self.fingerprint = kv_heads, head_dim, fingerprint
        self.chunk_size, self.chunk_key, self.backend = chunk_size, chunk_key, backend
        self.capacity = capacity - capacity % chunk_size
        self.device, self.dtype = bank_checks.checked_device(device), dtype
        check_backend(backend, dtype, self.device)
        self._index_settings = index_settings
        self._store = ValueStore(values, self.device, values_folder)
        self._next_document = self._next_chunk = 0
        self.clear()

    # What is in it

    @property
    def n_chunks(self) -> int:
        return self._ring.n_chunks

    @property
    def n_tokens(self) -> int:
        rows_C6 = self._ring.rows_C6
        return int((rows_C6[:, TOKEN_STOP] - rows_C6[:, TOKEN_START]).sum())

    @property
    def is_empty(self) -> bool:
        return self.n_chunks == 0

    @property
    def version(self) -> tuple[int, int, int]:
        """Another after every change: ids are never given twice."""
        return self._next_chunk, self.n_chunks, self.n_tokens

    @property
    def next_document(self) -> int:
        """The id that the next document gets."""
        return self._next_document

    @property
    def nbytes(self) -> int:
        """Bytes in memory: keys, values (not those in a file) and means as allocated, index, provenance, texts."""
        return self._stored + sum(sys.getsizeof(document.text) for document in self._documents.values())

    def nbytes_with(self, n_tokens: int, text: str = "") -> int:
        """Bytes in memory once a document of so many tokens, and its text, have been added."""
        texts, n_chunks = self.nbytes - self._stored + sys.getsizeof(text), self._chunks_of(n_tokens)
        indexed = 0 if self._index is None else self._index.nbytes_with(n_chunks)
        return self._ring.nbytes_with(n_chunks) + indexed + texts

    @property
    def _stored(self) -> int:
        return self._ring.nbytes + (0 if self._index is None else self._index.nbytes)

    def _chunks_of(self, n_tokens: int) -> int:
        return -(-n_tokens // self.chunk_size)

    @property
    def documents(self) -> dict[int, DocumentRecord]:
        """The documents of which something is in the bank, in the order in which they were begun."""
        return {
            id: DocumentRecord(id, self._documents[id].name, self._documents[id].text, n_tokens, n_chunks)
            for id, n_tokens, n_chunks in self._ring.counted()
        }

    def chunk(self, chunk_id: int) -> Chunk:
        """Where a chunk comes from; LongMemError once it has left the bank."""
        slots = np.flatnonzero(self._ring.rows_C6[:, ID] == chunk_id)
        if not len(slots):
            given = 0 <= chunk_id < self._next_chunk
            raise LongMemError(f"Chunk {chunk_id} {'has left the memory bank' if given else 'was never in the bank'}.")
        return Chunk(*self._ring.rows_C6[slots[0]].tolist())

    def chunks(self) -> Iterator[Chunk]:
        """All chunks, oldest first."""
        return itertools.starmap(Chunk, self._ring.rows_C6[self._ring.oldest_first()].tolist())

    # Adding

    def begin_document(self, name: str, text: str = "") -> int:
        """A new document's id. The text is what `add`'s spans count characters of; it may stay unknown ("")."""
        self._documents[self._next_document] = _Document(name, text)
        self._next_document += 1
        return self._next_document - 1

    def reserve(self, n_tokens: int) -> None:
        """Allocate for a document of so many tokens at once, instead of step by step while it is added."""
        self._ring.reserve(self._chunks_of(n_tokens))

    @torch.no_grad()
    def add(
        self,
        document: int,
        keys_LHTD: torch.Tensor,
        values_LHTD: torch.Tensor,
        spans_T2: torch.Tensor | None = None,
    ) -> None:
        """Append the document's next T tokens; what does not fit pushes out the oldest chunks of the bank.

        keys_LHTD, values_LHTD: layers as in memory_layers, H the key-value heads; detached, cast and moved here.
        spans_T2: character start and stop of each token. Raises BankMismatchError for other shapes.
        """
        record = self._document(document)
        bank_checks.check_pair(keys_LHTD, values_LHTD, len(self.memory_layers), self.kv_heads, self.head_dim)
        spans_T2 = bank_checks.checked_spans(spans_T2, keys_LHTD.shape[2], len(record.text))
        done = self._ring.complete(document, record.tokens_read, keys_LHTD, values_LHTD, spans_T2)
        total = keys_LHTD.shape[2]
        record.tokens_read += done
        if done < total:
            rows_C6 = new_rows(document, record.tokens_read, self._next_chunk, spans_T2[done:], self.chunk_size)
            self._next_chunk += len(rows_C6)
            evicted = self._ring.append(rows_C6, keys_LHTD[:, :, done:], values_LHTD[:, :, done:], record.tokens_read)
            record.tokens_read += total - done
            self._drop_texts(evicted - {document})

    def _drop_texts(self, documents: Collection[int]) -> None:
        """Let go of the text of documents of which nothing is left; what goes on with one has no text any more."""
        oldest = self._ring.oldest_document()  # mostly the one that is leaving bit by bit: then nothing is looked for
        for document in documents:
            if document != oldest and not (self._ring.rows_C6[:, DOCUMENT] == document).any():
                self._documents[document].text = ""

    # Searching

    @torch.no_grad()
    def search(
        self,
        layer: int,
        queries_BHTD: torch.Tensor,
        *,
        n_chunks: int,
        before: tuple[int, int] | None = None,
        exclude: Collection[int] = (),
    ) -> Retrieval:
        """The n_chunks best chunks for every query; query head h reads key-value head h // (H / kv_heads).

        before: (document, token) hides chunks of that document, and of others with the same text, that end after that
            token.
        exclude: ids of chunks that may not be retrieved.
        Returned tensors are on the queries' device.
        """
        index = self._layer_index(layer)
        scores_BGRTC, slots_BGRTC = self._top(index, queries_BHTD, n_chunks, self._allowed(before, exclude))
        keys, values, ids, mask = self._ring.gather(index, slots_BGRTC)
        parts = (keys, values, scores_BGRTC, ids, mask)
        return Retrieval(*(part.flatten(1, 2).to(queries_BHTD.device) for part in parts))

    @torch.no_grad()
    def scores(self, layer: int, queries_BHTD: torch.Tensor) -> torch.Tensor:
        """The score of every chunk, retrieved or not, in the order of `chunks()`: fp32 [B, H, T, C], on the CPU."""
        scores_BGRTC, slots_BGRTC = self._top(self._layer_index(layer), queries_BHTD, max(1, self.n_chunks), None)
        if self.is_empty:
            return scores_BGRTC[..., :0].flatten(1, 2).cpu()
        by_slot_BGRTC = torch.empty_like(scores_BGRTC).scatter_(-1, slots_BGRTC, scores_BGRTC).cpu()
        return by_slot_BGRTC[..., torch.from_numpy(self._ring.oldest_first())].flatten(1, 2)

    @property
    def has_index(self) -> bool:
        """Whether the backend keeps an index, which a bank of few tokens does without all the same."""
        return self._index is not None

    @property
    def recall(self) -> Recall | None:
        """What a search by index found of what an exact one finds, measured on its own latest queries.

        None where no index has been asked: with an exact backend, and in a bank that is too small for one.
        """
        return None if self._index is None else self._index.recall

    def settle(self) -> None:
        """Put what was added into the index, if there is one; else the next search does it, and takes as long."""
        if self._index is not None:
            self._index.update()

    def use_backend(self, backend: str) -> None:
        """Search in another way from now on. Errors: SearchBackendError where that cannot be done here."""
        check_backend(backend, self.dtype, self.device)
        self.backend = backend
        self._index = self._new_index()

    def _new_index(self) -> KeptIndex | None:
        """A backend's index of the chunks in the ring; None where it has none."""
        return KeptIndex(self.backend, self._ring, self._index_settings) if self.backend in INDEXED else None

    def _top(
        self, index: int, queries_BHTD: torch.Tensor, n_chunks: int, allowed_C: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and slots of the best chunks, with the heads as [kv_heads, query heads of each]."""
        bank_checks.check_queries(queries_BHTD, self.kv_heads, self.head_dim)
        B, H, T, D = queries_BHTD.shape
        queries_GQD = queries_BHTD.unflatten(1, (self.kv_heads, -1)).transpose(0, 1).reshape(self.kv_heads, -1, D)
        queries_GQD = queries_GQD.to(self.device)
        if self._index is not None:
            found = self._index.search(index, queries_GQD, n_chunks, allowed_C)
        else:
            keys_GND, chunk_size = self._ring.searched(index)
            options = {"n_chunks": n_chunks, "chunk_size": chunk_size, "allowed_C": allowed_C}
            found = top_chunks(queries_GQD, keys_GND, **options, norms_H=self._ring.norms[index], backend=self.backend)
        groups = (self.kv_heads, B, H // self.kv_heads, T, n_chunks)
        return tuple(part.view(groups).transpose(0, 1) for part in found)

    def _allowed(self, before: tuple[int, int] | None, exclude: Collection[int]) -> torch.Tensor | None:
        """Which chunk slots may be retrieved, or None where all may."""
        if before is None and not exclude:
            return None
        rows_C6 = self._ring.rows_C6
        hidden_C = np.isin(rows_C6[:, ID], list(exclude))
        if before is not None:
            document, token = before
            hidden_C |= np.isin(rows_C6[:, DOCUMENT], self._copies(document)) & (rows_C6[:, TOKEN_STOP] > token)
        return torch.from_numpy(~hidden_C).to(self.device)

    def _copies(self, document: int) -> list[int]:
        """The document and all others with its text, if it is known: Python keeps the hash of a string."""
        text = self._document(document).text
        same = [id for id, d in self._documents.items() if text and hash(d.text) == hash(text) and d.text == text]
        return same or [document]

    # Forgetting

    def remove(self, document: int) -> None:
        """Forget a document wholly. What remains keeps its ids and its order, and the memory is given back."""
        self._document(document)
        del self._documents[document]
        order_C = self._ring.oldest_first()
        self._ring.keep(order_C[self._ring.rows_C6[order_C, DOCUMENT] != document])

    def remove_from(self, document: int) -> None:
        """Forget all documents that were begun as this one or after it, such as those of a reading that failed."""
        for id in [id for id in self._documents if id >= document]:
            self.remove(id)

    def remove_chunks(self, chunk_ids: Collection[int]) -> None:
        """Forget some chunks; ids that are no longer in the bank are passed over."""
        order_C = self._ring.oldest_first()
        self._ring.keep(order_C[~np.isin(self._ring.rows_C6[order_C, ID], list(chunk_ids))])

    def clear(self) -> None:
        """Forget everything. Ids go on counting, so that an old id can never mean a new chunk."""
        self._documents: dict[int, _Document] = {}
        self._ring = self._new_ring()
        self._index = self._new_index()

    def resize(self, capacity: int) -> None:
        """Hold at most `capacity` tokens from now on; of more than that the newest stay. Errors: LongMemError."""
        bank_checks.check_capacity(capacity, self.chunk_size)
        before = set(self._ring.rows_C6[:, DOCUMENT].tolist())
        state = self._ring.ordered()
        self.capacity = capacity - capacity % self.chunk_size
        self._ring = self._new_ring()
        self._ring.restore(*state)
        self._index = self._new_index()
        self._drop_texts(before)

    def _new_ring(self) -> ChunkRing:
        return ChunkRing(
            layers=len(self.memory_layers),
            **self._sizes,
            most_chunks=self.capacity // self.chunk_size,
            with_means=self.chunk_key == "mean",
            device=self.device,
            dtype=self.dtype,
            store=self._store,
        )

    # Saving

    def save(self, folder: str | Path) -> None:
        """Write the bank as a folder of its own; BankFileError where that cannot be done."""
        rows_C6, keys, values = self._ring.ordered()
        bank_files.write(
            folder,
            bank_files.BankState(
                settings=self._settings(),
                documents={id: (d.name, d.text, d.tokens_read) for id, d in self._documents.items()},
                next_document=self._next_document,
                next_chunk=self._next_chunk,
                rows_C6=rows_C6,
                keys=keys,
                values=values,
            ),
        )

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        fingerprint: str | None = None,
        device: str | torch.device = "cpu",
        capacity: int | None = None,
        backend: str | None = None,
        values: str = "device",
        values_folder: str | Path | None = None,
        index_settings: IndexSettings | None = None,
    ) -> "MemoryBank":
        """The bank saved as `folder`, on `device`; with a smaller capacity its newest chunks.

        capacity, backend: as they were saved, unless given. values, values_folder: where its values will live.
        An index is not saved, but made from the keys again.
        Raises BankMismatchError if it is of another model than `fingerprint`, BankFileError if it is missing, damaged
        or forged, SearchBackendError if its backend cannot run here.
        """
        state = bank_files.read(folder)
        if fingerprint is not None and fingerprint != state.settings["fingerprint"]:
            raise BankMismatchError(
                f"The memory bank in {folder} was made by model {state.settings['fingerprint'][:40]!r}, "
                f"not by {fingerprint!r}; read its documents again with this model."
            )
        settings = state.settings | {"dtype": bank_files.DTYPES[state.settings["dtype"]]}
        try:
            cls(**settings | {"backend": "torch"})
        except LongMemError as error:
            raise BankFileError(f"The memory bank in {folder} cannot be loaded: {error}") from error
        chosen = {"device": device, "capacity": capacity, "backend": backend}
        chosen |= {"values": values, "values_folder": values_folder, "index_settings": index_settings}
        bank = cls(**settings | {name: choice for name, choice in chosen.items() if choice is not None})
        bank._next_document, bank._next_chunk = state.next_document, state.next_chunk
        bank._documents = {id: _Document(*fields) for id, fields in state.documents.items()}
        bank._ring.restore(state.rows_C6, state.keys, state.values)
        return bank

    def _settings(self) -> dict:
        """The constructor's arguments as JSON can hold them; the device is chosen anew at each load."""
        names = ("kv_heads", "head_dim", "fingerprint", "chunk_size", "capacity", "chunk_key", "backend")
        dtype = str(self.dtype).removeprefix("torch.")
        return {"memory_layers": list(self.memory_layers), "dtype": dtype} | {n: getattr(self, n) for n in names}

    # Checks

    def _document(self, document: int) -> _Document:
        if document not in self._documents:
            raise LongMemError(f"Document {document} is not in the memory bank; begin_document() gives ids.")
        return self._documents[document]

    def _layer_index(self, layer: int) -> int:
        if layer not in self.memory_layers:
            layers = ", ".join(map(str, self.memory_layers))
            raise MemoryLayerError(f"Layer {layer} is no memory layer of this bank; its memory layers are {layers}.")
        return self.memory_layers.index(layer)
