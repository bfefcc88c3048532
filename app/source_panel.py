"""The source view's component: the document itself, tinted where the chosen token looked."""

from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from app.handlers import Studio
from app.source_handlers import SourceHandlers
from app.source_markup import no_source

SCRIPT = Path(__file__).parent.parent / "assets" / "source.js"


@dataclass(frozen=True)
class SourcePanel:
    """The component; its HTML holds the controls too, so that one value draws all of it."""

    view: gr.HTML


def build_source_panel() -> SourcePanel:
    """Lay out the source view; must run inside its `gr.Tab`."""
    script = SCRIPT.read_text(encoding="utf-8")
    return SourcePanel(gr.HTML(no_source(), js_on_load=script, elem_id="lm-source"))


def wire_source_panel(studio: Studio, panel: SourcePanel) -> SourceHandlers:
    """Connect the view's own controls; what is returned draws it when a token, layer or chunk is chosen elsewhere."""
    handlers = SourceHandlers(studio)

    def act(event: gr.EventData, request: gr.Request) -> str:
        return handlers.act(request.session_hash, event.action, event.value)

    panel.view.select(
        act,
        None,
        panel.view,
        queue=False,
        trigger_mode="always_last",
        api_visibility="private",
        show_progress="hidden",
    )
    return handlers
