"""The systems that an evaluation compares, on the same tokens and, where they share it, from one pass of the backbone.

- `backbone`: the frozen language model with what stands in its window; `backbone_sliding`: in windows that overlap by
  half, so that every token has half a window of context at least (where a text is read from beginning to end).
- `empty_bank`: backbone and SideNet, nothing in memory; `longmem`: the same with the bank.
- `sidenet_only`: a SideNet trained as long on the same text without any memory.
- `memtrm`: the Memorizing Transformer, whose memory sits inside the model that was trained.
- `full_attention`: the backbone over the whole text at once, as far as it was trained for so many positions.

Shapes: B rows, T tokens, V vocabulary.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from longmem.backbone import copy_of, weights_hash
from longmem.cache import repeated
from longmem.documents import segments
from longmem.errors import BankMismatchError, LongMemError
from longmem.memorizing import SETTINGS_FILE, MemorizingTransformer
from longmem.memory_bank import MemoryBank
from longmem.model import LongMemForCausalLM
from longmem.row_memory import Sources
from longmem.trace import TraceRecorder

SYSTEMS = ("backbone", "backbone_sliding", "empty_bank", "sidenet_only", "longmem", "memtrm", "full_attention")
# The other models that were trained on the same backbone lie beside the model, under these names.
SIDENET_ONLY, MEMTRM = "sidenet-only", "memtrm"
MEMORY_SETTINGS = "memory_layers chunk_size retrieved_tokens chunk_key gate initialization source read_overlap".split()


@dataclass
class Memories:
    """What each system that has a memory has read; None for a system that takes no part."""

    longmem: MemoryBank
    memtrm: MemoryBank | None


class Systems:
    """The models under comparison. `names` are those that take part, in the order of SYSTEMS."""

    def __init__(
        self,
        model: str | Path | LongMemForCausalLM,
        names: Collection[str] | None = None,
        *,
        read_overlap: int | None = None,
        allowed: Collection[str] = SYSTEMS,
    ) -> None:
        """Load a model and, if they are there or asked for, the baselines beside it.

        Args:
            names: of SYSTEMS; by default all that are `allowed` and whose weights are present.
            read_overlap: 0 or half a window of context in reading; by default the model's.

        Raises:
            LongMemError: an unknown system, one that this evaluation has not, or weights that are not there.
        """
        folder = None if isinstance(model, LongMemForCausalLM) else Path(model)
        self.model = LongMemForCausalLM.from_pretrained(model) if folder is not None else model
        if read_overlap is not None:
            self.model.config.read_overlap = read_overlap
            self.model.config.validate_memory()
        here = {name for name in SYSTEMS if name not in ("sidenet_only", "memtrm")}
        if folder is not None and (folder / SIDENET_ONLY / "config.json").is_file():
            here.add("sidenet_only")
        if folder is not None and (folder / MEMTRM / SETTINGS_FILE).is_file():
            here.add("memtrm")
        self.names = _chosen(names, allowed, here)
        self.sidenet_only = self._load_sidenet_only(folder) if "sidenet_only" in self.names else None
        self.memtrm = None
        if "memtrm" in self.names:
            self.memtrm = MemorizingTransformer.load(folder / MEMTRM, device=self.model.device)

    def _load_sidenet_only(self, folder: Path) -> LongMemForCausalLM:
        backbone = copy_of(self.model.backbone.causal_lm)
        model = LongMemForCausalLM.from_pretrained(folder / SIDENET_ONLY, device=self.model.device, backbone=backbone)
        if model.fingerprint != self.model.fingerprint:
            raise BankMismatchError(f"{folder / SIDENET_ONLY} was trained on another backbone than {folder}.")
        return model

    @property
    def window(self) -> int:
        return self.model.config.window

    @property
    def trained_positions(self) -> int:
        """Positions that the backbone was trained for: longer texts are none of full attention's."""
        return self.model.config.backbone_config.max_position_embeddings

    @property
    def controls(self) -> list[str]:
        """The systems without memory that LongMem must beat: a bad empty bank must not make memory look good."""
        return [name for name in ("empty_bank", "sidenet_only") if name in self.names]

    def description(self) -> dict:
        """What a result says of the models: `fingerprint` is the backbone's, the others are of what was trained."""
        config = self.model.config
        trained = {"sidenet": self.model.sidenet}
        if self.sidenet_only is not None:
            trained["sidenet_only"] = self.sidenet_only.sidenet
        if self.memtrm is not None:
            trained["memtrm"] = self.memtrm
        return {
            "fingerprint": self.model.fingerprint,
            **{name: weights_hash(module) for name, module in trained.items()},
            "window": config.window,
            "memory": {name: getattr(config, name) for name in MEMORY_SETTINGS},
        }

    # Memory ------------------------------------------------------------------------------------------------------

    def new_memories(self, capacity: int | None = None) -> Memories:
        """Empty banks; `capacity` in tokens, by default each model's."""
        memtrm = self.memtrm.new_bank(capacity=capacity) if self.memtrm is not None else None
        return Memories(self.model.new_bank(capacity=capacity), memtrm)

    def read(self, memories: Memories, token_ids: Tensor, *, name: str = "document") -> None:
        """Read a document of tokens [T] into every memory."""
        reader = Reading(self, memories, token_ids, name)
        reader.read_to(len(token_ids))

    # Running -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def logits(self, ids_BT: Tensor, memories: Memories, recorder: TraceRecorder | None = None) -> dict[str, Tensor]:
        """Logits_BTV of every system over at most one window; backbone and SideNets share a pass.

        recorder: sees what LongMem retrieves, where there is one row.
        """
        ids_BT = ids_BT.to(self.model.device)
        model, found = self.model, {}
        states = model.backbone(ids_BT)
        if {"backbone", "backbone_sliding"} & set(self.names):
            found["backbone"] = model.backbone.logits(states)
        if "empty_bank" in self.names:
            found["empty_bank"] = model.backbone.head(model.sidenet(states))
        if self.sidenet_only is not None:
            found["sidenet_only"] = model.backbone.head(self.sidenet_only.sidenet(states))
        if "longmem" in self.names:
            sources = Sources(model.config.retrieved_chunks, memories.longmem)
            found["longmem"] = model.backbone.head(model.sidenet(states, sources, recorder))
        if self.memtrm is not None:
            found["memtrm"] = self.memtrm(ids_BT, memory=memories.memtrm).logits_BTV
        return found

    @torch.no_grad()
    def prefix(
        self, token_ids: Sequence[int], memories: Memories, names: Collection[str] | None = None
    ) -> dict[str, Cache]:
        """Caches of every system, or of those named, after a common beginning, for `continued`; at least one token.

        Full attention takes part only where it is named: the beginning may be longer than a window.
        """
        ids_BT = torch.tensor([list(token_ids)], device=self.model.device)
        names = [name for name in self.names if (name != "full_attention" if names is None else name in names)]
        return {name: self._forward(name, ids_BT, None, memories)[1] for name in names}

    @torch.no_grad()
    def continued(
        self, caches: dict[str, Cache], ids_BT: Tensor, memories: Memories, recorder: TraceRecorder | None = None
    ) -> dict[str, Tensor]:
        """Logits_BTV of rows that go on from one prefix, which stays as it was; rows may be padded on the right.

        recorder: sees what LongMem retrieves, where there is one row.
        """
        ids_BT = ids_BT.to(self.model.device)
        return {
            name: self._forward(name, ids_BT, repeated(cache, len(ids_BT)), memories, recorder)[0]
            for name, cache in caches.items()
        }

    def _forward(
        self,
        name: str,
        ids_BT: Tensor,
        cache: Cache | None,
        memories: Memories,
        recorder: TraceRecorder | None = None,
    ) -> tuple[Tensor, Cache]:
        model = self.model
        if name in ("backbone", "backbone_sliding", "full_attention"):
            cache = DynamicCache() if cache is None else cache
            return model.backbone.causal_lm(ids_BT, cache=cache, use_cache=True).logits, cache
        if name == "memtrm":
            cache = DynamicCache() if cache is None else cache
            return self.memtrm(ids_BT, memory=memories.memtrm, cache=cache).logits_BTV, cache
        runner = self.sidenet_only if name == "sidenet_only" else model
        memory = memories.longmem if name == "longmem" else None
        recorder = recorder if name == "longmem" else None
        output = runner(ids_BT, cache=cache, use_cache=True, memory=memory, recorder=recorder)
        return output.logits, output.cache


class Reading:
    """One document on its way into the memories, as far as it has been read."""

    def __init__(self, systems: Systems, memories: Memories, token_ids: Tensor, name: str) -> None:
        self.token_ids = token_ids
        self._readers = []
        for model, bank in ((systems.model, memories.longmem), (systems.memtrm, memories.memtrm)):
            if model is not None and bank is not None:
                parts = segments(len(token_ids), model.config.window, model.config.read_overlap)
                self._readers.append((model, bank, bank.begin_document(name), parts))

    def read_to(self, token: int) -> None:
        """Read every segment that ends at or before this token."""
        for model, bank, document, parts in self._readers:
            while parts and parts[0].end <= token:
                model.read_segments(self.token_ids, [parts.pop(0)], memory=bank, document=document)


def _chosen(names: Collection[str] | None, allowed: Collection[str], here: Collection[str]) -> list[str]:
    """The systems that take part. Errors: LongMemError."""
    if names is None:
        return [name for name in SYSTEMS if name in allowed and name in here]
    for name in names:
        if name not in allowed:
            raise LongMemError(f"--systems names {name!r}; this evaluation compares {', '.join(allowed)}.")
        if name not in here:
            raise LongMemError(
                f"--systems names {name!r}, but its weights are not there: put them beside the model, in "
                f"{SIDENET_ONLY if name == 'sidenet_only' else MEMTRM}/."
            )
    return [name for name in SYSTEMS if name in names]
