"""The parts of the model at hand: what each is, its real size, what it holds now, and where to see it at work.

Pure: `ModelShape` and `MemoryNow` in, strings out. A card's buttons carry what the page shall do as `data-do`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from longmem.anatomy import ModelShape

MIB = 2**20
POSITIONS = {
    "rotary": "rotary, in some or all layers",
    "alibi": "ALiBi: a distance penalty inside attention",
    "learned": "learned, added to the embeddings",
}


@dataclass(frozen=True)
class MemoryNow:
    """What is in the visitor's memory just now, and the mean gate of every memory layer in their last run."""

    tokens: int
    chunks: int
    capacity: int
    n_bytes: int
    device: str
    gates: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """A part of the drawing: `size` is its real shape, `now` what it holds or did; `links` are (label, action)."""

    id: str
    name: str
    size: str
    now: str
    words: str
    links: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Second:
    """How the network that looks into memory is spoken of: a SideNet, or the backbone's last layers once more."""

    name: str
    layer: str
    share: str
    joined: str
    embeddings: str
    goes_on: str
    lessons: dict[str, tuple[tuple[str, str], ...]]


SIDENET = Second(
    name="SideNet",
    layer="SideNet layer",
    share="gate",
    joined="Each head joins what its window says and what memory says: (1 − gate) · A + gate · M. In this model a gate "
    "{kind}.",
    embeddings="; backbone and SideNet both begin with them",
    goes_on="what each of its layers adds goes on to the SideNet",
    lessons={"gate": (("Lesson 5: the gate", "lesson-5"),), "sidenet": (("Lesson 7: the SideNet", "lesson-7"),)},
)
SECOND_PASS = Second(
    name="second pass",
    layer="the second pass, layer",
    share="share",
    joined="Window and memory share one softmax: each head looks at both at once. The number is how much of its "
    "attention falls on memory; there is no gate.",
    embeddings="",
    goes_on="its last layers run a second time, with memory",
    lessons={"gate": (), "sidenet": ()},
)


def second(shape: ModelShape) -> Second:
    """The words for this model."""
    return SIDENET if shape.has_sidenet else SECOND_PASS


def parts_of(shape: ModelShape, now: MemoryNow | None) -> list[Part]:
    """All parts, in the order of the drawing."""
    network = _sidenet(shape) if shape.has_sidenet else [_second_pass(shape)]
    return [*_entrance(shape), *_middle(shape, now), *network, *_joined(shape, now), _exit(shape)]


def _entrance(shape: ModelShape) -> list[Part]:
    sizes = f"{shape.vocabulary:,} tokens × {shape.hidden_size:,} numbers"
    return [
        Part(
            "window",
            "Window",
            f"{shape.window:,} tokens",
            "",
            f"What local attention sees: the last {shape.window:,} tokens. When it is full, its oldest "
            f"{shape.window // 2:,} leave at once; their keys and values can still be retrieved.",
            (("Lesson 1: the window", "lesson-1"), ("Write something", "view-generate")),
        ),
        Part(
            "embeddings",
            "Embeddings, shared",
            sizes,
            "",
            f"Turns every token into {shape.hidden_size:,} numbers. They belong to the frozen backbone"
            f"{second(shape).embeddings}.",
            second(shape).lessons["sidenet"],
        ),
        Part(
            "backbone",
            "Backbone",
            f"{shape.layers} layers, {shape.query_heads} query heads and {shape.kv_heads} key-value heads of "
            f"{shape.head_dim} numbers; positions: {POSITIONS[shape.position]}",
            f"{count(shape.frozen_parameters)} parameters, frozen",
            f"A language model of the {shape.family} family that is never changed. It reads documents into memory, and "
            f"{second(shape).goes_on}.",
            (("Lesson 2: keys and values", "lesson-2"), ("Lesson 8: nothing grows old", "lesson-8")),
        ),
    ]


def _middle(shape: ModelShape, now: MemoryNow | None) -> list[Part]:
    layers = ", ".join(map(str, shape.memory_layers))
    score = "its best token" if shape.chunk_key == "max" else "the mean of its keys"
    return [
        Part(
            "bank",
            "Memory bank",
            f"keys and values of {layers_word(shape.memory_layers)} {layers}: "
            f"{shape.numbers_per_token:,} numbers a token",
            in_memory(now),
            f"Everything read before, in chunks of {shape.chunk_size} tokens that know their document and place. When "
            "it is full the oldest chunks leave.",
            (("What is in it", "view-memory"), ("Map of memory", "chart-layers"), ("Lesson 3: chunks", "lesson-3")),
        ),
        Part(
            "retrieval",
            "Retrieval",
            f"{shape.retrieved_chunks} chunks, {shape.retrieved_tokens} tokens, for every token and head",
            "",
            f"Every query head of a memory layer looks up the chunks whose score with its query is largest; a chunk "
            f"scores by {score}.",
            (("When it looked where", "chart-timeline"), ("Lesson 4: retrieval", "lesson-4")),
        ),
    ]


def _sidenet(shape: ModelShape) -> list[Part]:
    return [
        Part(
            "sidenet",
            "SideNet",
            f"{shape.side_layers} layers, begun as copies of backbone layers {', '.join(map(str, shape.sources))}",
            f"{count(shape.trained_parameters)} parameters, trained",
            "The only part that is trained: it learns to use what memory gives back.",
            (("Lesson 7: the SideNet", "lesson-7"), ("What it wrote", "view-generate")),
        ),
        Part(
            "residual",
            "Residual connections",
            f"one for each SideNet layer, {shape.hidden_size:,} numbers a token",
            "",
            f"After each SideNet layer, what the backbone changed over the same {over(shape)} is added. So the "
            "SideNet has to learn only the difference.",
            (("Lesson 7: the SideNet", "lesson-7"),),
        ),
    ]


def _second_pass(shape: ModelShape) -> Part:
    return Part(
        "sidenet",
        "Second pass",
        f"{shape.side_layers} layers, {layers_word(shape.sources)} {shape.first} to {shape.layers - 1} of the backbone "
        "once more",
        "the same weights, nothing trained",
        "The text goes through these layers again, and layers with memory look into it. There is no SideNet: this is "
        "not LongMem.",
        (("What it wrote", "view-generate"),),
    )


def _joined(shape: ModelShape, now: MemoryNow | None) -> list[Part]:
    """The layers of the second network that have memory, each with what it took from there."""
    kind = "depends on the token" if shape.gate == "query" else "is the same for all tokens"
    words = second(shape)
    return [
        Part(
            f"gate-{layer}",
            f"Memory attention of {words.layer} {second_layer(shape, side)}",
            f"{shape.query_heads} query heads, retrieving from memory layer {layer}",
            f"mean {words.share} of the last run: {gate_text(now, layer)}",
            words.joined.format(kind=kind),
            (("Taken from memory", "chart-gates"), ("Heads", "chart-heads"), *words.lessons["gate"]),
        )
        for side, layer in shape.memory_of.items()
    ]


def second_layer(shape: ModelShape, side: int) -> int:
    """The number by which a layer of the second network is known: a SideNet's own, or that of the backbone."""
    return side if shape.has_sidenet else shape.sources[side]


def _exit(shape: ModelShape) -> Part:
    tied = "the embeddings, used backwards" if shape.shares_embeddings else "the backbone's own"
    return Part(
        "head",
        "Head, shared",
        f"{shape.hidden_size:,} numbers → {shape.vocabulary:,} tokens",
        "",
        f"Turns the {second(shape).name}'s last state into a probability for every token of the vocabulary; it is "
        f"{tied}, frozen. What memory did to that probability is its effect.",
        (("What memory did to each token", "chart-effects"), ("Write something", "view-generate")),
    )


def in_words(parts: Sequence[Part]) -> str:
    """The drawing as a table: what stands in it, with sizes and what it holds now."""
    rows = "".join(
        f'<tr><th scope="row">{escape(part.name)}</th><td>{escape(part.size)}</td>'
        f"<td>{escape(part.now or '–')}</td></tr>"
        for part in parts
    )
    return (
        '<details class="lm-words"><summary>The drawing in words</summary><div class="lm-scroll"><table><thead><tr>'
        '<th scope="col">Part</th><th scope="col">Size</th><th scope="col">Now</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details>"
    )


def cards(parts: Sequence[Part]) -> str:
    """What a part is, and buttons that lead to where it can be seen; the page shows the chosen one."""
    cards = "".join(
        f'<section class="lm-part-card" id="lm-part-{part.id}"><h4>{escape(part.name)}</h4>'
        f'<p class="lm-quiet">{escape(" · ".join(filter(None, [part.size, part.now])))}</p><p>{escape(part.words)}</p>'
        f'<p class="lm-do">{"".join(button(label, action) for label, action in part.links)}</p></section>'
        for part in parts
    )
    hint = '<p class="lm-part-hint lm-quiet">Choose a part of the drawing: here you read what it is.</p>'
    return f'<div class="lm-part-cards" aria-live="polite">{hint}{cards}</div>'


def button(label: str, action: str, **data: int) -> str:
    """A button that makes the page do `action`; `data` become further data- attributes."""
    more = "".join(f' data-{name}="{value}"' for name, value in data.items())
    return f'<button type="button" data-do="{escape(action)}"{more}>{escape(label)}</button>'


def in_memory(now: MemoryNow | None) -> str:
    """How full memory is, in words."""
    if now is None:
        return "memory is being read or written with just now"
    size = f"{now.n_bytes / MIB:,.1f} MiB on {now.device}"
    return f"{now.tokens:,} of {now.capacity:,} tokens in {now.chunks:,} chunks, {size}"


def gate_text(now: MemoryNow | None, layer: int) -> str:
    """The mean gate of a memory layer, or a dash where nothing has been generated."""
    gate = now.gates.get(layer) if now else None
    return "–" if gate is None else f"{100 * gate:.0f} %"


def count(parameters: int) -> str:
    """A number of parameters for people: 8.43 M."""
    if parameters >= 1e9:
        return f"{parameters / 1e9:.2f} B"
    return f"{parameters / 1e6:.2f} M" if parameters >= 1e6 else f"{parameters:,}"


def layers_word(layers: Sequence[int]) -> str:
    return "layer" if len(layers) == 1 else "layers"


def over(shape: ModelShape) -> str:
    r = shape.layer_reduction_factor
    return "backbone layer" if r == 1 else f"{r} backbone layers"
