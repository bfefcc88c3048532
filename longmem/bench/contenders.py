"""What is measured against what: full attention, a sliding window, and LongMem, each reading a context and writing on.

Shapes: B rows, T tokens.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from longmem.documents import segments
from longmem.errors import LongMemError
from longmem.memory_bank import MemoryBank
from longmem.model import LongMemForCausalLM
from longmem.reading import batches
from longmem.training.data import read_packs

CPU_FULL_ATTENTION = 16_384  # tokens: beyond this it takes minutes and gigabytes
PROMPT = 64


class Contender(Protocol):
    """One system that is measured."""

    def read(self, ids_T: Tensor) -> None:
        """Take a context [T] in."""

    def write(self, new_tokens: int) -> None:
        """Go on from it, token by token."""

    def state_bytes(self) -> int:
        """What is kept of it."""


class FullAttention:
    """The backbone with all of the context in its cache."""

    def __init__(self, model: LongMemForCausalLM) -> None:
        self.causal_lm = model.backbone.causal_lm
        self.cache: Cache | None = None

    @torch.no_grad()
    def read(self, ids_T: Tensor) -> None:
        self.cache = DynamicCache()
        output = self.causal_lm(ids_T[None], cache=self.cache, use_cache=True, logits_to_keep=1)
        self.token_BT = output.logits[:, -1].argmax(-1, keepdim=True)

    @torch.no_grad()
    def write(self, new_tokens: int) -> None:
        for _ in range(new_tokens):
            logits = self.causal_lm(self.token_BT, cache=self.cache, use_cache=True).logits
            self.token_BT = logits[:, -1].argmax(-1, keepdim=True)

    def state_bytes(self) -> int:
        return cache_bytes(self.cache)


class SlidingWindow(FullAttention):
    """The backbone with the last half window of the context in its cache; all of it is read, in windows."""

    def __init__(self, model: LongMemForCausalLM) -> None:
        super().__init__(model)
        self.model = model

    @torch.no_grad()
    def read(self, ids_T: Tensor) -> None:
        for pair in windows(ids_T, self.model):
            self.model.backbone.decoder(input_ids=pair, use_cache=False)
        super().read(ids_T[-self.model.config.window // 2 :])


class WithMemory:
    """LongMem: the context in the bank, a short prompt in the window."""

    def __init__(self, model: LongMemForCausalLM, backend: str) -> None:
        self.model, self.backend = model, backend
        self.bank: MemoryBank | None = None

    def read(self, ids_T: Tensor) -> None:
        model = self.model
        self.bank = model.new_bank(
            capacity=len(ids_T), dtype=bank_dtype(self.backend, model.dtype), backend=self.backend
        )
        self.bank.reserve(len(ids_T))
        document = self.bank.begin_document("read")
        for group in batches(segments(len(ids_T), model.config.window, 0), None, model):
            model.read_segments(ids_T, group, memory=self.bank, document=document)
        self.bank.settle()
        self.prompt_BT = ids_T[None, -PROMPT:]

    def write(self, new_tokens: int) -> None:
        self.begin()
        self.go_on(new_tokens - 1)

    def begin(self) -> None:
        """Read the prompt into a new window, and write the first token."""
        self.cache, self.token_BT = self.model.new_cache(), self.prompt_BT
        self.go_on(1)

    @torch.no_grad()
    def go_on(self, new_tokens: int) -> None:
        """Write more tokens."""
        for _ in range(new_tokens):
            options = {"cache": self.cache, "use_cache": True, "memory": self.bank, "logits_to_keep": 1}
            self.token_BT = self.model(self.token_BT, **options).logits[:, -1].argmax(-1, keepdim=True)

    def state_bytes(self) -> int:
        position_free = sum(t.nbytes for store in (self.cache.keys, self.cache.values) for t in store.values())
        return cache_bytes(self.cache) + position_free + self.bank.nbytes


def bank_dtype(backend: str, model_dtype: torch.dtype) -> torch.dtype:
    """What a bank must hold so that this backend can search it: bfloat16 unless it casts nothing."""
    return {"faiss-cpu": torch.float32, "faiss-gpu": model_dtype}.get(backend, torch.bfloat16)


def why_not_full_attention(model: LongMemForCausalLM, length: int, *, however_long: bool = False) -> str | None:
    """Why full attention is not measured at this length, or None."""
    if model.backbone.family.position == "learned" and length > model.config.backbone_config.max_position_embeddings:
        return f"this backbone has learned positions for {model.config.backbone_config.max_position_embeddings} tokens"
    if model.device.type == "cpu" and length > CPU_FULL_ATTENTION and not however_long:
        return f"on a CPU it is measured up to {CPU_FULL_ATTENTION:,} tokens, unless --full is given"
    return None


def text_of(model: LongMemForCausalLM, documents: Sequence[Path], length: int) -> Tensor:
    """So many tokens of the documents, repeated as often as it takes. Errors: LongMemError where there is no text."""
    ids: list[int] = []
    for _, text in read_packs(documents):
        ids += model.need_tokenizer()(text, add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) >= length:
            break
    if not ids:
        raise LongMemError("documents hold no text to read.")
    return torch.tensor((ids * (1 + length // len(ids)))[:length])


def windows(ids_T: Tensor, model: LongMemForCausalLM) -> Sequence[Tensor]:
    """Whole windows of a text, as many at once as reading takes; a text shorter than that is one."""
    window = model.config.window
    if len(ids_T) < window:
        return [ids_T[None]]
    return ids_T[: len(ids_T) // window * window].view(-1, window).split(model.segments_at_once)


def cache_bytes(cache: Cache) -> int:
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def device_name(model: LongMemForCausalLM) -> str:
    return torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else str(model.device)
