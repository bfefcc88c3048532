"""The Demonstrations tab: labelled examples go into memory, a text is classified by them, a test file says how well."""

import gradio as gr

from app import demonstrating, demonstration_charts, demonstration_markup, markup
from app.demonstrating import ClassificationView, EvaluationView
from app.demonstration_files import SAMPLE, SAMPLE_TEST, TEMPLATES, Source, inspect_file, preview
from app.demonstrations_panel import DemonstrationsTab, chosen_file
from app.handlers import MemoryView, Studio
from app.memory_panel import MemoryWiring
from app.methods import labelled
from app.turns import Work

SHOW_ANSWER = "() => document.getElementById('lm-demo-classify-head').scrollIntoView({ block: 'start' })"


PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}
QUEUED = {**PRIVATE, "concurrency_id": "model", "concurrency_limit": 1}


def source_of(
    path: str | None, text_column: str | None, label_column: str | None, pattern: str, skip: bool
) -> Source | None:
    """The source that a form describes; None where no file is chosen."""
    return Source(path, text_column or "", label_column or "", pattern, bool(skip)) if path else None


def wire_demonstrations_tab(
    studio: Studio,
    page: gr.Tab,
    tab: DemonstrationsTab,
    notice: gr.HTML,
    inspector: gr.HTML,
    memory: MemoryWiring,
) -> list[gr.events.Dependency]:
    """Connect the tab; returns the events after which the session has a new run."""
    _wire_files(studio, page, tab, notice)
    _wire_reading(studio, page, tab, notice, memory)
    _wire_evaluation(studio, tab, notice)
    return _wire_classification(studio, tab, notice, inspector)


def _wire_files(studio: Studio, page: gr.Tab, tab: DemonstrationsTab, notice: gr.HTML) -> None:
    """Files, columns and template; the preview follows them, and the text of step 2."""
    part, test = tab.examples, tab.evaluate
    live = {**PRIVATE, "queue": False, "trigger_mode": "always_last"}

    def show(path, text_column, label_column, pattern, skip, text) -> str:
        source = source_of(path, text_column, label_column, pattern, skip)
        return preview(studio.model.need_tokenizer(), studio.model.config.memory_size, source, text)

    def columns_of(path: str | None) -> tuple:
        view = inspect_file(path)
        text, label = (gr.update(choices=view.columns, value=value) for value in (view.text_column, view.label_column))
        return path if view.columns else None, text, label, view.notice

    def take_upload(path: str | None, request: gr.Request) -> tuple:
        studio.uploads.claim(request.session_hash, [path] if path else [])
        return columns_of(path)

    def take_sample() -> tuple:
        path, text, label, said = columns_of(SAMPLE.path)
        return path, text, label, said, SAMPLE.pattern, None

    def write_as(form: str) -> object:
        return TEMPLATES.get(form, gr.skip())

    shown = {"fn": show, "inputs": [*part.source, tab.classify.text], "outputs": part.preview, **live}
    chosen = [part.path, part.text_column, part.label_column, notice]
    uploaded = gr.on([part.file.upload, part.file.clear], take_upload, part.file, chosen, **live)
    taken = part.sample.click(take_sample, None, [*chosen, part.template, part.file], **live)
    part.form.input(write_as, part.form, part.template, **live)
    # Another file may have the same columns, and a state tells no change outside the queue.
    for file_chosen in (uploaded, taken):
        file_chosen.then(**shown)
    changes = [component.change for component in part.source[1:]]
    gr.on([*changes, tab.classify.text.change, page.select], **shown)

    def take_test(path: str | None, request: gr.Request) -> tuple:
        studio.uploads.claim(request.session_hash, [path] if path else [])
        return path, chosen_file(path)

    def take_sample_test() -> tuple:
        return SAMPLE_TEST.path, chosen_file(SAMPLE_TEST.path), None

    gr.on([test.file.upload, test.file.clear], take_test, test.file, [test.path, test.chosen], **live)
    test.sample.click(take_sample_test, None, [test.path, test.chosen, test.file], **live)


def _wire_reading(
    studio: Studio,
    page: gr.Tab,
    tab: DemonstrationsTab,
    notice: gr.HTML,
    memory: MemoryWiring,
) -> None:
    """Reading into memory, and what of it is there."""
    part, document = tab.examples, tab.classify.document

    def held(request: gr.Request, value: int | None = None) -> tuple:
        choices = demonstrating.choices(studio, request.session_hash)
        known = {id for _, id in choices}
        value = value if value in known else next((id for _, id in choices), None)
        about = demonstrating.about_memory(studio, request.session_hash, value)
        return gr.update(choices=choices, value=value), about

    def shown(view: MemoryView, request: gr.Request) -> tuple:
        mine = (gr.skip(), gr.skip()) if view.busy else held(request)
        buttons = gr.update(interactive=not view.busy), gr.update(interactive=view.busy)
        return view.status, view.notice, *buttons, *mine

    def prepare(request: gr.Request) -> tuple:
        studio.prepare(request.session_hash, Work.EXAMPLES)
        return markup.note("Waiting for the model…"), gr.update(interactive=False), gr.update(interactive=True)

    def read(path, text_column, label_column, pattern, skip, request: gr.Request):
        source = source_of(path, text_column, label_column, pattern, skip)
        for view in demonstrating.read_demonstrations(studio, request.session_hash, source):
            yield shown(view, request)

    def stop(request: gr.Request) -> tuple:
        studio.stop(request.session_hash, Work.EXAMPLES)
        return markup.note("Stopping after this segment…"), gr.update(interactive=False)

    def refresh(value: int | None, request: gr.Request) -> tuple:
        return held(request, value)

    ready = part.read.click(prepare, None, [part.status, part.read, part.stop], queue=False, **PRIVATE)
    outputs = [part.status, notice, part.read, part.stop, document, part.held]
    read_all = ready.then(read, part.source, outputs, **QUEUED)
    read_all.then(memory.now, None, memory.outputs, queue=False, **PRIVATE)
    part.stop.click(stop, None, [part.status, part.stop], queue=False, **PRIVATE)
    gr.on([page.select, document.input], refresh, document, [document, part.held], queue=False, **PRIVATE)


def _wire_classification(
    studio: Studio, tab: DemonstrationsTab, notice: gr.HTML, inspector: gr.HTML
) -> list[gr.events.Dependency]:
    """Classifying a text of one's own, or a wrong case."""
    part, evaluated = tab.classify, tab.evaluate

    def shown(view: ClassificationView) -> tuple:
        kept = [gr.skip() if value is None else value for value in (view.result, view.tokens, view.payload)]
        return *kept, view.status, view.notice, gr.update(interactive=not view.busy)

    def classify(document: int | None, text: str, in_window: float | None, request: gr.Request):
        for view in demonstrating.classify_text(studio, request.session_hash, document, text, in_window):
            yield shown(view)

    def choose(cases: list[dict], event: gr.EventData) -> tuple:
        case = cases[int(event.case)]
        return case["text"], case

    def classify_case(document: int | None, case: dict, in_window: float | None, request: gr.Request):
        key, text = request.session_hash, case["text"]
        for view in demonstrating.classify_text(studio, key, document, text, in_window, case):
            yield shown(view)

    case = gr.State(None)
    outputs = [part.result, part.tokens, inspector, part.status, notice, part.classify]
    inputs = [part.document, part.text, part.in_window]
    classified = gr.on([part.classify.click, part.text.submit], classify, inputs, outputs, **QUEUED)
    chosen = evaluated.wrong.select(choose, evaluated.cases, [part.text, case], queue=False, **PRIVATE)
    shown_again = chosen.success(classify_case, [part.document, case, part.in_window], outputs, **QUEUED)
    shown_again.then(None, js=SHOW_ANSWER, queue=False, **PRIVATE)
    return [classified, shown_again]


def _wire_evaluation(studio: Studio, tab: DemonstrationsTab, notice: gr.HTML) -> None:
    """Measuring on a test file."""
    part, examples = tab.evaluate, tab.examples

    def shown(view: EvaluationView) -> tuple:
        result = view.result if view.result and view.result["by_size"] else None
        buttons = gr.update(interactive=not view.busy), gr.update(interactive=view.busy)
        parts = [gr.skip()] * 6
        if result is not None:
            parts = [*result_parts(result, studio.model.label), result["by_size"][-1]["wrong"]]
        return view.status, view.notice, *buttons, *parts

    def prepare(request: gr.Request) -> tuple:
        studio.prepare(request.session_hash, Work.EVALUATING)
        return markup.note("Waiting for the model…"), gr.update(interactive=False), gr.update(interactive=True)

    def evaluate(path, text_column, label_column, skip, document, n_texts, in_window, sizes, request: gr.Request):
        test = source_of(path, text_column, label_column, SAMPLE.pattern, skip)
        wanted = [None if size == -1 else size for size in sizes]
        options = {"n_texts": n_texts, "in_window": in_window, "sizes": wanted}
        for view in demonstrating.evaluate(studio, request.session_hash, document, test, **options):
            yield shown(view)

    def stop(request: gr.Request) -> tuple:
        studio.stop(request.session_hash, Work.EVALUATING)
        return markup.note("Stopping after these texts…"), gr.update(interactive=False)

    buttons = [part.evaluate, part.stop]
    ready = part.evaluate.click(prepare, None, [part.status, *buttons], queue=False, **PRIVATE)
    inputs = [part.path, examples.text_column, examples.label_column, examples.skip, tab.classify.document]
    inputs += [part.n_texts, tab.classify.in_window, part.sizes]
    results = [part.words, part.accuracy, part.confusion, part.table, part.wrong, part.cases]
    ready.then(evaluate, inputs, [part.status, notice, *buttons, *results], **QUEUED)
    part.stop.click(stop, None, [part.status, part.stop], queue=False, **PRIVATE)


def result_parts(result: dict, label: str) -> list:
    """What the page shows of a measurement: words, both charts, the confusion matrix as a table, the wrong cases."""
    last = result["by_size"][-1]
    accuracy = demonstration_charts.accuracy_by_memory(
        demonstration_charts.accuracy_frame(result), result["chance"], last["majority"]
    )
    confusion = demonstration_charts.confusion_matrix(
        demonstration_charts.confusion_frame(result), in_memory=last["in_memory"]
    )
    return [
        demonstration_markup.accuracy_words(result),
        gr.update(value=labelled(accuracy, label), visible=True),
        gr.update(value=labelled(confusion, label), visible=True),
        demonstration_markup.confusion_table(result),
        demonstration_markup.wrong_cases(result),
    ]
