"""The Score tab: what memory does to every token of a given text, or what a phrase looks up."""

from dataclasses import dataclass

import gradio as gr

from app import figure_tables, markup
from app.handlers import Studio
from app.memory_panel import MemoryWiring, sent_only_as
from app.methods import labelled
from app.perplexity_charts import perplexity_along
from app.scored import LOOKED_UP, NEXT_PAGE, SCORED, ScoreView
from app.settings import Place
from app.turns import Work

BUTTONS = {SCORED: "Score", NEXT_PAGE: "Score the next page", LOOKED_UP: "Look up"}
PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}
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
    onward: gr.Button
    stop: gr.Button
    status: gr.HTML
    along: gr.Plot
    along_table: gr.HTML
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
        onward = gr.Button("Score on to its end", visible=False, elem_id="lm-score-onward", min_width=140)
        stop = gr.Button("Stop", visible=False, elem_id="lm-score-stop", min_width=80)
        status = gr.HTML(elem_id="lm-score-status", elem_classes="lm-status", min_height=34)
    along = gr.Plot(
        visible=False, show_label=False, elem_id="lm-score-along", elem_classes="lm-chart", buttons=["fullscreen"]
    )
    along_table = gr.HTML(elem_id="lm-score-along-table")
    panel = gr.HTML(markup.empty_panel(EMPTY, panel="with"), elem_id="lm-scored")
    gr.HTML(markup.effect_legend(parting=False))
    return ScoreTab(
        what, text, text_part, place_part, document, share, length, preview, go, onward, stop, status, along,
        along_table, panel,
    )  # fmt: skip


def wire_score_tab(
    studio: Studio, page: gr.Tab, tab: ScoreTab, notice: gr.HTML, inspector: gr.HTML, memory: MemoryWiring
) -> list[gr.events.Dependency]:
    """Connect the tab; returns the ends of its runs, after which the charts are to be drawn."""

    def choose(what: str) -> tuple:
        return (
            gr.update(visible=what != NEXT_PAGE),
            gr.update(visible=what == NEXT_PAGE),
            gr.update(value=BUTTONS[what]),
            gr.update(visible=what == NEXT_PAGE),
        )

    def preview(what: str, document: int | None, share: float, request: gr.Request) -> str:
        return studio.place_preview(request.session_hash, _place_of(what, document, share))

    chosen = tab.what.change(
        choose, tab.what, [tab.text_part, tab.place_part, tab.go, tab.onward], queue=False, **PRIVATE
    )
    offered = chosen.then(memory.offer, tab.document, tab.document, queue=False, **PRIVATE)
    page.select(memory.offer, tab.document, tab.document, queue=False, **PRIVATE)
    place = [tab.what, tab.document, tab.share]
    previewed = {"fn": preview, "inputs": place, "outputs": tab.preview, "js": sent_only_as(NEXT_PAGE), "queue": False}
    previewed |= PRIVATE
    offered.then(**previewed)
    gr.on([tab.document.change, tab.share.change], trigger_mode="always_last", **previewed)
    return _wire_runs(studio, tab, notice, inspector)


def _place_of(what: str, document: int | None, share: float) -> Place | None:
    return Place(document, share / 100) if what == NEXT_PAGE and document is not None else None


def _wire_runs(studio: Studio, tab: ScoreTab, notice: gr.HTML, inspector: gr.HTML) -> list[gr.events.Dependency]:
    """Scoring once, and page after page."""

    def shown(view: ScoreView) -> tuple:
        kept = [gr.skip() if part is None else part for part in (view.panel, view.payload)]
        share = gr.skip() if view.next_share is None else min(99.0, 100 * view.next_share)
        buttons = [gr.update(interactive=not view.busy)] * 2
        return *kept, view.words, view.notice, share, *buttons, gr.update(visible=view.busy, interactive=True)

    def run(what, text, document, share, length, request: gr.Request) -> tuple:
        place = _place_of(what, document, share)
        curve = gr.update(visible=False), ""  # it was of another run
        return *shown(studio.score(request.session_hash, what, text, place, length)), *curve

    def run_onward(what, document, share, length, request: gr.Request):
        for view in studio.score_onward(request.session_hash, _place_of(what, document, share), length):
            curve, table = (gr.skip(), gr.skip()) if view.busy else (gr.update(visible=False), "")  # where it failed
            if view.along is not None:
                figure = labelled(perplexity_along(view.along), studio.model.label)
                curve, table = gr.update(value=figure, visible=True), figure_tables.table_html(figure)
            yield *shown(view), curve, table

    def prepare(request: gr.Request) -> tuple:
        studio.prepare(request.session_hash, Work.SCORING)
        return markup.note("Waiting for the model…"), *[gr.update(interactive=False)] * 2, gr.update(visible=True)

    def stop(request: gr.Request) -> tuple:
        studio.stop(request.session_hash, Work.SCORING)
        return markup.note("Stopping after this page…"), gr.update(interactive=False)

    buttons = [tab.go, tab.onward, tab.stop]
    outputs = [tab.panel, inspector, tab.status, notice, tab.share, *buttons, tab.along, tab.along_table]
    turn = {"concurrency_id": "model", "concurrency_limit": 1, **PRIVATE}
    ready = tab.go.click(lambda: markup.note("Reading the text…"), None, tab.status, queue=False, **PRIVATE)
    once = ready.then(run, [tab.what, tab.text, tab.document, tab.share, tab.length], outputs, **turn)
    begun = tab.onward.click(prepare, None, [tab.status, *buttons], queue=False, **PRIVATE)
    onward = begun.then(run_onward, [tab.what, tab.document, tab.share, tab.length], outputs, **turn)
    tab.stop.click(stop, None, [tab.status, tab.stop], queue=False, **PRIVATE)
    return [once, onward]
