"""What a visitor comes for, from the opened page on, with the model in the box."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import ui
from longmem.model import LongMemForCausalLM

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
MODEL = Path(__file__).parents[2] / "assets" / "model"
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]
SLOW = 120_000  # milliseconds: a machine that is busy with other things may take long, and is not wrong
WITH = '.lm-panel[data-panel="with"]'


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    demo = ui.build(LongMemForCausalLM.from_pretrained(MODEL, device="cpu"))
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **ui.launch_options())
    yield url
    demo.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, url) -> Iterator[object]:
    """The opened studio with the sample in memory; an error of the page, or a request to others, fails."""
    page = browser.new_page(viewport={"width": 1440, "height": 1000}, accept_downloads=True)
    page.set_default_timeout(SLOW)
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: None if is_local(request.url) else wrong.append(request.url))
    page.goto(url)
    page.wait_for_selector("#lm-documents li")
    yield page
    page.close()
    assert wrong == []


def is_local(url: str) -> bool:
    return url.startswith(("http://127.0.0.1", "data:", "blob:"))


def generate(page, length: int = 6) -> None:
    page.get_by_label("Length (tokens)").fill(str(length))
    page.get_by_label("Temperature").fill("0")
    page.click("#lm-generate")
    page.wait_for_selector("#lm-run-status .lm-done")
    page.wait_for_selector("#lm-inspector .lm-passage mark")


def written(page) -> str:
    return "".join(page.locator(f"#lm-with {WITH} .lm-token").all_text_contents())


def open_tab(page, name: str) -> None:
    page.locator("#lm-tabs > .tab-wrapper button[role=tab]", has_text=name).first.click()


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


def test_a_false_fact_in_memory_changes_the_answer(page):
    page.click("#lm-change > button")
    page.fill("#lm-change-find textarea", "4 7 1 1")
    page.fill("#lm-change-put textarea", "9 2 6 3")
    page.click("#lm-change-go")
    page.wait_for_selector("#lm-memory-status .lm-done")
    generate(page)
    assert written(page).strip().startswith("9 2 6 3")


def test_a_text_is_scored_and_a_phrase_looked_up(page):
    open_tab(page, "Score")
    page.fill("#lm-score-text textarea", "The secret number of Maren Holt is 4 7 1 1.")
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


def test_memory_is_set_saved_and_loaded(page, browser, url, tmp_path):
    page.click("#lm-memory-settings > button")
    page.get_by_label("Retrieved tokens").fill("32")
    page.click("#lm-apply-memory")
    page.wait_for_selector("#lm-memory-status .lm-done:has-text('Memory is set')")
    page.locator("button", has_text="Save or load memory").click()
    with page.expect_download() as download:
        page.click("#lm-save-memory")
    download.value.save_as(tmp_path / "memory.longmem")
    other = browser.new_page()
    other.set_default_timeout(SLOW)
    other.goto(url)
    other.wait_for_selector("#lm-documents li")
    other.click("#lm-clear")
    other.wait_for_selector(".lm-empty-memory")
    other.locator("button", has_text="Save or load memory").click()
    with other.expect_file_chooser() as chooser:
        other.click("#lm-load-memory")
    chooser.value.set_files(tmp_path / "memory.longmem")
    other.wait_for_selector("#lm-documents li:has-text('the-keeper.txt')")
    assert other.get_by_label("Retrieved tokens").input_value() == "32"
    other.close()


def test_a_text_goes_on_and_an_earlier_run_says_that_it_is_one(page):
    generate(page)
    page.fill("#lm-more textarea", " Then she said")
    page.click("#lm-continue")
    page.wait_for_function("document.querySelector('#lm-with .lm-prompt')?.textContent.includes('Then she said')")
    page.wait_for_selector("#lm-run-status .lm-done")
    open_tab(page, "Score")
    page.fill("#lm-score-text textarea", "Maren Holt wrote it down.")
    page.click("#lm-score")
    page.wait_for_selector("#lm-score-status .lm-done")
    open_tab(page, "Generate")
    page.hover(f'#lm-with {WITH} [data-step="1"]')
    page.wait_for_selector("#lm-inspector:has-text('of an earlier run')")
