"""The experiments in chromium, on the model in the box: every page opens, one run ends, one is stopped."""

from collections.abc import Iterator

import pytest

from app import ui
from app.experiment_pages import PAGES
from tests.browser.conftest import serve

TEXT = "The lighthouse keeper wrote the name of every ship in a long ledger, and the harbour was quiet. " * 160


@pytest.fixture(scope="module")
def url(bundled_model, tmp_path_factory) -> Iterator[str]:
    """The studio over the bundled model, with one short sample."""
    samples = tmp_path_factory.mktemp("samples")
    (samples / "the-keeper.txt").write_text(TEXT, encoding="utf-8")
    with serve(ui.build(bundled_model, samples=samples)) as url:
        yield url


@pytest.fixture
def page(visit, url) -> object:
    """The opened Experiments tab."""
    return open_experiments(visit(url))


def open_experiments(page) -> object:
    page.wait_for_selector("#lm-documents li", state="attached")
    page.get_by_role("tab", name="Experiments", exact=True).click()
    wait_for_charts(page, "perplexity")
    return page


def choose(page, name: str) -> None:
    page.get_by_role("tab", name=PAGES[name].title, exact=True).click()
    wait_for_charts(page, name)


def wait_for_charts(page, name: str) -> None:
    for chart in PAGES[name].charts:
        page.wait_for_function(f"document.querySelector('#lm-{name}-{chart.name} .js-plotly-plot')?._fullData?.length")


def set_knob(page, name: str, label: str, value: int) -> None:
    page.locator(f"#lm-{name}-run").get_by_label(label).fill(str(value))


def test_every_page_shows_its_recorded_result_its_charts_and_their_tables(page):
    for name in PAGES:
        choose(page, name)
        assert "Recorded result" in page.inner_text(f"#lm-{name}-said")
        assert "python -m longmem evaluate" in page.inner_text(f"#lm-{name}-said")
        for chart in PAGES[name].charts:
            details = page.locator(f"#lm-{name}-{chart.name}-table details")
            details.locator("summary").click()
            assert details.locator("tbody tr").first.is_visible()
    assert not page.locator("#lm-look").is_visible()  # charts have the whole width
    page.get_by_role("tab", name="Generate", exact=True).click()
    page.wait_for_selector("#lm-look")


def test_a_small_run_ends_in_the_same_charts_and_the_recorded_result_comes_back(page):
    set_knob(page, "perplexity", "Tokens of each part", 1_024)
    set_knob(page, "perplexity", "Parts, at most", 2)
    page.click("#lm-perplexity-start")
    page.wait_for_selector("#lm-perplexity-status .lm-done")
    page.wait_for_selector("#lm-perplexity-said .lm-small:has-text('n = 2 documents')")
    page.wait_for_selector("#lm-perplexity-position .gtitle:has-text('Small run')")
    assert page.is_enabled("#lm-perplexity-start")
    page.click("#lm-perplexity-result input")
    page.get_by_role("option", name="recorded: perplexity-books-test").click()
    page.wait_for_selector("#lm-perplexity-said:has-text('Recorded result')")
    page.wait_for_selector("#lm-perplexity-position .gtitle:has-text('Perplexity by place')")


def test_training_is_stopped_in_the_middle_and_its_curves_stay(page):
    choose(page, "staleness")
    set_knob(page, "staleness", "Steps of training", 200)
    page.click("#lm-staleness-start")
    page.wait_for_selector("#lm-staleness-cosine .gtitle:has-text('Small run')")
    page.click("#lm-staleness-stop")
    page.wait_for_selector("#lm-staleness-status .lm-stopped")
    assert "It was stopped" in page.inner_text("#lm-staleness-said")
    assert page.is_enabled("#lm-staleness-start")
    page.wait_for_function(
        "document.querySelector('#lm-staleness-cosine .js-plotly-plot')._fullData.every((trace) => trace.x.length < 50)"
    )


def test_a_number_that_is_not_allowed_is_said_and_can_be_mended(page):
    choose(page, "suffix")
    set_knob(page, "suffix", "Chapter breaks, at most", 0)
    page.click("#lm-suffix-start")
    page.wait_for_selector("#lm-notice .lm-error:has-text('Chapter breaks, at most is 0')")
    page.wait_for_selector("#lm-suffix-status .lm-failed")
    assert page.is_enabled("#lm-suffix-start")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_can_read_every_chart(visit, url, scheme):
    page = open_experiments(visit(f"{url}?__theme={scheme}", 390, 844))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for selector in ("#lm-perplexity-start", "#lm-perplexity-said", "#lm-perplexity-change"):
        box = page.locator(selector).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
