"""Benchmarks of search by index against exact search, in a bank of a million tokens of text that was really read.

Shapes: L memory layers, G key-value heads, H query heads, T tokens, D head dimension.
"""

import copy

from torch import Tensor

from longmem.bench.bank_speed import ASKED, SEARCHES, found_by, recall, searching
from longmem.bench.timing import AS_FAST, Timed, compared, in_turn, seconds_of
from longmem.bench.workbench import Workbench
from longmem.documents import segments
from longmem.errors import LongMemError
from longmem.memory_bank import MemoryBank
from longmem.reading import batches
from longmem.search import INDEXED


def index(bench: Workbench) -> dict:
    """For each kind of index: one query against the exact search, recall, and the seconds of making the index.

    The queries are those of the text after what is in the bank.
    """
    names = [name for name in bench.backends(INDEXED) if name in INDEXED]
    if not names:
        raise LongMemError(f"index needs faiss, and --backend must be one of {', '.join(INDEXED)} or not given.")
    bank, queries_1HTD = _read(bench)
    exact = copy.copy(bank)  # the copies share what was read; nobody writes to it
    exact.use_backend("torch")
    of_exact = found_by(bench, exact, queries_1HTD)
    found = {}
    for name in names:
        indexed = copy.copy(bank)
        indexed.use_backend(name)
        made = seconds_of(indexed.settle, bench.device)
        one = queries_1HTD[:, :, :1]
        seconds = in_turn(
            bench.rounds,
            bench.device,
            exact=Timed(searching(bench, exact, one), times=SEARCHES),
            **{name: Timed(searching(bench, indexed, one), times=SEARCHES)},
        )
        more = {"recall": recall(found_by(bench, indexed, queries_1HTD), of_exact), "tokens": bank.n_tokens}
        more |= {"made_in_seconds": made, "index_bytes": indexed.nbytes - exact.nbytes}
        found[f"index_{name.replace('-', '_')}"] = compared(seconds, "exact", name, AS_FAST, **more)
    return found


def _read(bench: Workbench) -> tuple[MemoryBank, Tensor]:
    """A bank of the first memory layer alone, full of text, and the queries [1, H, T, D] of what comes next."""
    model = bench.model
    n_tokens = bench.sizes.long if bench.options.long else bench.sizes.full
    ids_T = bench.tokens(n_tokens + model.config.window)
    bank = MemoryBank(
        memory_layers=model.config.memory_layers[:1],
        kv_heads=model.kv_heads,
        head_dim=model.head_dim,
        fingerprint=model.fingerprint,
        chunk_size=model.config.chunk_size,
        capacity=n_tokens,
        chunk_key=model.config.chunk_key,
        device=model.device,
    )
    bank.reserve(n_tokens)
    document = bank.begin_document("read")
    for group in batches(segments(n_tokens, model.config.window, 0), None, model):
        model.read_segments(ids_T, group, memory=_FirstLayer(bank), document=document)
    return bank, bench.queries_of(ids_T[n_tokens:])[:, :, :ASKED]


class _FirstLayer:
    """In the place of a bank: passes on the first layer of what a model adds."""

    def __init__(self, bank: MemoryBank) -> None:
        self._bank = bank

    def add(self, document: int, keys_LGTD: Tensor, values_LGTD: Tensor, spans: Tensor | None = None) -> None:
        self._bank.add(document, keys_LGTD[:1], values_LGTD[:1], spans)
