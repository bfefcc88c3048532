"""The HTML report: the run's numbers, everything inside, and no word of a document as markup."""

import base64
import hashlib
import inspect
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import pandas as pd
import pytest

from app import charts, inspection, perplexity_charts
from app.charts import Figure
from app.report import About, build_report, table_of
from app.report_figures import FIGURES, draw, gates_of_heads, heads_of_token, heaviest_chunks, heaviest_looks
from app.session import Recipe, Run
from tests.made_runs import CELLS, HOSTILE, PROMPT, run_by_hand, studio_with_a_run

ABOUT = About("<b>1M parameters</b>", "f1n9e2", datetime(2026, 11, 26, 9, 30, tzinfo=UTC))


class Reader(HTMLParser):
    """Tags with their attributes, and the visible text."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.text, self._hidden = [], "", False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._hidden = tag in {"script", "style"}

    def handle_endtag(self, tag):
        self._hidden = False

    def handle_data(self, data):
        self.text += "" if self._hidden else data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def run(tiny_model, tmp_path_factory) -> Run:
    return studio_with_a_run(tiny_model, tmp_path_factory.mktemp("samples")).store.get("me").run


@pytest.fixture(scope="module")
def html(run) -> str:
    return build_report(run, ABOUT).data.decode()


@pytest.fixture(scope="module")
def page(html) -> Reader:
    return Reader(html)


def test_it_says_what_was_asked_of_what_and_when(page):
    for words in (
        PROMPT,
        "length (tokens)",
        "0.8",
        "f1n9e2",
        "2026-11-26 09:30 UTC",
        "1M parameters",
        "the-keeper.txt",
    ):
        assert words in page.text


def test_every_token_shows_its_numbers_on_hover_and_in_the_table(run, page):
    steps = inspection.describe(run)["steps"]
    titles = {link["href"]: link["title"] for link in page.all("a")}
    assert len(titles) == len(steps)
    for step in steps:
        title = titles[f"#token-{step['step']}"]
        assert title == f"{step['p']} with memory · {step['p_empty']} without · {step['effect']:+.2f} nats"
        assert f"{step['effect']:+.3f}" in page.text
    assert {"id": "token-0"} in page.all("p")


def test_every_passage_of_the_inspector_is_there_with_its_weight(run, page):
    passages = [p for s in inspection.describe(run)["steps"] for layer in s["layers"] for p in layer["passages"]]
    assert passages
    for passage in passages:
        assert f"weight {100 * passage['weight']:.2f} %" in page.text
    n_marks = sum(len(part) == 3 for passage in passages for part in passage["parts"])
    assert len(page.all("mark")) == n_marks


def test_every_chart_is_in_it_and_plotly_once(html, page):
    names = {div["id"] for div in page.all("div") if div.get("class") == "plotly-graph-div"}
    assert names == {f"chart-{name}" for name in FIGURES}
    assert html.count("* plotly.js v") == 1
    assert len(html) < 8_000_000


def test_every_chart_that_exists_is_drawn():
    """But the scores of what was not retrieved, which only the model and the memory know."""
    public = {
        name
        for module in (charts, perplexity_charts)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if inspect.signature(function).return_annotation is Figure and function.__module__ == module.__name__
    }
    of_no_run = {"empty_figure", "score_histogram", "perplexity_along"}
    drawn = {name for name in public if not name.startswith("_")} - of_no_run
    assert drawn == set(FIGURES)


def test_nothing_in_it_is_fetched(page):
    for tag, attributes in page.tags:
        assert "src" not in attributes, tag
        assert tag not in {"link", "iframe", "object", "embed", "base", "form", "img"}
        assert attributes.get("href", "#").startswith("#")


def test_only_its_own_scripts_may_run(html, page):
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert "'unsafe-inline'" not in policy.split(";")[1]
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", html, flags=re.DOTALL)
    for script in scripts:
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
    assert "\r" not in html


def test_hostile_words_are_text():
    run = run_by_hand([HOSTILE, *CELLS], name=HOSTILE, text=HOSTILE * 9)
    about = replace(ABOUT, fingerprint=HOSTILE, other_text=HOSTILE)
    page = Reader(build_report(run, about).data.decode())
    assert not page.all("img")
    assert len(page.all("script")) == 2 + len(FIGURES)
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.text.count("window.pwn=1") > 50


def test_a_run_that_retrieved_nothing_has_a_report():
    run = run_by_hand(["a", "b"])
    parts = [part.iloc[:0] for part in (run.trace, run.gates, run.token_weights, run.chunks)]
    silent = Run(2, Recipe("scored", "p"), run.tokens, *parts, {})
    page = Reader(build_report(silent, ABOUT).data.decode())
    assert "Memory was empty." in page.text
    assert "Nothing was taken from memory here" in build_report(silent, ABOUT).data.decode()
    nothing = Run(3, Recipe("scored", "p"), run.tokens.iloc[:0], *parts, {})
    assert "0 tokens" in Reader(build_report(nothing, ABOUT).data.decode()).text


def test_a_place_in_a_document_is_said(run):
    placed = replace(run, recipe=replace(run.recipe, before=(0, 1234)))
    assert (
        "of the-keeper.txt only what stands before token 1,234"
        in Reader(build_report(placed, ABOUT).data.decode()).text
    )


def test_it_is_readable_in_light_and_dark(html):
    assert "@media (prefers-color-scheme: dark)" in html
    assert "color-scheme: dark" in html


def test_tables_beside_charts_have_the_numbers_of_the_charts(run):
    step, layer = 2, int(run.trace.layer.max())
    drawn = {figure.name: figure for figure in draw(run, step, layer)}
    cells = [z for heatmap in drawn["layers_by_position"].figure.data for z in heatmap.z.ravel() if z == z]
    if len(run.chunks) <= charts.MAX_BINS:  # then a cell is a chunk
        assert heaviest_chunks(run, step, layer)["share (%)"].max() == pytest.approx(max(cells), rel=1e-5)
    points = [row[2] for cloud in drawn["steps_by_position"].figure.data for row in cloud.customdata]
    assert heaviest_looks(run, step, layer)["weight (%)"].max() == pytest.approx(max(points), rel=1e-5)
    weights = [z for heatmap in drawn["heads_by_chunk"].figure.data for z in heatmap.z.ravel() if z == z]
    table = heads_of_token(run, step, layer).drop(columns=["chunk", "text"])
    assert table.max(axis=None) == pytest.approx(max(weights), rel=1e-5)
    bars = [y for bar in drawn["gate_bars"].figure.data for y in bar.y]
    assert list(gates_of_heads(run, step, layer)["mean (%)"]) == pytest.approx(bars, rel=1e-5)


def test_cells_of_a_table_are_escaped_and_numbers_are_short():
    html = table_of(pd.DataFrame({"<b>": ["<i>&", ""], "x": [0.12345, float("nan")], "n": [3, 4]}))
    assert '<th scope="col">&lt;b&gt;</th>' in html
    assert "&lt;i&gt;&amp;" in html
    assert ">0.123<" in html
    assert ">–<" in html
    assert ">3<" in html
