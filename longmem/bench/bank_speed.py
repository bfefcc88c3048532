"""Benchmarks of the bank alone: adding a segment, and searching.

Shapes: G key-value heads, Q queries, N token slots, D head dimension, C chunks.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from longmem.bench.timing import Goal, Timed, compared, in_turn
from longmem.bench.workbench import Workbench
from longmem.memory_bank import MemoryBank
from longmem.search import EXACT

NO_SLOWER = Goal(most=1.1)
ASKED = 64  # queries that recall is measured on
ADDS, SEARCHES = 20, 10  # in each turn: one alone would be shorter than what a clock tells apart


def add(bench: Workbench) -> dict:
    """One segment into a full bank, which lets as much go, against a small one and (long) a long one."""
    banks = {"full": bench.bank(bench.sizes.full), "small": bench.bank(bench.sizes.small)}
    if bench.options.long:
        banks["long"] = bench.long_bank
    measured = {name: Timed(adding(bench, bank), times=ADDS) for name, bank in banks.items()}
    seconds = in_turn(bench.rounds, bench.device, **measured)
    found = {"add_full_to_small": compared(seconds, "full", "small", NO_SLOWER)}
    if bench.options.long:
        found["add_long_to_full"] = compared(seconds, "long", "full", NO_SLOWER)
    return found


def adding(bench: Workbench, bank: MemoryBank) -> Callable[[], None]:
    """Adds a segment to a document of its own."""
    document, (keys_LGTD, values_LGTD) = bank.begin_document("added"), bench.segment()
    return lambda: bank.add(document, keys_LGTD, values_LGTD)


def search(bench: Workbench) -> dict:
    """For each backend: one query against reading the keys once, and many against the bare matrix product."""
    exact = None
    found = {}
    for backend in bench.backends(EXACT):
        bank = bench.full_bank(backend)
        one, many = bench.queries_1HTD(1), bench.queries_1HTD(bench.sizes.queries)
        keys_GND = bench.keys_values_LGTD[0][0].to(bank.dtype).contiguous()
        bytes_N = torch.zeros(keys_GND.nbytes // 4, device=bench.device)
        seconds = in_turn(
            bench.rounds,
            bench.device,
            search_one=Timed(searching(bench, bank, one), times=SEARCHES),
            read_keys=Timed(bytes_N.sum, times=SEARCHES),
            matrix_product=Timed(product(many, keys_GND)),
            search_many=Timed(searching(bench, bank, many)),
        )
        more = {}
        if backend != "torch":
            exact = found_by(bench, bench.full_bank("torch"), many) if exact is None else exact
            more["recall"] = recall(found_by(bench, bank, many), exact)
        name = backend.replace("-", "_")
        bandwidth = {"bytes": keys_GND.nbytes}
        found[f"search_one_{name}"] = compared(seconds, "search_one", "read_keys", Goal(most=1.5), **bandwidth, **more)
        found[f"search_many_{name}"] = compared(seconds, "matrix_product", "search_many", Goal(least=0.5), **more)
    return found


def searching(bench: Workbench, bank: MemoryBank, queries_1HTD: Tensor) -> Callable[[], object]:
    config = bench.model.config
    return lambda: bank.search(config.memory_layers[0], queries_1HTD, n_chunks=config.retrieved_chunks)


def product(queries_1HTD: Tensor, keys_GND: Tensor) -> Callable[[], None]:
    """All inner products, one head after the other, into memory that is there: in fp32 on a CPU, as the search does."""
    dtype = torch.float32 if keys_GND.device.type == "cpu" else keys_GND.dtype
    keys_GND = keys_GND.to(dtype)
    queries_GQD = queries_1HTD[0].to(dtype).unflatten(0, (len(keys_GND), -1)).flatten(1, 2)
    scores_QN = keys_GND.new_empty(queries_GQD.shape[1], keys_GND.shape[1])

    def run() -> None:
        for queries_QD, keys_ND in zip(queries_GQD, keys_GND, strict=True):
            torch.mm(queries_QD, keys_ND.T, out=scores_QN)

    return run


def found_by(bench: Workbench, bank: MemoryBank, queries_1HTD: Tensor) -> Tensor:
    """The chunks [.., C] that a bank finds for the first ASKED queries, one at a time, as in generation."""
    find = [searching(bench, bank, query) for query in queries_1HTD[:, :, :ASKED].split(1, dim=2)]
    return torch.cat([search().chunks_BHTC for search in find], dim=2)


def recall(found: Tensor, exact: Tensor) -> float:
    """The share of the exact ones that was found, over all queries."""
    is_found = (exact.unsqueeze(-1) == found.unsqueeze(-2)).any(-1)
    return float(is_found.float().mean())
