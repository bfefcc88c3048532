"""`LongMemForCausalLM`: a frozen backbone, a SideNet, and the three verbs remember, forward, generate.

The model owns no session: a bank is an argument. `forward` never writes a bank; `remember` does.

Shapes: B batch, T tokens, V vocabulary, G key-value heads, D head dimension, L memory layers.
"""

import copy
import threading
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.generation.configuration_utils import GenerationConfig
from transformers.modeling_outputs import CausalLMOutputWithPast

from longmem.backbone import Backbone, BackboneStates, Family, family_of
from longmem.cache import MemoryCache
from longmem.config import LongMemConfig
from longmem.documents import Segment
from longmem.errors import LongMemError, Stopped
from longmem.memory_bank import MemoryBank
from longmem.model_files import ModelFiles
from longmem.reading import ReadsDocuments
from longmem.row_memory import RowMemory, Sources
from longmem.sidenet import Recorder, SideNet


class LongMemForCausalLM(ModelFiles, ReadsDocuments, PreTrainedModel, GenerationMixin):
    """A causal language model with a long-term memory.

    Source: Wang et al. 2023, "Augmenting Language Models with Long-Term Memory" (arXiv 2306.07174).
    """

    config_class = LongMemConfig
    base_model_prefix = "longmem"
    _supports_sdpa = True
    main_input_name = "input_ids"
    label = ""  # what is to stand beside everything that a model gives which is not LongMem
    has_sidenet = True

    def __init__(self, config: LongMemConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        causal_lm = backbone if backbone is not None else AutoModelForCausalLM.from_config(config.backbone_config)
        family = family_of(causal_lm.config)
        _check_window(config.window, family, causal_lm.config)
        decoder = causal_lm.base_model
        # The SideNet copies layers before the backbone hangs its hooks on them.
        layers, norm = decoder.get_submodule(family.layers), decoder.get_submodule(family.norm)
        self.sidenet = self._second_network(config, layers, norm, family)
        self.backbone = Backbone(causal_lm, config.memory_layers)
        self.tokenizer: PreTrainedTokenizerFast | None = None
        self.device_reason = "it was built there"
        self._fingerprint: str | None = None
        self.post_init()
        self.generation_config = GenerationConfig(
            bos_token_id=causal_lm.config.bos_token_id,
            eos_token_id=causal_lm.config.eos_token_id,
            pad_token_id=causal_lm.config.pad_token_id,
        )

    def _second_network(
        self, config: LongMemConfig, layers: torch.nn.ModuleList, norm: torch.nn.Module, family: Family
    ) -> torch.nn.Module:
        return SideNet(config, layers, norm, family)

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Nothing: SideNet layers are copies, gates set themselves, and the backbone knows its own."""

    def freeze(self) -> "LongMemForCausalLM":
        """Freeze the backbone again, which loading undoes; the SideNet stays trainable."""
        self.backbone.freeze()
        self._fingerprint = None
        return self

    @property
    def fingerprint(self) -> str:
        """Whose keys and values these are: a hash of backbone and memory layers."""
        if self._fingerprint is None:
            self._fingerprint = self.backbone.fingerprint()
        return self._fingerprint

    # Memory ------------------------------------------------------------------------------------------------------

    def with_retrieval(
        self, *, chunk_size: int | None = None, retrieved_tokens: int | None = None
    ) -> "LongMemForCausalLM":
        """The same model, with the same weights in memory, that retrieves other numbers of tokens.

        Banks of another chunk size are not its own: their documents must be read again.
        """
        twin = copy.copy(self)
        twin.config = copy.copy(self.config)
        twin.config.chunk_size = chunk_size or self.config.chunk_size
        twin.config.retrieved_tokens = retrieved_tokens or self.config.retrieved_tokens
        twin.config.validate_memory()
        return twin

    @property
    def kv_heads(self) -> int:
        return self.backbone.kv_heads

    @property
    def head_dim(self) -> int:
        return self.backbone.head_dim

    @property
    def segments_at_once(self) -> int:
        return 2 if self.device.type == "cpu" else 16

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
        ids_BT = torch.stack([token_ids[part.first : part.end] for part in parts])
        qkv = self.backbone.read(ids_BT.to(self.device))
        for row, part in enumerate(parts):
            keys_LGTD, values_LGTD = (
                torch.stack([qkv[b][i][row, :, part.start - part.first :] for b in self.config.memory_layers])
                for i in (1, 2)
            )
            memory.add(document, keys_LGTD, values_LGTD, None if spans is None else spans[part.start : part.end])

    # Running -----------------------------------------------------------------------------------------------------

    def read_window(self, ids_BT: Tensor) -> BackboneStates:
        """What the backbone makes of at most a window, as the second network takes it."""
        return self.backbone(ids_BT)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: MemoryCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        memory: MemoryBank | None = None,
        row_memory: RowMemory | None = None,
        before: tuple[int, int] | None = None,
        exclude: Collection[int] = (),
        silence: Collection[tuple[int, int | None]] = (),
        recorder: Recorder | None = None,
        stop: threading.Event | None = None,
        return_dict: bool | None = None,
    ) -> CausalLMOutputWithPast:
        """Next-token logits, retrieving from memory. Text longer than the window runs in blocks as it slides.

        Args:
            input_ids: [B, T].
            attention_mask: [B, seen + T], 0 at left padding.
            cache: the cache of an earlier call; with `use_cache` a new one is made.
            labels: [B, T], -100 where nothing is asked; shifted by one inside. Of the positions kept, like the logits.
            logits_to_keep: only the last so many positions; 0 for all.
            memory: a bank shared by all rows, read only.
            row_memory: memory of the rows themselves (training lanes); without it the cache brings its own.
            before: (document, token): of this document retrieve only what ends at or before this token.
            exclude: bank chunk ids that are switched off.
            silence: (memory layer, query head) that do without memory; None instead of a head for all of its layer.
            recorder: sees the retrievals at the positions whose logits are kept; one row only.
            stop: set it to end a long text before its next block.

        Returns: logits [B, T or logits_to_keep, V], the loss if labels were given, and the cache.

        Raises:
            Stopped: `stop` was set.
            BankMismatchError: the bank belongs to another model.
        """
        if memory is not None:
            self.check_bank(memory)
        T = input_ids.shape[1]
        if cache is None and (use_cache or self.config.window < T):
            cache = self.new_cache()
        rows = row_memory if row_memory is not None else (cache.overflow if cache is not None else None)
        sources = Sources(self.config.retrieved_chunks, memory, rows, before, exclude, silence)
        keep = logits_to_keep or T
        if cache is None:
            if recorder is not None:
                recorder.keep = keep
            side_BTE = self._one_window(input_ids, attention_mask, sources, recorder)
        else:
            side_BTE = self._blocks(input_ids, attention_mask, cache, sources, recorder, T - keep, stop)
        logits = self.backbone.head(side_BTE[:, -keep:])
        if recorder is not None:
            recorder.see_logits(logits)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels[:, -keep:], vocab_size=logits.shape[-1])
        return CausalLMOutputWithPast(loss=loss, logits=logits, cache=cache)

    def new_cache(self) -> MemoryCache:
        """An empty cache for `forward` and `generate`."""
        config = self.config
        overflow = RowMemory(
            config.memory_layers,
            capacity=config.memory_size,
            chunk_size=config.chunk_size,
            chunk_key=config.chunk_key,
        )
        return MemoryCache(len(self.backbone.layers) + len(self.sidenet.layers), overflow)

    def _one_window(
        self, ids_BT: Tensor, attention_mask: Tensor | None, sources: Sources, recorder: Recorder | None
    ) -> Tensor:
        """At most one window, without a cache: the path of training."""
        mask = _mask_or_none(attention_mask)
        positions = None if mask is None else (mask.long().cumsum(1) - 1).clamp(min=0)
        states = self.backbone(ids_BT, attention_mask=mask, position_ids_BT=positions)
        return self.sidenet(states, sources, recorder)

    def _blocks(
        self,
        ids_BT: Tensor,
        attention_mask: Tensor | None,
        cache: MemoryCache,
        sources: Sources,
        recorder: Recorder | None,
        record_from: int,
        stop: threading.Event | None,
    ) -> Tensor:
        """Fill the window, slide by half when it is full, and so on: the same blocks however the tokens arrive.

        Rows with padding have shorter texts: each slides when its own window is full.
        """
        B, T = ids_BT.shape
        valid_BT = (
            torch.ones(B, T, dtype=torch.bool, device=ids_BT.device)
            if attention_mask is None
            else attention_mask[:, -T:].bool()
        )
        outputs, done = [], 0
        while done < T:
            if stop is not None and stop.is_set():
                raise Stopped
            used = 0
            if cache.used_B is not None:
                if bool((full_B := cache.used_B >= self.config.window).any()):
                    self._slide(cache, full_B, sources)
                used = int(cache.used_B.max())
            size = min(T - done, self.config.window - used)
            if recorder is not None:
                recorder.keep = max(0, min(size, done + size - record_from))
            block = slice(done, done + size)
            outputs.append(self._block(ids_BT[:, block], valid_BT[:, block], cache, sources, recorder))
            done += size
        return torch.cat(outputs, dim=1)

    def _block(
        self, ids_BT: Tensor, valid_BT: Tensor, cache: MemoryCache, sources: Sources, recorder: Recorder | None
    ) -> Tensor:
        positions_BT = cache.begin_block(ids_BT, valid_BT)
        states = self.backbone(
            ids_BT, attention_mask=_mask_or_none(cache.valid_BT), position_ids_BT=positions_BT, cache=cache
        )
        for layer, (_, k_BGTD, v_BGTD) in states.qkv.items():
            cache.keep_position_free(layer, k_BGTD, v_BGTD)
        return self.sidenet(states, sources, recorder)

    def _slide(self, cache: MemoryCache, full_B: Tensor, sources: Sources) -> None:
        """The oldest half of full rows leaves for their own memory; with learned positions the rest is encoded again.

        It then counts from 0; rows that did not slide have counted from there since they last did.
        """
        cache.slide(full_B, self.config.window // 2)
        if self.backbone.family.position == "learned":
            ids_BT, valid_BT = cache.restart_window()
            self._block(ids_BT, valid_BT, cache, sources, None)

    # Generation --------------------------------------------------------------------------------------------------

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        cache: MemoryCache | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Give `forward` what the cache has not seen; `next_sequence_length` counts the live window only."""
        seen = cache.seen if cache is not None else 0
        passed_on = ("use_cache", "logits_to_keep", "memory", "before", "exclude", "silence", "recorder", "stop")
        return {
            "input_ids": input_ids[:, seen:],
            "attention_mask": attention_mask,
            "cache": cache,
            **{name: kwargs[name] for name in passed_on if name in kwargs},
        }

    def _prepare_cache_for_generation(
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        generation_mode: Any,
        batch_size: int,
        max_cache_length: int,
    ) -> None:
        """Insert our cache where none was given: states of two networks cannot live in transformers' own."""
        if model_kwargs.get("cache") is None and generation_config.use_cache is not False:
            model_kwargs["cache"] = self.new_cache()

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.backbone.causal_lm.get_input_embeddings()

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.backbone.head


def _mask_or_none(mask: Tensor | None) -> Tensor | None:
    """A mask that hides nothing is dropped, so that attention may use its fast causal path."""
    return None if mask is None or bool(mask.all()) else mask.long()


def _check_window(window: int, family: Family, backbone_config: Any) -> None:
    """Learned positions end; rotary ones and ALiBi do not."""
    if family.position == "learned" and window > backbone_config.max_position_embeddings:
        raise LongMemError(
            f"window is {window}; this backbone has learned positions for {backbone_config.max_position_embeddings}."
        )


AutoModelForCausalLM.register(LongMemConfig, LongMemForCausalLM)
