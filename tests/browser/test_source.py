"""The source view in chromium, on a page of its own: two texts in memory, buttons that choose tokens as an inspector
does, and the view that follows.
"""

from collections.abc import Iterator

import gradio as gr
import pytest

from app.generating import keep
from app.handlers import Studio
from app.reading import SampleShelf
from app.session import Recipe, SessionStore
from app.source_panel import build_source_panel, wire_source_panel
from longmem.documents import Document
from longmem.scoring import score
from tests.browser.conftest import serve

STORY = (
    "The lighthouse keeper wrote the name of every ship in a long ledger.\n\tIn the morning, naïve 🙂, she left. " * 90
)
HOSTILE = '<img src=x onerror="window.pwn=1"> ${window.pwn=1} {{value}} <b>not bold</b> & &amp; '
# What the inspector's script does: any click on a chunk, or on a token that looked at it, is told to the server.
INSPECTOR = """
document.addEventListener('click', (event) => {
  const chunk = event.target.closest?.('[data-chunk]');
  if (chunk) trigger('click', { chunk: Number(chunk.dataset.chunk) });
  const goto = event.target.closest?.('[data-goto]');
  if (goto) trigger('select', { step: Number(goto.dataset.goto), layer: Number(goto.dataset.layer) });
});
"""


def build_page(model, tmp_path) -> gr.Blocks:
    """A page with one run, made when it is asked for, and the source view beside what chooses tokens."""
    studio = Studio(model, SessionStore(model.new_bank), SampleShelf(model, tmp_path))
    with gr.Blocks() as demo:
        inspector = gr.HTML("<p>inspector</p>", js_on_load=INSPECTOR)
        begin, step = gr.Button("begin", elem_id="begin"), gr.Number(3, elem_id="step", precision=0)
        panel = build_source_panel()
        handlers = wire_source_panel(studio, panel)

        def run(request: gr.Request) -> str:
            session = studio.store.get(request.session_hash)
            for name, text in (("story.txt", STORY[:6_000]), (f"{HOSTILE}.txt", HOSTILE * 6)):
                model.remember(Document.from_text(name, text), memory=session.bank)
            trace = score(model, " read the ledger again, and the café was closed.", context="The", memory=session.bank)
            keep(session, Recipe("scored", "The"), trace, "")
            session.chosen = (3, 3)
            return handlers.draw(request.session_hash)

        def choose(step: int, request: gr.Request) -> str:
            studio.choose(request.session_hash, int(step), 3)
            return handlers.draw(request.session_hash)

        def go_to(event: gr.EventData, request: gr.Request) -> str:
            studio.choose(request.session_hash, event.step, event.layer)
            return handlers.draw(request.session_hash)

        def show_chunk(event: gr.EventData, request: gr.Request) -> str:
            return handlers.show_chunk(request.session_hash, event.chunk)

        begin.click(run, None, panel.view)
        step.change(choose, step, panel.view)
        inspector.select(go_to, None, panel.view)
        inspector.click(show_chunk, None, panel.view)
    return demo


@pytest.fixture(scope="module")
def url(tiny_model, tmp_path_factory) -> Iterator[str]:
    with serve(build_page(tiny_model, tmp_path_factory.mktemp("samples"))) as url:
        yield url


@pytest.fixture
def page(visit, url) -> object:
    """The page with a run."""
    page = visit(url, 800)
    page.wait_for_selector(".lm-source-empty:has-text('Generate or score')")
    return run(page)


def run(page) -> object:
    page.click("#begin")
    page.wait_for_selector("#lm-source-page .lm-here")
    return page


def text_of_page(page) -> str:
    return page.text_content("#lm-source-page").strip("…")


def wait_for_other(page, selector: str, before: str) -> None:
    page.wait_for_function(
        "([s, before]) => (document.querySelector(s)?.textContent ?? '') !== before", arg=[selector, before]
    )


def test_the_page_opens_at_the_heaviest_place_and_it_is_in_sight(page):
    assert page.inner_text(".lm-source-steps span").startswith("place 1 of")
    assert text_of_page(page) in STORY[:6_000] + HOSTILE * 6
    box, here = (page.locator(s).bounding_box() for s in ("#lm-source-page", "#lm-source-page .lm-here"))
    assert box["y"] <= here["y"] <= box["y"] + box["height"]


def test_the_next_places_are_gone_to_in_the_order_of_weight_and_the_focus_stays(page):
    for place in (2, 3):
        page.focus("#lm-source-next")
        page.keyboard.press("Enter")
        page.wait_for_selector(f".lm-source-steps span:has-text('place {place} of')")
        page.wait_for_function("document.activeElement.id === 'lm-source-next'")
    page.click("#lm-source-previous")
    page.wait_for_selector(".lm-source-steps span:has-text('place 2 of')")


@pytest.mark.parametrize("kind", ["token", "sentence", "document"])
def test_the_grouping_is_chosen_and_kept_for_another_token(page, kind):
    page.check(f"#lm-source-grouping-{kind}")
    page.wait_for_selector(f"#lm-source-table summary:has-text('{kind}s')", state="attached")
    page.fill("#step input", "5")
    page.wait_for_selector(".lm-source-total:has-text('Token 5')")
    assert page.is_checked(f"#lm-source-grouping-{kind}")


def test_the_map_moves_the_page_by_keys_and_by_a_click(page):
    page.check("#lm-source-scope-run")
    page.wait_for_selector(".lm-source-total:has-text('All')")
    if page.get_attribute("#lm-source-document-0", "aria-pressed") != "true":
        page.click("#lm-source-document-0")
    page.wait_for_selector("#lm-source-page[data-at^='0:']")
    page.press("#lm-source-map", "Home")
    page.wait_for_selector("#lm-source-page[data-at='0:0']")
    page.wait_for_function("document.activeElement.id === 'lm-source-map'")
    page.keyboard.press("End")
    page.wait_for_function("!document.querySelector('#lm-source-page').textContent.endsWith('…')")
    assert text_of_page(page) == STORY[6_000 - len(text_of_page(page)) : 6_000]
    box = page.locator("#lm-source-map").bounding_box()
    page.mouse.click(box["x"] + 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("#lm-source-page[data-at='0:0']")
    page.click("#lm-source-on")
    page.wait_for_function("Number(document.querySelector('#lm-source-page').dataset.at.split(':')[1]) > 2900")


def test_weights_are_said_for_the_place_under_the_mouse_and_at_the_focus(page):
    page.check("#lm-source-scope-run")
    page.wait_for_selector(".lm-source-total:has-text('All')")
    page.hover("#lm-source-page .lm-here")
    page.wait_for_selector("#lm-source-said:has-text('attention')")
    page.focus("#lm-source-page .lm-here")
    before = page.inner_text("#lm-source-said")
    page.keyboard.press("ArrowRight")
    wait_for_other(page, "#lm-source-said", before)
    assert page.evaluate("document.activeElement.tagName") == "MARK"


def test_a_chunk_is_gone_to_and_the_tokens_that_looked_at_it_lead_on(page):
    page.focus("#lm-source-page .lm-here")
    page.keyboard.press("Enter")
    page.wait_for_selector(".lm-source-chunk")
    chunk = page.inner_text(".lm-source-chunk b")
    at = page.get_attribute("#lm-source-page", "data-at")
    page.click(".lm-source-chunk [data-goto] >> nth=-1")
    page.wait_for_function("!document.querySelector('.lm-source-total').textContent.startsWith('Token 3 ')")
    assert page.inner_text(".lm-source-chunk b") == chunk
    assert page.get_attribute("#lm-source-page", "data-at") == at
    page.click("#lm-source-leave")
    page.wait_for_selector(".lm-source-chunk", state="detached")


def test_a_page_that_stays_is_not_left_for_another_token(page):
    page.check("#lm-source-scope-run")
    page.wait_for_selector(".lm-source-total:has-text('All')")
    with page.expect_response(lambda response: "/run/" in response.url):  # a control that is drawn anew takes no click
        page.check("#lm-source-stay")
    page.wait_for_timeout(300)
    page.check("#lm-source-scope-layer")
    page.wait_for_selector(".lm-source-total:has-text('Token 3')")
    at = page.get_attribute("#lm-source-page", "data-at")
    page.fill("#step input", "6")
    page.wait_for_selector(".lm-source-total:has-text('Token 6')")
    assert page.get_attribute("#lm-source-page", "data-at") == at
    assert page.is_checked("#lm-source-stay")


def test_the_table_stays_open_and_its_rows_lead_to_their_places(page):
    page.click("#lm-source-table summary")
    page.click("#lm-source-row-1")
    page.wait_for_selector(".lm-source-steps span:has-text('place 2 of')")
    assert page.is_visible("#lm-source-row-1")


def test_hostile_text_is_shown_exactly_and_never_runs(page):
    page.check("#lm-source-scope-run")
    page.wait_for_selector(".lm-source-total:has-text('All')")
    page.click("#lm-source-document-1")
    page.wait_for_selector("#lm-source-document-1[aria-pressed=true]")
    assert text_of_page(page) == HOSTILE * 6
    assert page.evaluate("window.pwn") is None
    assert page.locator(".lm-source-view img, .lm-source-page b").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(visit, url, scheme):
    page = run(visit(f"{url}?__theme={scheme}", 390, 844))
    page.click("#lm-source-table summary")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
