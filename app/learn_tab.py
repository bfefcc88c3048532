"""The Learn tab: a lesson that drives the real views, and a drawing of the model at hand.

A button of the lesson or the drawing says what it wants as `data-do`; the page script `assets/learn.js` tells it to the
server through one component, `bus`: `select` a step, `click` a token of the sentence, `submit` a prompt to be
generated from, `input` for another part of the page. What the server wants of the page goes back as its value.
"""

from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from app import markup
from app.generate_tab import FROM_PROMPT, GenerateTab
from app.handlers import Studio
from app.inspector_panel import InspectorPanel
from app.lesson import Lesson, loading
from app.lesson_steps import ACTIONS, STEPS
from app.memory_panel import MemoryPanel
from app.reading import OPENING_SAMPLE
from app.session import Session

SCRIPT = Path(__file__).parent.parent / "assets" / "learn.js"
LENGTH, TEMPERATURE = 12, 0  # short and without chance: the lesson's text is the same for all
# Pressed as by hand, once the prompt is in its place.
PRESS_GENERATE = """() => { setTimeout(() => {
  document.querySelector('#lm-generate')?.click();
  document.querySelector('#lm-with')?.scrollIntoView({ block: 'nearest' });
}, 120); }"""


PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}
AT_ONCE = {**PRIVATE, "queue": False}
NO_WAY_BACK = gr.update(visible=False)


@dataclass(frozen=True)
class LearnTab:
    """Components of the tab; `step` is the number of the step that is shown, `parts` the two halves of the tab."""

    lesson: Lesson
    tab: gr.Tab
    parts: gr.Tabs
    step: gr.State
    words: gr.HTML
    live: gr.HTML
    task: gr.HTML
    drawing: gr.HTML


def way_back(*classes: str) -> dict:
    """The button that leads back to the lesson, shown."""
    return gr.update(visible=True, elem_classes=list(classes))


def holds_the_story(session: Session) -> bool:
    """Whether the document that the lesson asks about is in a visitor's memory."""
    return OPENING_SAMPLE in {record.name for record in session.bank.documents.values()}


def build_learn_tab(studio: Studio, tab: gr.Tab) -> LearnTab:
    """Lay out the tab; must run inside `tab`."""
    lesson = Lesson(studio.model, studio.shelf)
    step = gr.State(1)
    with gr.Tabs(elem_id="lm-learn") as parts:
        with gr.Tab("Lesson", id="lesson"):
            words = gr.HTML(lesson.words(1), elem_id="lm-lesson-words")
            live = gr.HTML(loading(1), elem_id="lm-lesson-live")
            task = gr.HTML(lesson.task(1), elem_id="lm-lesson-task")
        with gr.Tab("The model, drawn", id="drawing"):
            drawing = gr.HTML(elem_id="lm-drawing")
    return LearnTab(lesson, tab, parts, step, words, live, task, drawing)


def wire_learn_tab(
    studio: Studio,
    learn: LearnTab,
    tabs: gr.Tabs,
    generate_tab: GenerateTab,
    inspector: InspectorPanel,
    memory: MemoryPanel,
    notice: gr.HTML,
) -> None:
    """Connect the tab; it sets the prompt and settings of Generate, chooses tabs, and follows runs and memory."""
    bus = gr.HTML(None, html_template="<i></i>", js_on_load=SCRIPT.read_text(encoding="utf-8"), elem_id="lm-bus")
    back = gr.Button("‹ Back to the lesson", visible=False, elem_id="lm-back", size="sm")
    _wire_lesson(learn, tabs, bus, back)
    _wire_ways(studio, learn, tabs, bus, back, generate_tab, inspector, notice)

    def draw(request: gr.Request) -> str:
        return learn.lesson.drawing(studio.store.get(request.session_hash))

    gr.on(
        [learn.tab.select, learn.parts.select, inspector.details.change, memory.gauge.change],
        draw,
        None,
        learn.drawing,
        trigger_mode="always_last",
        **AT_ONCE,
    )


def _wire_lesson(learn: LearnTab, tabs: gr.Tabs, bus: gr.HTML, back: gr.Button) -> None:
    """A step that is chosen, what it computes, and a token of its sentence."""
    in_turn = {**PRIVATE, "concurrency_id": "model", "concurrency_limit": 1}
    lesson = learn.lesson

    def show_step(event: gr.EventData) -> tuple:
        number = min(max(int(event.step), 1), len(STEPS))
        chosen = gr.update(selected="learn"), gr.update(selected="lesson")
        page = {"focus": f"#lm-lesson-words .lm-step-title[data-step-title='{number}']"}
        return *chosen, number, lesson.words(number), loading(number), "", NO_WAY_BACK, page

    def fill_step(number: int) -> tuple[str, str]:
        return lesson.live(number), lesson.task(number)

    def pick(event: gr.EventData) -> tuple[str, dict]:
        number = min(max(int(event.step), 1), len(STEPS))
        return lesson.live(number, event.pick), {"focus": f"#lm-learn [data-pick='{event.pick}']"}

    step_parts = [tabs, learn.parts, learn.step, learn.words, learn.live, learn.task, back, bus]
    fill = {"fn": fill_step, "inputs": learn.step, "outputs": [learn.live, learn.task], **in_turn}
    bus.select(show_step, None, step_parts, **AT_ONCE).then(**fill)
    learn.tab.select(lambda: NO_WAY_BACK, None, back, **AT_ONCE).then(**fill)
    bus.click(pick, None, [learn.live, bus], trigger_mode="always_last", **in_turn)


def _wire_ways(
    studio: Studio,
    learn: LearnTab,
    tabs: gr.Tabs,
    bus: gr.HTML,
    back: gr.Button,
    generate_tab: GenerateTab,
    inspector: InspectorPanel,
    notice: gr.HTML,
) -> None:
    """The ways from the lesson and the drawing to other parts of the page, and the one back."""

    def write(event: gr.EventData, request: gr.Request) -> tuple:
        prompt = ACTIONS[str(event.action)].prompt
        session = studio.store.get(request.session_hash)
        missing = f"{OPENING_SAMPLE} is not in memory now: choose it under Add documents and press Read."
        note = "" if session.is_busy or holds_the_story(session) else markup.note(missing, "error")
        settings = [LENGTH, TEMPERATURE]
        return gr.update(selected="generate"), FROM_PROMPT, prompt, *settings, way_back(), note

    def go_back() -> tuple:
        return gr.update(selected="learn"), NO_WAY_BACK, {"look": "#lm-tabs"}

    def show(event: gr.EventData) -> tuple:
        kind, _, name = str(event.action).partition("-")
        if kind == "chart":
            tab = inspector.tabs[name]
            chart = tab._id if tab.id is None else tab.id  # the page calls a tab without a name by its number
            # On a narrow page the inspector stands under the lesson, far from it.
            return gr.skip(), gr.skip(), way_back("lm-on-narrow"), gr.update(selected=chart)
        if name == "drawing":
            return gr.update(selected="learn"), gr.update(selected="drawing"), gr.skip(), gr.skip()
        return gr.update(selected="generate"), gr.skip(), way_back(), gr.skip()

    driven = [tabs, generate_tab.origin, generate_tab.prompt, *generate_tab.settings[:2], back, notice]
    bus.submit(write, None, driven, **AT_ONCE).then(None, None, None, js=PRESS_GENERATE, **AT_ONCE)
    chart_tabs = next(iter(inspector.tabs.values())).parent
    bus.input(show, None, [tabs, learn.parts, back, chart_tabs], **AT_ONCE)
    back.click(go_back, None, [tabs, back, bus], **AT_ONCE)
