"""The drawing of a model: well-formed, of the right sizes, and with a way to every part."""

import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise

import pytest

from app import architecture
from app.architecture import drawing, figure
from app.model_parts import MemoryNow, count, in_words, parts_of
from longmem.anatomy import shape_of
from tests.test_backbone import CONFIGS, make_longmem

SVG = "{http://www.w3.org/2000/svg}"
NOW = MemoryNow(tokens=13_640, chunks=3_410, capacity=65_536, n_bytes=33_799_575, device="cpu", gates={1: 0.25, 3: 0.9})


@pytest.fixture(scope="module")
def shape(tiny_model):
    return shape_of(tiny_model)


def many_layers(shape, layers: int, r: int):
    memory = tuple(range(r - 1, layers, r))
    return replace(shape, layers=layers, layer_reduction_factor=r, sources=memory, memory_layers=memory)


def boxes(svg: str) -> list[tuple[float, float, float, float]]:
    rects = ET.fromstring(svg).iter(f"{SVG}rect")
    return [tuple(float(rect.get(name)) for name in ("x", "y", "width", "height")) for rect in rects]


def words(svg: str) -> list[str]:
    return [text.text for text in ET.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_is_drawn_with_its_own_sizes(family):
    model = make_longmem(family)
    shape = shape_of(model)
    svg = drawing(shape, NOW)
    drawn = words(svg)
    assert [f"layer {i}" for i in range(4)] == [word for word in drawn if word in {f"layer {i}" for i in range(4)}][2:6]
    assert f"embeddings, shared · {shape.vocabulary:,} × {shape.hidden_size:,}" in drawn
    assert "the window: the last 32 tokens" in drawn
    assert "layer 0 · gate 25 %" in drawn
    assert "layer 1 · gate 90 %" in drawn
    table = in_words(parts_of(shape, NOW))
    assert f"{shape.query_heads} query heads and {shape.kv_heads} key-value heads of {shape.head_dim} numbers" in table
    assert f"{2 * 2 * shape.kv_heads * shape.head_dim:,} numbers a token" in table


@pytest.mark.parametrize(("layers", "r"), [(8, 2), (8, 1), (12, 2), (12, 3), (24, 2), (24, 1), (36, 2), (36, 3)])
def test_layers_of_any_number_stay_apart_and_inside(shape, layers, r):
    svg = drawing(many_layers(shape, layers, r), NOW)
    width, height = map(float, ET.fromstring(svg).get("viewBox").split()[2:])
    assert width == 360
    for x, y, w, h in boxes(svg):
        assert 0 <= x <= x + w <= width
        assert 0 <= y <= y + h <= height
        assert h > 0
    rows = sorted(y for x, y, w, h in boxes(svg) if (x, w) == architecture.LEFT and y > 100)
    assert len(rows) == layers
    assert min(b - a for a, b in pairwise(rows)) >= 17  # a line of 12 units has room
    side = [h for x, y, w, h in boxes(svg) if (x, w) == architecture.RIGHT and y > 100 and h != 5]
    assert len(side) == layers // r
    assert min(side) >= 17


def test_each_memory_layer_stands_level_with_its_sidenet_layer(shape):
    shape = replace(shape, layers=8, sources=(0, 2, 4, 7), memory_layers=(4, 7))
    svg = ET.fromstring(drawing(shape, NOW))
    gated = [a for a in svg.iter(f"{SVG}a") if a.get("data-part", "").startswith("gate-")]
    cells = [rect for rect in svg.iter(f"{SVG}rect") if rect.get("class") == "lm-cell"]
    assert [a.get("data-part") for a in gated] == ["gate-4", "gate-7"]
    for link, cell in zip(gated, cells, strict=True):
        box = link.find(f"{SVG}rect")
        middle = float(cell.get("y")) + float(cell.get("height")) / 2
        assert float(box.get("y")) <= middle <= float(box.get("y")) + float(box.get("height"))


def test_the_gauge_and_the_gates_have_the_length_of_their_share(shape):
    rects = {r.get("class"): float(r.get("width")) for r in ET.fromstring(drawing(shape, NOW)).iter(f"{SVG}rect")}
    assert rects["lm-gauge-used"] == pytest.approx(architecture.MIDDLE[1] * 13_640 / 65_536, abs=0.01)
    assert rects["lm-gate-open"] == pytest.approx(architecture.RIGHT[1] * 0.9)  # the last one


def test_every_part_is_a_named_link_to_a_card_that_leads_somewhere(shape):
    page = ET.fromstring(f"<div>{figure(shape, NOW)}</div>")
    links = [a for a in page.iter(f"{SVG}a") if a.get("aria-hidden") is None]
    parts = parts_of(shape, NOW)
    assert {link.get("data-part") for link in links} == {part.id for part in parts}
    assert len(links) == len(parts)
    assert all(link.get("aria-label") and link.get("href") for link in links)
    cards = {card.get("id"): card for card in page.iter("section")}
    for link in links:
        assert cards[link.get("href").removeprefix("#")].findall(".//button[@data-do]")
    hidden = [a for a in page.iter(f"{SVG}a") if a.get("aria-hidden")]
    assert all(a.get("tabindex") == "-1" for a in hidden)


def test_the_table_says_all_that_the_drawing_says(shape):
    table = in_words(parts_of(shape, NOW))
    for said in ("13,640 of 65,536 tokens", "3,410 chunks", "32.2 MiB on cpu", "25 %", "90 %", "32 tokens"):
        assert said in table
    assert ET.fromstring(table).findall(".//tbody/tr/th[@scope='row']")


def test_before_a_run_gates_are_a_dash_and_a_busy_memory_is_said(shape):
    assert "layer 0 · gate –" in words(drawing(shape, replace(NOW, gates={})))
    assert "in use" in words(drawing(shape, None))
    assert "being read or written" in in_words(parts_of(shape, None))


def test_names_are_escaped(shape):
    hostile = replace(shape, family="<script>&\"'")
    page = figure(hostile, replace(NOW, device="<img src=x>"))
    assert "<script>" not in page
    assert "<img" not in page
    ET.fromstring(f"<div>{page}</div>")


def test_numbers_of_parameters_are_short():
    assert [count(n) for n in (950, 8_425_728, 1_240_000_000)] == ["950", "8.43 M", "1.24 B"]
