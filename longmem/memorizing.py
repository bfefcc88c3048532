"""MemTRM, the coupled baseline: retrieval inside the language model that is being trained.

The same search, chunks, gate and joint attention as in the SideNet, so that only the coupling differs: here the network
that writes keys and values into memory changes with every optimizer step, and what was cached before grows stale.

Source: Wu et al. 2022, "Memorizing Transformers" (arXiv 2203.08913). Unlike there, keys and queries are not
normalised and whole chunks are retrieved, as in LongMem.

Shapes: B batch, T tokens, V vocabulary, E hidden size, G key-value heads, D head dimension, L memory layers.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, Cache, PreTrainedModel, PreTrainedTokenizerFast

from longmem.backbone import family_of, load_backbone
from longmem.config import LongMemConfig, choose_device
from longmem.documents import Segment
from longmem.errors import LongMemError
from longmem.fusion import MemoryGate, Recorder, attach_memory, recalling
from longmem.memory_bank import MemoryBank
from longmem.reading import ReadsDocuments
from longmem.row_memory import RowMemory, Sources

SETTINGS_FILE, GATES_FILE = "memorizing.json", "gates.safetensors"
# The settings of LongMemConfig that concern memory; those of the SideNet have no meaning here.
SETTINGS = (
    "memory_layers",
    "window",
    "chunk_size",
    "retrieved_tokens",
    "memory_size",
    "chunk_key",
    "gate",
    "gate_start",
    "read_overlap",
)
TRAINED_WEIGHTS = ("all", "upper")


class SegmentPass(NamedTuple):
    """What one segment gives: logits_BTV, and per memory layer its keys and values, before positions and detached."""

    logits_BTV: Tensor
    keys_BGTD: dict[int, Tensor]
    values_BGTD: dict[int, Tensor]


class MemorizingTransformer(ReadsDocuments, nn.Module):
    """A causal language model whose memory layers retrieve, and whose own weights are trained."""

    def __init__(self, causal_lm: PreTrainedModel, config: LongMemConfig, trained_weights: str = "all") -> None:
        """Attach memory to `causal_lm` itself: it is not copied, and outside this class it works as before."""
        super().__init__()
        self.causal_lm, self.config, self.family = causal_lm, config, family_of(causal_lm.config)
        self.tokenizer: PreTrainedTokenizerFast | None = None
        self.gates = nn.ModuleDict()
        for b in config.memory_layers:
            attention = self.layers[b].get_submodule(self.family.attention)
            self.head_dim = getattr(attention, "head_dim", None) or attention.head_size
            gate = MemoryGate(causal_lm.config.num_attention_heads, self.head_dim, config.gate, config.gate_start)
            self.gates[str(b)] = gate
            attach_memory(b, attention, self.family, gate)
        self._choose_trained(trained_weights)

    def _choose_trained(self, trained_weights: str) -> None:
        if trained_weights not in TRAINED_WEIGHTS:
            raise LongMemError(
                f"trained_weights is {trained_weights!r}; it must be one of {', '.join(TRAINED_WEIGHTS)}."
            )
        self.trained_weights = trained_weights
        self.requires_grad_(True)
        if trained_weights == "upper":
            self.causal_lm.base_model.requires_grad_(False)
            for layer in self.layers[min(self.config.memory_layers) :]:
                layer.requires_grad_(True)
            self.causal_lm.base_model.get_submodule(self.family.norm).requires_grad_(True)

    # Loading and saving ------------------------------------------------------------------------------------------

    @classmethod
    def from_backbone(
        cls,
        name_or_path: str | Path | PreTrainedModel,
        *,
        memory_layers: Sequence[int],
        window: int = 512,
        chunk_size: int = 4,
        retrieved_tokens: int = 64,
        memory_size: int = 65_536,
        chunk_key: str = "max",
        gate: str = "query",
        gate_start: float = 0.27,
        read_overlap: int = 0,
        trained_weights: str = "all",
    ) -> "MemorizingTransformer":
        """Memory inside a causal language model from the hub, a folder, or already loaded (and then changed in place).

        Args:
            memory_layers, ..., read_overlap: as in `LongMemConfig`.
            trained_weights: "all", or "upper": the first memory layer, everything above it, and the head if it is not
                tied to the embeddings.

        Raises:
            LongMemError: a value outside what is allowed, or a model of an unknown family.
        """
        if isinstance(name_or_path, PreTrainedModel):
            causal_lm, tokenizer = name_or_path, None
        else:
            causal_lm = load_backbone(name_or_path)
            tokenizer = AutoTokenizer.from_pretrained(name_or_path)
        config = LongMemConfig(
            causal_lm.config,
            memory_layers=memory_layers,
            layer_reduction_factor=1,
            window=window,
            chunk_size=chunk_size,
            retrieved_tokens=retrieved_tokens,
            memory_size=memory_size,
            chunk_key=chunk_key,
            gate=gate,
            gate_start=gate_start,
            read_overlap=read_overlap,
        )
        model = cls(causal_lm, config, trained_weights)
        model.tokenizer = tokenizer
        return model

    @classmethod
    def load(cls, folder: str | Path, *, device: str | torch.device | None = None) -> "MemorizingTransformer":
        """What `save` wrote, in eval mode, in bf16 on a GPU and fp32 elsewhere.

        Raises:
            LongMemError: no such model is there, or the device is not.
        """
        folder = Path(folder)
        if not (folder / SETTINGS_FILE).is_file():
            raise LongMemError(f"folder is {str(folder)!r}; it holds no Memorizing Transformer ({SETTINGS_FILE}).")
        where, _ = choose_device(device)
        dtype = torch.bfloat16 if where.type == "cuda" else torch.float32
        causal_lm = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        model = cls.from_backbone(causal_lm, **json.loads((folder / SETTINGS_FILE).read_text()))
        model.gates.load_state_dict(load_file(folder / GATES_FILE))
        if (folder / "tokenizer_config.json").is_file():
            model.tokenizer = AutoTokenizer.from_pretrained(folder)
        return model.to(where).eval()

    def save(self, folder: str | Path) -> None:
        """Write an ordinary causal language model with its tokenizer, and beside it the gates and settings."""
        folder = Path(folder)
        self.causal_lm.save_pretrained(folder)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)
        save_file(self.gates.state_dict(), folder / GATES_FILE)
        settings = {name: getattr(self.config, name) for name in SETTINGS} | {"trained_weights": self.trained_weights}
        (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=1))

    # Memory ------------------------------------------------------------------------------------------------------

    @property
    def layers(self) -> nn.ModuleList:
        return self.causal_lm.base_model.get_submodule(self.family.layers)

    @property
    def device(self) -> torch.device:
        return self.causal_lm.device

    @property
    def kv_heads(self) -> int:
        config = self.causal_lm.config
        return getattr(config, "num_key_value_heads", None) or config.num_attention_heads

    @property
    def fingerprint(self) -> str:
        """Which banks fit. It names the architecture and not the weights: searching among stale keys is the point."""
        layers = ",".join(map(str, self.config.memory_layers))
        return f"memorizing-{self.causal_lm.config.model_type}-{layers}-{self.kv_heads}x{self.head_dim}"

    @property
    def segments_at_once(self) -> int:
        """One: states above the first memory layer depend on memory, so segments cannot be read side by side."""
        return 1

    @torch.no_grad()
    def read_segments(
        self,
        token_ids: Tensor,
        parts: Sequence[Segment],
        *,
        memory: MemoryBank,
        document: int,
        spans: Tensor | None = None,
    ) -> None:
        top = max(self.config.memory_layers)  # nothing that is kept depends on what this layer retrieves
        for first, start, end in parts:
            ids_BT = token_ids[None, first:end].to(self.device)
            sources = replace(self._sources(memory, before=(document, first)), silence={(top, None)})
            _, *states = self._read(ids_BT, None, sources, None)
            keys_LGTD, values_LGTD = (
                torch.stack([x[b][0, :, start - first :] for b in self.config.memory_layers]) for x in states
            )
            memory.add(document, keys_LGTD, values_LGTD, None if spans is None else spans[start:end])

    def _sources(
        self,
        memory: MemoryBank | None,
        rows: RowMemory | None = None,
        before: tuple[int, int] | None = None,
        exclude: Collection[int] = (),
    ) -> Sources:
        return Sources(self.config.retrieved_chunks, memory, rows, before, exclude)

    # Running -----------------------------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        row_memory: RowMemory | None = None,
        memory: MemoryBank | None = None,
        before: tuple[int, int] | None = None,
        exclude: Collection[int] = (),
        recorder: Recorder | None = None,
        cache: Cache | None = None,
    ) -> SegmentPass:
        """Read at most one window, retrieving from memory; nothing is written to it.

        Args:
            input_ids: [B, T].
            attention_mask: [B, T], 0 at left padding.
            row_memory: memory of the rows themselves (training lanes).
            memory: a bank shared by all rows.
            before: (document, token): of this document retrieve only what ends at or before this token.
            exclude: bank chunk ids that are switched off.
            recorder: sees every retrieval.
            cache: what came before in this window; these tokens are added to it.

        Returns: logits [B, T, V], and keys and values of this segment for each memory layer.

        Raises:
            LongMemError: more tokens than the window, or a bank of another model.
        """
        length = input_ids.shape[1] + (cache.get_seq_length() if cache is not None else 0)
        if length > self.config.window:
            raise LongMemError(
                f"input_ids has {length} tokens; a Memorizing Transformer reads at most one window of "
                f"{self.config.window} at a time."
            )
        if memory is not None:
            self.check_bank(memory)
        if recorder is not None:
            recorder.keep = input_ids.shape[1]
        sources = self._sources(memory, row_memory, before, exclude)
        hidden_BTE, keys, values = self._read(input_ids, attention_mask, sources, recorder, cache)
        logits_BTV = self.causal_lm.get_output_embeddings()(hidden_BTE)
        if recorder is not None:
            recorder.see_logits(logits_BTV)
        return SegmentPass(logits_BTV, keys, values)

    def _read(
        self,
        ids_BT: Tensor,
        mask_BT: Tensor | None,
        sources: Sources,
        recorder: Recorder | None,
        cache: Cache | None = None,
    ) -> tuple[Tensor, dict[int, Tensor], dict[int, Tensor]]:
        """The decoder without its head: hidden states after the final norm, keys, values."""
        options = {} if cache is None else {"cache": cache}
        if mask_BT is not None and not bool(mask_BT.all()):
            options["attention_mask"] = mask_BT.long()
            if self.family.position != "alibi":
                options["position_ids"] = (mask_BT.long().cumsum(1) - 1).clamp(min=0)
        with recalling(sources, recorder) as taps:
            hidden_BTE = self.causal_lm.base_model(input_ids=ids_BT, use_cache=cache is not None, **options)[0]
        keys, values = {}, {}
        for b in self.config.memory_layers:
            attention = self.layers[b].get_submodule(self.family.attention)
            _, k_BGTD, v_BGTD = self.family.split(attention, taps.projected[b])
            keys[b], values[b] = k_BGTD.detach(), v_BGTD.detach()
        return hidden_BTE, keys, values
