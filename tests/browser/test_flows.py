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
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
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
