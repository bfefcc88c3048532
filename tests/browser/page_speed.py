"""How fast the page is, in chromium, with the model in the box: `python -m tests.browser.page_speed [--json FILE]`.

From `python app.py` to a page that can be used, opening it again, and choosing a token with a full memory. What is
recorded has the form of `python -m longmem bench`: each ratio is of seconds to the seconds that are the goal.
"""

import argparse
import datetime
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import transformers
from playwright.sync_api import Browser, Page, sync_playwright

from longmem.bench import run
from longmem.bench.timing import Goal, compared
from longmem.bench.workbench import cpu_name
from longmem.evaluation.report import markdown
from longmem.options import typed
from longmem.records import write_json
from tests.browser.conftest import CHROMIUM, MODEL, SLOW

ROOT = Path(__file__).parents[2]
GOALS = {  # seconds
    "start_to_usable_page": 10.0,
    "opened_to_usable_page": 3.0,
    "token_to_inspector": 0.2,
    "token_to_chart_in_sight": 0.2,
}

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


@contextmanager
def started(browser: Browser) -> Iterator[tuple[str, float]]:
    """`python app.py`: its address, and the seconds from its start until a visitor can press Generate."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"GRADIO_SERVER_PORT": str(port)}
    url, begun = f"http://127.0.0.1:{port}", time.perf_counter()
    process = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    try:
        while not answers(url):
            if process.poll() is not None:
                raise SystemExit(f"python app.py ended with {process.returncode}.")
            time.sleep(0.05)
        yield url, open_page(browser, url, begun)
    finally:
        process.terminate()
        process.wait()


def answers(url: str) -> bool:
    """Whether a server is there."""
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=5):
            return True
    except OSError:
        return False


def open_page(browser: Browser, url: str, begun: float | None = None) -> float:
    """Seconds of a new visitor until Generate can be pressed, since `begun` or since the page was asked for."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(SLOW)
    begun = time.perf_counter() if begun is None else begun
    page.goto(url, wait_until="commit")
    page.wait_for_selector("#lm-generate:not([disabled])")
    taken = time.perf_counter() - begun
    context.close()
    return taken


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


def choose_tokens(page: Page, selections: int) -> list[tuple[float, float]]:
    """Seconds from the click on a token to its words in the inspector, and to its chart, many times."""
    page.click("#lm-generate")
    page.wait_for_selector("#lm-run-status .lm-done")
    page.wait_for_selector(".lm-worth")
    n_tokens = page.locator(f"{WITH} .lm-token").count()
    taken = []
    for i in range(selections):
        words, chart = page.evaluate(CHOOSE, (7 * i + 3) % n_tokens)
        taken.append((words / 1000, chart / 1000))
        page.wait_for_timeout(1500)  # what each passage is worth is measured after it
    return taken


def measure(starts: int, opens: int, selections: int) -> tuple[dict[str, list[float]], int]:
    """The seconds of everything in GOALS, and the tokens that were in memory."""
    seconds: dict[str, list[float]] = {name: [] for name in GOALS}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for _ in range(starts):
            with started(browser) as (_, taken):
                seconds["start_to_usable_page"].append(taken)
        with started(browser) as (url, _):
            seconds["opened_to_usable_page"] += [open_page(browser, url) for _ in range(opens)]
            page = browser.new_page(viewport={"width": 1440, "height": 1000})
            page.set_default_timeout(SLOW)
            page.goto(url)
            page.wait_for_selector("#lm-documents li", state="attached")
            used = full_memory(page)
            for words, chart in choose_tokens(page, selections):
                seconds["token_to_inspector"].append(words)
                seconds["token_to_chart_in_sight"].append(chart)
    return seconds, used


def record(seconds: dict[str, list[float]], used: int, command: str) -> dict:
    """The result, in the form of `longmem.bench.run`."""
    ratios = {}
    for name, taken in seconds.items():
        goal = f"{GOALS[name]:g} seconds"
        ratios[name] = compared({name: taken, goal: [GOALS[name]] * len(taken)}, name, goal, Goal(most=1))
    return {
        "evaluation": "bench",
        "command": command,
        "settings": {
            "machine": cpu_name(),
            "device": "cpu, with chromium",
            "threads": len(os.sched_getaffinity(0)),
            "dtype": "float32",
            "transformers": transformers.__version__,
            "tokens_in_memory": used,
        },
        "model": {"fingerprint": json.loads((MODEL / "config.json").read_text())["backbone_fingerprint"]},
        "date": datetime.date.today().isoformat(),
        "ratios": ratios,
        "skipped": {},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--opens", type=int, default=5)
    parser.add_argument("--selections", type=int, default=20)
    parser.add_argument("--json", type=Path, help="where to record it")
    given = parser.parse_args()
    result = record(*measure(given.starts, given.opens, given.selections), typed("tests.browser.page_speed"))
    if given.json is not None:
        write_json(given.json, result)
    print(markdown(run.table(result)))


if __name__ == "__main__":
    main()
