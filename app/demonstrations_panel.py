"""The Demonstrations tab's three steps as they are laid out: examples, a text to classify, a test file."""

from dataclasses import dataclass

import gradio as gr

from app import demonstration_markup
from app.demonstrating import IN_WINDOW, TEXTS
from app.demonstration_accuracy import SIZES
from app.demonstration_files import FILE_TYPES, SAMPLE, SAMPLE_TEST, SAMPLE_TEXT, TEMPLATES, Source

OWN_TEMPLATE = "another"
SIZE_CHOICES = [(f"{size:,}", size) for size in SIZES] + [("all", -1)]
# A wrong case that is clicked becomes this component's `select` event with its number, and its answer comes into sight.
CASE_SCRIPT = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-case]');
  if (!button) return;
  element.querySelectorAll('[aria-current]').forEach((other) => other.removeAttribute('aria-current'));
  button.setAttribute('aria-current', 'true');
  trigger('select', { case: Number(button.dataset.case) });
});
"""


@dataclass(frozen=True)
class ExamplesPart:
    """Components of step 1; `path` holds the chosen file."""

    path: gr.State
    file: gr.File
    sample: gr.Button
    text_column: gr.Dropdown
    label_column: gr.Dropdown
    form: gr.Dropdown
    template: gr.Textbox
    skip: gr.Checkbox
    preview: gr.HTML
    read: gr.Button
    stop: gr.Button
    status: gr.HTML
    held: gr.HTML

    @property
    def source(self) -> list:
        return [self.path, self.text_column, self.label_column, self.template, self.skip]


@dataclass(frozen=True)
class ClassifyPart:
    """Components of step 2; `in_window` and `document` hold for step 3 too."""

    document: gr.Dropdown
    in_window: gr.Number
    text: gr.Textbox
    classify: gr.Button
    status: gr.HTML
    tokens: gr.HTML
    result: gr.HTML


@dataclass(frozen=True)
class EvaluatePart:
    """Components of step 3; `path` holds the test file, `cases` the wrong cases of the last measurement."""

    path: gr.State
    cases: gr.State
    file: gr.File
    sample: gr.Button
    chosen: gr.HTML
    n_texts: gr.Number
    sizes: gr.CheckboxGroup
    evaluate: gr.Button
    stop: gr.Button
    status: gr.HTML
    words: gr.HTML
    accuracy: gr.Plot
    confusion: gr.Plot
    table: gr.HTML
    wrong: gr.HTML


@dataclass(frozen=True)
class DemonstrationsTab:
    examples: ExamplesPart
    classify: ClassifyPart
    evaluate: EvaluatePart


def build_demonstrations_tab() -> DemonstrationsTab:
    """Lay out the tab; must run inside its `gr.Tab`."""
    with gr.Column(elem_classes="lm-demo"):
        gr.HTML(
            '<p class="lm-lead">Give the model labelled examples by the thousand. They are far more than its window '
            "holds, so they go into memory, and it looks them up when it classifies a new text.</p>"
        )
        with gr.Column(elem_classes="lm-step"):
            examples = _build_examples()
        with gr.Column(elem_classes="lm-step"):
            classify = _build_classify()
        with gr.Column(elem_classes="lm-step"):
            evaluate = _build_evaluate()
    return DemonstrationsTab(examples, classify, evaluate)


def _build_examples() -> ExamplesPart:
    gr.HTML("<h3><b>1</b> Labelled examples</h3>")
    path = gr.State(SAMPLE.path)
    with gr.Row(elem_classes="lm-demo-files"):
        file = gr.File(
            label="Labelled examples (csv, tsv, jsonl)",
            show_label=False,
            file_types=FILE_TYPES,
            height=76,
            elem_id="lm-demo-file",
            min_width=220,
        )
        sample = gr.Button("Take the sample: 2,400 sailings, four courses", size="sm", elem_id="lm-demo-sample")
    columns = ["date", SAMPLE.text_column, SAMPLE.label_column]
    with gr.Row(elem_classes="lm-demo-columns"):
        text_column = gr.Dropdown(
            columns, value=SAMPLE.text_column, label="Text column", min_width=110, elem_id="lm-demo-text-column"
        )
        label_column = gr.Dropdown(
            columns, value=SAMPLE.label_column, label="Label column", min_width=110, elem_id="lm-demo-label-column"
        )
        form = gr.Dropdown([*TEMPLATES, OWN_TEMPLATE], label="Written as", min_width=130, elem_id="lm-demo-form")
    template = gr.Textbox(
        SAMPLE.pattern,
        label="Template: {text} and {label}, each once; all else stands as it is",
        lines=2,
        max_lines=6,
        elem_id="lm-demo-template",
    )
    skip = gr.Checkbox(False, label="Leave out rows that cannot be used", elem_id="lm-demo-skip")
    shown = gr.HTML(elem_id="lm-demo-preview", min_height=200)
    with gr.Row(elem_classes="lm-actions"):
        read = gr.Button("Read into memory", variant="primary", elem_id="lm-demo-read", min_width=150)
        stop = gr.Button("Stop", elem_id="lm-demo-stop-reading", interactive=False, min_width=80)
    status = gr.HTML(elem_id="lm-demo-read-status")
    held = gr.HTML(elem_id="lm-demo-held")
    return ExamplesPart(
        path, file, sample, text_column, label_column, form, template, skip, shown, read, stop, status, held
    )


def _build_classify() -> ClassifyPart:
    gr.HTML('<h3 id="lm-demo-classify-head"><b>2</b> Classify a text</h3>')
    with gr.Row(elem_classes="lm-demo-columns"):
        document = gr.Dropdown([], label="By the demonstrations", min_width=180, elem_id="lm-demo-document", scale=2)
        in_window = gr.Number(
            IN_WINDOW,
            label="Of them in the window",
            precision=0,
            min_width=130,
            elem_id="lm-demo-window",
        )
    text = gr.Textbox(SAMPLE_TEXT, label="Text", lines=2, max_lines=8, elem_id="lm-demo-text")
    with gr.Row(elem_classes="lm-actions"):
        classify = gr.Button("Classify", variant="primary", elem_id="lm-demo-classify", min_width=120)
        status = gr.HTML(elem_id="lm-demo-classify-status", min_height=34)
    result = gr.HTML(
        '<p class="lm-demo-empty">Read the examples, then classify: you see the probability of every label with memory '
        "and without, and which demonstrations were looked up.</p>",
        elem_id="lm-demo-result",
    )
    tokens = gr.HTML(elem_id="lm-demo-tokens")
    return ClassifyPart(document, in_window, text, classify, status, tokens, result)


def _build_evaluate() -> EvaluatePart:
    gr.HTML("<h3><b>3</b> How often is it right?</h3>")
    path, cases = gr.State(SAMPLE_TEST.path), gr.State([])
    with gr.Row(elem_classes="lm-demo-files"):
        file = gr.File(
            label="Test file (csv, tsv, jsonl)",
            show_label=False,
            file_types=FILE_TYPES,
            height=76,
            elem_id="lm-demo-test-file",
            min_width=220,
        )
        sample = gr.Button("Take the sample's test file", size="sm", elem_id="lm-demo-test-sample")
    chosen = gr.HTML(chosen_file(SAMPLE_TEST.path), elem_id="lm-demo-test-chosen")
    with gr.Row(elem_classes="lm-demo-columns"):
        n_texts = gr.Number(TEXTS, label="Texts", precision=0, min_width=90, elem_id="lm-demo-n")
        sizes = gr.CheckboxGroup(
            SIZE_CHOICES,
            value=[size for _, size in SIZE_CHOICES],
            label="Demonstrations in memory",
            min_width=260,
            elem_id="lm-demo-sizes",
            scale=3,
        )
    with gr.Row(elem_classes="lm-actions"):
        evaluate = gr.Button("Evaluate", variant="primary", elem_id="lm-demo-evaluate", min_width=120)
        stop = gr.Button("Stop", elem_id="lm-demo-stop", interactive=False, min_width=80)
    status = gr.HTML(elem_id="lm-demo-evaluate-status")
    words = gr.HTML(elem_id="lm-demo-words")
    chart = {"show_label": False, "elem_classes": "lm-chart", "visible": False, "buttons": ["fullscreen"]}
    accuracy = gr.Plot(elem_id="lm-demo-accuracy", **chart)
    confusion = gr.Plot(elem_id="lm-demo-confusion", **chart)
    table = gr.HTML(elem_id="lm-demo-table")
    wrong = gr.HTML(elem_id="lm-demo-wrong", js_on_load=CASE_SCRIPT)
    return EvaluatePart(
        path, cases, file, sample, chosen, n_texts, sizes, evaluate, stop, status, words, accuracy, confusion, table,
        wrong,
    )  # fmt: skip


def chosen_file(path: str | None) -> str:
    """HTML that names the test file."""
    name = demonstration_markup.names([Source(path, "", "", "").name]) if path else "none yet"
    return f'<p class="lm-quiet">Test file: {name}, with the columns chosen in step 1.</p>'
