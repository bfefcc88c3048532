"""Settings of a LongMem model, and the choice of a device."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig

from longmem.errors import LongMemError, MemoryLayerError, RetrievalSizeError

CHUNK_KEYS = ("max", "mean")
GATES = ("query", "scalar")
INITIALIZATIONS = ("attend", "paper", "zero")
SOURCES = ("memory", "next", "shared")
# Settings by name. "paper" is the published method; its one memory layer was 17 of 24 (0-based).
PRESETS = {
    "measured": {},
    "paper": {
        "chunk_size": 4,
        "retrieved_tokens": 64,
        "memory_size": 65_536,
        "chunk_key": "mean",
        "gate": "scalar",
        "gate_start": 0.5,
        "initialization": "paper",
        "source": "next",
        "read_overlap": 0,
    },
}


class LongMemConfig(PreTrainedConfig):
    """Configuration of `LongMemForCausalLM`.

    Args:
        backbone_config: configuration of the frozen causal language model.
        backbone_name_or_path: where its weights come from when they are not saved with the SideNet.
        memory_layers: 0-based backbone layers whose keys and values are remembered (paper: 17 of 24, alone).
        layer_reduction_factor: backbone layers per SideNet layer, r.
        window: tokens of local context; the oldest half leaves when it is full. Even, and halves are whole chunks.
        chunk_size: consecutive tokens that are retrieved together (paper: 4).
        retrieved_tokens: tokens retrieved for every query token and head (paper: 64), whole chunks.
        memory_size: capacity of a new bank in tokens (paper: 65,536).
        chunk_key: "max", a chunk scores as its best token, or "mean", by the mean of its keys (paper).
        gate: "query", sigmoid(g_h + w_h . q), or "scalar", sigmoid(g_h) (paper).
        gate_start: weight of memory at the start of training, 0 to 1 (paper: 0.5).
        initialization: of SideNet layers: "paper" copies all weights; "zero" copies them with all output projections
            at zero, so that the SideNet begins as the backbone; "attend" is "zero" but for the attention outputs of
            the memory layers, which keep the backbone's skill of using what was found.
        initialization_scale: factor on the copied output projections that are not at zero.
        source: SideNet layer i is copied from backbone layer r*i+1 ("next", paper), from r*i ("shared", whose input it
            shares), or ("memory") from the memory layer it retrieves from, whose queries fit the keys in the bank, and
            from r*i+1 where it has no memory. For the paper's layers "memory" and "next" are the same.
        read_overlap: tokens of context before each segment that is read into memory: 0 (paper), or window // 2.
        sidenet_rank: None for SideNet layers with weights of their own (paper). A number: their linear layers are
            those of the frozen backbone layer they would be copies of, with trained deltas of this rank; norms and
            gates are their own.

    Raises:
        LongMemError: a value outside what is allowed.
    """

    model_type = "longmem"
    sub_configs = {"backbone_config": AutoConfig}  # noqa: RUF012 - the name and form transformers asks for

    def __init__(
        self,
        backbone_config: PreTrainedConfig | dict | None = None,
        backbone_name_or_path: str | None = None,
        memory_layers: Sequence[int] = (),
        layer_reduction_factor: int = 2,
        window: int = 512,
        chunk_size: int = 4,
        retrieved_tokens: int = 64,
        memory_size: int = 65_536,
        chunk_key: str = "max",
        gate: str = "query",
        gate_start: float = 0.27,
        initialization: str = "attend",
        initialization_scale: float = 1.0,
        source: str = "memory",
        read_overlap: int = 0,
        sidenet_rank: int | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(backbone_config, dict):
            backbone_config = AutoConfig.for_model(**backbone_config)
        self.backbone_config = None
        self.backbone_name_or_path = backbone_name_or_path
        self.memory_layers = sorted(memory_layers)
        self.layer_reduction_factor = layer_reduction_factor
        self.window = window
        self.chunk_size = chunk_size
        self.retrieved_tokens = retrieved_tokens
        self.memory_size = memory_size
        self.chunk_key = chunk_key
        self.gate = gate
        self.gate_start = gate_start
        self.initialization = initialization
        self.initialization_scale = initialization_scale
        self.source = source
        self.read_overlap = read_overlap
        self.sidenet_rank = sidenet_rank
        super().__init__(**kwargs)
        # Set last: the parent's initialisation would reset the attention implementation of a backbone in use.
        self.backbone_config = backbone_config
        if backbone_config is not None:
            self.validate_memory()

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """What transformers asks about layers and vocabulary is answered by the backbone."""
        return self.backbone_config if self.backbone_config is not None else self

    @property
    def retrieved_chunks(self) -> int:
        return self.retrieved_tokens // self.chunk_size

    def side_layer(self, memory_layer: int) -> int:
        """The SideNet layer that retrieves from this backbone layer."""
        return memory_layer // self.layer_reduction_factor

    def source_layer(self, side_layer: int) -> int:
        """The backbone layer that this SideNet layer is a copy of."""
        first = side_layer * self.layer_reduction_factor
        if self.source == "memory":
            for memory_layer in self.memory_layers:
                if self.side_layer(memory_layer) == side_layer:
                    return memory_layer
        return first if self.source == "shared" else min(first + 1, self.backbone_config.num_hidden_layers - 1)

    def validate_memory(self) -> None:
        """Check every setting of memory against the backbone and the others."""
        _one_of("chunk_key", self.chunk_key, CHUNK_KEYS)
        _one_of("gate", self.gate, GATES)
        _one_of("initialization", self.initialization, INITIALIZATIONS)
        _one_of("source", self.source, SOURCES)
        layers, r = self.backbone_config.num_hidden_layers, self.layer_reduction_factor
        if r < 1 or layers % r:
            raise LongMemError(f"layer_reduction_factor is {r}; it must divide the {layers} layers of the backbone.")
        outside = [b for b in self.memory_layers if not 0 <= b < layers]
        if outside or not self.memory_layers:
            raise MemoryLayerError(
                f"memory_layers is {self.memory_layers}; give at least one layer from 0 to {layers - 1} (0-based)."
            )
        if len({self.side_layer(b) for b in self.memory_layers}) < len(self.memory_layers):
            raise MemoryLayerError(
                f"memory_layers is {self.memory_layers}; two of them meet in one SideNet layer, "
                f"since every {r} backbone layers share one."
            )
        self._validate_sizes()

    def _validate_sizes(self) -> None:
        if self.chunk_size < 1 or self.retrieved_tokens < self.chunk_size or self.retrieved_tokens % self.chunk_size:
            raise RetrievalSizeError(
                f"retrieved_tokens is {self.retrieved_tokens}; it must be a multiple of chunk_size "
                f"({self.chunk_size}), at least one chunk."
            )
        if self.memory_size < self.chunk_size:
            raise LongMemError(f"memory_size is {self.memory_size}; it must be at least one chunk ({self.chunk_size}).")
        if self.window < 2 * self.chunk_size or self.window % (2 * self.chunk_size):
            raise LongMemError(
                f"window is {self.window}; it must be a multiple of {2 * self.chunk_size} (two chunks), because half "
                "of it moves to memory at a time."
            )
        if self.read_overlap not in (0, self.window // 2):
            raise LongMemError(
                f"read_overlap is {self.read_overlap}; it must be 0 or window // 2 = {self.window // 2}."
            )
        if not 0 < self.gate_start < 1:
            raise LongMemError(f"gate_start is {self.gate_start}; it must lie between 0 and 1.")
        if self.sidenet_rank is not None and self.sidenet_rank < 1:
            raise LongMemError(f"sidenet_rank is {self.sidenet_rank}; it must be at least 1, or None for a whole copy.")


def preset_settings(name: str) -> dict[str, Any]:
    """Settings of `LongMemConfig` that a preset gives: "paper", or "measured", our defaults. Errors: LongMemError."""
    _one_of("preset", name, tuple(PRESETS))
    return dict(PRESETS[name])


def _one_of(option: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise LongMemError(f"{option} is {value!r}; it must be one of {', '.join(allowed)}.")


def choose_device(name: str | torch.device | None = None) -> tuple[torch.device, str]:
    """The device to run on, and a sentence that says why.

    Args:
        name: "cpu", "cuda", "cuda:1", "mps", or None or "auto" for the best there is.

    Raises:
        LongMemError: the named device is not here.
    """
    if name is None or str(name) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda"), f"a GPU was found: {torch.cuda.get_device_name()}"
        if torch.backends.mps.is_available():
            return torch.device("mps"), "an Apple GPU was found"
        return torch.device("cpu"), "no GPU was found"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise LongMemError(f"device is {name!r}; it must be cpu, cuda, cuda:N, mps or auto.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise LongMemError(f"device is {name!r}, but {torch.cuda.device_count()} CUDA devices were found.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise LongMemError(f"device is {name!r}, but no Apple GPU was found.")
    return device, "it was asked for"


AutoConfig.register("longmem", LongMemConfig)
