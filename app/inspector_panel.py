"""The inspector: the chosen token's passages per layer, what-ifs, the charts of the run, and the chosen chunk."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from app import figure_tables, markup
from app.charts import Figure
from app.handlers import CHARTS, Studio, WhatIfView
from app.methods import LONGMEM, Method
from app.source_handlers import SourceHandlers
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
PRIVATE = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
LATEST = {**PRIVATE, "trigger_mode": "always_last"}
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
    model_turn = {"concurrency_id": "model", "concurrency_limit": 1, **PRIVATE, "queue": True}
    # In a queue of its own: what is measured gives way to the model's turns by the session's lock.
    measuring = {**model_turn, "concurrency_id": "measure"}

    def measure(request: gr.Request) -> dict | None:
        return studio.measure(request.session_hash)

    worth = {"fn": measure, "outputs": panel.measured, **measuring}
    source = wire_source_panel(studio, panel.source)
    _wire_choice(studio, panel, source, worth)
    _wire_charts(demo, studio, panel, run_ends, worth)

    def draw_source(request: gr.Request) -> str:
        return source.draw(request.session_hash)

    for run_ended in run_ends:
        run_ended.then(draw_source, None, panel.source.view, **PRIVATE)
    _wire_what_if(studio, panel, notice, run_ends, model_turn)


def _draw(studio: Studio, panel: InspectorPanel, key: str, name: str, scope: str) -> tuple[Figure, str]:
    """A chart of the session's run, and the HTML of its table."""
    figure = studio.chart(key, name, whole_run=scope == WHOLE_RUN)
    return figure, figure_tables.table_html(figure, f"{panel.tabs[name].label} as a table")


def _wire_choice(studio: Studio, panel: InspectorPanel, source: SourceHandlers, worth: dict) -> None:
    """What follows a token, layer, head or chunk that is chosen on the page; `worth`: the event that measures."""

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
        tables[chart] = _draw(studio, panel, request.session_hash, chart, scope)[1]
        return [*tables.values(), source.draw(request.session_hash)]

    def show_chunk(event: gr.EventData, request: gr.Request) -> tuple:
        return source.show_chunk(request.session_hash, event.chunk), gr.Tabs(selected="source")

    panel.details.click(show_chunk, None, [panel.source.view, panel.charts], **LATEST)
    plots, tables = ([parts[name] for name in FOLLOWING] for parts in (panel.plots, panel.tables))
    shown = gr.State("")
    chosen = panel.details.select(choose, panel.scope, [*plots, panel.bar, panel.source.view, shown], **LATEST)
    followed = chosen.then(follow, [shown, panel.scope], [*tables, panel.source.view], **PRIVATE)
    followed.then(**worth)


def _wire_charts(
    demo: gr.Blocks,
    studio: Studio,
    panel: InspectorPanel,
    run_ends: Sequence[gr.events.Dependency],
    worth: dict,
) -> None:
    """What draws charts: a new run, another scope, a tab that comes into sight, and the page itself."""
    drawn = [*panel.plots.values(), *panel.tables.values()]
    drawn_for = gr.State()  # what was chosen when all charts were drawn

    def draw_some(names: Sequence[str], scope: str, key: str) -> list:
        found = {name: _draw(studio, panel, key, name, scope) for name in names}
        both = [found.get(name, (gr.skip(), gr.skip())) for name in CHARTS]
        return [figure for figure, _ in both] + [table for _, table in both]

    def draw_all(scope: str, request: gr.Request) -> list:
        now = studio.chosen_now(request.session_hash)
        return [*draw_some(CHARTS, scope, request.session_hash), now]

    def catch_up(scope: str, drawn_for: tuple | None, request: gr.Request) -> list:
        """Charts of a run that reach the page after another token was chosen must not stay."""
        is_same = studio.chosen_now(request.session_hash) == drawn_for
        return draw_some(() if is_same else FOLLOWING, scope, request.session_hash)

    afterwards = {"fn": catch_up, "inputs": [panel.scope, drawn_for], "outputs": drawn, **PRIVATE}
    panel.scope.change(draw_all, panel.scope, [*drawn, drawn_for], **LATEST).then(**afterwards)
    demo.load(draw_all, panel.scope, [*drawn, drawn_for], **PRIVATE)
    for run_ended in run_ends:
        run_ended.then(draw_all, panel.scope, [*drawn, drawn_for], **PRIVATE).then(**afterwards).then(**worth)
    for name in FOLLOWING:  # those that were out of sight when a token was chosen

        def draw_again(scope: str, request: gr.Request, name: str = name) -> tuple:
            return _draw(studio, panel, request.session_hash, name, scope)

        panel.tabs[name].select(draw_again, panel.scope, [panel.plots[name], panel.tables[name]], **LATEST)


def _wire_what_if(
    studio: Studio,
    panel: InspectorPanel,
    notice: gr.HTML,
    run_ends: Sequence[gr.events.Dependency],
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

    panel.stop.click(stop, None, None, **PRIVATE)
    panel.details.apply(toggle, None, outputs, **PRIVATE)
    panel.all_on.click(all_on, None, outputs, **PRIVATE)
    waiting = panel.again.click(prepare, None, [panel.result, panel.again], **PRIVATE)
    waiting.then(again, None, outputs, **model_turn)

    def reset(request: gr.Request) -> tuple:
        view = studio.all_on(request.session_hash)
        return view.bar, view.result

    for run_ended in run_ends:  # the notice may say why it ended: it stays
        run_ended.then(reset, None, [panel.bar, panel.result], **PRIVATE)
