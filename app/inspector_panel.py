"""The inspector: the chosen token's passages per layer, the charts of the run, and the chunk chosen in a chart."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from app import markup
from app.charts import Figure
from app.handlers import CHARTS, Studio

SCRIPT = Path(__file__).parent.parent / "assets" / "studio.js"
TITLES = {"layers": "Map", "timeline": "Timeline", "heads": "Heads", "gates": "Gates", "effects": "Effect"}
FOLLOWING = ("layers", "heads", "gates")  # charts that follow the chosen token
THIS_TOKEN, WHOLE_RUN = "this token", "all tokens"


@dataclass(frozen=True)
class InspectorPanel:
    """Components of the inspector; `details` holds the run's data and the choice made on the page."""

    details: gr.HTML
    scope: gr.Radio
    tabs: dict[str, gr.Tab]
    plots: dict[str, gr.Plot]
    chunk: gr.HTML


def build_inspector_panel() -> InspectorPanel:
    """Lay out the inspector; must run inside its column."""
    details = gr.HTML(
        None,
        html_template="<div></div>",
        js_on_load=SCRIPT.read_text(encoding="utf-8"),
        elem_id="lm-inspector",
    )
    tabs, plots = {}, {}
    with gr.Column(elem_classes="lm-charts"):
        scope = gr.Radio([THIS_TOKEN, WHOLE_RUN], value=THIS_TOKEN, label="Map and gates show", elem_id="lm-scope")
        with gr.Tabs():
            for name in CHARTS:
                with gr.Tab(TITLES[name]) as tabs[name]:
                    plots[name] = gr.Plot(show_label=False, elem_id=f"lm-{name}", elem_classes="lm-chart")
        chunk = gr.HTML(markup.chunk_card(None), elem_id="lm-chunk")
    return InspectorPanel(details, scope, tabs, plots, chunk)


def wire_inspector_panel(
    demo: gr.Blocks, studio: Studio, panel: InspectorPanel, run_ends: Sequence[gr.events.Dependency]
) -> None:
    """Connect the inspector: the page tells the chosen token, layer or chunk, and the chart in sight follows.

    run_ends: events of all tabs after which the session has a new run, to be drawn.
    """
    private = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
    latest = {**private, "trigger_mode": "always_last"}
    plots = list(panel.plots.values())

    def draw(name: str, scope: str, request: gr.Request) -> Figure:
        return studio.chart(request.session_hash, name, whole_run=scope == WHOLE_RUN)

    def draw_all(scope: str, request: gr.Request) -> list[Figure]:
        return [draw(name, scope, request) for name in CHARTS]

    def choose(scope: str, event: gr.EventData, request: gr.Request) -> list:
        known = studio.choose(request.session_hash, event.step, event.layer)
        in_sight = event.chart if known else None
        return [draw(name, scope, request) if name == in_sight else gr.skip() for name in CHARTS]

    def show_chunk(event: gr.EventData, request: gr.Request) -> str:
        return studio.chunk(request.session_hash, event.chunk)

    panel.details.select(choose, panel.scope, plots, **latest)
    panel.details.click(show_chunk, None, panel.chunk, **latest)
    panel.scope.change(draw_all, panel.scope, plots, **latest)
    for run_ended in run_ends:
        run_ended.then(draw_all, panel.scope, plots, **private)
    demo.load(draw_all, panel.scope, plots, **private)
    for name in FOLLOWING:  # those that were out of sight when a token was chosen

        def draw_again(scope: str, request: gr.Request, name: str = name) -> Figure:
            return draw(name, scope, request)

        panel.tabs[name].select(draw_again, panel.scope, panel.plots[name], **latest)
