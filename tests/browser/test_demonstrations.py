"""The Demonstrations tab in chromium, on the bundled model: the sample, a text, a test, a wrong case."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import ui
from longmem.model import LongMemForCausalLM

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
MODEL = Path(__file__).parent.parent.parent / "assets" / "model"
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    pytest.mark.skipif(not (MODEL / "model.safetensors").is_file(), reason="the bundled model is not here"),
]
SLOW = 600_000  # milliseconds: a machine that is busy with other things may take long, and is not wrong


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    """The studio over the bundled model; nothing is in memory at first."""
    demo = ui.build(LongMemForCausalLM.from_pretrained(MODEL), samples=tmp_path_factory.mktemp("samples"))
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
def page(browser, url, request) -> Iterator[object]:
    """The opened tab; whatever goes wrong in the page fails."""
    page = browser.new_page(viewport={"width": getattr(request, "param", 1440), "height": 1000})
    page.set_default_timeout(SLOW)
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.goto(url)
    page.get_by_role("tab", name="Demonstrations").click()
    page.wait_for_selector(".lm-demo-preview")
    yield page
    page.close()
    assert wrong == []


def test_from_the_sample_to_a_wrong_case_in_the_inspector(page):
    assert "2,400 demonstrations" in page.inner_text(".lm-demo-preview")
    page.click("#lm-demo-read")
    page.wait_for_selector("#lm-demo-read-status .lm-progress:has-text('tokens/s')")
    page.wait_for_selector("#lm-demo-read-status .lm-done")
    assert page.inner_text("#lm-documents .lm-name") == "sailings.csv"
    assert "2,400 of 2,400" in page.inner_text("#lm-demo-held")

    page.click("#lm-demo-classify")
    page.wait_for_selector("#lm-demo-result .lm-verdict")
    assert "With memory: north" in page.inner_text("#lm-demo-result .lm-said")
    assert page.locator("#lm-demo-result .lm-bars tbody tr").count() == 4
    assert "Wild Sparrow" in page.inner_text("#lm-demo-result .lm-looked-up >> nth=0")
    page.wait_for_selector("#lm-inspector h2:has-text('north')")
    page.wait_for_selector("#lm-inspector .lm-passage mark")

    page.locator("#lm-demo-n input").fill("20")
    for size in ("200", "2,000", "all"):
        page.locator("#lm-demo-sizes label", has_text=size).last.locator("input").uncheck()
    page.click("#lm-demo-evaluate")
    page.wait_for_selector("#lm-demo-evaluate-status .lm-done")
    page.wait_for_selector("#lm-demo-accuracy .gtitle")
    page.wait_for_selector("#lm-demo-confusion .gtitle:has-text('20 in memory')")
    rows = page.locator("#lm-demo-words tbody tr")
    assert [rows.nth(i).locator("th").inner_text() for i in range(rows.count())] == ["0", "20"]

    case = page.locator("#lm-demo-wrong [data-case]").first  # 20 demonstrations know 20 ships of 96
    text = case.locator("span").first.inner_text()
    case.click()
    page.wait_for_selector("#lm-demo-result .lm-info:has-text('of the test')")
    assert page.input_value("#lm-demo-text textarea") == text
    page.wait_for_function(
        "text => document.querySelector('#lm-demo-tokens')?.textContent.includes(text)", arg=text.split()[-1]
    )
    assert page.get_attribute("#lm-demo-wrong [data-case='0']", "aria-current") == "true"


def test_an_own_file_is_previewed_with_its_wrong_rows_and_read_without_them(page, tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("text,label\na <b>ship</b>,<script>window.pwn=1</script>\n,cold\nthe sea,warm\n")
    page.set_input_files("#lm-demo-file input[type=file]", str(path))
    page.wait_for_selector(".lm-demo-preview:has-text('1 row cannot be used')")
    page.click("#lm-demo-read")
    page.wait_for_selector("#lm-notice .lm-error:has-text('line 3')")
    page.click("#lm-demo-skip input")
    page.locator("#lm-demo-template textarea").fill("{text} => {label};\n")
    page.wait_for_selector(".lm-written:has-text('the sea => warm;')")
    page.click("#lm-demo-read")
    page.wait_for_selector("#lm-demo-held:has-text('2 of 2 demonstrations of own.csv')")
    assert page.evaluate("window.pwn") is None


@pytest.mark.parametrize("page", [390], indirect=True)
def test_a_phone_shows_all_of_it(page):
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for selector in ("#lm-demo-read", "#lm-demo-classify", "#lm-demo-evaluate", "#lm-demo-template", ".lm-written"):
        box = page.locator(selector).first.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
