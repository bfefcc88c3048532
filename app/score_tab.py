"""The Score tab: what memory does to every token of a given text, or what a phrase looks up."""

from dataclasses import dataclass

import gradio as gr

from app import markup
from app.handlers import Studio
from app.memory_panel import MemoryWiring, sent_only_as
from app.scored import LOOKED_UP, NEXT_PAGE, SCORED, ScoreView
from app.settings import Place

BUTTONS = {SCORED: "Score", NEXT_PAGE: "Score the next page", LOOKED_UP: "Look up"}
EMPTY = "Paste a text, or take the next page of a document: every token is tinted by what memory did to it."


@dataclass(frozen=True)
class ScoreTab:
    """Components of the tab."""

    what: gr.Radio
    text: gr.Textbox
    text_part: gr.Column
    place_part: gr.Column
    document: gr.Dropdown
    share: gr.Slider
    length: gr.Number
    preview: gr.HTML
    go: gr.Button
    status: gr.HTML
    panel: gr.HTML


def build_score_tab() -> ScoreTab:
    """Lay out the tab; must run inside its `gr.Tab`."""
    what = gr.Radio(list(BUTTONS), value=SCORED, label="Take", elem_id="lm-score-what", elem_classes="lm-choice")
    with gr.Column(elem_classes="lm-part") as text_part:
        text = gr.Textbox(
            label="Text",
            lines=5,
            max_lines=14,
            elem_id="lm-score-text",
            placeholder="Paste or write a text, or a phrase.",
        )
    with gr.Column(visible=False, elem_classes="lm-part") as place_part:
        with gr.Row():
            document = gr.Dropdown([], label="Document", elem_id="lm-score-document", min_width=180)
            share = gr.Slider(
                1, 99, value=60, step=0.5, label="Place (% of its text)", min_width=180, elem_id="lm-score-share"
            )
            length = gr.Number(256, label="Page (tokens)", precision=0, elem_id="lm-score-length")
        preview = gr.HTML(elem_id="lm-score-preview")
    with gr.Row(elem_classes="lm-actions"):
        go = gr.Button(BUTTONS[SCORED], variant="primary", elem_id="lm-score", min_width=140)
        status = gr.HTML(elem_id="lm-score-status", elem_classes="lm-status", min_height=34)
    panel = gr.HTML(markup.empty_panel(EMPTY, panel="with"), elem_id="lm-scored")
    gr.HTML(markup.effect_legend(parting=False))
    return ScoreTab(what, text, text_part, place_part, document, share, length, preview, go, status, panel)


def wire_score_tab(
    studio: Studio, page: gr.Tab, tab: ScoreTab, notice: gr.HTML, inspector: gr.HTML, memory: MemoryWiring
) -> gr.events.Dependency:
    """Connect the tab; returns the end of a run, after which the charts are to be drawn."""
    private = {"api_visibility": "private", "show_progress": "hidden"}

    def shown(view: ScoreView) -> tuple:
        kept = [gr.skip() if part is None else part for part in (view.panel, view.payload)]
        share = gr.skip() if view.next_share is None else min(99.0, 100 * view.next_share)
        return *kept, view.words, view.notice, share

    def choose(what: str) -> tuple:
        return (
            gr.update(visible=what != NEXT_PAGE),
            gr.update(visible=what == NEXT_PAGE),
            gr.update(value=BUTTONS[what]),
        )

    def place_of(what: str, document: int | None, share: float) -> Place | None:
        return Place(document, share / 100) if what == NEXT_PAGE and document is not None else None

    def preview(what: str, document: int | None, share: float, request: gr.Request) -> str:
        return studio.place_preview(request.session_hash, place_of(what, document, share))

    def run(what, text, document, share, length, request: gr.Request) -> tuple:
        place = place_of(what, document, share)
        return shown(studio.score(request.session_hash, what, text, place, length))

    chosen = tab.what.change(choose, tab.what, [tab.text_part, tab.place_part, tab.go], queue=False, **private)
    offered = chosen.then(memory.offer, tab.document, tab.document, queue=False, **private)
    page.select(memory.offer, tab.document, tab.document, queue=False, **private)
    place = [tab.what, tab.document, tab.share]
    previewed = {"fn": preview, "inputs": place, "outputs": tab.preview, "js": sent_only_as(NEXT_PAGE), "queue": False}
    previewed |= private
    offered.then(**previewed)
    gr.on([tab.document.change, tab.share.change], trigger_mode="always_last", **previewed)
    ready = tab.go.click(lambda: markup.note("Reading the text…"), None, tab.status, queue=False, **private)
    inputs = [tab.what, tab.text, tab.document, tab.share, tab.length]
    outputs = [tab.panel, inspector, tab.status, notice, tab.share]  # the next press takes the page after this one
    return ready.then(run, inputs, outputs, concurrency_id="model", concurrency_limit=1, **private)
