"""The Generate tab: one prompt or place, two texts, with memory and with an empty memory, growing side by side."""

from dataclasses import dataclass

import gradio as gr

from app import markup
from app.generating import RunView
from app.handlers import Studio
from app.memory_panel import MemoryWiring, sent_only_as
from app.reading import OPENING_PROMPT
from app.settings import Place, Settings
from app.turns import Work

PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}
FROM_PROMPT, FROM_DOCUMENT = "a prompt", "a place in a loaded document"
LOG_PROMPT = "The secret number of Cuthbert Mayhew is"
TRY = {f"{OPENING_PROMPT} …": OPENING_PROMPT, f"{LOG_PROMPT} … (in harbour-log.txt)": LOG_PROMPT}


@dataclass(frozen=True)
class GenerateTab:
    """Components of the tab."""

    origin: gr.Radio
    prompt: gr.Textbox
    prompt_part: gr.Column
    place_part: gr.Column
    document: gr.Dropdown
    share: gr.Slider
    preview: gr.HTML
    settings: list[gr.Number]
    generate: gr.Button
    stop: gr.Button
    status: gr.HTML
    with_memory: gr.HTML
    plain: gr.HTML
    more: gr.Textbox
    keep: gr.Checkbox
    go_on: gr.Button
    regenerate: gr.Button


def build_generate_tab() -> GenerateTab:
    """Lay out the tab; must run inside its `gr.Tab`."""
    origin = gr.Radio(
        [FROM_PROMPT, FROM_DOCUMENT],
        value=FROM_PROMPT,
        label="Continue from",
        elem_id="lm-origin",
        elem_classes="lm-choice",
    )
    with gr.Column(elem_classes="lm-part") as prompt_part:
        prompt = gr.Textbox(OPENING_PROMPT, label="Prompt", lines=2, max_lines=8, elem_id="lm-prompt")
        with gr.Row(elem_classes="lm-try"):
            for label, words in TRY.items():
                gr.Button(label, size="sm", min_width=90).click(
                    lambda words=words: words, None, prompt, queue=False, api_visibility="private"
                )
    with gr.Column(visible=False, elem_classes="lm-part") as place_part:
        with gr.Row():
            document = gr.Dropdown([], label="Document", elem_id="lm-document", min_width=180)
            share = gr.Slider(
                1, 99, value=60, step=0.5, label="Place (% of its text)", min_width=180, elem_id="lm-share"
            )
        preview = gr.HTML(elem_id="lm-preview")
    start = Settings()
    with gr.Row(elem_classes="lm-settings"):
        # No number field of the page has limits: Gradio's own check would end a run before the notice can say what is
        # wrong. The handlers check all of them.
        settings = [
            gr.Number(start.max_new_tokens, label="Length (tokens)", precision=0),
            gr.Number(start.temperature, label="Temperature", step=0.1),
            gr.Number(start.top_p, label="Top-p", step=0.05),
            gr.Number(start.seed, label="Seed", precision=0),
        ]
    with gr.Row(elem_classes="lm-actions"):
        generate = gr.Button("Generate", variant="primary", elem_id="lm-generate", scale=2, min_width=120)
        stop = gr.Button("Stop", elem_id="lm-stop", interactive=False, scale=1, min_width=80)
        status = gr.HTML(elem_id="lm-run-status", elem_classes="lm-status", min_height=34)
    with_memory, plain = _build_outputs()
    gr.HTML(markup.effect_legend())
    more = gr.Textbox(
        label="Go on from here: your words come first (or leave it empty)", lines=1, max_lines=4, elem_id="lm-more"
    )
    with gr.Row(elem_classes="lm-actions"):
        go_on = gr.Button("Continue", elem_id="lm-continue", min_width=110)
        regenerate = gr.Button("Another seed", elem_id="lm-regenerate", min_width=110)
        keep = gr.Checkbox(False, label="What leaves the window enters memory", elem_id="lm-keep", min_width=240)
    return GenerateTab(
        origin, prompt, prompt_part, place_part, document, share, preview, settings, generate, stop, status,
        with_memory, plain, more, keep, go_on, regenerate,
    )  # fmt: skip


def _build_outputs() -> tuple[gr.HTML, gr.HTML]:
    """The two texts, side by side."""
    with gr.Row(elem_classes="lm-outputs"):
        with gr.Column(min_width=240, elem_classes="lm-side lm-side-with"):
            gr.HTML("<h3>With memory</h3>")
            with_memory = gr.HTML(
                markup.empty_panel("Press Generate: the answer to this prompt is in memory.", panel="with"),
                elem_id="lm-with",
            )
        with gr.Column(min_width=240, elem_classes="lm-side lm-side-plain"):
            gr.HTML("<h3>Empty memory</h3>")
            plain = gr.HTML(
                markup.empty_panel("The same prompt and seed, with nothing to look up.", panel="plain"),
                elem_id="lm-plain",
            )
    return with_memory, plain


def wire_generate_tab(
    studio: Studio, tab: GenerateTab, notice: gr.HTML, inspector: gr.HTML, memory: MemoryWiring
) -> list[gr.events.Dependency]:
    """Connect the tab; returns the ends of its runs, after which the charts are to be drawn."""
    _wire_place(studio, tab)
    return _wire_runs(studio, tab, notice, inspector, memory)


def _place_of(origin: str, document: int | None, share: float) -> Place | None:
    return Place(document, share / 100) if origin == FROM_DOCUMENT and document is not None else None


def _wire_place(studio: Studio, tab: GenerateTab) -> None:
    """Where a text begins: a prompt, or a place in a document with a look at it."""

    def choose_origin(origin: str) -> tuple:
        return gr.update(visible=origin == FROM_PROMPT), gr.update(visible=origin == FROM_DOCUMENT)

    def preview(origin: str, document: int | None, share: float, request: gr.Request) -> str:
        return studio.place_preview(request.session_hash, _place_of(origin, document, share))

    tab.origin.change(choose_origin, tab.origin, [tab.prompt_part, tab.place_part], queue=False, **PRIVATE)
    gr.on(
        [tab.origin.change, tab.document.change, tab.share.change],
        preview,
        [tab.origin, tab.document, tab.share],
        tab.preview,
        js=sent_only_as(FROM_DOCUMENT),
        queue=False,
        trigger_mode="always_last",
        **PRIVATE,
    )


def _wire_runs(
    studio: Studio, tab: GenerateTab, notice: gr.HTML, inspector: gr.HTML, memory: MemoryWiring
) -> list[gr.events.Dependency]:
    """Writing, going on, writing with another seed, and stopping."""
    outputs = [tab.with_memory, tab.plain, inspector, tab.status, notice, tab.generate, tab.stop]

    def shown(view: RunView) -> tuple:
        kept = [gr.skip() if part is None else part for part in (view.with_memory, view.plain, view.payload)]
        buttons = gr.update(interactive=not view.busy), gr.update(interactive=view.busy)
        return *kept, view.status, view.notice, *buttons

    def prepare(request: gr.Request) -> tuple:
        studio.prepare(request.session_hash, Work.GENERATING)
        return markup.note("Waiting for the model…"), gr.update(interactive=False), gr.update(interactive=True)

    def run(origin, document, share, prompt, length, temperature, top_p, seed, request: gr.Request):
        settings = {"max_new_tokens": length, "temperature": temperature, "top_p": top_p, "seed": seed}
        words, place = prompt if origin == FROM_PROMPT else "", _place_of(origin, document, share)
        for view in studio.generate(request.session_hash, words, settings, place):
            yield shown(view)

    def go_on(more, keep, length, temperature, top_p, seed, request: gr.Request):
        settings = {"max_new_tokens": length, "temperature": temperature, "top_p": top_p, "seed": seed}
        for view in studio.go_on(request.session_hash, more, settings, keep=keep):
            yield (*shown(view), gr.skip() if view.busy or view.notice else "")

    def stop(request: gr.Request) -> tuple:
        studio.stop(request.session_hash, Work.GENERATING)
        return markup.note("Stopping after this token…"), gr.update(interactive=False)

    tab.stop.click(stop, None, [tab.status, tab.stop], queue=False, **PRIVATE)
    waiting = {"fn": prepare, "outputs": [tab.status, tab.generate, tab.stop], "queue": False, **PRIVATE}
    turn = {"concurrency_id": "model", "concurrency_limit": 1, **PRIVATE}
    inputs = [tab.origin, tab.document, tab.share, tab.prompt, *tab.settings]
    ready = gr.on([tab.generate.click, tab.prompt.submit], **waiting)
    seed = tab.settings[-1]
    another = tab.regenerate.click(lambda seed: int(seed or 0) + 1, seed, seed, queue=False, **PRIVATE).then(**waiting)
    further = gr.on([tab.go_on.click, tab.more.submit], **waiting).then(
        go_on, [tab.more, tab.keep, *tab.settings], [*outputs, tab.more], **turn
    )
    runs = [ready.then(run, inputs, outputs, **turn), another.then(run, inputs, outputs, **turn), further]
    for each in runs:  # what was kept is in memory, and searches may have been compared with exact ones
        each.then(memory.now, memory.choices, memory.outputs, queue=False, **PRIVATE)
    return runs
