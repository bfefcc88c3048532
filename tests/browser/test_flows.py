"""What a visitor comes for, from the opened page on, with the model in the box."""

import time

import pytest

from longmem.documents import Document

WITH = '.lm-panel[data-panel="with"]'


@pytest.fixture
def page(visit, studio_url) -> object:
    """The opened studio with the sample in memory."""
    page = visit(studio_url)
    page.wait_for_selector("#lm-documents li")
    return page


def written(page) -> str:
    return "".join(page.locator(f"#lm-with {WITH} .lm-token").all_text_contents())


def test_from_the_opened_page_to_the_what_if_in_four_clicks(page):
    page.click("#lm-generate")  # 1
    page.wait_for_selector("#lm-run-status .lm-done")
    page.wait_for_selector("#lm-inspector .lm-sentence.raised")
    assert written(page).strip().startswith("4 7 1 1")
    page.wait_for_selector(".lm-worth")  # what each passage was worth, measured without a click
    page.locator("#lm-inspector .lm-off", has_text="document off").first.click()  # 2
    page.wait_for_selector("#lm-switches:has-text('Off: 1 document')")
    page.click("#lm-again")  # 3
    page.wait_for_selector("#lm-whatif-result .lm-sentence:has-text('With 1 document off')")
    page.wait_for_selector("#lm-whatif-result .lm-caret", state="detached")
    assert page.locator("#lm-whatif-result .lm-parting").count() == 1  # another text is written
    page.click("#lm-all-on")  # 4
    page.wait_for_selector("#lm-whatif-result .lm-whatif", state="detached")


def open_tab(page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def type_into(page, field: str, text: str) -> None:
    """Into a field of one line or of several."""
    page.fill(f"{field} textarea, {field} input", text)


def generate(page) -> None:
    page.click("#lm-generate")
    page.wait_for_selector("#lm-run-status .lm-done")
    page.wait_for_selector("#lm-inspector .lm-sentence")


def test_a_false_fact_in_memory_changes_the_answer(page):
    page.click("#lm-change > button")
    type_into(page, "#lm-change-find", "4 7 1 1")
    type_into(page, "#lm-change-put", "9 2 6 3")
    page.click("#lm-change-go")
    page.wait_for_selector("#lm-memory-status .lm-done")
    generate(page)
    assert written(page).strip().startswith("9 2 6 3")


def test_a_text_is_scored_and_a_phrase_looked_up(page):
    open_tab(page, "Score")
    type_into(page, "#lm-score-text", "The secret number of Maren Holt is 4 7 1 1.")
    page.click("#lm-score")
    page.wait_for_selector("#lm-score-status .lm-done:has-text('Perplexity over')")
    page.wait_for_selector("#lm-inspector .lm-passage mark")
    page.get_by_text("look up only").click()
    page.click("#lm-score")
    page.wait_for_selector("#lm-inspector .lm-sentence:has-text('Nothing was predicted')")
    page.get_by_text("the next page of a document").click()
    page.fill("#lm-score-length input", "32")
    page.click("#lm-score")
    page.wait_for_selector("#lm-score-status .lm-done:has-text('over 32 tokens')")
    page.wait_for_function("Number(document.querySelector('#lm-score-share input').value) > 60")  # the page after it


def test_a_document_is_scored_on_to_its_end_and_stopped_on_the_way(page):
    page.get_by_role("tab", name="Score", exact=True).click()
    assert not page.is_visible("#lm-score-onward")
    page.get_by_label("the next page of a document").check()
    page.wait_for_selector("#lm-score-preview .lm-place")
    page.fill("#lm-score-length input", "64")
    page.click("#lm-score-onward")
    page.wait_for_selector("#lm-score-along .main-svg")  # a curve, while it goes on
    page.click("#lm-score-stop")
    page.wait_for_selector("#lm-score-status .lm-done:has-text('Stopped: perplexity over')")
    assert not page.is_visible("#lm-score-stop")
    assert page.locator("#lm-scored .lm-token").count() == 64
    page.get_by_label("Place (% of its text)").nth(1).fill("97")
    page.locator("#lm-score-share input").first.press("Tab")
    page.click("#lm-score-onward")
    page.wait_for_selector("#lm-score-status .lm-done:has-text('of the document to 100 %')")
    page.click("#lm-score-along-table summary")
    assert page.locator("#lm-score-along-table tbody tr").count() > 2


def test_memory_is_set_saved_and_loaded(page, visit, studio_url, tmp_path):
    page.click("#lm-memory-settings > button")
    page.get_by_label("Retrieved tokens").fill("32")
    page.click("#lm-apply-memory")
    page.wait_for_selector("#lm-memory-status .lm-done:has-text('Memory is set')")
    page.locator("button", has_text="Save or load memory").click()
    with page.expect_download() as download:
        page.click("#lm-save-memory")
    download.value.save_as(tmp_path / "memory.longmem")
    other = visit(studio_url)
    other.wait_for_selector("#lm-documents li")
    other.click("#lm-clear")
    other.wait_for_selector(".lm-empty-memory")
    other.locator("button", has_text="Save or load memory").click()
    with other.expect_file_chooser() as chooser:
        other.click("#lm-load-memory")
    chooser.value.set_files(tmp_path / "memory.longmem")
    other.wait_for_selector("#lm-documents li:has-text('the-keeper.txt')")
    other.click("#lm-memory-settings > button")
    assert other.get_by_label("Retrieved tokens").input_value() == "32"


def test_a_text_goes_on_and_an_earlier_run_says_that_it_is_one(page):
    generate(page)
    type_into(page, "#lm-more", " Then she said")
    page.click("#lm-continue")
    page.wait_for_function("document.querySelector('#lm-with .lm-prompt')?.textContent.includes('Then she said')")
    page.wait_for_selector("#lm-run-status .lm-done")
    open_tab(page, "Score")
    type_into(page, "#lm-score-text", "Maren Holt wrote it down.")
    page.click("#lm-score")
    page.wait_for_selector("#lm-score-status .lm-done")
    open_tab(page, "Generate")
    page.hover(f'#lm-with {WITH} [data-step="1"]')
    page.wait_for_selector("#lm-inspector:has-text('of an earlier run')")


def test_layers_heads_and_passages_are_switched_off(page):
    generate(page)
    page.locator("#lm-inspector .lm-offs .lm-off", has_text="layer 4 off").click()
    page.wait_for_selector("#lm-switches:has-text('layer 4')")
    page.click("#lm-again")
    page.wait_for_selector("#lm-whatif-result .lm-sentence:has-text('With layer 4 off')")
    page.wait_for_selector("#lm-whatif-result .lm-caret", state="detached")
    page.click("#lm-all-on")
    page.wait_for_selector("#lm-whatif-result .lm-whatif", state="detached")
    page.get_by_role("tab", name="Grid").click()
    page.wait_for_function("document.querySelector('#lm-grid .js-plotly-plot')?.lmBound")
    page.wait_for_selector("#lm-grid .gtitle:has-text('token')")
    page.evaluate("document.querySelector('#lm-grid').scrollIntoView({ block: 'center' })")
    box = page.locator("#lm-grid .nsewdrag").first.bounding_box()
    page.mouse.move(box["x"] + 8, box["y"] + box["height"] / 4)
    page.mouse.move(box["x"] + 12, box["y"] + box["height"] / 4)
    page.wait_for_selector("#lm-grid .hoverlayer .hovertext")
    page.mouse.click(box["x"] + 12, box["y"] + box["height"] / 4)
    head_off = page.locator("#lm-inspector .lm-off", has_text="head ")
    head_off.first.click()
    page.wait_for_selector("#lm-switches:has-text('head')")
    page.locator("#lm-inspector .lm-passage .lm-off >> nth=0").click()
    page.wait_for_selector("#lm-switches:has-text('chunk')")
    page.click("#lm-again")
    page.wait_for_selector("#lm-whatif-result .lm-sentence:has-text('goes from')")


def test_another_seed_writes_another_text(page):
    page.get_by_label("Temperature").fill("1")
    type_into(page, "#lm-prompt", "In the morning")
    generate(page)
    before = written(page)
    page.click("#lm-regenerate")
    page.wait_for_selector("#lm-with .lm-panel[data-run='2'] .lm-token")
    page.wait_for_selector("#lm-run-status .lm-done")
    assert page.get_by_label("Seed").input_value() == "1"
    assert written(page) != before


def test_reading_is_stopped_and_what_was_read_can_be_used(page, bundled_model):
    # A model that takes its time: a quick machine must not have read the sample before the click.
    slow = bundled_model.backbone.register_forward_pre_hook(lambda *_: time.sleep(0.15))
    try:
        page.click("#lm-sample input")
        page.get_by_role("option", name="harbour-log.txt").click()
        page.click("#lm-read-sample")
        page.wait_for_selector("#lm-memory-status .lm-progress:has-text('tokens/s')")
        page.click("#lm-stop-reading")
        page.wait_for_selector("#lm-memory-status .lm-stopped:has-text('is in memory')")
    finally:
        slow.remove()
    page.wait_for_selector("#lm-documents li:has-text('harbour-log.txt')")
    generate(page)
    assert written(page).strip().startswith("4 7 1 1")


def test_a_book_is_fetched_by_its_number(page, monkeypatch):
    book = Document.from_text("A book", "The keeper of the book wrote every word of it by hand. " * 40)
    monkeypatch.setattr("app.memory_handlers.fetch_book", lambda number: book if number == 1342 else None)
    page.get_by_text("Project Gutenberg", exact=True).click()
    page.fill("#lm-book input", "1342")
    page.click("#lm-fetch")
    page.wait_for_selector("#lm-documents li:has-text('A book')")
    page.wait_for_selector("#lm-memory-status .lm-done")
