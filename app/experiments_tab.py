"""The Experiments tab: a page for each evaluation, with its recorded results and a small run of one's own."""

from dataclasses import dataclass

import gradio as gr

from app import experiment_markup, markup
from app.experiment_page import Page
from app.experiment_pages import PAGES
from app.experiments import Experiments, PageView, RunView, Wishes

DATA_TYPES = [".jsonl", ".csv", ".tsv"]


@dataclass(frozen=True)
class ExperimentPage:
    """Components of one page; `inputs` are source, knobs and files in this order."""

    tab: gr.Tab
    chosen: gr.Dropdown
    said: gr.HTML
    plots: list[gr.Plot]
    tables: list[gr.HTML]
    source: gr.Dropdown
    knobs: list[gr.Number]
    files: list[gr.File]
    run: gr.Button
    stop: gr.Button
    status: gr.HTML

    @property
    def shown(self) -> list[gr.components.Component]:
        """What a `PageView` fills."""
        return [self.said, self.chosen, *self.plots, *self.tables]


def build_experiments_tab(tab: gr.Tab, experiments: Experiments, notice: gr.HTML) -> None:
    """The tab's pages, laid out and connected when it is opened for the first time; must run inside that `gr.Tab`.

    They are two fifths of all components: without them the rest of the page stands sooner.
    """
    opened = gr.State(False)
    # Through the queue: Gradio does not tell of the change of a state elsewhere.
    tab.select(lambda: True, None, opened, api_visibility="private", show_progress="hidden")

    @gr.render(triggers=[opened.change], queue=False, show_progress="hidden")
    def draw(request: gr.Request) -> None:
        with gr.Tabs(elem_id="lm-experiments", overflow_behavior="wrap"):
            for number, (name, page) in enumerate(PAGES.items()):
                with gr.Tab(page.title, id=name) as page_tab:
                    built = _build_page(name, page, page_tab, experiments.refusal)
                _wire_page(experiments, name, built, notice)
                if number == 0:
                    _fill(built, experiments, request.session_hash, name)


def _fill(page: ExperimentPage, experiments: Experiments, key: str, name: str) -> None:
    """Give a page's components the values that it is opened with."""
    sources = experiments.sources(key)
    page.source.choices, page.source.value = sources, next((value for _, value in sources), None)
    view = experiments.show(key, name, None)
    page.said.value, page.chosen.choices, page.chosen.value = view.said, view.choices, view.chosen
    for component, value in zip([*page.plots, *page.tables], [*view.figures, *view.tables], strict=True):
        component.value = component.postprocess(value)


def _build_page(name: str, page: Page, tab: gr.Tab, refusal: str) -> ExperimentPage:
    """refusal: why it cannot be run now, if so."""
    # What a visitor may change says so: Gradio does not find it out of components that come later.
    gr.HTML(experiment_markup.about(page), elem_classes="lm-experiment-about")
    chosen = gr.Dropdown([], label="Result", interactive=True, elem_id=f"lm-{name}-result", elem_classes="lm-result")
    said = gr.HTML(elem_id=f"lm-{name}-said", min_height=60)
    with gr.Column(elem_classes="lm-run", elem_id=f"lm-{name}-run"):
        gr.HTML(f"<h3>Run it now, small</h3><p class='lm-quiet'>{refusal or page.small}</p>")
        with gr.Row(elem_classes="lm-run-settings", visible=not refusal):
            source = gr.Dropdown([], label="Text", visible=page.takes_text, min_width=200, scale=2, interactive=True)
            knobs = [
                gr.Number(
                    knob.value,
                    label=knob.label,
                    info=f"{knob.least:,} to {knob.most:,}",
                    precision=0,
                    interactive=True,
                )
                for knob in page.knobs.values()
            ]
        with gr.Row(visible=not (refusal or page.takes_text), elem_classes="lm-demo-files"):
            labels = () if page.takes_text else ("Examples to learn from", "Texts to classify")
            files = [gr.File(label=label, file_types=DATA_TYPES, height=96, interactive=True) for label in labels]
        with gr.Row(elem_classes="lm-actions", visible=not refusal):
            run = gr.Button("Run it now", variant="primary", min_width=120, elem_id=f"lm-{name}-start")
            stop = gr.Button("Stop", interactive=False, min_width=80, elem_id=f"lm-{name}-stop")
            status = gr.HTML(elem_classes="lm-run-status", elem_id=f"lm-{name}-status", min_height=34)
    plots, tables = [], []
    with gr.Row(elem_classes="lm-figures"):
        for chart in page.charts:
            with gr.Column(min_width=300, elem_classes="lm-figure"):
                chart_id = f"lm-{name}-{chart.name}"
                look = {"show_label": False, "elem_classes": "lm-chart", "buttons": ["fullscreen"]}
                plots.append(gr.Plot(elem_id=chart_id, **look))
                tables.append(gr.HTML(elem_id=f"{chart_id}-table", elem_classes="lm-data"))
    return ExperimentPage(tab, chosen, said, plots, tables, source, knobs, files, run, stop, status)


def _wire_page(experiments: Experiments, name: str, page: ExperimentPage, notice: gr.HTML) -> None:
    at_once = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}

    def open_page(chosen: str | None, source: str | None, request: gr.Request) -> list:
        sources = experiments.sources(request.session_hash)
        values = [value for _, value in sources]
        kept = source if source in values else next(iter(values), None)
        view = experiments.show(request.session_hash, name, chosen)
        return [gr.update(choices=sources, value=kept), *shown(view)]

    def choose(chosen: str | None, request: gr.Request) -> list:
        return shown(experiments.show(request.session_hash, name, chosen))

    def prepare(request: gr.Request) -> tuple:
        experiments.prepare(request.session_hash, name)
        return experiment_markup.waiting(), gr.update(interactive=False), gr.update(interactive=True)

    def run(request: gr.Request, source: str | None, *rest: object):
        numbers = dict(zip(PAGES[name].knobs, rest, strict=False))
        files = rest[len(numbers) :]
        wishes = Wishes(source, numbers, tuple(files) if files else (None, None))
        for view in experiments.run(request.session_hash, name, wishes):
            yield ran(view)

    def ran(view: RunView) -> list:
        seen = [gr.skip()] * len(page.shown) if view.page is None else shown(view.page)
        return [view.status, view.notice, gr.update(interactive=not view.busy), gr.update(interactive=view.busy), *seen]

    def stop(request: gr.Request) -> tuple:
        experiments.stop(request.session_hash, name)
        return markup.note("Stopping after the item that it is at…"), gr.update(interactive=False)

    def recover() -> tuple:
        note = markup.note("Not measured: a value was not accepted.", "failed")
        return note, gr.update(interactive=True), gr.update(interactive=False)

    page.tab.select(open_page, [page.chosen, page.source], [page.source, *page.shown], **at_once)
    page.chosen.input(choose, page.chosen, page.shown, **at_once)
    buttons = [page.status, page.run, page.stop]
    page.stop.click(stop, None, [page.status, page.stop], **at_once)
    ran_through = page.run.click(prepare, None, buttons, **at_once).then(
        run,
        [page.source, *page.knobs, *page.files],
        [page.status, notice, page.run, page.stop, *page.shown],
        concurrency_id="model",
        concurrency_limit=1,
        api_visibility="private",
        show_progress="hidden",
    )
    ran_through.failure(recover, None, buttons, **at_once)


def shown(view: PageView) -> list:
    """A `PageView` as the values of `ExperimentPage.shown`."""
    return [view.said, gr.update(choices=view.choices, value=view.chosen), *view.figures, *view.tables]
