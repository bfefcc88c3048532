"""What a visitor has switched off to see what would have happened without it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from longmem.errors import LongMemError
from longmem.memory_bank import MemoryBank

KINDS = ("chunks", "documents", "layers", "heads")


@dataclass(frozen=True)
class Switches:
    """What is off: chunks and documents by id, memory layers, and heads as (memory layer, query head)."""

    chunks: frozenset[int] = frozenset()
    documents: frozenset[int] = frozenset()
    layers: frozenset[int] = frozenset()
    heads: frozenset[tuple[int, int]] = frozenset()

    def __bool__(self) -> bool:
        return any(getattr(self, kind) for kind in KINDS)

    def toggled(self, kind: str, values: Iterable) -> "Switches":
        """The values of one kind on if all were off, else off. Errors: LongMemError for an unknown kind or value."""
        if kind not in KINDS:
            raise LongMemError(f"kind is {kind!r}; what can be switched off is {', '.join(KINDS)}.")
        if isinstance(values, str | dict) or not isinstance(values, Iterable):
            raise LongMemError(f"{kind} is {values!r}; it must be a list.")
        values = frozenset(_head(value) if kind == "heads" else _number(kind, value) for value in values)
        off = getattr(self, kind)
        return replace(self, **{kind: off - values if values <= off else off | values})

    def exclude(self, bank: MemoryBank) -> list[int]:
        """Chunks of the bank that may not be retrieved."""
        return sorted(self.chunks | {c.id for c in bank.chunks() if c.document in self.documents})

    @property
    def silence(self) -> list[tuple[int, int | None]]:
        """Layers and heads, as the model takes them."""
        return [*((layer, None) for layer in sorted(self.layers)), *sorted(self.heads)]

    def values(self) -> dict[str, list]:
        """What is off by kind, as JSON takes it."""
        return {kind: sorted(getattr(self, kind)) for kind in KINDS}

    def words(self) -> str:
        """What is off, in a few words."""
        counted = [
            ("chunk", "chunks", len(self.chunks)),
            ("document", "documents", len(self.documents)),
        ]
        parts = [f"{n} {one if n == 1 else many}" for one, many, n in counted if n]
        parts += [f"layer {layer}" for layer in sorted(self.layers)]
        parts += [f"head {layer}·{head}" for layer, head in sorted(self.heads)]
        return ", ".join(parts)


def _number(kind: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise LongMemError(f"{kind} holds {value!r}; it must hold whole numbers.")
    return value


def _head(value: object) -> tuple[int, int]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise LongMemError(f"heads holds {value!r}; a head is a pair of a memory layer and a head.")
    return _number("heads", value[0]), _number("heads", value[1])
