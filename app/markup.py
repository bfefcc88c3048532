"""Pieces of HTML for the page. Every string from a document, a prompt, a file name or the model is escaped here."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from app import theme
from app.inspection import percent
from longmem.retrieval import Chunk

SHOWN_PROMPT = 240  # characters: what was written is what the panel is for
MIB = 2**20


@dataclass(frozen=True)
class TokenMark:
    """One token of an output panel: probabilities in 0..1, `effect` in nats.

    `parts` marks the first token that is another than the other text's.
    """

    step: int
    text: str
    p: float
    p_empty: float
    effect: float
    parts: bool = False


@dataclass(frozen=True)
class MemoryLine:
    """One document in the sidebar; `n_tokens` and `n_chunks` are what is still in memory of it."""

    document: int
    name: str
    n_tokens: int
    n_chunks: int


def token_panel(prompt: str, tokens: Iterable[TokenMark], *, panel: str, run: int, running: bool = False) -> str:
    """The prompt and the tokens of one run; `panel` is `with` (tinted by effect), `plain` or `found` (no tint)."""
    marks = "".join(_token(token, panel) for token in tokens)
    caret = '<span class="lm-caret" aria-hidden="true"></span>' if running else ""
    tail = prompt if len(prompt) <= SHOWN_PROMPT else "…" + prompt[-SHOWN_PROMPT:]
    label = {
        "with": "Text with memory. Arrow keys move between tokens.",
        "plain": "Text without memory.",
        "found": "Text that was looked up, not predicted. Arrow keys move between tokens.",
    }[panel]
    return (
        f'<div class="lm-panel" data-panel="{panel}" data-run="{run}" tabindex="0" role="group" aria-label="{label}">'
        f'<span class="lm-prompt">{escape(tail)}</span>{marks}{caret}</div>'
    )


def _token(token: TokenMark, panel: str) -> str:
    title = f"{percent(token.p)} with an empty memory" if panel == "plain" else "what the query at this token finds"
    style = ""
    if panel == "with":
        title = f"{percent(token.p)} with memory · {percent(token.p_empty)} without · {token.effect:+.2f} nats"
        style = f' style="background:{theme.effect_tint(token.effect)}"'
    parting = " lm-parting" if token.parts else ""
    return (
        f'<span class="lm-token{parting}" data-step="{token.step}" title="{title}"{style}>{visible(token.text)}</span>'
    )


def empty_panel(message: str, *, panel: str) -> str:
    """An output panel before the first run: what will stand here and what to do."""
    return f'<div class="lm-panel lm-empty" data-panel="{panel}"><p>{escape(message)}</p></div>'


def effect_legend(parting: bool = True) -> str:
    """What the tint of a token means, with numbers and in words."""
    steps = (-3, -1.5, -0.5, 0, 0.5, 1.5, 3)
    swatches = "".join(f'<i style="background:{theme.effect_tint(nats)}">{nats:+g}</i>' for nats in steps)
    return (
        '<div class="lm-legend"><span>memory lowered</span>'
        f'<span class="lm-swatches" aria-hidden="true">{swatches}</span><span>raised</span>'
        "<span>the token (nats: +0.7 doubles its probability, −0.7 halves it)</span>"
        + ('<span><b class="lm-parting">|</b> where the two texts part</span>' if parting else "")
        + "</div>"
    )


def switch_bar(off: str, step: int | None, values: dict[str, list] | None = None) -> str:
    """What is switched off, or how to switch something off; `values` by kind mark the buttons of the page."""
    if not off:
        return (
            '<p class="lm-quiet">What if? Press “off” beside a passage, a layer or a document, then run again: '
            "you see what it was really worth.</p>"
        )
    place = "" if step is None else f" · runs again from token {step}"
    marked = escape(json.dumps(values or {}), quote=True)
    return f'<p class="lm-switches" data-off="{marked}"><b>Off: {escape(off)}</b>{place}</p>'


def visible(text: str) -> str:
    """A token's text, with line breaks that can be seen."""
    return escape(text).replace("\n", "↵<br>") or "∅"


def documents_list(lines: list[MemoryLine]) -> str:
    """The sidebar's documents with their colours; each has a button to remove it (`data-remove`)."""
    if not lines:
        return (
            '<div class="lm-empty-memory"><b>Memory is empty.</b><p>Drop a file, paste a text or choose a sample: '
            "the model can then look things up in it while it writes.</p></div>"
        )
    rows = "".join(
        f'<li><span class="lm-dot" style="background:{theme.document_colour(line.document)}"></span>'
        f'<span class="lm-name" title="{escape(line.name)}">{escape(line.name)}</span>'
        f'<span class="lm-count">{line.n_tokens:,} tokens<br>{line.n_chunks:,} chunks</span>'
        f'<button type="button" class="lm-remove" data-remove="{line.document}" '
        f'aria-label="Remove {escape(line.name)} from memory" title="Remove from memory">×</button></li>'
        for line in lines
    )
    return f'<ul class="lm-documents" aria-label="Documents in memory">{rows}</ul>'


def memory_gauge(
    lines: list[MemoryLine], capacity: int, n_bytes: int, device: str, first: Chunk | None = None, search: str = ""
) -> str:
    """How full memory is, a stretch per document in the order of age, with tokens, bytes and device in words.

    first: the chunk that leaves next; search: how memory is searched, where that is to be said.
    """
    used = sum(line.n_tokens for line in lines)
    parts = "".join(
        f'<i style="width:{100 * line.n_tokens / capacity:.3f}%;background:{theme.document_colour(line.document)}"></i>'
        for line in lines
    )
    full = " · full" if used >= capacity else ""
    names = {line.document: line.name for line in lines}
    out = ""
    if first is not None:
        when = "Leaves next" if full else "Leaves first, once memory is full"
        out = f"<br>{when}: {escape(names[first.document])}, from its token {first.token_start:,}"
    if search:
        out += f"<br>{escape(search)}"
    return (
        f'<div class="lm-gauge" role="meter" aria-valuemin="0" aria-valuemax="{capacity}" aria-valuenow="{used}" '
        f'aria-label="Memory used">{parts}</div><p class="lm-quiet">{used:,} of {capacity:,} tokens{full}<br>'
        f"{n_bytes / MIB:,.1f} MiB on {escape(device)}{out}</p>"
    )


def model_line(n_parameters: int, memory_layers: Iterable[int], device: str, reason: str, label: str = "") -> str:
    """Which model runs, which of its layers retrieve, on what device and why; label: what it is, if not LongMem."""
    named = f'<b class="lm-method-badge">{escape(label)}</b><br>' if label else ""
    layers = ", ".join(str(layer) for layer in memory_layers)
    return (
        f'<div class="lm-model">{named}<b>{n_parameters / 1e6:.0f}M parameters</b> · memory in layers {layers}'
        f'<br><span class="lm-quiet">{escape(device)}: {escape(reason)}</span></div>'
    )


def method_banner(label: str) -> str:
    """What the model is instead of LongMem, and what that means; it stays in sight."""
    return (
        f'<p class="lm-method" role="note"><b>{escape(label)}</b> <span>A language model as it is, with its own '
        "queries and keys: nothing was trained, there is no SideNet and no gate.</span></p>"
    )


def progress(title: str, done: int, total: int, seconds: float) -> str:
    """How far reading is, how fast it goes and how long it still takes."""
    rate = done / seconds if seconds > 0 else 0.0
    left = f"{duration((total - done) / rate)} left" if rate else "starting"
    share = 100 * done / total if total else 0
    return (
        f'<div class="lm-progress" role="progressbar" aria-valuemin="0" aria-valuemax="{total}" aria-valuenow="{done}">'
        f'<b>{escape(title)}</b><span class="lm-bar"><i style="width:{share:.1f}%"></i></span>'
        f'<span class="lm-quiet">{done:,} of {total:,} tokens · {rate:,.0f} tokens/s · {left}</span></div>'
    )


def duration(seconds: float) -> str:
    """Seconds for people: `8 s`, `2 min 5 s`."""
    whole = max(0, round(seconds))
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"


def note(text: str, kind: str = "info") -> str:
    """One line that stays: `info`, `done`, `stopped`, `failed` or `error`; empty text gives nothing."""
    if not text:
        return ""
    role = "alert" if kind == "error" else "status"
    dismiss = '<button type="button" data-dismiss aria-label="Dismiss">×</button>' if kind == "error" else ""
    return f'<div class="lm-note lm-{kind}" role="{role}"><span>{escape(text)}</span>{dismiss}</div>'


def place_preview(name: str, before: str, after: str, colour: str, begins: float | None = None) -> str:
    """Where a loaded document will be continued: the text before the place, and, faded, what really follows.

    begins: the share of the document at which memory begins, where nothing before the place is in memory.
    """
    searched = "Memory is searched only before this place: nothing reads its own answer."
    if begins is not None:
        searched = (
            f"Nothing that stands before this place is in memory any more: of this document it holds what comes after "
            f"{100 * begins:.0f} %. Choose a later place to see something retrieved."
        )
    return (
        f'<div class="lm-place"><span class="lm-dot" style="background:{colour}"></span><b>{escape(name)}</b>'
        f'<p>…{escape(before)}<span class="lm-cut" role="separator" aria-label="the model goes on here"></span>'
        f'<span class="lm-after">{escape(after)}…</span></p>'
        f'<p class="lm-quiet">{searched}</p></div>'
    )
