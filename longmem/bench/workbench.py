"""What the benchmarks share: the model, its settings, and keys and values of a text that has been read.

Shapes: L memory layers, G key-value heads, H query heads, T tokens, D head dimension.
"""

import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path

import torch
import transformers
from torch import Tensor

from longmem.bench.contenders import bank_dtype, device_name, text_of
from longmem.documents import segments
from longmem.errors import LongMemError, SearchBackendError
from longmem.memory_bank import MemoryBank
from longmem.model import LongMemForCausalLM
from longmem.reading import batches
from longmem.search import BACKENDS, check_backend

BLOCK = 8_192  # tokens that are added to a bank at once while it is filled


@dataclass(frozen=True)
class Sizes:
    """Tokens: of a full bank, a small and a long one; read and written; of the context; queries of one search."""

    full: int = 65_536
    small: int = 1_024
    long: int = 1_048_576
    read: int = 16_384
    new: int = 64
    context: int | None = None
    context_new: int = 200
    queries: int = 512

    def context_on(self, device: torch.device) -> int:
        """Full attention takes minutes for more on a CPU."""
        return self.context or (16_384 if device.type == "cpu" else 65_536)


@dataclass(frozen=True)
class BenchOptions:
    """model: a loaded one; documents: text to read, repeated until it is long enough.

    rounds: measured after a first one that does not count. backend: of the search, see `longmem.search`; by default
    `search` measures all that run here, and everything else "torch". long: measure the long bank too.
    json: file for the result; command: what was typed, for the result.
    """

    model: LongMemForCausalLM
    documents: tuple[Path, ...]
    rounds: int = 5
    backend: str | None = None
    long: bool = True
    seed: int = 1
    sizes: Sizes = Sizes()
    json: Path | None = None
    command: str = ""

    def __post_init__(self) -> None:
        """Errors: LongMemError for what cannot be measured, before anything is."""
        if self.rounds < 1:
            raise LongMemError(f"--rounds is {self.rounds}; it must be at least 1.")
        if self.backend is not None:
            if self.backend not in BACKENDS:
                raise LongMemError(f"--backend is {self.backend!r}; it must be one of {', '.join(BACKENDS)}.")
            check_backend(self.backend, bank_dtype(self.backend, self.model.dtype), self.model.device)
        if self.json is not None and not self.json.parent.is_dir():
            raise LongMemError(f"--json is {str(self.json)!r}; it must be a file in a folder that exists.")


class Workbench:
    """A model and what it has read, made once for all benchmarks of a run."""

    def __init__(self, options: BenchOptions) -> None:
        self.options, self.model, self.sizes = options, options.model, options.sizes
        self.backend = options.backend or "torch"
        self.full_bank = cache(self._full_bank)
        torch.manual_seed(options.seed)

    @property
    def rounds(self) -> int:
        return self.options.rounds

    @property
    def device(self) -> torch.device:
        return self.model.device

    def backends(self, names: Sequence[str]) -> list[str]:
        """The one that was asked for, or all of these that can search here."""
        return [self.options.backend] if self.options.backend else [name for name in names if self._can_run(name)]

    def _can_run(self, backend: str) -> bool:
        try:
            check_backend(backend, bank_dtype(backend, self.model.dtype), self.device)
        except SearchBackendError:
            return False
        return True

    def tokens(self, n: int) -> Tensor:
        """The first n tokens [n] of the text, on the model's device."""
        return text_of(self.model, self.options.documents, n).to(self.device)

    @cached_property
    def keys_values_LGTD(self) -> tuple[Tensor, Tensor]:
        """Keys and values of as many tokens of the text as fill a full bank."""
        ids_T, collected = self.tokens(self.sizes.full), _Collected([])
        for group in batches(segments(len(ids_T), self.model.config.window, 0), None, self.model):
            self.model.read_segments(ids_T, group, memory=collected, document=0)
        keys, values = zip(*collected.parts, strict=True)
        return torch.cat(keys, dim=2), torch.cat(values, dim=2)

    def segment(self) -> tuple[Tensor, Tensor]:
        """Keys and values of one segment: [L, G, window, D] each."""
        keys, values = self.keys_values_LGTD
        return keys[:, :, : self.model.config.window], values[:, :, : self.model.config.window]

    def queries_1HTD(self, n: int) -> Tensor:
        """Queries of the first n tokens of the text."""
        window = min(n, self.model.config.window)
        return self.queries_of(self.tokens(-(-n // window) * window))[:, :, :n].contiguous()

    @torch.no_grad()
    def queries_of(self, ids_T: Tensor) -> Tensor:
        """Queries [1, H, T, D] of whole windows of tokens in the first memory layer, as the backbone asks there."""
        model = self.model
        states = model.backbone(ids_T.view(-1, min(len(ids_T), model.config.window)))
        q_BHTD = states.qkv[model.config.memory_layers[0]][0]
        return q_BHTD.transpose(0, 1).flatten(1, 2)[None]

    def empty_bank(self, capacity: int, backend: str) -> MemoryBank:
        dtype = bank_dtype(backend, self.model.dtype)
        return self.model.new_bank(capacity=capacity, dtype=dtype, backend=backend)

    def bank(self, tokens: int, backend: str | None = None) -> MemoryBank:
        """A new bank, full with so many tokens."""
        bank = self.empty_bank(tokens, backend or self.backend)
        bank.reserve(tokens)
        document = bank.begin_document("filled")
        for keys_LGTD, values_LGTD in self._blocks(tokens):
            bank.add(document, keys_LGTD, values_LGTD)
        bank.settle()
        return bank

    def _full_bank(self, backend: str) -> MemoryBank:
        """The full bank (`full_bank` makes it once); nobody writes to it."""
        return self.bank(self.sizes.full, backend)

    @cached_property
    def long_bank(self) -> MemoryBank:
        return self.bank(self.sizes.long)

    def _blocks(self, tokens: int) -> Iterator[tuple[Tensor, Tensor]]:
        """What was read, block by block; more than that is what was read with noise of a tenth of its spread."""
        pair = self.keys_values_LGTD
        full, block = pair[0].shape[2], min(BLOCK, self.sizes.full)
        spreads = [part.std() / 10 for part in pair]
        for start in range(0, tokens, block):
            first, size = start % full, min(block, tokens - start, full - start % full)
            parts = [part[:, :, first : first + size] for part in pair]
            if start >= full:
                parts = [part + s * torch.randn_like(part) for part, s in zip(parts, spreads, strict=True)]
            yield parts[0], parts[1]

    def settings(self) -> dict:
        """Where and with what everything was measured."""
        options = self.options
        return {
            "machine": cpu_name(),
            "device": device_name(self.model),
            "threads": torch.get_num_threads(),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "rounds": options.rounds,
            "backend": options.backend or "torch; search: all",
            "documents": [path.name for path in options.documents],
            "seed": options.seed,
            "tokens": asdict(self.sizes) | {"context": self.sizes.context_on(self.device)},
            "long_bank": f"keys and values of the {self.sizes.full:,} tokens read, repeated with noise of a tenth of "
            "their spread",
        }


@dataclass
class _Collected:
    """In the place of a bank: keeps what a model adds."""

    parts: list[tuple[Tensor, Tensor]]

    def add(self, _document: int, keys_LGTD: Tensor, values_LGTD: Tensor, _spans: Tensor | None = None) -> None:
        self.parts.append((keys_LGTD, values_LGTD))


def cpu_name() -> str:
    """What the machine calls its processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
