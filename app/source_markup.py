"""The source view as HTML. Every string from a document, a file name or the model is escaped here.

`data-source` on a control names what it asks for and `data-value` with what; `assets/source.js` sends it. `data-chunk`
and `data-goto` are the inspector's: they choose a chunk, or a token and layer.
"""

from html import escape

from app import inspection, theme
from app.source_choice import GROUPINGS, LAYER, RUN, TOKEN
from app.source_view import PAGE, ChunkPlace, DocumentLine, HitLine, Part, SourceView

NO_RUN = (
    "Generate or score a text first: then the passages that it looked up are shown here, in the documents themselves."
)
FINE_PRINT = (
    "Weight is the part of a head's output that comes from a passage, summed over what is grouped: where it looked. "
    "What memory changed is measured by effect."
)


def no_source() -> str:
    """Before the first run."""
    return f'<section class="lm-source-view lm-source-empty"><p>{NO_RUN}</p></section>'


def source_html(view: SourceView) -> str:
    """The whole view."""
    lines = {line.document: line for line in view.documents}
    line = lines.get(view.choice.document)
    parts = [_controls(view), f'<p class="lm-source-total">{_sentence(view)}</p>']
    if view.choice.grouping == "document":
        parts += [_strips(view)]
    elif line is not None:
        parts += [_documents(view), _map(view, line), _steps(view), _page(view)]
    parts += [_chunk(view.chunk) if view.chunk else "", _table(view)]
    if view.n_groups:
        full = (
            "" if view.choice.grouping == "document" else f"Full colour = {_percent(view.top)} of a head's attention. "
        )
        parts += [f'<p class="lm-quiet">{full}{FINE_PRINT}</p>']
    hue = theme.document_colour(view.choice.document) if view.choice.document is not None else "inherit"
    return f'<section class="lm-source-view" style="--hue:{hue}" aria-label="Source view">{"".join(parts)}</section>'


def _sentence(view: SourceView) -> str:
    """What is shown, in words; with nothing to show, what to do next."""
    if view.step is None and view.choice.scope != RUN:
        return "<b>No token is chosen.</b> Point at one in the text, or look at the whole run."
    layers = ", ".join(map(str, view.layers))
    who = f"layer {layers}" if len(view.layers) == 1 else f"layers {layers}"
    if view.choice.scope == RUN:
        what = f"All {view.n_steps} tokens: {who}"
    else:
        what = f"Token {view.step} «{escape(_visible(view.token))}»: {who}"
    if not view.n_groups:
        other = "Memory was empty or switched off: read a document and generate again."
        if view.choice.scope != RUN:
            other = "Choose another token or layer, or look at the whole run."
        return (
            f"<b>{what} retrieved nothing.</b> {other}" if view.layers else f"<b>No memory layer was asked.</b> {other}"
        )
    n_documents = sum(line.weight > 0 for line in view.documents)
    groups = _count(view.n_groups, view.choice.grouping)
    inside = f" in {_count(n_documents, 'document')}" if view.choice.grouping != "document" else ""
    mean = " on average" if view.choice.scope == RUN else ""
    return f"{what} gave {_percent(view.total)} of a head's attention{mean} to memory, on {groups}{inside}."


def _controls(view: SourceView) -> str:
    layer = f"layer {view.layers[0]}" if view.choice.scope == LAYER and len(view.layers) == 1 else "its layer"
    scopes = {LAYER: f"this token, {layer}", TOKEN: "this token, all layers", RUN: "whole run"}
    stay = " checked" if view.choice.stay else ""
    return (
        '<div class="lm-source-controls">'
        f"{_radios('grouping', 'Grouped by', GROUPINGS, view.choice.grouping)}"
        f"{_radios('scope', 'Weights of', scopes, view.choice.scope)}"
        f'<label class="lm-source-stay"><input type="checkbox" id="lm-source-stay" data-source="stay"{stay}> '
        "keep this page when another token is chosen</label></div>"
    )


def _radios(name: str, legend: str, options: dict[str, str], chosen: str) -> str:
    labels = "".join(
        f'<label><input type="radio" name="lm-source-{name}" id="lm-source-{name}-{value}" data-source="{name}" '
        f'value="{value}"{" checked" if value == chosen else ""}><span>{escape(label)}</span></label>'
        for value, label in options.items()
    )
    return f'<fieldset class="lm-source-radios"><legend>{legend}</legend>{labels}</fieldset>'


def _documents(view: SourceView) -> str:
    """A button for each document that was looked at."""
    items = "".join(
        f'<li><button type="button" id="lm-source-document-{line.document}" data-source="document" '
        f'data-value="{line.document}" aria-pressed="{str(line.document == view.choice.document).lower()}">'
        f"{_dot(line.document)}<b>{escape(line.name)}</b> <span>{_weight(line.weight)}</span></button></li>"
        for line in view.documents
    )
    return f'<ul class="lm-source-documents" aria-label="Documents that were looked at">{items}</ul>'


def _strips(view: SourceView) -> str:
    """One line for each document: its summed weight, and where in it that lies."""
    top = max((max(line.bins) for line in view.documents), default=0.0)
    items = "".join(
        f'<li><button type="button" id="lm-source-document-{line.document}" data-source="document" '
        f'data-value="{line.document}" style="--hue:{theme.document_colour(line.document)}">'
        f"<span>{_dot(line.document)}<b>{escape(line.name)}</b> <span>{_weight(line.weight)} · "
        f"{_count(line.n_chunks, 'chunk')}</span></span>{_svg(line, top)}</button></li>"
        for line in view.documents
    )
    return f'<ul class="lm-source-strips" aria-label="Documents that were looked at">{items}</ul>'


def _map(view: SourceView, line: DocumentLine) -> str:
    """The whole document as a strip; arrow keys, or a click, move the page."""
    start, end = (view.page.start, view.page.end) if view.page else (0, 0)
    said = f"characters {start:,} to {end:,} of {line.length:,}, {_share(start, line.length)} into the document"
    at, wide = 100 * start / max(1, line.length), 100 * (end - start) / max(1, line.length)
    low, high = (_share(edge, line.length) for edge in line.held)
    held = "" if line.held == (0, line.length) else f" Memory held what lies between {low} and {high}."
    return (
        f'<div class="lm-source-map" id="lm-source-map" role="slider" tabindex="0" aria-label="Page of '
        f'{escape(line.name)}" aria-valuemin="0" aria-valuemax="{line.length}" aria-valuenow="{start}" '
        f'aria-valuetext="{said}" '
        f'data-document="{line.document}" data-page="{max(1, end - start)}">{_svg(line, max(line.bins))}'
        f'<i class="lm-source-window" style="left:{at:.2f}%;width:{wide:.2f}%"></i></div>'
        f'<p class="lm-quiet">Where the weight lies in {escape(line.name)}, {line.length:,} characters.{held} '
        f"Tallest bar = {_percent(max(line.bins))}. Shown: {said}.</p>"
    )


def _svg(line: DocumentLine, top: float) -> str:
    """Weight by place: a bar for each bin that has some, and a line under what memory held."""
    bars = "".join(
        f'<rect x="{i}" width="1" y="{100 - 86 * height:.1f}" height="{86 * height:.1f}">'
        f"<title>{_share(i, len(line.bins))} into the document: {_percent(weight)}</title></rect>"
        for i, weight in enumerate(line.bins)
        if weight > 0
        for height in (0.15 + 0.85 * (weight / max(top, 1e-12)) ** 0.5,)
    )
    scale = len(line.bins) / max(1, line.length)
    low, high = (scale * edge for edge in line.held)
    return (
        f'<svg viewBox="0 0 {len(line.bins)} 104" preserveAspectRatio="none" aria-hidden="true">'
        f'{bars}<rect class="lm-source-held" x="{low:.2f}" width="{high - low:.2f}" y="101" height="3"/></svg>'
    )


def _steps(view: SourceView) -> str:
    """Buttons to the heavier and lighter place, and to the pages before and after."""
    page, hit = view.page, view.hit
    heavier = hit - 1 if hit else None
    lighter = 0 if hit is None else hit + 1
    onward = "next place ›" if hit is not None else "to the heaviest"
    said = f"{_count(view.n_groups, 'place')}; this page was turned to by hand"
    if hit is not None:
        said = f"place {hit + 1:,} of {view.n_groups:,}, heaviest first · {_percent(view.hit_weight)}"
    back = max(0, page.start - PAGE) if page and page.start else None
    on = page.end if page and page.end < page.length else None
    return (
        f'<div class="lm-source-steps">{_button("hit", "previous", "‹ heavier place", heavier)}'
        f"{_button('hit', 'next', onward, lighter if lighter < view.n_groups else None)}"
        f"{_button('page', 'back', '‹ page', back)}{_button('page', 'on', 'page ›', on)}<span>{said}</span></div>"
    )


def _button(action: str, name: str, label: str, value: int | None) -> str:
    state = f'data-value="{value}"' if value is not None else "disabled"
    return f'<button type="button" id="lm-source-{name}" data-source="{action}" {state}>{label}</button>'


def _page(view: SourceView) -> str:
    page = view.page
    if page is None:
        return (
            '<div class="lm-source-page lm-source-gone"><p>The text of this document is no longer in memory, only its '
            "weights are. Read the document again to see its passages.</p></div>"
        )
    text = "".join(escape(part.text) if part.weight is None else _mark(part, view.top) for part in page.parts)
    before, after = "…" if page.start else "", "…" if page.end < page.length else ""
    return (
        f'<div class="lm-source-page" id="lm-source-page" tabindex="0" role="group" dir="auto" '
        f'data-at="{view.choice.document}:{page.start}" aria-label="Page of the document. Tab reaches its tinted '
        f'places, arrow keys move between them."><span aria-hidden="true">{before}</span>{text}'
        f'<span aria-hidden="true">{after}</span></div>'
        '<p class="lm-source-said" id="lm-source-said" role="status">Point at a tinted place, or move to it with the '
        "keyboard: its weight is said here.</p>"
    )


def _mark(part: Part, top: float) -> str:
    strength = round(18 + 57 * min(1.0, part.weight / top) ** 0.5) if part.weight > 0 else 0
    here = ' class="lm-here"' if part.here else ""
    return (
        f'<mark{here} data-chunk="{part.chunk}" data-weight="{_weight(part.weight)}" style="--strength:{strength}%" '
        f'tabindex="-1" role="button">{escape(part.text)}</mark>'
    )


def _chunk(place: ChunkPlace) -> str:
    """The chunk that was gone to, and the tokens that looked at it."""
    uses = "".join(
        f'<li><button type="button" data-goto="{use.step}" data-layer="{use.layer}">«{escape(_visible(use.token))}»'
        f"</button> token {use.step}, layer {use.layer} · {_percent(use.weight)}</li>"
        for use in place.uses
    )
    more = f" The {len(place.uses)} heaviest of {place.n_uses:,}." if place.n_uses > len(place.uses) else ""
    who = f"Looked at by these tokens (weight averaged over the layer's heads).{more}"
    if not place.uses:
        who = "No token of this run looked at it."
    return (
        f'<article class="lm-source-chunk" style="--hue:{theme.document_colour(place.document)}"><header>'
        f"{_dot(place.document)}<b>chunk #{place.chunk}</b> <q>{escape(_visible(place.text))}</q> "
        f'<span class="lm-quiet">{escape(place.name)} · token {place.position:,} of memory</span>'
        '<button type="button" id="lm-source-leave" data-source="leave" data-value="0" aria-label="Leave this chunk">×'
        f'</button></header><p class="lm-quiet">{who}</p><ul>{uses}</ul></article>'
    )


def _table(view: SourceView) -> str:
    """The heaviest groups as a table; each leads to its place."""
    if not view.rows:
        return ""
    rows = "".join(_row(view, row) for row in view.rows)
    shown = f"the {len(view.rows)} heaviest of {view.n_groups:,}" if view.n_groups > len(view.rows) else "all"
    kind = GROUPINGS[view.choice.grouping]
    return (
        f'<details class="lm-source-table" id="lm-source-table"><summary>Table of {kind}: {shown}</summary>'
        '<div><table><thead><tr><th scope="col">#</th><th scope="col">weight</th><th scope="col">text</th>'
        f'<th scope="col">where</th></tr></thead><tbody>{rows}</tbody></table></div></details>'
    )


def _row(view: SourceView, row: HitLine) -> str:
    where = f"{escape(row.name)}, {_share(row.share, 1)}"
    words = f"«{escape(_visible(row.text))}»"
    action, value = "hit", row.rank
    if view.choice.grouping == "document":
        where, words, action, value = "whole document", escape(row.name), "document", row.document
    return (
        f'<tr><td>{row.rank + 1}</td><td>{_percent(row.weight)}</td><td><button type="button" '
        f'id="lm-source-row-{row.rank}" data-source="{action}" data-value="{value}">{words}</button></td>'
        f"<td>{_dot(row.document)}{where}</td></tr>"
    )


def _dot(document: int) -> str:
    return f'<span class="lm-dot" style="background:{theme.document_colour(document)}"></span>'


def _percent(share: float) -> str:
    """A share as the inspector says it, never broken before its sign."""
    return inspection.percent(share).replace(" %", "\u00a0%")


def _weight(weight: float) -> str:
    return _percent(weight) if weight > 0 else "no weight"


def _share(at: float, length: int) -> str:
    return f"{100 * at / max(1, length):.0f}\u00a0%"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _visible(text: str) -> str:
    """Text on one line, with line breaks that can be seen."""
    return text.replace("\n", "↵") or "∅"
