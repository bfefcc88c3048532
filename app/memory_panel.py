"""The sidebar: which model runs, what is in its memory, and the ways to put something there or take it out."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import gradio as gr

from app import markup
from app.handlers import MemoryView, Studio
from app.settings import CHUNK_SIZES, SEARCHES, MemorySettings
from app.turns import Work

FILE_TYPES = [".txt", ".md", ".html", ".htm", ".pdf", ".epub", ".docx"]
PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}
# A click on a document's cross becomes this component's `select` event with the document's id.
REMOVE_SCRIPT = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-remove]');
  if (button) trigger('select', { document: Number(button.dataset.remove) });
});
"""


@dataclass(frozen=True)
class MemoryPanel:
    """Components of the sidebar."""

    documents: gr.HTML
    gauge: gr.HTML
    status: gr.HTML
    files: gr.File
    name: gr.Textbox
    text: gr.Textbox
    paste: gr.Button
    sample: gr.Dropdown
    read_sample: gr.Button
    stop: gr.Button
    clear: gr.Button
    book: gr.Number
    fetch: gr.Button
    save: gr.Button
    with_states: gr.Checkbox
    load: gr.UploadButton
    settings: list
    apply: gr.Button


@dataclass(frozen=True)
class MemoryWiring:
    """What other parts of the page need to read into memory: views go to `outputs` by way of `shown`.

    `now` is an event for `outputs` that shows what is in memory, and leaves status, notice and Stop as they are.
    `offer` gives a dropdown that comes into sight the documents in memory: Gradio loses its value before that.
    """

    outputs: list
    choices: Sequence[gr.Dropdown]
    shown: Callable[..., tuple]
    now: Callable[..., tuple]
    prepare: Callable
    offer: Callable
    ready: dict
    queued: dict


def sent_only_as(origin: str) -> str:
    """The `js` of an event of (origin, document, share): the document is sent only where `origin` asks for one.

    A dropdown changes with memory, out of sight too, and the server refuses a document that has left memory meanwhile.
    """
    return f"(origin, id, share) => [origin, origin === {json.dumps(origin)} ? id : null, share]"


def build_memory_panel(studio: Studio) -> MemoryPanel:
    """Lay out the sidebar; must run inside its `gr.Sidebar`."""
    gr.HTML('<h1 class="lm-brand"><span aria-hidden="true"></span>LongMem</h1>')
    gr.HTML(studio.model_line())
    gr.HTML('<h2 class="lm-heading">Memory</h2>')
    documents = gr.HTML(elem_id="lm-documents", js_on_load=REMOVE_SCRIPT)
    gauge = gr.HTML(elem_id="lm-gauge")
    status = gr.HTML(elem_id="lm-memory-status")
    stop = gr.Button("Stop reading", size="sm", visible=False, elem_id="lm-stop-reading")
    gr.HTML('<h2 class="lm-heading">Add documents</h2>')
    files = gr.File(
        label="Add documents (txt, md, html, pdf, epub, docx)",
        show_label=False,
        file_count="multiple",
        file_types=FILE_TYPES,
        height=76,
        elem_id="lm-files",
    )
    gr.HTML('<p class="lm-quiet">txt, md, html, pdf, epub, docx</p>', elem_classes="lm-under")
    with gr.Row(elem_classes="lm-tight"):
        sample = gr.Dropdown(studio.shelf.names, label="Sample", min_width=150, scale=3, elem_id="lm-sample")
        read_sample = gr.Button("Read", size="sm", min_width=64, scale=1, elem_id="lm-read-sample")
    with gr.Accordion("Paste a text", open=False):
        name = gr.Textbox(label="Name", placeholder="my notes", max_length=80, elem_id="lm-paste-name")
        text = gr.Textbox(label="Text", lines=4, max_lines=8, elem_id="lm-paste-text")
        paste = gr.Button("Read into memory", size="sm", elem_id="lm-paste")
    with gr.Accordion("Project Gutenberg", open=False):
        book = gr.Number(None, label="Book number", precision=0, elem_id="lm-book")
        gr.HTML('<p class="lm-quiet">Fetched from www.gutenberg.org, the only address ever asked; needs a network.</p>')
        fetch = gr.Button("Fetch and read", size="sm", elem_id="lm-fetch")
    with gr.Accordion("Save or load memory", open=False):
        with gr.Row(elem_classes="lm-tight"):
            save = gr.Button("Save", size="sm", min_width=80, elem_id="lm-save-memory")
            load = gr.UploadButton("Load", file_types=[".longmem"], size="sm", min_width=80, elem_id="lm-load-memory")
        with_states = gr.Checkbox(False, label="With keys and values: large, but nothing is read again")
    with gr.Accordion("How memory is used", open=False, elem_id="lm-memory-settings"):
        settings, apply = _build_settings(studio)
    clear = gr.Button("Clear memory", size="sm", variant="secondary", elem_id="lm-clear")
    return MemoryPanel(
        documents,
        gauge,
        status,
        files,
        name,
        text,
        paste,
        sample,
        read_sample,
        stop,
        clear,
        book,
        fetch,
        save,
        with_states,
        load,
        settings,
        apply,
    )


def _build_settings(studio: Studio) -> tuple[list, gr.Button]:
    """Components for the fields of MemorySettings, in their order, and the button that applies them."""
    model, layers = MemorySettings.of(studio.model), studio.model.config.memory_layers
    settings = [
        gr.Number(model.capacity, label="Capacity (tokens)", precision=0),
        gr.Dropdown(
            list(CHUNK_SIZES),
            value=model.chunk_size,
            label="Chunk size (tokens; documents are read again)",
        ),
        gr.Number(model.retrieved_tokens, label="Retrieved tokens (each query)", precision=0),
        gr.CheckboxGroup([(f"layer {x}", x) for x in layers], value=layers, label="Layers that retrieve"),
        gr.Dropdown(list(SEARCHES), value=model.backend, label="Search (by index: for very many tokens)"),
    ]
    gr.HTML('<p class="lm-quiet">All but the chunk size take effect at once, from the next run on.</p>')
    return settings, gr.Button("Apply", size="sm", elem_id="lm-apply-memory")


def wire_memory_panel(
    demo: gr.Blocks, studio: Studio, panel: MemoryPanel, notice: gr.HTML, documents_choices: Sequence[gr.Dropdown]
) -> MemoryWiring:
    """Connect the sidebar; `documents_choices` elsewhere on the page follow what is in memory."""
    wiring = _wiring(studio, panel, notice, documents_choices)
    _wire_reading(studio, panel, wiring)
    _wire_changes(studio, panel, wiring)

    def open_page(request: gr.Request):
        for view in studio.open(request.session_hash):
            values = list(wiring.shown(view, fill=True))
            values[wiring.outputs.index(panel.stop)] = gr.update(visible=False)  # read for all: nobody stops it
            yield tuple(values)

    demo.load(open_page, None, wiring.outputs, **PRIVATE, concurrency_limit=None)
    return wiring


def _wiring(
    studio: Studio, panel: MemoryPanel, notice: gr.HTML, documents_choices: Sequence[gr.Dropdown]
) -> MemoryWiring:
    """What every event that reads into memory has in common."""
    outputs = [panel.documents, panel.gauge, panel.status, notice, panel.stop, *documents_choices, *panel.settings]

    def shown(view: MemoryView, *chosen: int | None, fill: bool = False) -> tuple:
        """Values of `outputs`. chosen: what the dropdowns have, to be kept; without it they take the newest document.

        fill: the fields of the settings say what is in force; otherwise they keep what a visitor has typed.
        """
        ids = [document for _, document in view.choices]
        kept = [x if x in ids else max(ids, default=None) for x in chosen or [None] * len(documents_choices)]
        choices = [gr.skip() if view.busy else gr.update(choices=view.choices, value=value) for value in kept]
        settings = {**asdict(view.settings), "layers": list(view.settings.layers)}  # Gradio takes a tuple for one value
        values = [value if fill and not view.busy else gr.skip() for value in settings.values()]
        return view.documents, view.gauge, view.status, view.notice, gr.update(visible=view.busy), *choices, *values

    def now(request: gr.Request, *chosen: int | None) -> tuple:
        documents, gauge, _status, _notice, _stop, *others = shown(studio.look(request.session_hash), *chosen)
        return documents, gauge, gr.skip(), gr.skip(), gr.skip(), *others

    def prepare(request: gr.Request):
        studio.prepare(request.session_hash, Work.READING)
        return markup.note("Waiting for the model…"), gr.update(visible=True)

    def offer(chosen: int | None, request: gr.Request) -> dict:
        choices = studio.document_choices(request.session_hash)
        known = {document for _, document in choices}
        return gr.update(choices=choices, value=chosen if chosen in known else max(known, default=None))

    ready = {"outputs": [panel.status, panel.stop], "queue": False, **PRIVATE}
    queued = {**PRIVATE, "concurrency_id": "model", "concurrency_limit": 1, "show_progress_on": panel.status}
    return MemoryWiring(outputs, documents_choices, shown, now, prepare, offer, ready, queued)


def _wire_reading(studio: Studio, panel: MemoryPanel, wiring: MemoryWiring) -> None:
    """The ways to put something into memory, and to stop them."""
    outputs, shown, ready, queued = wiring.outputs, wiring.shown, wiring.ready, wiring.queued

    def read_files(paths: list[str] | None, request: gr.Request):
        for view in studio.read_files(request.session_hash, paths or []):
            yield (*shown(view), gr.skip() if view.busy else None)

    def read_text(name: str, text: str, request: gr.Request):
        for view in studio.read_text(request.session_hash, name, text):
            yield shown(view)

    def read_sample(name: str | None, request: gr.Request):
        for view in studio.read_sample(request.session_hash, name or ""):
            yield shown(view)

    def read_book(number: float | None, request: gr.Request):
        for view in studio.read_book(request.session_hash, number):
            yield shown(view)

    def stop(request: gr.Request) -> str:
        studio.stop(request.session_hash, Work.READING)
        return markup.note("Stopping after this segment…")

    panel.files.upload(wiring.prepare, **ready).then(read_files, panel.files, [*outputs, panel.files], **queued)
    panel.paste.click(wiring.prepare, **ready).then(read_text, [panel.name, panel.text], outputs, **queued)
    panel.read_sample.click(wiring.prepare, **ready).then(read_sample, panel.sample, outputs, **queued)
    panel.fetch.click(wiring.prepare, **ready).then(read_book, panel.book, outputs, **queued)
    panel.stop.click(stop, None, panel.status, queue=False, **PRIVATE)


def _wire_changes(studio: Studio, panel: MemoryPanel, wiring: MemoryWiring) -> None:
    """What changes memory that is there: other settings, a document taken out, and all of them."""
    outputs, shown = wiring.outputs, wiring.shown

    def set_memory(request: gr.Request, capacity, chunk_size, retrieved_tokens, layers, search, *chosen: int | None):
        values = {"capacity": capacity, "chunk_size": chunk_size, "retrieved_tokens": retrieved_tokens}
        values["backend"] = search
        for view in studio.set_memory(request.session_hash, {**values, "layers": tuple(sorted(layers or ()))}):
            yield shown(view, *chosen)

    def remove(event: gr.EventData, request: gr.Request, *chosen: int | None) -> tuple:
        return shown(studio.remove(request.session_hash, int(event.document)), *chosen)

    def clear(request: gr.Request) -> tuple:
        return shown(studio.clear(request.session_hash))

    inputs = [*panel.settings, *wiring.choices]
    panel.apply.click(wiring.prepare, **wiring.ready).then(set_memory, inputs, outputs, **wiring.queued)
    panel.documents.select(remove, wiring.choices, outputs, queue=False, **PRIVATE)
    panel.clear.click(clear, None, outputs, queue=False, **PRIVATE)
