"""Saving, loading and linking in a real browser, with the model in the box; the report from the disk, offline."""

import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import pandas as pd
import pytest

from app import ui
from app.exporting import read_csv
from app.report_figures import FIGURES
from app.settings import Settings
from app.share_link import NamedPlace, to_query
from tests.browser.conftest import SLOW, serve
from tests.made_runs import HOSTILE

STORY = "The lighthouse keeper wrote the name of every ship in a long ledger. " * 30
CLIPBOARD = ("clipboard-read", "clipboard-write")
WITH = '.lm-panel[data-panel="with"]'


@pytest.fixture(scope="module")
def url(bundled_model, tmp_path_factory) -> Iterator[str]:
    """The studio over the model in the box, with one short sample."""
    samples = tmp_path_factory.mktemp("samples")
    (samples / "the-keeper.txt").write_text(STORY, encoding="utf-8")
    with serve(ui.build(bundled_model, samples=samples)) as url:
        yield url


def opened(visit, url: str, *permissions: str) -> object:
    page = visit(url, permissions=permissions)
    page.wait_for_selector("#lm-documents li", state="attached")
    return page


def generate(page) -> None:
    page.get_by_label("Length (tokens)").fill("6")
    page.click("#lm-generate")
    page.wait_for_selector("#lm-run-status .lm-done")
    page.wait_for_selector("#lm-inspector .lm-passage mark")


def passages(page) -> str:
    """The words of the inspector's passages, without what each was worth: that is measured after they are there."""
    return page.evaluate("""() => {
      const copy = document.querySelector('#lm-inspector .lm-passages').cloneNode(true);
      copy.querySelectorAll('.lm-worth').forEach((worth) => worth.remove());
      return copy.textContent;
    }""")


def save(page, kind: str, folder: Path) -> tuple[Path, str]:
    """Click a button of the panel; the file on the disk, and where it came from."""
    if not page.is_visible("#lm-save-csv"):
        page.click("#lm-export button")
    with page.expect_download() as download:
        page.click(f"#lm-save-{kind}")
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path, download.value.url


def test_one_click_saves_the_trace_and_leaving_deletes_it_on_the_server(visit, url, tmp_path):
    page = opened(visit, url)
    generate(page)
    path, source = save(page, "csv", tmp_path)
    trace = read_csv(path.read_bytes(), "trace")
    assert path.name == "longmem-run-1-trace.csv"
    assert list(trace.step.unique()) == list(range(6))
    assert path.name in page.inner_text("#lm-export-status")
    assert httpx.get(source).status_code == 200
    page.close()
    other = visit("about:blank")
    for _ in range(100):
        if httpx.get(source).status_code != 200:
            break
        other.wait_for_timeout(200)
    assert httpx.get(source).status_code in {403, 404}


def test_saving_before_there_is_a_run_says_what_to_do(visit, url):
    page = opened(visit, url)
    page.click("#lm-export button")
    page.click("#lm-save-report")
    page.wait_for_selector("#lm-notice .lm-error:has-text('generate first')")
    assert not page.is_visible("#lm-download")


def test_run_and_memory_come_back_on_another_page(visit, url, tmp_path):
    page = opened(visit, url)
    page.fill("#lm-prompt textarea", "In the morning the keeper")
    page.get_by_label("Seed").fill("5")
    generate(page)
    path, _ = save(page, "bundle", tmp_path)
    page.click(f'{WITH} [data-step="3"]')
    page.wait_for_function("document.querySelector('#lm-inspector h2').textContent.startsWith('token 3 ')")
    shown = passages(page)
    other = opened(visit, url)
    other.click("#lm-clear")
    other.wait_for_selector(".lm-empty-memory")
    other.click("#lm-export button")
    other.set_input_files("#lm-load-run input[type=file], input[accept='.longmem']", str(path))
    other.wait_for_selector("#lm-memory-status .lm-done:has-text('Loaded memory and run')")
    other.wait_for_selector("#lm-documents li:has-text('the-keeper.txt')")
    other.wait_for_selector("#lm-inspector .lm-passage mark")
    assert other.input_value("#lm-prompt textarea") == "In the morning the keeper"
    assert other.get_by_label("Seed").input_value() == "5"
    assert other.locator(f"{WITH} .lm-token").count() == 6
    other.click(f'{WITH} [data-step="3"]')
    other.wait_for_function("document.querySelector('#lm-inspector h2').textContent.startsWith('token 3 ')")
    assert passages(other) == shown
    other.wait_for_selector("#lm-layers .gtitle:has-text('token 3')")  # the charts are of the loaded run too


def test_a_file_that_is_no_bundle_is_said_and_the_run_stays(visit, url, tmp_path):
    forged = tmp_path / "forged.longmem"
    forged.write_bytes(b"PK\x03\x04 nothing")
    page = opened(visit, url)
    generate(page)
    page.click("#lm-export button")
    page.set_input_files("#lm-load-run input[type=file], input[accept='.longmem']", str(forged))
    page.wait_for_selector("#lm-notice .lm-error:has-text('forged.longmem cannot be loaded')")
    assert page.locator(f"{WITH} .lm-token").count() == 6


def test_a_copied_link_restores_prompt_and_settings(visit, url):
    page = opened(visit, url, *CLIPBOARD)
    page.fill("#lm-prompt textarea", "Ships & keepers? 100 %")
    page.get_by_label("Temperature").fill("0.8")
    page.get_by_label("Seed").fill("2147483647")
    page.click("#lm-copy-link")
    page.wait_for_selector("#lm-link-status .lm-note")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == url + "?" + to_query(Settings(48, 0.8, 0.95, 2147483647), "Ships & keepers? 100 %")
    other = opened(visit, link)
    other.wait_for_selector("#lm-link-status .lm-done:has-text('those of the link')")
    assert other.input_value("#lm-prompt textarea") == "Ships & keepers? 100 %"
    assert other.get_by_label("Temperature").input_value() == "0.8"
    assert other.get_by_label("Seed").input_value() == "2147483647"


def test_where_the_clipboard_is_not_allowed_the_link_stands_in_a_field(visit, url):
    page = opened(visit, url, "geolocation")  # and so not the clipboard
    page.click("#lm-copy-link")
    page.wait_for_selector("#lm-link-status .lm-note:has-text('Copy the link here')")
    link = page.input_value("#lm-link textarea, #lm-link input")
    assert link.startswith(f"{url}?prompt=The+secret+number")
    page.fill("#lm-prompt textarea", "x" * 9000)
    page.click("#lm-copy-link")
    page.wait_for_selector("#lm-link-status .lm-failed:has-text('too long for a link')")
    assert not page.is_visible("#lm-link")


def test_a_link_with_bad_values_says_so_and_leaves_the_defaults(visit, url):
    page = opened(visit, f"{url}?prompt=Hello&length=100000&temperature=hot&seed=3&top_p=%3Cscript%3E")
    page.wait_for_selector("#lm-link-status .lm-failed:has-text('Length is 100000')")
    assert "temperature is 'hot'" in page.inner_text("#lm-link-status")
    assert page.get_by_label("Length (tokens)").input_value() == "48"
    assert page.get_by_label("Temperature").input_value() == "0.5"
    assert page.get_by_label("Seed").input_value() == "3"


def test_a_link_leads_to_a_place_in_a_document_as_soon_as_that_is_in_memory(visit, url):
    page = opened(visit, f"{url}?{to_query(Settings(), place=NamedPlace('the-keeper.txt', 0.4))}", *CLIPBOARD)
    page.wait_for_selector("#lm-link-status .lm-done:has-text('the-keeper.txt at 40 %')")
    page.wait_for_selector(".lm-place .lm-after")
    assert page.get_by_label("a place in a loaded document").is_checked()
    page.click("#lm-copy-link")
    page.wait_for_selector("#lm-link-status .lm-note:has-text('copied')")
    assert "document=the-keeper.txt&share=40&" in page.evaluate("navigator.clipboard.readText()")
    later = opened(visit, f"{url}?{to_query(Settings(), place=NamedPlace('later.txt', 0.25))}")
    later.wait_for_selector("#lm-link-status:has-text('add it to memory')")
    later.set_input_files(
        "#lm-files input[type=file]", {"name": "later.txt", "mimeType": "text/plain", "buffer": STORY.encode()}
    )
    later.wait_for_selector("#lm-link-status .lm-done:has-text('later.txt at 25 %')")


def test_the_report_opens_offline_draws_its_charts_and_runs_nothing_of_hostile_texts(browser, visit, url, tmp_path):
    page = opened(visit, url)
    page.get_by_text("Paste a text").click()
    page.fill("#lm-paste-name textarea, #lm-paste-name input", HOSTILE[:80])
    page.fill("#lm-paste-text textarea", HOSTILE * 12)
    page.click("#lm-paste")
    page.wait_for_selector("#lm-documents li:nth-child(2)")
    page.click("#lm-documents [data-remove='0']")
    page.fill("#lm-prompt textarea", HOSTILE)
    generate(page)
    path, _ = save(page, "report", tmp_path)
    assert b"onerror" in path.read_bytes()
    page.close()
    for scheme, background in (("light", "rgb(251, 250, 246)"), ("dark", "rgb(18, 20, 25)")):
        alone = browser.new_context(offline=True, color_scheme=scheme, viewport={"width": 390, "height": 844})
        alone.set_default_timeout(SLOW)
        report, said, asked = alone.new_page(), [], []
        report.on("console", lambda message, said=said: said.append(message.text))
        report.on("pageerror", lambda error, said=said: said.append(str(error)))
        report.on("request", lambda request, asked=asked: asked.append(request.url))
        report.goto(path.as_uri(), timeout=SLOW)
        for name in FIGURES:
            drawn = report.locator(f"#chart-{name} .cartesianlayer").locator("image, .points path, .lines path")
            drawn.first.wait_for(state="attached")
        assert report.evaluate("window.pwn") is None
        assert asked == [path.as_uri()]
        assert said == []
        assert report.evaluate("document.documentElement.scrollWidth") <= 390
        assert report.evaluate("getComputedStyle(document.body).backgroundColor") == background
        report.click(".text a >> nth=4")  # a token leads to its passages, which open
        report.wait_for_selector("#token-4")
        alone.close()


def test_the_exported_numbers_are_those_on_the_screen(visit, url, tmp_path):
    page = opened(visit, url)
    generate(page)
    path, _ = save(page, "json", tmp_path)
    tokens = pd.DataFrame(pd.read_json(io.BytesIO(path.read_bytes()), typ="series")["tables"]["tokens"])
    for step in (0, 5):
        page.click(f'{WITH} [data-step="{step}"]')
        effect = tokens.effect[step]
        sign = "+" if effect >= 0 else "−"
        page.wait_for_selector(f"#lm-inspector .lm-numbers:has-text('{sign}{abs(effect):.2f} nats')")
