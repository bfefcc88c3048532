"""The Demonstrations tab in chromium, on the bundled model: the sample, a text, a test, a wrong case."""

from collections.abc import Iterator

import pytest

from app import ui
from tests.browser.conftest import serve


@pytest.fixture(scope="module")
def url(bundled_model, tmp_path_factory) -> Iterator[str]:
    """The studio over the bundled model; nothing is in memory at first."""
    with serve(ui.build(bundled_model, samples=tmp_path_factory.mktemp("samples"))) as url:
        yield url


@pytest.fixture
def page(visit, url, request) -> object:
    """The opened tab."""
    page = visit(url, getattr(request, "param", 1440))
    page.get_by_role("tab", name="Demonstrations").click()
    page.wait_for_selector(".lm-demo-preview")
    return page


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
