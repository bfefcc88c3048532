"""The studio in chromium: from the opened page to the chunks behind a token, by mouse and by keyboard."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import ui
from app.inspector_handlers import CHARTS, InspectorHandlers
from tests.browser.conftest import serve

STORY = "The lighthouse keeper wrote the name of every ship in a long ledger. " * 30
HOSTILE = '<img src=x onerror="window.pwn=1"><script>window.pwn=1</script> ${window.pwn=1} {{value}} '
WITH = '.lm-panel[data-panel="with"]'


@pytest.fixture(scope="module")
def url(tiny_model, tmp_path_factory) -> Iterator[str]:
    """The studio over a tiny model, with two short samples."""
    samples = tmp_path_factory.mktemp("samples")
    (samples / "the-keeper.txt").write_text(STORY, encoding="utf-8")
    (samples / "another.txt").write_text("In the morning the ship returned. " * 30, encoding="utf-8")
    with serve(ui.build(tiny_model, samples=samples)) as url:
        yield url


@pytest.fixture
def page(visit, url) -> object:
    """The opened studio with the sample in memory."""
    page = visit(url)
    page.wait_for_selector("#lm-documents li")
    return page


def generate(page, length: int = 12) -> None:
    page.get_by_label("Length (tokens)").fill(str(length))
    page.click("#lm-generate")
    page.wait_for_selector("#lm-run-status .lm-done")
    page.wait_for_selector("#lm-inspector .lm-passage mark")


def heading(page) -> str:
    return page.inner_text("#lm-inspector h2")


def wait_for_token(page, step: int) -> None:
    page.wait_for_function(
        "s => document.querySelector('#lm-inspector h2')?.textContent.startsWith(`token ${s} `)", arg=step
    )


def click_heaviest_cell(page) -> None:
    """Plotly tells of a click only after the mouse has moved over the cell."""
    page.wait_for_selector("#lm-layers .gtitle:has-text('token')")  # drawn for this run
    page.wait_for_function("document.querySelector('#lm-layers .js-plotly-plot')?.lmBound")
    x, y = page.evaluate(
        """() => {
            const plot = document.querySelector('#lm-layers .js-plotly-plot');
            plot.scrollIntoView({ block: 'center' });
            let best = { z: 0 };
            plot._fullData.forEach((trace) => trace.z.forEach((row, i) => Array.from(row).forEach((z, j) => {
                if (z > best.z) best = { z, x: trace.x[j], y: trace.y[i] };
            })));
            const { xaxis, yaxis } = plot._fullLayout;
            const box = plot.querySelector('.nsewdrag').getBoundingClientRect();
            return [box.x + xaxis.d2p(best.x), box.y + yaxis.d2p(best.y)];
        }"""
    )
    page.mouse.move(x - 4, y)
    page.mouse.move(x, y)
    page.wait_for_selector("#lm-layers .hoverlayer .hovertext")
    page.mouse.click(x, y)


def test_charts_that_arrive_after_another_token_was_chosen_do_not_stay(page, monkeypatch):
    """All charts of a run are drawn at its end: here so slowly that a token is chosen meanwhile."""
    drawn, chart = threading.Event(), InspectorHandlers.chart

    def slow_chart(studio, key, name, **options):
        figure = chart(studio, key, name, **options)
        if name == CHARTS[-1] and not drawn.is_set():
            drawn.wait(20)
        return figure

    monkeypatch.setattr(InspectorHandlers, "chart", slow_chart)
    generate(page)
    page.click(f'{WITH} [data-step="5"]')
    page.wait_for_selector("#lm-layers .gtitle:has-text('token 5')")
    drawn.set()
    page.wait_for_timeout(2500)  # the late charts come, and what catches up with the chosen token after them
    assert "token 5" in page.locator("#lm-layers .gtitle").first.text_content()


def test_from_the_opened_page_to_the_chunks_of_a_token(page):
    generate(page)
    assert page.locator(f"{WITH} .lm-token").count() == 12
    page.click(f'{WITH} [data-step="5"]')
    wait_for_token(page, 5)
    assert page.get_attribute("#lm-inspector .lm-lock", "aria-pressed") == "true"
    assert page.inner_text("#lm-inspector mark >> nth=0").strip() in STORY
    assert "Memory" in page.inner_text(".lm-sentence")
    page.wait_for_selector("#lm-layers .gtitle:has-text('token 5')")


def test_the_keyboard_steps_locks_and_frees(page):
    generate(page)
    page.click(f'{WITH} [data-step="5"]')
    page.focus(WITH)
    page.keyboard.press("ArrowRight")
    wait_for_token(page, 6)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    wait_for_token(page, 4)
    page.hover(f'{WITH} [data-step="9"]')
    assert heading(page).startswith("token 4")  # locked
    page.keyboard.press("Escape")
    page.hover(f'{WITH} [data-step="10"]')
    wait_for_token(page, 10)


def test_choosing_a_layer_shows_its_passages_and_its_heads(page):
    generate(page)
    page.click("#lm-layer-1")
    assert page.get_attribute("#lm-layer-1", "aria-selected") == "true"
    page.get_by_role("tab", name="Heads").click()
    page.wait_for_selector("#lm-heads .gtitle:has-text('Heads of layer 1')")


def test_a_click_in_the_map_shows_the_chunk_in_its_place(page):
    generate(page)
    click_heaviest_cell(page)
    page.wait_for_selector("#lm-source .lm-source-chunk")
    page.click("#lm-source [data-goto] >> nth=0")  # and from there back to a token that used it
    page.wait_for_selector("#lm-inspector .lm-passage mark")


def test_a_chunk_that_is_chosen_is_marked_everywhere(page):
    generate(page)
    page.wait_for_selector("#lm-layers .gtitle:has-text('token')")
    mark = page.locator("#lm-inspector .lm-passage mark").first
    chunk = mark.get_attribute("data-chunk")
    mark.click()
    here = page.wait_for_selector(f"#lm-source-page mark[data-chunk='{chunk}']")
    for place in (here, mark.element_handle()):
        assert place.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
    page.get_by_role("tab", name="Map").click()
    lines = "document.querySelector('#lm-layers .js-plotly-plot').layout.shapes?.length ?? 0"
    page.wait_for_function(f"({lines}) > 0")
    page.keyboard.press("Escape")
    page.wait_for_function(f"({lines}) === 0")


def test_every_chart_is_drawn_and_marks_the_chosen_token(page):
    generate(page)
    for title, chart in [("Timeline", "timeline"), ("Heads", "heads"), ("Gates", "gates"), ("Effect", "effects")]:
        page.get_by_role("tab", name=title, exact=True).click()
        page.wait_for_function(f"document.querySelector('#lm-{chart} .js-plotly-plot')?._fullData?.length")
    page.click(f'{WITH} [data-step="7"]')
    page.wait_for_function("document.querySelector('#lm-effects .js-plotly-plot')?.layout.shapes?.[0]?.x0 === 7")


def test_a_sample_is_read_removed_and_memory_cleared(page):
    page.click("#lm-sample input")
    page.get_by_role("option", name="another.txt").click()
    page.click("#lm-read-sample")
    page.wait_for_selector("#lm-documents li:has-text('another.txt')")
    page.click("#lm-documents [data-remove='0']")
    page.wait_for_selector("#lm-documents li:has-text('the-keeper.txt')", state="detached")
    page.click("#lm-clear")
    page.wait_for_selector(".lm-empty-memory")


def test_a_dropped_file_is_read(page, tmp_path: Path):
    path = tmp_path / "dropped.md"
    path.write_text("# A ship\n\n" + STORY, encoding="utf-8")
    page.set_input_files("#lm-files input[type=file]", str(path))
    page.wait_for_selector("#lm-documents li:has-text('dropped.md')")
    page.wait_for_selector("#lm-memory-status .lm-done:has-text('dropped.md')")


def test_hostile_text_never_runs(page):
    page.get_by_text("Paste a text").click()
    page.fill("#lm-paste-name textarea, #lm-paste-name input", HOSTILE)
    page.fill("#lm-paste-text textarea", HOSTILE * 12)
    page.click("#lm-paste")
    page.wait_for_selector("#lm-documents li:nth-child(2)")
    page.click("#lm-documents [data-remove='0']")
    page.fill("#lm-prompt textarea", HOSTILE)
    generate(page)
    click_heaviest_cell(page)
    page.wait_for_selector("#lm-source .lm-source-chunk")
    page.get_by_text("a place in a loaded document").click()
    page.wait_for_selector(".lm-place")
    assert page.evaluate("window.pwn") is None
    assert page.locator("#lm-studio img[src=x], #lm-memory img[src=x]").count() == 0


def test_continuing_a_document_starts_from_its_text(page):
    page.get_by_text("a place in a loaded document").click()
    page.wait_for_selector(".lm-place .lm-after")
    generate(page)
    assert page.inner_text(f"{WITH} .lm-prompt").strip("… ")[-30:] in STORY


def test_stopping_keeps_the_text(page, tiny_model):
    # A model that takes its time: a busy machine must not have ended the text before the click.
    slow = tiny_model.backbone.register_forward_pre_hook(lambda *_: time.sleep(0.1))
    try:
        page.get_by_label("Length (tokens)").fill("256")
        page.click("#lm-generate")
        page.wait_for_selector(f'{WITH} [data-step="3"]')
        page.click("#lm-stop")
        page.wait_for_selector("#lm-run-status .lm-stopped")
    finally:
        slow.remove()
    assert 3 < page.locator(f"{WITH} .lm-token").count() < 256
    page.wait_for_selector("#lm-inspector .lm-passage")


def test_an_error_stays_until_it_is_dismissed_and_the_page_goes_on(page):
    page.fill("#lm-prompt textarea", "   ")
    page.click("#lm-generate")
    page.wait_for_selector("#lm-notice .lm-error:has-text('prompt is empty')")
    page.wait_for_timeout(600)  # what follows a run leaves it there
    page.click("#lm-notice [data-dismiss]")
    page.wait_for_selector("#lm-notice .lm-error", state="detached")
    page.fill("#lm-prompt textarea", "The keeper")
    page.get_by_label("Length (tokens)").fill("0")
    page.click("#lm-generate")
    page.wait_for_selector("#lm-notice .lm-error:has-text('Length is 0; it must be from 1 to')")
    generate(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_can_use_everything(visit, url, scheme):
    page = visit(f"{url}?__theme={scheme}", 390, 844)
    page.wait_for_selector("#lm-documents li", state="attached")
    page.wait_for_selector("#lm-memory:not(.open)", state="attached")
    generate(page)
    page.click(f'{WITH} [data-step="2"]')
    wait_for_token(page, 2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for selector in ("#lm-generate", "#lm-stop", "#lm-prompt", "#lm-layers", "#lm-inspector"):
        box = page.locator(selector).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390


def test_only_the_visitors_own_memory_is_shown(visit, page, url):
    page.click("#lm-clear")
    page.wait_for_selector(".lm-empty-memory")
    visit(url).wait_for_selector("#lm-documents li:has-text('the-keeper.txt')")
