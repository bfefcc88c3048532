"""The Learn tab in chromium, with the model in the box: through all steps, and from the drawing to what it shows."""

import re

import pytest

from app import lesson
from app.lesson_steps import STEPS


@pytest.fixture
def page(visit, studio_url) -> object:
    """The Learn tab of an opened studio."""
    return open_learn(visit(studio_url))


def open_learn(page) -> object:
    page.wait_for_selector("#lm-documents li", state="attached")
    page.get_by_role("tab", name="Learn").click()
    page.wait_for_selector("#lm-lesson-live .lm-story")
    return page


def wait_for_step(page, number: int) -> None:
    """The step's words and its numbers stand there."""
    page.wait_for_selector(f".lm-step-title[data-step-title='{number}']")
    page.wait_for_selector(f"#lm-lesson-live .lm-live[data-lesson='{number}']:not(:has(> .lm-note))")
    page.wait_for_selector(f"#lm-lesson-task .lm-way:has-text('{number} of {len(STEPS)}')")


def generate(page) -> None:
    """By the lesson's button, and back to the lesson."""
    page.click("#lm-lesson-task [data-do='generate']")
    page.wait_for_selector("#lm-run-status .lm-done")
    page.wait_for_selector("#lm-inspector .lm-passage mark")
    page.click("#lm-back")
    page.wait_for_selector(".lm-steps")


def open_drawing(page) -> None:
    page.get_by_role("tab", name="The model, drawn").click()
    page.wait_for_selector(".lm-svg [data-part='bank']")


def test_all_steps_are_walked_through_with_their_answers(page):
    for number, step in enumerate(STEPS, start=1):
        wait_for_step(page, number)
        assert page.locator("#lm-lesson-live .lm-error").count() == 0
        assert step.title in page.inner_text(".lm-steps [aria-current]")
        answer = page.locator(".lm-question p")
        assert not answer.is_visible()
        page.click(".lm-question summary")
        answer.wait_for()
        if number < len(STEPS):
            page.click(f".lm-way [data-do='lesson-{number + 1}']")
            page.wait_for_function(f"document.activeElement?.dataset.stepTitle === '{number + 1}'")
    assert page.locator(".lm-summary tr").count() == len(lesson.CHARTS)


def test_the_lesson_generates_and_leads_into_the_charts(page):
    page.click("#lm-lesson-task [data-do='generate']")
    page.wait_for_selector("#lm-run-status .lm-done")
    assert page.input_value("#lm-prompt textarea") == "The secret number of Maren Holt is"
    assert page.locator(".lm-panel[data-panel='with'] .lm-token").count() == 12
    assert "4 7 1 1" in page.inner_text(".lm-panel[data-panel='with']")
    page.click("#lm-back")
    for number, chart in ((3, "layers"), (4, "timeline"), (5, "gates"), (6, "heads"), (9, "effects")):
        page.click(f".lm-steps [data-do='lesson-{number}']")
        wait_for_step(page, number)
        page.click(f"#lm-lesson-task [data-do='chart-{chart}']")
        page.wait_for_selector(f"#lm-{chart} .gtitle")
        assert page.inner_text("#lm-inspector h2").startswith("token 0")
    assert page.locator(".lm-layers [role='tab'][aria-selected='true']").count() == 1


def test_a_token_is_chosen_by_keyboard_and_keeps_the_focus(page):
    page.click(".lm-steps [data-do='lesson-4']")
    wait_for_step(page, 4)
    before = page.inner_text("#lm-lesson-live .lm-said")
    page.focus("#lm-lesson-live [data-pick='8']")
    page.keyboard.press("Enter")
    page.wait_for_selector("#lm-lesson-live [data-pick='8'][aria-pressed='true']")
    page.wait_for_function("document.activeElement?.dataset.pick === '8'")
    assert page.inner_text("#lm-lesson-live .lm-said") != before


def test_reading_again_says_that_nothing_has_changed(page):
    page.click(".lm-steps [data-do='lesson-8']")
    wait_for_step(page, 8)
    page.click("#lm-lesson-task [data-pick='again']")
    said = page.wait_for_selector("#lm-lesson-live [role='status']").inner_text()
    same, numbers = re.search(r"([\d,]+) of ([\d,]+) numbers", said).groups()
    assert same == numbers


def test_the_drawing_follows_the_run_and_leads_to_a_chart_and_a_step(page):
    generate(page)
    open_drawing(page)
    page.wait_for_selector(".lm-svg text:has-text('layer 2 · gate')")
    assert "gate –" not in page.inner_html(".lm-svg")
    page.focus(".lm-svg [data-part='gate-4']")
    page.keyboard.press("Enter")
    page.wait_for_selector("#lm-part-gate-4 >> text=retrieving from memory layer 4")
    page.click("#lm-part-gate-4 [data-do='chart-gates']")
    page.wait_for_selector("#lm-gates .gtitle")
    page.click(".lm-svg [data-part='retrieval'] rect >> nth=0")
    page.click("#lm-part-retrieval [data-do='lesson-4']")
    wait_for_step(page, 4)


def test_the_drawing_follows_memory(page):
    open_drawing(page)
    page.wait_for_selector(".lm-svg text:has-text('13,640 tokens')")
    page.click("#lm-documents [data-remove='0']")
    page.wait_for_selector(".lm-svg text:has-text('0 tokens') >> nth=0")
    page.wait_for_function("!document.querySelector('.lm-svg').textContent.includes('13,640')")


def test_without_the_story_in_memory_the_lesson_says_how_to_get_it_back(page):
    page.click("#lm-clear")
    page.wait_for_selector(".lm-empty-memory")
    page.click("#lm-lesson-task [data-do='generate']")
    page.wait_for_selector("#lm-notice .lm-error:has-text('the-keeper.txt is not in memory')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_can_learn(visit, studio_url, scheme):
    page = open_learn(visit(f"{studio_url}?__theme={scheme}", 390, 844))
    for number in (2, 6, 9):
        page.click(f".lm-steps [data-do='lesson-{number}']")
        wait_for_step(page, number)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.click("#lm-lesson-task [data-do='chart-effects']")
    page.wait_for_selector("#lm-effects", state="visible")
    page.click("#lm-back")
    open_drawing(page)
    box = page.locator(".lm-svg").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    page.click(".lm-svg [data-part='bank']")
    page.click("#lm-part-bank [data-do='view-memory']")
    page.wait_for_selector("#lm-gauge.lm-flash")
