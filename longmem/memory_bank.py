"""The memory bank: keys and values of everything read before, in chunks that know where they come from.

`ChunkRing` holds the tensors, `search` finds in them, `bank_files` saves them; here they belong to documents. Three
verbs (after meliad's Memorizing Transformers): `add`, `search`, `remove`/`clear`.

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

from longmem import bank_files
from longmem.chunk_ring import DOCUMENT, ID, TOKEN_START, TOKEN_STOP, ChunkRing
from longmem.errors import BankFileError, BankMismatchError, LongMemError, MemoryLayerError
from longmem.retrieval import Chunk, DocumentRecord, Retrieval
from longmem.search import CHUNK_KEYS, check_backend, top_chunks


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
    backend: see `longmem.search`.
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
    ):
        _check_settings(memory_layers, kv_heads, head_dim, chunk_size, capacity, chunk_key, dtype)
        self.memory_layers = tuple(memory_layers)
        self.kv_heads, self.head_dim, self.fingerprint = kv_heads, head_dim, fingerprint
        self.chunk_size, self.chunk_key, self.backend = chunk_size, chunk_key, backend
        self.capacity = capacity - capacity % chunk_size
        self.device, self.dtype = _device(device), dtype
        check_backend(backend, dtype, self.device)
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
        """Bytes held: keys, values and means as allocated, provenance, and the documents' texts."""
        return self._ring.nbytes + sum(sys.getsizeof(document.text) for document in self._documents.values())

    def nbytes_with(self, n_tokens: int, text: str = "") -> int:
        """Bytes held once a document of so many tokens, and its text, have been added."""
        texts = self.nbytes - self._ring.nbytes + sys.getsizeof(text)
        return self._ring.nbytes_with(self._chunks_of(n_tokens)) + texts

    def _chunks_of(self, n_tokens: int) -> int:
        return -(-n_tokens // self.chunk_size)

    @property
    def documents(self) -> dict[int, DocumentRecord]:
        """The documents of which something is in the bank, in the order in which they were begun."""
        rows_C6 = self._ring.rows_C6
        ids, owner_C = np.unique(rows_C6[:, DOCUMENT], return_inverse=True)
        tokens = np.bincount(owner_C, weights=rows_C6[:, TOKEN_STOP] - rows_C6[:, TOKEN_START]).astype(int).tolist()
        chunks = np.bincount(owner_C).tolist()
        return {
            id: DocumentRecord(id, self._documents[id].name, self._documents[id].text, n_tokens, n_chunks)
            for id, n_tokens, n_chunks in zip(ids.tolist(), tokens, chunks, strict=True)
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
        spans_T2 = self._checked(record, keys_LHTD, values_LHTD, spans_T2)
        done = self._complete_last_chunk(document, keys_LHTD, values_LHTD, spans_T2)
        total = keys_LHTD.shape[2]
        record.tokens_read += done
        if done < total:
            rows_C6 = self._new_rows(document, spans_T2[done:])
            evicted = self._ring.append(rows_C6, keys_LHTD[:, :, done:], values_LHTD[:, :, done:], record.tokens_read)
            record.tokens_read += total - done
            self._drop_texts(evicted - {document})

    def _drop_texts(self, documents: Collection[int]) -> None:
        """Let go of the text of documents of which nothing is left; what goes on with one has no text any more."""
        oldest = self._ring.oldest_document()  # mostly the one that is leaving bit by bit: then nothing is looked for
        for document in documents:
            if document != oldest and not (self._ring.rows_C6[:, DOCUMENT] == document).any():
                self._documents[document].text = ""

    def _complete_last_chunk(self, document: int, keys_LHTD, values_LHTD, spans_T2: np.ndarray) -> int:
        """Put the first tokens into the document's short tail chunk, if it is still here; returns how many."""
        end, rows_C6 = self._documents[document].tokens_read, self._ring.rows_C6
        taken = min(-end % self.chunk_size, len(spans_T2))
        if taken == 0:
            return 0
        slots = np.flatnonzero((rows_C6[:, DOCUMENT] == document) & (rows_C6[:, TOKEN_STOP] == end))
        if not len(slots):
            return 0
        start, stop = spans_T2[:taken, 0].min(), spans_T2[:taken, 1].max()
        self._ring.extend(int(slots[0]), taken, start, stop, keys_LHTD, values_LHTD)
        return taken

    def _new_rows(self, document: int, spans_T2: np.ndarray) -> np.ndarray:
        """Provenance of the document's next tokens: new chunks, cut at multiples of chunk_size from its start."""
        begin = self._documents[document].tokens_read
        end = begin + len(spans_T2)
        cuts = np.arange(begin - begin % self.chunk_size + self.chunk_size, end, self.chunk_size)
        first_C = np.concatenate([[begin], cuts])
        ids_C = self._next_chunk + np.arange(len(first_C))
        self._next_chunk += len(first_C)
        starts_C = np.minimum.reduceat(spans_T2[:, 0], first_C - begin)
        stops_C = np.maximum.reduceat(spans_T2[:, 1], first_C - begin)
        return np.stack(
            [ids_C, np.full_like(ids_C, document), first_C, np.append(cuts, end), starts_C, stops_C], axis=1
        )

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
        retrieval = self._gather(index, slots_BGRTC, scores_BGRTC)
        return Retrieval(*(part.flatten(1, 2).to(queries_BHTD.device) for part in retrieval))

    @torch.no_grad()
    def scores(self, layer: int, queries_BHTD: torch.Tensor) -> torch.Tensor:
        """The score of every chunk, retrieved or not, in the order of `chunks()`: fp32 [B, H, T, C], on the CPU."""
        scores_BGRTC, slots_BGRTC = self._top(self._layer_index(layer), queries_BHTD, max(1, self.n_chunks), None)
        if self.is_empty:
            return scores_BGRTC[..., :0].flatten(1, 2).cpu()
        by_slot_BGRTC = torch.empty_like(scores_BGRTC).scatter_(-1, slots_BGRTC, scores_BGRTC).cpu()
        return by_slot_BGRTC[..., torch.from_numpy(self._ring.oldest_first())].flatten(1, 2)

    def _top(
        self, index: int, queries_BHTD: torch.Tensor, n_chunks: int, allowed_C: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and slots of the best chunks, with the heads as [kv_heads, query heads of each]."""
        B, H, T, D = self._query_shape(queries_BHTD)
        queries_GQD = queries_BHTD.unflatten(1, (self.kv_heads, -1)).transpose(0, 1).reshape(self.kv_heads, -1, D)
        keys_GND, chunk_size = self._ring.searched(index)
        found = top_chunks(
            queries_GQD.to(self.device),
            keys_GND,
            n_chunks=n_chunks,
            chunk_size=chunk_size,
            allowed_C=allowed_C,
            norms_H=self._ring.norms[index],
            backend=self.backend,
        )
        groups = (self.kv_heads, B, H // self.kv_heads, T, n_chunks)
        return tuple(part.view(groups).transpose(0, 1) for part in found)

    def _gather(self, index: int, slots_BGRTC: torch.Tensor, scores_BGRTC: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The fields of a Retrieval, with the heads still as [kv_heads, query heads of each]."""
        shape = (*slots_BGRTC.shape[:-1], slots_BGRTC.shape[-1] * self.chunk_size)
        if self.is_empty:
            nothing = self._ring.keys[index].new_zeros(*shape, self.head_dim)
            mask = torch.zeros(shape, dtype=torch.bool, device=self.device)
            return nothing, nothing.clone(), scores_BGRTC, slots_BGRTC, mask
        ids_C, lengths_C = self._ring.tables()
        found = slots_BGRTC.clamp(min=0)
        ids = ids_C[found].masked_fill(slots_BGRTC < 0, -1)
        lengths = lengths_C[found].masked_fill(slots_BGRTC < 0, 0)
        mask = (torch.arange(self.chunk_size, device=self.device) < lengths.unsqueeze(-1)).flatten(-2)
        complete = bool(mask.all())
        heads_G111 = torch.arange(self.kv_heads, device=self.device)[:, None, None, None]
        rows = (found + heads_G111 * self._ring.slots_per_head).flatten()
        gathered = []
        for stored_GND in (self._ring.keys[index], self._ring.values[index]):
            chunks_NE = stored_GND.view(-1, self.chunk_size * self.head_dim)
            tokens = chunks_NE.index_select(0, rows).view(*shape, self.head_dim)
            gathered.append(tokens if complete else tokens.masked_fill_(~mask.unsqueeze(-1), 0))
        return *gathered, scores_BGRTC, ids, mask

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

    def resize(self, capacity: int) -> None:
        """Hold at most `capacity` tokens from now on; of more than that the newest stay. Errors: LongMemError."""
        if capacity < self.chunk_size:
            raise LongMemError(f"capacity is {capacity} tokens; it must be at least one chunk of {self.chunk_size}.")
        before = set(self._ring.rows_C6[:, DOCUMENT].tolist())
        state = self._ring.ordered()
        self.capacity = capacity - capacity % self.chunk_size
        self._ring = self._new_ring()
        self._ring.restore(*state)
        self._drop_texts(before)

    def _new_ring(self) -> ChunkRing:
        return ChunkRing(
            layers=len(self.memory_layers),
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            chunk_size=self.chunk_size,
            most_chunks=self.capacity // self.chunk_size,
            with_means=self.chunk_key == "mean",
            device=self.device,
            dtype=self.dtype,
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
    ) -> "MemoryBank":
        """The bank saved as `folder`, on `device`; with a smaller capacity its newest chunks.

        capacity, backend: as they were saved, unless given.
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

    def _query_shape(self, queries_BHTD: torch.Tensor) -> torch.Size:
        shape = queries_BHTD.shape
        if len(shape) != 4 or shape[1] % self.kv_heads or shape[3] != self.head_dim:
            raise BankMismatchError(
                f"Queries of shape {list(shape)} do not fit this bank; allowed is [rows, heads, tokens, "
                f"{self.head_dim}] with a multiple of {self.kv_heads} heads."
            )
        return shape

    def _checked(self, record: _Document, keys_LHTD, values_LHTD, spans_T2) -> np.ndarray:
        """The spans as an array, once everything given to `add` has been found to fit."""
        L, G, D = len(self.memory_layers), self.kv_heads, self.head_dim
        for name, given in (("Keys", keys_LHTD), ("Values", values_LHTD)):
            shape = tuple(given.shape)
            if len(shape) != 4 or shape != (L, G, keys_LHTD.shape[2], D) or not given.is_floating_point():
                raise BankMismatchError(
                    f"{name} of shape {list(shape)} and {given.dtype} do not fit this bank; allowed are "
                    f"floating-point numbers of shape [{L}, {G}, tokens, {D}], as many tokens as keys."
                )
        total = keys_LHTD.shape[2]
        if spans_T2 is None:
            return np.zeros((total, 2), dtype=np.int64)
        spans = torch.as_tensor(spans_T2).cpu().numpy()
        limit = len(record.text) or np.inf
        fits = spans.shape == (total, 2) and spans.dtype.kind in "iu"
        if not fits or (spans[:, 0] < 0).any() or (spans[:, 1] < spans[:, 0]).any() or (spans[:, 1] > limit).any():
            raise BankMismatchError(
                f"Spans of shape {list(spans.shape)} do not fit {total} tokens of a text of {len(record.text)} "
                f"characters; each must be start <= stop inside the text."
            )
        return spans.astype(np.int64)


def _check_settings(memory_layers, kv_heads, head_dim, chunk_size, capacity, chunk_key, dtype) -> None:
    if not memory_layers or len(set(memory_layers)) != len(memory_layers):
        raise MemoryLayerError(f"memory_layers is {list(memory_layers)}; it must name at least one layer, each once.")
    for name, number in (("kv_heads", kv_heads), ("head_dim", head_dim), ("chunk_size", chunk_size)):
        if number < 1:
            raise LongMemError(f"{name} is {number}; it must be at least 1.")
    if capacity < chunk_size:
        raise LongMemError(f"capacity is {capacity} tokens; it must be at least one chunk of {chunk_size}.")
    if chunk_key not in CHUNK_KEYS:
        raise LongMemError(f"chunk_key is {chunk_key!r}; it must be one of {', '.join(CHUNK_KEYS)}.")
    if dtype not in bank_files.DTYPES.values():
        raise LongMemError(f"dtype is {dtype}; it must be one of torch.{', torch.'.join(bank_files.DTYPES)}.")


def _device(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise LongMemError(
            f"device is {device!r}; it must be a device that torch can use here, such as cpu."
        ) from error
