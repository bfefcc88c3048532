"""Speed and memory by the length of the context: full attention, a sliding window, and LongMem.

Every system reads the same tokens and then writes; systems are measured in turn in every round (A B A B), and medians
are compared. What LongMem costs does not depend on what it has learned: other numbers of memory layers are measured
with fresh SideNets on the same backbone.
"""

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from longmem.backbone import copy_of
from longmem.bench.contenders import (
    Contender,
    FullAttention,
    SlidingWindow,
    WithMemory,
    device_name,
    text_of,
    why_not_full_attention,
    windows,
)
from longmem.bench.timing import Timed, in_turn, seconds_of
from longmem.errors import LongMemError
from longmem.evaluation.results import Items, Options, draw, settings_of
from longmem.evaluation.systems import Systems
from longmem.model import LongMemForCausalLM


@dataclass(frozen=True)
class EfficiencyOptions(Options):
    """documents: text to read, repeated until it is long enough; lengths: tokens of context; new_tokens: to write.

    rounds: measured after a first one that does not count; backend: of the search, see `longmem.search`.
    systems: of `contestants`, longmem always among them; max_items: of the lengths; full: full attention at every
    length, on a CPU too; seed: of the fresh SideNets.
    """

    documents: tuple[Path, ...] = ()
    lengths: tuple[int, ...] = (1_024, 4_096, 16_384, 65_536)
    new_tokens: int = 32
    rounds: int = 3
    backend: str = "torch"


def measure_efficiency(options: EfficiencyOptions) -> dict:
    """Measure, and return (and write) tokens/s and bytes by length, and the ratios that matter at the longest."""
    systems = Systems(options.model, ("longmem",))
    model = systems.model
    torch.manual_seed(options.seed)
    timed = _chosen(contestants(model, options.backend), options.systems)
    settings = settings_of(options, "documents", "lengths", "new_tokens", "rounds", "backend") | {"systems": [*timed]}
    settings |= {"device": device_name(model), "dtype": str(model.dtype), "threads": torch.get_num_threads()}
    items = Items("efficiency", options, systems, settings)
    ids_T = text_of(model, options.documents, max(options.lengths)).to(model.device)
    keys = {str(x): x for x in draw(sorted(set(options.lengths)), options.max_items, options.seed)}
    for key in items.each(keys):
        items.add(key, {"length": keys[key], **measure_length(model, timed, ids_T[: keys[key]], options)})
    ratios = {} if items.is_stopped else base_ratios(model, ids_T, options)
    found = list(items.found.values())
    return items.finish(found[-1]["systems"], ratios=ratios | _against_full(found))


def contestants(model: LongMemForCausalLM, backend: str) -> dict[str, Contender]:
    """The systems by name: besides the model itself, LongMem with one, three and as many memory layers as can be."""
    timed: dict[str, Contender] = {"full_attention": FullAttention(model), "sliding_window": SlidingWindow(model)}
    timed["longmem"] = WithMemory(model, backend)
    r, layers = model.config.layer_reduction_factor, model.config.backbone_config.num_hidden_layers
    every = [r * side for side in range(layers // r)]
    names = ("window", "chunk_size", "retrieved_tokens", "chunk_key")
    options = {name: getattr(model.config, name) for name in names} | {"layer_reduction_factor": r}
    for n in sorted({1, min(3, len(every)), len(every)}):
        backbone = copy_of(model.backbone.causal_lm)
        fresh = LongMemForCausalLM.from_backbone(backbone, memory_layers=every[-n:], **options).eval()
        label = "all" if n == len(every) else n
        timed[f"longmem_{label}_memory_layer{'' if n == 1 else 's'}"] = WithMemory(fresh.to(model.device), backend)
    return timed


def _chosen(timed: dict[str, Contender], names: Sequence[str] | None) -> dict[str, Contender]:
    """Those that were asked for, and the model itself. Errors: LongMemError."""
    for name in names or ():
        if name not in timed:
            raise LongMemError(f"--systems names {name!r}; this evaluation measures {', '.join(timed)}.")
    return {name: timed[name] for name in timed if names is None or name in (*names, "longmem")}


def measure_length(
    model: LongMemForCausalLM, timed: dict[str, Contender], ids_T: Tensor, options: EfficiencyOptions
) -> dict:
    """One length of context: {"systems": {name: tokens/s of reading and writing, bytes}}."""
    chosen, skipped = dict(timed), {}
    reason = why_not_full_attention(model, len(ids_T), however_long=options.full)
    if reason and "full_attention" in chosen:
        del chosen["full_attention"]
        skipped["full_attention"] = {"read_tokens_per_second": None, "reason": reason}
    seconds = {(name, verb): [] for name in chosen for verb in ("read", "write")}
    found: dict[str, dict] = {name: {} for name in chosen}
    for round_ in range(options.rounds + 1):
        for name, system in chosen.items():
            counted = reset_peak(model.device)
            for verb, run in (
                ("read", lambda s=system: s.read(ids_T)),
                ("write", lambda s=system: s.write(options.new_tokens)),
            ):
                taken = seconds_of(run, model.device)
                if round_:
                    seconds[name, verb].append(taken)
            found[name] |= {"state_bytes": system.state_bytes(), "peak_bytes": peak(model.device) if counted else None}
    for name in chosen:
        read, write = (statistics.median(seconds[name, verb]) for verb in ("read", "write"))
        found[name] |= {"read_tokens_per_second": len(ids_T) / read, "read_seconds": read}
        found[name] |= {"write_tokens_per_second": options.new_tokens / write, "write_seconds": write}
    return {"systems": skipped | found}


def base_ratios(model: LongMemForCausalLM, ids_T: Tensor, options: EfficiencyOptions) -> dict:
    """Reading against the bare decoder's forward over the same windows, and writing with a full and an empty bank."""
    part_T = ids_T[: min(len(ids_T), 16_384)]
    reader = WithMemory(model, options.backend)
    full, empty = WithMemory(model, options.backend), WithMemory(model, options.backend)
    full.read(ids_T)
    empty.bank, empty.prompt_BT = model.new_bank(backend=options.backend), full.prompt_BT

    @torch.no_grad()
    def bare(module: torch.nn.Module) -> None:
        for pair in windows(part_T, model):
            module(input_ids=pair, use_cache=False)

    measured = in_turn(
        options.rounds,
        model.device,
        read=Timed(lambda: reader.read(part_T)),
        decoder=Timed(lambda: bare(model.backbone.decoder)),
        full=Timed(lambda: full.write(options.new_tokens)),
        empty=Timed(lambda: empty.write(options.new_tokens)),
    )
    seconds = {name: statistics.median(values) for name, values in measured.items()}
    return {
        "reading_to_bare_decoder": seconds["decoder"] / seconds["read"],
        "writing_full_to_empty_bank": seconds["empty"] / seconds["full"],
        "bank_tokens": full.bank.n_tokens,
        "write_tokens_per_second_empty_bank": options.new_tokens / seconds["empty"],
        "write_tokens_per_second_full_bank": options.new_tokens / seconds["full"],
        "read_tokens_per_second": len(part_T) / seconds["read"],
    }


def reset_peak(device: torch.device) -> bool:
    """Begin to count anew for `peak`; False where nobody counts."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak(device: torch.device) -> int | None:
    """Most bytes since `reset_peak`: allocated on a GPU, or held by the whole process on Linux; None elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _against_full(found: list[dict]) -> dict:
    """LongMem against full attention at the longest context where both were measured."""
    both = [item for item in found if item["systems"].get("full_attention", {}).get("write_seconds")]
    if not both:
        return {}
    item = both[-1]
    full, ours = item["systems"]["full_attention"], item["systems"]["longmem"]
    return {
        "full_attention_length": item["length"],
        "reading_to_full_attention": full["read_seconds"] / ours["read_seconds"],
        "writing_to_full_attention": full["write_seconds"] / ours["write_seconds"],
        "state_bytes_to_full_attention": ours["state_bytes"] / full["state_bytes"],
    }


def table(result: dict) -> list[list[str]]:
    """Rows for people: length and system, tokens/s of reading and writing, MiB kept, and most MiB held at a time.

    The last are of the whole process, model and Python included, where no GPU counts its own.
    """
    rows = [["context", "system", "read tokens/s", "write tokens/s", "MiB kept", "peak MiB"]]
    for item in result["items"]:
        for name, row in item["systems"].items():
            if row["read_tokens_per_second"] is None:
                rows.append([f"{item['length']:,}", name, "-", "-", row["reason"], ""])
                continue
            speeds = [f"{row['read_tokens_per_second']:,.0f}", f"{row['write_tokens_per_second']:.1f}"]
            most = f"{row['peak_bytes'] / 2**20:,.0f}" if row.get("peak_bytes") else "-"
            rows.append([f"{item['length']:,}", name, *speeds, f"{row['state_bytes'] / 2**20:.1f}", most])
    rows += [[name.replace("_", " "), f"{value:,.2f}", "", "", "", ""] for name, value in result["ratios"].items()]
    return rows
