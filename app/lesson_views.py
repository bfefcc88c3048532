"""What the steps of the lesson show, as HTML: plain numbers in, strings out; every string of the model is escaped.

A drawing here is always beside the numbers that it draws. Buttons carry `data-pick` (a token of the sentence, or
"again") and `data-do` (what the page shall do).
"""

from collections.abc import Sequence
from html import escape

from app.inspection import percent
from app.lesson_marks import clip, histogram, length, meter, plain, shown, strip, table, visible
from app.lesson_numbers import Removal, Reread, Scored, Story
from app.recorded import Aged, Recorded
from longmem.anatomy import Anatomy, MemoryLayerPass, ModelShape

SHOWN_HEADS = 12


def picker(tokens: Sequence[str], chosen: int, said: str) -> str:
    """The sentence as buttons, one for each token; `said` tells what the choice is for."""
    buttons = "".join(
        f'<button type="button" data-pick="{i}" aria-pressed="{str(i == chosen).lower()}">{visible(token)}</button>'
        for i, token in enumerate(tokens)
    )
    said = escape(said)
    return f'<div class="lm-pick" role="group" aria-label="{said}"><p class="lm-quiet">{said}</p>{buttons}</div>'


def window_view(shape: ModelShape, story: Story) -> str:
    """How much of the story one window holds, and where the sentence stands."""
    total, window = len(story.token_ids), min(shape.window, len(story.token_ids))
    marks = "".join(f'<i class="lm-mark" style="left:{100 * place / total:.2f}%"></i>' for place in story.places)
    sight = f'<i class="lm-in-sight" style="width:{100 * window / total:.2f}%"></i>'
    bar = f'<div class="lm-story" aria-hidden="true">{sight}{marks}</div>'
    places = " and ".join(f"{place:,}" for place in story.places)
    stands = f"«{escape(story.prompt)}» stands at token {places} (the lines). " if places else ""
    return (
        f'{bar}<p class="lm-quiet">{escape(story.name)} has <b>{total:,}</b> tokens: <b>{total / shape.window:.1f}</b> '
        f"windows of {shape.window:,}. The bar is the story, its end is what one window holds: "
        f"{100 * window / total:.1f} %. {stands}In memory are all of them.</p>"
    )


def keys_view(
    shape: ModelShape, tokens: Sequence[str], layers: dict[int, MemoryLayerPass], token: int, bytes_of_a_number: int
) -> str:
    """The key and value of one token in every memory layer, head 0, and what they cost."""
    parts = [picker(tokens, token, "Choose a token: this is what memory would keep of it.")]
    for layer, seen in layers.items():
        for kind, states_GTD in (("key", seen.keys_GTD), ("value", seen.values_GTD)):
            parts.append(strip(states_GTD[0, token], f"{kind} of {shown(tokens[token])}, layer {layer}, head 0"))
    each = bytes_of_a_number * shape.numbers_per_token
    layers_of = f"{len(layers)} layer{'s' if len(layers) > 1 else ''}"
    parts.append(
        f'<p class="lm-quiet">{layers_of} × {shape.kv_heads} heads × {shape.head_dim} numbers × 2 (key and value) = '
        f"<b>{shape.numbers_per_token:,} numbers</b>, of {bytes_of_a_number} bytes each: {each:,} bytes a token, "
        f"{each * shape.memory_size / 2**20:,.0f} MiB for a full memory.</p>"
    )
    return "".join(parts)


def chunks_view(shape: ModelShape, story: Story, passages: Sequence[Sequence[tuple[int, int, list[str]]]]) -> str:
    """Passages of the story with the borders of their chunks: (chunk id, first token, its tokens)."""
    drawn = "".join(f'<p class="lm-chunked">{"".join(map(_chunk, passage))}</p>' for passage in passages)
    chunks = -(-len(story.token_ids) // shape.chunk_size)
    return (
        f'{drawn}<p class="lm-quiet">A box is a chunk with its number, a thin line parts tokens. '
        f"{escape(story.name)} has <b>{chunks:,}</b> chunks of {shape.chunk_size} tokens; memory has room for "
        f"{shape.memory_size // shape.chunk_size:,}.</p>"
    )


def _chunk(chunk: tuple[int, int, list[str]]) -> str:
    number, first, tokens = chunk
    words = "".join(f"<i>{visible(token)}</i>" for token in tokens)
    where = f"tokens {first:,} to {first + len(tokens) - 1:,}"
    return f'<span class="lm-box" title="{where}"><small>#{number}</small>{words}</span>'


def scores_view(tokens: Sequence[str], token: int, scored: Sequence[Scored], chosen: tuple[int, int], n: int) -> str:
    """For the query of one token: all scores of the head that trusted one chunk most, and the best of every head."""
    one = next(row for row in scored if (row.layer, row.head) == chosen)
    fetched = min(n, len(one.scores_C))
    rows = [
        [
            f"{row.layer}·{row.head}",
            f"#{row.best[0][0]} «{clip(row.best[0][2])}»",
            f"{row.best[0][1]:.1f}",
            f"«{clip(row.worst[2])}»",
            f"{row.worst[1]:.1f}",
        ]
        for row in sorted(scored, key=lambda row: (row.layer, row.head) != chosen)[:SHOWN_HEADS]
    ]
    best = " · ".join(f"«{clip(text)}» {score:.1f}" for _, score, text in one.best)
    return (
        picker(tokens, token, "Choose a token: its query asks for what may come after it.")
        + f'<p class="lm-said">Layer {chosen[0]}, head {chosen[1]}: all {len(one.scores_C):,} chunks by their score. '
        f"The best {fetched} (filled) are fetched.</p>"
        + histogram(one.scores_C, fetched)
        + f'<p class="lm-quiet">Best: {escape(best)}. Worst: «{escape(clip(one.worst[2]))}» {one.worst[1]:.1f}.</p>'
        + table(
            f"Best and worst chunk by head, for {shown(tokens[token])}",
            ["layer·head", "best chunk", "score", "worst", "score"],
            rows,
        )
    )


def gates_view(tokens: Sequence[str], layers: dict[int, MemoryLayerPass], token: int) -> str:
    """The gate of every head for one token, and the mean gate along the sentence."""
    rows = [
        [f"{layer}·{head}", meter(seen.gate_HT[head, token])]
        for layer, seen in layers.items()
        for head in range(len(seen.gate_HT))
    ]
    along = [[visible(t), *(meter(s.gate_HT[:, i].mean()) for s in layers.values())] for i, t in enumerate(tokens)]
    return (
        picker(tokens, token, "Choose a token: the gates are those with which the next one is chosen.")
        + table(
            f"Gates at {shown(tokens[token])}", ["layer·head", "share from memory"], rows, escaped=True, is_open=True
        )
        + table("Mean gate along the sentence", ["token", *(f"layer {b}" for b in layers)], along, escaped=True)
    )


def fusion_view(
    tokens: Sequence[str], layers: dict[int, MemoryLayerPass], token: int, chosen: tuple[int, int], chunk: str
) -> str:
    """A, M and what is made of them, for one token and one head; `chunk` is the text that it looked at most."""
    layer, head = chosen
    seen, gate = layers[layer], float(layers[layer].gate_HT[head, token])
    local, memory, fused = (x[head, token] for x in (seen.local_HTD, seen.memory_HTD, seen.fused_HTD))
    most = float(seen.weights_HTC[head, token].max())
    return (
        picker(tokens, token, "Choose a token: this is what happens where the next one is chosen.")
        + f'<p class="lm-said">Layer {layer}, head {head}: of all gates the nearest to one half, {100 * gate:.1f} %</p>'
        + strip(local, "A, from the window")
        + strip(memory, "M, from memory")
        + strip(fused, "(1 − gate) · A + gate · M")
        + f'<p class="lm-quiet">The first number: {1 - gate:.3f} · {_signed(local[0])} + {gate:.3f} · '
        f"{_signed(memory[0])} = <b>{fused[0]:.2f}</b>. Inside memory this head gave {100 * most:.1f} % of its "
        f"attention to «{escape(clip(chunk))}»: the weight of this chunk is {100 * most:.1f} % · {gate:.3f} = "
        f"<b>{100 * most * gate:.1f} %</b>.</p>"
        + table("All heads", ["layer·head", "gate", "most attention", "weight"], _heads(layers, token))
    )


def _heads(layers: dict[int, MemoryLayerPass], token: int) -> list[list[str]]:
    """Gate, most attention on one chunk, and their product, for every head."""
    rows = []
    for layer, seen in layers.items():
        for head, gate in enumerate(seen.gate_HT[:, token]):
            most = seen.weights_HTC[head, token].max()
            rows.append([f"{layer}·{head}", *(f"{100 * share:.1f} %" for share in (gate, most, gate * most))])
    return rows


def sidenet_view(shape: ModelShape, tokens: Sequence[str], anatomy: Anatomy, token: int, words: dict[str, list]) -> str:
    """How much every SideNet layer adds of its own against the residual, and what comes next with and without."""
    longest = max(float(max(s.change_T[token], s.residual_T[token])) for s in anatomy.side)
    rows = [
        [
            f"{i}" + (f", memory {shape.memory_of[i]}" if i in shape.memory_of else ""),
            length(float(side.change_T[token]), longest, "lm-own"),
            length(float(side.residual_T[token]), longest, "lm-rest"),
        ]
        for i, side in enumerate(anatomy.side)
    ]
    names = {"backbone": "backbone alone", "empty_bank": "SideNet, empty memory", "longmem": "SideNet with memory"}
    likely = [
        [names[name], " · ".join(f"«{plain(text)}» {percent(p)}" for text, p in words[name])]
        for name in names
        if name in words
    ]
    return (
        picker(tokens, token, "Choose a token: this is how the next one is found.")
        + table(
            f"What each SideNet layer adds at {shown(tokens[token])} (length of the vector)",
            ["layer", "its own change", "residual"],
            rows,
            escaped=True,
            is_open=True,
        )
        + table(f"What may come after {shown(tokens[token])}", ["by", "most probable"], likely, is_open=True)
    )


def staleness_view(rows: Sequence[Aged], again: Reread | None, ours: bool) -> str:
    """The beginning of the story read again, and the recorded curve of keys that grow old."""
    live = ""
    if again is not None:
        live = (
            f'<p class="lm-said" role="status">Read again just now: {again.tokens:,} tokens. '
            f"<b>{again.same:,} of {again.numbers:,}</b> numbers are the same as in memory, bit for bit; "
            f"the largest difference is {again.largest_difference:g}.</p>"
        )
    if not rows:
        return live + '<p class="lm-quiet">No training with a memory that ages has been recorded here.</p>'
    recorded = table(
        "Recorded: a memory written at step 0, while the model is trained" + _of_the_box(ours),
        ["step", "LongMem: same chunks", "MemTRM: same chunks", "cosine of its keys"],
        [
            [f"{r.step}", meter(r.longmem_chunks), meter(r.memtrm_chunks, "lm-rest"), f"{r.memtrm_cosine:.3f}"]
            for r in rows
        ],
        escaped=True,
        is_open=True,
    )
    return live + recorded


def limits_view(rows: Sequence[Recorded], removals: Sequence[Removal], answer: str, ours: bool) -> str:
    """What taking something out of memory does to the answer, and what was recorded of the model in the box."""
    taken = [[r.what, "–" if r.weight is None else f"{100 * r.weight:.0f} %", percent(r.probability)] for r in removals]
    recorded = [
        [
            r.asked,
            f"{100 * r.reached:.1f} % ({100 * r.interval[0]:.1f} to {100 * r.interval[1]:.1f})",
            f"{100 * r.control:.1f} %",
            r.items,
        ]
        for r in rows
    ]
    parts = [
        table(
            f"Measured now: the probability of {shown(answer)} when this is taken out of memory",
            ["taken out", "share of all weight", "probability"],
            taken,
            is_open=True,
        )
    ]
    if recorded:
        parts.append(
            table(
                "Recorded: can it?" + _of_the_box(ours),
                ["task", "with memory (95 %)", "without", "of"],
                recorded,
                is_open=True,
            )
        )
    return "".join(parts)


def _signed(value: float) -> str:
    return f"({value:.2f})" if value < 0 else f"{value:.2f}"


def _of_the_box(ours: bool) -> str:
    return "" if ours else " (of the model in the box; another one is loaded)"
