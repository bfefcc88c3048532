"""The inspector: the chosen token's passages per layer, what-ifs, the charts of the run, and the chosen chunk."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from app import figure_tables, markup
from app.charts import Figure
from app.handlers import CHARTS, Studio, WhatIfView
from app.methods import LONGMEM, Method
from app.source_panel import SourcePanel, build_source_panel, wire_source_panel
from app.turns import Work

SCRIPT = Path(__file__).parent.parent / "assets" / "studio.js"
TITLES = {
    "layers": "Map",
    "timeline": "Timeline",
    "grid": "Grid",
    "heads": "Heads",
    "ranking": "Ranking",
    "scores": "Scores",
    "gates": LONGMEM.shares,
    "effects": "Effect",
    "running": "Perplexity",
}
FOLLOWING = ("layers", "grid", "heads", "ranking", "scores", "gates")  # charts that follow the chosen token
THIS_TOKEN, WHOLE_RUN = "this token", "all tokens"
# What was measured reaches the inspector's own script as an event of the page.
MEASURED_SCRIPT = """
watch('value', () => document.dispatchEvent(new CustomEvent('lm-measured', { detail: props.value })));
"""


@dataclass(frozen=True)
class InspectorPanel:
    """Components of the inspector; `details` holds the run's data and the choice made on the page."""

    details: gr.HTML
    measured: gr.HTML
    bar: gr.HTML
    again: gr.Button
    stop: gr.Button
    all_on: gr.Button
    result: gr.HTML
    scope: gr.Radio
    tabs: dict[str, gr.Tab]
    charts: gr.Tabs
    plots: dict[str, gr.Plot]
    tables: dict[str, gr.HTML]
    source: SourcePanel


def build_inspector_panel(method: Method) -> InspectorPanel:
    """Lay out the inspector of a model of this method; must run inside its column."""
    details = gr.HTML(
        None,
        html_template="<div></div>",
        js_on_load=SCRIPT.read_text(encoding="utf-8"),
        elem_id="lm-inspector",
    )
    measured = gr.HTML(None, html_template="<div></div>", js_on_load=MEASURED_SCRIPT, elem_id="lm-measured")
    with gr.Column(elem_classes="lm-whatif-part", elem_id="lm-whatif"):
        bar = gr.HTML(markup.switch_bar("", None), elem_id="lm-switches")
        with gr.Row(elem_classes="lm-tight"):
            again = gr.Button("Run again from this token", size="sm", elem_id="lm-again", min_width=120)
            stop = gr.Button("Stop", size="sm", visible=False, elem_id="lm-again-stop", min_width=60)
            all_on = gr.Button("Everything on", size="sm", elem_id="lm-all-on", min_width=90)
        result = gr.HTML(elem_id="lm-whatif-result")
    tabs, plots, tables, titles = {}, {}, {}, {**TITLES, "gates": method.shares}
    with gr.Column(elem_classes="lm-charts"):
        scope = gr.Radio(
            [THIS_TOKEN, WHOLE_RUN], value=THIS_TOKEN, label=f"Map, grid and {method.shares.lower()} show",
            elem_id="lm-scope", elem_classes="lm-choice",
        )  # fmt: skip
        with gr.Tabs(elem_id="lm-chart-tabs", overflow_behavior="wrap") as charts:
            for name in CHARTS:
                with gr.Tab(titles[name], id=name) as tabs[name]:
                    plots[name] = gr.Plot(
                        show_label=False, elem_id=f"lm-{name}", elem_classes="lm-chart", buttons=["fullscreen"]
                    )
                    tables[name] = gr.HTML(elem_id=f"lm-{name}-table")
            with gr.Tab("Source", id="source"):
                source = build_source_panel()
    return InspectorPanel(
        details, measured, bar, again, stop, all_on, result, scope, tabs, charts, plots, tables, source
    )


def wire_inspector_panel(
    demo: gr.Blocks, studio: Studio, panel: InspectorPanel, notice: gr.HTML, run_ends: Sequence[gr.events.Dependency]
) -> None:
    """Connect the inspector: the page tells the chosen token, layer, head or chunk, and the chart in sight follows.

    run_ends: events of all tabs after which the session has a new run, to be drawn.
    """
    private = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
    latest = {**private, "trigger_mode": "always_last"}
    model_turn = {"concurrency_id": "model", "concurrency_limit": 1, **private, "queue": True}
    source = wire_source_panel(studio, panel.source)
    drawn = [*panel.plots.values(), *panel.tables.values()]

    def draw(name: str, scope: str, request: gr.Request) -> tuple[Figure, str]:
        figure = studio.chart(request.session_hash, name, whole_run=scope == WHOLE_RUN)
        return figure, figure_tables.table_html(figure, f"{TITLES[name]} as a table")

    def draw_some(names: Sequence[str], scope: str, request: gr.Request) -> list:
        found = {name: draw(name, scope, request) for name in names}
        both = [found.get(name, (gr.skip(), gr.skip())) for name in CHARTS]
        return [figure for figure, _ in both] + [table for _, table in both]

    def draw_all(scope: str, request: gr.Request) -> list:
        return draw_some(CHARTS, scope, request)

    def choose(scope: str, event: gr.EventData, request: gr.Request) -> list:
        """First what is in sight: the chart that follows, or else the source."""
        known = studio.choose(request.session_hash, event.step, event.layer, event.head)
        bar = studio.switch_bar(studio.store.get(request.session_hash))
        plots = {name: gr.skip() for name in FOLLOWING}
        if known and event.chart in plots:
            plots[event.chart] = studio.chart(request.session_hash, event.chart, whole_run=scope == WHOLE_RUN)
            return [*plots.values(), bar, gr.skip(), event.chart]
        return [*plots.values(), bar, source.draw(request.session_hash), ""]

    def follow(chart: str, scope: str, request: gr.Request) -> list:
        """Then what is out of sight: the table of that chart, and the source."""
        tables = {name: gr.skip() for name in FOLLOWING}
        if chart not in tables:
            return [*tables.values(), gr.skip()]
        tables[chart] = draw(chart, scope, request)[1]
        return [*tables.values(), source.draw(request.session_hash)]

    def show_chunk(event: gr.EventData, request: gr.Request) -> tuple:
        return source.show_chunk(request.session_hash, event.chunk), gr.Tabs(selected="source")

    def draw_source(request: gr.Request) -> str:
        return source.draw(request.session_hash)

    def measure(request: gr.Request) -> dict | None:
        return studio.measure(request.session_hash)

    panel.details.click(show_chunk, None, [panel.source.view, panel.charts], **latest)
    # In a queue of its own: what is measured gives way to the model's turns by the session's lock.
    measuring = {**model_turn, "concurrency_id": "measure"}
    following = [parts[name] for parts in (panel.plots, panel.tables) for name in FOLLOWING]
    plots, tables = following[: len(FOLLOWING)], following[len(FOLLOWING) :]
    shown = gr.State("")
    chosen = panel.details.select(choose, panel.scope, [*plots, panel.bar, panel.source.view, shown], **latest)
    followed = chosen.then(follow, [shown, panel.scope], [*tables, panel.source.view], **private)
    followed.then(measure, None, panel.measured, **measuring)
    panel.scope.change(draw_all, panel.scope, drawn, **latest)
    for run_ended in run_ends:
        run_ended.then(draw_all, panel.scope, drawn, **private).then(measure, None, panel.measured, **measuring)
        run_ended.then(draw_source, None, panel.source.view, **private)
    demo.load(draw_all, panel.scope, drawn, **private)
    for name in FOLLOWING:  # those that were out of sight when a token was chosen

        def draw_again(scope: str, request: gr.Request, name: str = name) -> tuple:
            return draw(name, scope, request)

        panel.tabs[name].select(draw_again, panel.scope, [panel.plots[name], panel.tables[name]], **latest)
    _wire_what_if(studio, panel, notice, run_ends, private, model_turn)


def _wire_what_if(
    studio: Studio,
    panel: InspectorPanel,
    notice: gr.HTML,
    run_ends: Sequence[gr.events.Dependency],
    private: dict,
    model_turn: dict,
) -> None:
    """The bar of what is off, and the comparison."""
    outputs = [panel.bar, panel.result, notice, panel.again, panel.stop]

    def shown(view: WhatIfView) -> tuple:
        result = gr.skip() if view.result is None else view.result
        return view.bar, result, view.notice, gr.update(interactive=not view.busy), gr.update(visible=view.busy)

    def toggle(event: gr.EventData, request: gr.Request) -> tuple:
        return shown(studio.toggle(request.session_hash, event.kind, event.values, event.chosen))

    def all_on(request: gr.Request) -> tuple:
        return shown(studio.all_on(request.session_hash))

    def prepare() -> tuple:
        return markup.note("Running again…"), gr.update(interactive=False)

    def again(request: gr.Request):
        for view in studio.run_again(request.session_hash):
            yield shown(view)

    def stop(request: gr.Request) -> None:
        studio.stop(request.session_hash, Work.AGAIN)

    panel.stop.click(stop, None, None, **private)
    panel.details.apply(toggle, None, outputs, **private)
    panel.all_on.click(all_on, None, outputs, **private)
    waiting = panel.again.click(prepare, None, [panel.result, panel.again], **private)
    waiting.then(again, None, outputs, **model_turn)

    def reset(request: gr.Request) -> tuple:
        view = studio.all_on(request.session_hash)
        return view.bar, view.result

    for run_ended in run_ends:  # the notice may say why it ended: it stays
        run_ended.then(reset, None, [panel.bar, panel.result], **private)
