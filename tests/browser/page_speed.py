"""How fast the page is, in chromium, with the model in the box: opening it, and choosing a token with a full memory.

Usage: `python -m tests.browser.page_speed [--opens 5] [--selections 20]`. Prints one JSON object; times in ms.
"""

import argparse
import json
import os
import statistics
import time

from playwright.sync_api import Browser, Page, sync_playwright

from app import ui
from longmem.model import LongMemForCausalLM
from tests.browser.conftest import CHROMIUM, MODEL, SLOW, serve

SAMPLE = "harbour-log.txt"  # fills the 65,536 tokens of memory
WITH = "#lm-with .lm-panel[data-panel='with']"
# Clicks a token, then looks at every frame until the inspector's text and the chart in sight are of that token.
CHOOSE = """
(step) => new Promise((resolve) => {
  const begun = performance.now();
  const text = () => document.querySelector('#lm-inspector h2')?.textContent.startsWith(`token ${step} `);
  const chart = () => [...document.querySelectorAll('#lm-layers .gtitle')]
    .some((title) => new RegExp(`token ${step}\\\\b`).test(title.textContent));
  let words = null;
  const look = () => {
    if (words === null && text()) words = performance.now() - begun;
    if (words !== null && chart()) resolve([words, performance.now() - begun]);
    else requestAnimationFrame(look);
  };
  document.querySelector(`#lm-with .lm-panel [data-step="${step}"]`).click();
  requestAnimationFrame(look);
})
"""


def open_page(browser: Browser, url: str) -> tuple[float, float]:
    """Milliseconds of a new visitor until Generate can be pressed, and until the sample is in memory."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(SLOW)
    begun = time.perf_counter()
    page.goto(url, wait_until="commit")
    page.wait_for_selector("#lm-generate:not([disabled])")
    usable = time.perf_counter() - begun
    page.wait_for_selector("#lm-documents li", state="attached")
    in_memory = time.perf_counter() - begun
    context.close()
    return 1000 * usable, 1000 * in_memory


def full_memory(page: Page) -> int:
    """Read the sample over and over, until memory is full; the tokens in it."""
    page.click("#lm-sample input")
    page.get_by_role("option", name=SAMPLE).click()
    gauge = page.locator("#lm-gauge .lm-gauge")
    while (used := int(gauge.get_attribute("aria-valuenow"))) < 0.99 * int(gauge.get_attribute("aria-valuemax")):
        page.click("#lm-read-sample")
        page.wait_for_selector(f"#lm-gauge .lm-gauge:not([aria-valuenow='{used}'])")
        page.wait_for_selector("#lm-memory-status .lm-done")
    return used


def summary(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {"median": round(statistics.median(ordered)), "worst": round(ordered[-1]), "n": len(ordered)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--opens", type=int, default=5)
    parser.add_argument("--selections", type=int, default=20)
    given = parser.parse_args()
    model = LongMemForCausalLM.from_pretrained(MODEL)
    with serve(ui.build(model)) as url, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        open_page(browser, url)  # what only the first visitor waits for is not counted
        opens = [open_page(browser, url) for _ in range(given.opens)]
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.set_default_timeout(SLOW)
        page.goto(url)
        page.wait_for_selector("#lm-documents li", state="attached")
        used = full_memory(page)
        page.click("#lm-generate")
        page.wait_for_selector("#lm-run-status .lm-done")
        page.wait_for_selector(".lm-worth")
        n_tokens = page.locator(f"{WITH} .lm-token").count()
        chosen = []
        for i in range(given.selections):
            chosen.append(page.evaluate(CHOOSE, (7 * i + 3) % n_tokens))
            page.wait_for_timeout(1500)  # what each passage is worth is measured after it
        found = {
            "cores": len(os.sched_getaffinity(0)),
            "usable": summary([a for a, _ in opens]),
            "sample in memory": summary([b for _, b in opens]),
            "tokens in memory": used,
            "inspector follows": summary([a for a, _ in chosen]),
            "chart follows": summary([b for _, b in chosen]),
        }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
