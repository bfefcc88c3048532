"""The drawing of the model at hand as SVG: backbone left, SideNet right, the memory bank between them.

Pure: `ModelShape` and `MemoryNow` in, strings out. The drawing is 360 units wide, so that its text keeps its size on a
phone; colours are the page's CSS variables. Every part is a link (`data-part`) to its card.
"""

from html import escape

from app.model_parts import (
    MemoryNow,
    Part,
    cards,
    count,
    gate_text,
    in_memory,
    in_words,
    layers_word,
    over,
    parts_of,
    second,
    second_layer,
)
from longmem.anatomy import ModelShape

WIDTH = 360
LEFT, MIDDLE, RIGHT = (4, 114), (136, 80), (232, 124)  # columns: backbone, memory bank, SideNet as (x, width)
BOX = 26  # height of the wide boxes above and below
LEAST_ROW, MOST_ROW = 17, 34  # height of a backbone layer
LEAST_GROUP = 38  # height of the backbone layers that share a SideNet layer


def figure(shape: ModelShape, now: MemoryNow | None) -> str:
    """The whole thing: drawing, a card for every part, and the drawing in words as a table.

    now: None where memory is in use by something else at the moment.
    """
    parts = parts_of(shape, now)
    return (
        f'<figure class="lm-drawing">{drawing(shape, now)}<figcaption class="lm-quiet">{_caption(shape)}</figcaption>'
        f"{cards(parts)}</figure>{in_words(parts)}"
    )


def _caption(shape: ModelShape) -> str:
    if not shape.has_sidenet:
        return (
            "From top to bottom. Dashed arrows: keys and values go into memory while a document is read. "
            f"Right, not LongMem's SideNet but the backbone's own layers from {shape.first} on, run a second time. "
            "Full arrows: what they retrieve for every token; a bar is memory's mean share in your last run."
        )
    return (
        "From top to bottom. Dashed arrows: keys and values go into memory while a document is read. "
        "Full arrows: what the SideNet retrieves for every token; the bar in its layer is the mean gate of your last "
        "run. "
        f"Plus signs: the residuals, what the backbone changed over {over(shape)}."
    )


def drawing(shape: ModelShape, now: MemoryNow | None) -> str:
    """The SVG, from the text above to the next token below; layers are counted from 0."""
    parts = {part.id: part for part in parts_of(shape, now)}
    row, top = row_height(shape), 2 * BOX + 74
    bottom = top + shape.layers * row
    height = bottom + 3 * BOX + 16
    body = [
        _link(parts["window"], _wide(2, f"the window: the last {shape.window:,} tokens")),
        _arrow(WIDTH / 2, 2 + BOX, WIDTH / 2, 12 + BOX),
        _link(
            parts["embeddings"], _wide(13 + BOX, f"embeddings, shared · {shape.vocabulary:,} × {shape.hidden_size:,}")
        ),
        _arrow(_centre(LEFT), 13 + 2 * BOX, _centre(LEFT), 21 + 2 * BOX),
        _second_begins(shape, parts, top, row),
        _link(parts["backbone"], _title(LEFT, top, "Backbone", f"frozen, {count(shape.frozen_parameters)}")),
        _link(parts["bank"], _bank(shape, now, top, row)),
        _link(parts["sidenet"], _title(RIGHT, top + shape.first * row, *_second_title(shape))),
        _link(parts["backbone"], _backbone_rows(shape, top, row), again=True),
        _link(parts["bank"], _writes(shape, top, row), again=True),
        _link(parts["retrieval"], _reads(shape, top, row)),
        *(_side_layer(shape, now, parts, side, top, row) for side in range(shape.side_layers)),
        _norm(bottom),
        _link(parts["head"], _wide(bottom + BOX + 13, f"head, shared · {shape.hidden_size:,} → {shape.vocabulary:,}")),
        _arrow(WIDTH / 2, bottom + 2 * BOX + 13, WIDTH / 2, bottom + 2 * BOX + 22),
        _text(WIDTH / 2, bottom + 2 * BOX + 34, "next token", "middle"),
    ]
    return (
        f'<svg class="lm-svg" viewBox="0 0 {WIDTH} {height}" role="group" aria-labelledby="lm-svg-title lm-svg-words" '
        f'xmlns="http://www.w3.org/2000/svg"><title id="lm-svg-title">The model at hand</title>'
        f'<desc id="lm-svg-words">{escape(_description(shape, now))}</desc>{"".join(body)}</svg>'
    )


def row_height(shape: ModelShape) -> int:
    """Height of a backbone layer: many layers are drawn lower, but a SideNet layer always has room for a line."""
    fitting = max(LEAST_ROW, min(MOST_ROW, 280 // shape.layers))
    return max(fitting, -(-LEAST_GROUP // shape.layer_reduction_factor))


def _description(shape: ModelShape, now: MemoryNow | None) -> str:
    layers = ", ".join(map(str, shape.memory_layers))
    right = "the trained SideNet" if shape.has_sidenet else "the second pass through its last layers"
    return (
        f"Left, the frozen backbone with {shape.layers} layers; right, {right} with {shape.side_layers}; "
        f"between them the memory bank with the keys and values of {layers_word(shape.memory_layers)} {layers}. "
        f"{in_memory(now)}. The table below says the same in words."
    )


def _link(part: Part, inner: str, *, again: bool = False) -> str:
    """A part as a link to its card. What is drawn of it in a second place is a link for the mouse alone."""
    label = escape(": ".join(filter(None, [part.name, part.now or part.size])))
    reach = 'tabindex="-1" aria-hidden="true"' if again else f'aria-label="{label}"'
    return f'<a class="lm-part-link" href="#lm-part-{part.id}" data-part="{part.id}" {reach}>{inner}</a>'


def _wide(y: float, words: str) -> str:
    x, width = LEFT[0], RIGHT[0] + RIGHT[1] - LEFT[0]
    return _box(x, y, width, BOX, "lm-shared") + _text(WIDTH / 2, y + 17, words, "middle")


def _title(column: tuple[int, int], top: int, name: str, below: str) -> str:
    """The name over a column, on a field that can be hit."""
    x, width = column
    field = _box(x, top - 44, width, 38, "lm-field")
    return field + _text(x + width / 2, top - 28, name, "middle", "lm-strong") + _text(x + width / 2, top - 13, below)


def _bank(shape: ModelShape, now: MemoryNow | None, top: int, row: int) -> str:
    """The bank as a column that holds a cell for each memory layer, and how full it is."""
    x, width = MIDDLE
    share = min(1.0, now.tokens / now.capacity) if now else 0.0
    used = f"{now.tokens:,} tokens" if now else "in use"
    gauge = _box(x, top - 9, width, 5, "lm-gauge-back") + _box(x, top - 9, round(width * share, 2), 5, "lm-gauge-used")
    cells = "".join(
        _box(x + 4, top + layer * row + 1, width - 8, row - 5, "lm-cell")
        + _text(x + width / 2, _baseline(top, layer, row) - 2, f"layer {layer}")
        for layer in shape.memory_layers
    )
    return (
        _text(x + width / 2, top - 28, "Memory bank", "middle", "lm-strong")
        + _text(x + width / 2, top - 14, used)
        + gauge
        + _box(x, top, width, shape.layers * row - 3, "lm-bank")
        + cells
    )


def _backbone_rows(shape: ModelShape, top: int, row: int) -> str:
    x, width = LEFT
    drawn = []
    for layer in range(shape.layers):
        kept = layer in shape.memory_layers
        y = top + layer * row
        drawn.append(_box(x, y, width, row - 3, "lm-layer lm-kept" if kept else "lm-layer"))
        drawn.append(_text(x + 8, _baseline(top, layer, row) - 2, f"layer {layer}", "start"))
        if kept:
            drawn.append(_text(x + width - 7, _baseline(top, layer, row) - 2, "K, V", "end", "lm-strong"))
    return "".join(drawn)


def _writes(shape: ModelShape, top: int, row: int) -> str:
    """What reading a document writes into the bank."""
    middles = (top + layer * row + (row - 3) / 2 for layer in shape.memory_layers)
    return "".join(_arrow(sum(LEFT), y, MIDDLE[0] + 2, y, "lm-writes") for y in middles)


def _reads(shape: ModelShape, top: int, row: int) -> str:
    """What the SideNet's memory layers get from the bank, on fields that can be hit."""
    drawn = []
    for layer in shape.memory_layers:
        y = top + layer * row
        drawn.append(_box(sum(MIDDLE), y, RIGHT[0] - sum(MIDDLE), row - 3, "lm-field"))
        drawn.append(_arrow(sum(MIDDLE) - 3, y + (row - 3) / 2, RIGHT[0] - 1, y + (row - 3) / 2, "lm-reads"))
    return "".join(drawn)


def _second_title(shape: ModelShape) -> tuple[str, str]:
    """The name of the right column, and what stands below it."""
    if shape.has_sidenet:
        return "SideNet", f"trained, {count(shape.trained_parameters)}"
    return "Second pass", "same weights"


def _second_begins(shape: ModelShape, parts: dict[str, Part], top: int, row: int) -> str:
    """What goes over from the left: embeddings and residuals, or the state before the first memory layer."""
    if shape.has_sidenet:
        arrow = _arrow(_centre(RIGHT), 13 + 2 * BOX, _centre(RIGHT), 21 + 2 * BOX)
        return arrow + _link(parts["residual"], _residuals(shape, top, row))
    y = top + shape.first * row - 1.5
    return _line(sum(LEFT), y, RIGHT[0] + 10, y, "lm-residual")


def _residuals(shape: ModelShape, top: int, row: int) -> str:
    """A line and a plus after every SideNet layer, drawn under the bank."""
    drawn, x = [], _centre(RIGHT)
    for side in range(shape.side_layers):
        y = top + (side + 1) * shape.layer_reduction_factor * row - 1.5
        drawn.append(_line(sum(LEFT), y, x - 6, y, "lm-residual"))
        drawn.append(f'<circle class="lm-plus" cx="{x:g}" cy="{y:g}" r="5.5"/>')
        drawn.append(_line(x - 3, y, x + 3, y, "lm-cross") + _line(x, y - 3, x, y + 3, "lm-cross"))
    return "".join(drawn)


def _side_layer(shape, now: MemoryNow | None, parts: dict[str, Part], side: int, top: int, row: int) -> str:
    """A layer of the second network, from one plus to the next; with memory it shows its gate, or memory's share."""
    x, width = RIGHT
    group = shape.layer_reduction_factor * row
    above, below = (6 if side else 0, 10) if shape.has_sidenet else (0, 3)
    begins = top + shape.first * row + side * group
    first, last = begins + above, begins + group - below
    number = second_layer(shape, side)
    layer = shape.memory_of.get(side)
    middle = (first + last) / 2 + 4
    if layer is None:
        box = _box(x, first, width, last - first, "lm-layer") + _text(x + width / 2, middle, f"layer {number}")
        return _link(parts["sidenet"], box, again=True)
    gate = now.gates.get(layer) if now else None
    filled = round(width * (gate or 0.0), 2)
    said = f"layer {number} · {second(shape).share} {gate_text(now, layer)}"
    inner = (
        _box(x, first, width, last - first, "lm-layer lm-gated")
        + _box(x, last - 5, filled, 5, "lm-gate-open")
        + _text(x + width / 2, middle - 2, said)
    )
    return _link(parts[f"gate-{layer}"], inner)


def _norm(bottom: int) -> str:
    """The second network's last norm, on the way to the head."""
    x = _centre(RIGHT)
    box = _box(x - 26, bottom + 11, 52, 18, "lm-layer") + _text(x, bottom + 24, "norm")
    return _arrow(x, bottom + 4, x, bottom + 11) + box + _arrow(x, bottom + 29, x, bottom + BOX + 12)


def _box(x: float, y: float, width: float, height: float, classes: str) -> str:
    return f'<rect class="{classes}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="4"/>'


def _text(x: float, y: float, words: str, anchor: str = "middle", classes: str = "") -> str:
    style = f' class="{classes}"' if classes else ""
    return f'<text{style} x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>'


def _line(x: float, y: float, to_x: float, to_y: float, classes: str) -> str:
    return f'<line class="{classes}" x1="{x:g}" y1="{y:g}" x2="{to_x:g}" y2="{to_y:g}"/>'


def _arrow(x: float, y: float, to_x: float, to_y: float, classes: str = "lm-flow") -> str:
    """A line with a small head, drawn as a path so that it needs no shared definition."""
    flat = y == to_y
    wings = f"M{to_x - 4:g} {to_y - 3:g}L{to_x:g} {to_y:g}L{to_x - 4:g} {to_y + 3:g}" if flat else (
        f"M{to_x - 3:g} {to_y - 4:g}L{to_x:g} {to_y:g}L{to_x + 3:g} {to_y - 4:g}"
    )  # fmt: skip
    return f'<path class="{classes}" d="M{x:g} {y:g}L{to_x:g} {to_y:g}{wings}"/>'


def _centre(column: tuple[int, int]) -> float:
    return column[0] + column[1] / 2


def _baseline(top: int, layer: int, row: int) -> float:
    return top + layer * row + row / 2 + 4
