"""Screenshots of every tab, light, dark and on a phone, from the studio with the model in the box.

Usage: `python -m tests.browser.screenshots`; they go to assets/screenshots.
"""

import io
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from app import ui
from longmem.model import LongMemForCausalLM
from tests.browser.conftest import CHROMIUM, MODEL, SLOW, serve

FOLDER = Path(__file__).parents[2] / "assets" / "screenshots"
# Name, width and height in pixels, theme.
KINDS = (("light", 1440, 1000, "light"), ("dark", 1440, 1000, "dark"), ("phone", 390, 844, "light"))
SCORED = "The keeper wrote it down: the secret number of Maren Holt is 4 7 1 1."


def studio(page: Page) -> None:
    page.click("#lm-generate")
    page.wait_for_selector("#lm-run-status .lm-done")
    page.wait_for_selector(".lm-worth")
    page.wait_for_selector("#lm-layers .gtitle:has-text('token')")


def what_if(page: Page) -> None:
    page.locator("#lm-inspector .lm-off", has_text="document off").first.click()
    page.wait_for_selector("#lm-switches:has-text('Off: 1 document')")
    page.click("#lm-again")
    page.wait_for_selector("#lm-whatif-result .lm-sentence:has-text('With 1 document off')")
    page.wait_for_selector("#lm-whatif-result .lm-caret", state="detached")
    page.locator("#lm-switches").scroll_into_view_if_needed()


def score(page: Page) -> None:
    page.evaluate("scrollTo(0, 0)")
    _open(page, "Score")
    page.fill("#lm-score-text textarea", SCORED)
    page.click("#lm-score")
    page.wait_for_selector("#lm-score-status .lm-done:has-text('Perplexity over')")
    page.wait_for_selector(".lm-worth")


def demonstrations(page: Page) -> None:
    _open(page, "Demonstrations")
    page.click("#lm-demo-read")
    page.wait_for_selector("#lm-demo-read-status .lm-done")
    page.click("#lm-demo-classify")
    page.wait_for_selector("#lm-demo-result .lm-verdict")
    page.wait_for_selector(".lm-worth")
    page.locator("#lm-demo-classify-head").scroll_into_view_if_needed()


def experiments(page: Page) -> None:
    page.evaluate("scrollTo(0, 0)")
    _open(page, "Experiments")
    page.wait_for_selector("#lm-perplexity-start")
    page.get_by_role("tab", name="Needle", exact=True).click()
    page.wait_for_function("document.querySelector('[id^=lm-needle-] .js-plotly-plot')?._fullData?.length")
    page.locator("#lm-needle-said").scroll_into_view_if_needed()
    page.mouse.wheel(0, 500)


def learn(page: Page) -> None:
    page.evaluate("scrollTo(0, 0)")
    _open(page, "Learn")
    page.wait_for_selector("#lm-lesson-live .lm-story")
    page.click(".lm-steps [data-do='lesson-4']")
    page.wait_for_selector("#lm-lesson-live .lm-live[data-lesson='4']:not(:has(> .lm-note))")


def drawing(page: Page) -> None:
    page.get_by_role("tab", name="The model, drawn").click()
    page.wait_for_selector(".lm-svg [data-part='bank']")


TABS: tuple[Callable[[Page], None], ...] = (studio, what_if, score, demonstrations, experiments, learn, drawing)


def _open(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def save(page: Page, path: Path) -> None:
    """A PNG of what is in sight, in 256 colours."""
    page.wait_for_timeout(600)  # charts and fonts come to rest
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    model = LongMemForCausalLM.from_pretrained(MODEL, device="cpu")
    with serve(ui.build(model)) as url, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for kind, width, height, scheme in KINDS:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(SLOW)
            page.goto(f"{url}?__theme={scheme}")
            page.wait_for_selector("#lm-documents li", state="attached")
            for tab in TABS:
                tab(page)
                save(page, FOLDER / f"{tab.__name__.replace('_', '-')}-{kind}.png")
                print(FOLDER / f"{tab.__name__.replace('_', '-')}-{kind}.png", flush=True)
            page.close()


if __name__ == "__main__":
    main()
