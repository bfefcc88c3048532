"""What the browser tests share: chromium, the studio over the model in the box, and visits that fail on any error."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app import ui
from longmem.model import LongMemForCausalLM

try:
    from playwright import sync_api
except ImportError:
    sync_api = None

CHROMIUM = shutil.which("chromium")
MODEL = Path(__file__).parents[2] / "assets" / "model"
SLOW = 90_000  # milliseconds: a machine that is busy with other things may take long, and is not wrong


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs a browser, and is skipped without one."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.skipif(sync_api is None, reason="playwright is not installed"))
            item.add_marker(pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"))


@contextmanager
def serve(demo) -> Iterator[str]:
    """The address of a page that is served, as `python app.py` does it, on a free port."""
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **ui.launch_options())
    try:
        yield url
    finally:
        demo.close()


@pytest.fixture(scope="session")
def bundled_model() -> LongMemForCausalLM:
    return LongMemForCausalLM.from_pretrained(MODEL, device="cpu")


@pytest.fixture(scope="session")
def studio_url(bundled_model) -> Iterator[str]:
    """The studio as it is: the model in the box and all samples."""
    with serve(ui.build(bundled_model)) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def contexts(browser) -> Iterator[Callable]:
    """`contexts(**options)` is the browser's context with these options; pages in it share compiled scripts."""
    opened = {}

    def context(**options) -> object:
        key = repr(sorted(options.items()))
        if key not in opened:
            opened[key] = browser.new_context(**options)
            opened[key].set_default_timeout(SLOW)
        return opened[key]

    yield context
    for one in opened.values():
        one.close()


@pytest.fixture
def visit(contexts) -> Iterator[Callable]:
    """`visit(url, width)` opens a page as a new visitor.

    An error of a page, or a request to another machine, fails the test once it has ended.
    """
    pages, wrong = [], []

    def open_page(url: str, width: int = 1440, height: int = 1000, **options) -> object:
        page = contexts(**options).new_page()
        pages.append(page)
        page.set_viewport_size({"width": width, "height": height})
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: None if _is_local(request.url) else wrong.append(request.url))
        page.goto(url)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert wrong == []


def _is_local(url: str) -> bool:
    return url.startswith(("http://127.0.0.1", "data:", "blob:", "file:"))
