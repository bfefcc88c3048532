"""A form that changes a document in memory, such as by a false fact, and reads it again."""

from dataclasses import dataclass

import gradio as gr

from app.editing import MAX_PUT
from app.handlers import Studio
from app.memory_panel import MemoryWiring
from app.settings import Place


@dataclass(frozen=True)
class ChangePanel:
    """Components of the form."""

    form: gr.Accordion
    document: gr.Dropdown
    find: gr.Textbox
    put: gr.Textbox
    share: gr.Slider
    change: gr.Button


def build_change_panel() -> ChangePanel:
    """Lay out the form."""
    with gr.Accordion("Change a document: what if it said something else?", open=False, elem_id="lm-change") as form:
        document = gr.Dropdown([], label="Document", elem_id="lm-change-document")
        find = gr.Textbox(
            label="Words in it (all of them are replaced)", placeholder="4 7 1 1", elem_id="lm-change-find"
        )
        put = gr.Textbox(label="Put instead", placeholder="9 2 6 3", max_length=MAX_PUT, elem_id="lm-change-put")
        share = gr.Slider(1, 99, value=50, step=0.5, label="Without words to replace: put in at (% of its text)")
        change = gr.Button("Change and read again", size="sm", elem_id="lm-change-go")
        gr.HTML('<p class="lm-quiet">Only memory is changed. Then generate again, and see the answer follow.</p>')
    return ChangePanel(form, document, find, put, share, change)


def wire_change_panel(studio: Studio, panel: ChangePanel, memory: MemoryWiring) -> None:
    """Connect the form; the memory panel shows the reading."""

    def change(document: int | None, find: str, put: str, share: float, request: gr.Request):
        place = None if document is None else Place(document, share / 100)
        for view in studio.change_document(request.session_hash, place, put, find):
            yield memory.shown(view)

    offered = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
    panel.form.expand(memory.offer, panel.document, panel.document, **offered)
    inputs = [panel.document, panel.find, panel.put, panel.share]
    panel.change.click(memory.prepare, **memory.ready).then(change, inputs, memory.outputs, **memory.queued)
