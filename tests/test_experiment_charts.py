"""Charts of the evaluations from tiny results: what is drawn is what was recorded, and hostile names stay text."""

import math

import pytest

from app import experiment_charts, experiment_markup, theme
from app import experiment_tables as tables
from app.experiment_charts import Chart, Quantity, cells, draw, style
from app.experiment_pages import PAGES
from app.experiment_words import NOTHING_SHOWN, judged, sample_size, verdict

HOSTILE = '<img src=x onerror="pwn()">'


def accuracy(value: float, n: int = 10, metric: str = "accuracy") -> dict:
    return {metric: value, f"{metric}_low": value - 0.1, f"{metric}_high": value + 0.1, "n": n}


def gain(value: float, half: float, **more: object) -> dict:
    return {"difference": value, "low": value - half, "high": value + half, "n": 10, **more}


def perplexities(value: float) -> dict:
    return {"perplexity": value, "perplexity_low": value - 1, "perplexity_high": value + 2, "n": 3}


def window(start: int, backbone: float, longmem: float) -> list:
    return [start, 10, 40, [backbone, longmem]]


@pytest.fixture
def perplexity() -> dict:
    """Two documents: memory takes 1 nat of 20 from each window after the first."""
    return {
        "systems": {"backbone": perplexities(8.0), "longmem": perplexities(7.0)},
        "gains": {"backbone": {"against": "backbone", "change": -0.1, "low": -0.12, "high": -0.08}},
        "groups": {"first 8k": {"backbone": perplexities(8.0), "longmem": perplexities(7.0)}, "first 50k": {}},
        "positions": [
            {"from": 0, "to": 512, "n": 2, "perplexity": {"backbone": math.exp(2), "longmem": math.exp(2)}},
            {"from": 512, "to": None, "n": 2, "perplexity": {"backbone": math.exp(2), "longmem": math.exp(1.9)}},
        ],
        "items": [
            {"title": "a", "windows": [window(0, 20, 20), window(512, 20, 19)]},
            {"title": "b", "windows": [window(0, 20, 20), window(512, 20, 19)]},
        ],
    }


@pytest.fixture
def suffix() -> dict:
    part = {"backbone": accuracy(0.3), "longmem": accuracy(0.2)}
    return {
        "systems": part | {"full_attention": {"accuracy": None, "reason": "too long", "n": 0}},
        "gains": {"backbone": gain(-0.1, 0.2)},
        "by_prefix": [{"prefix": 512, "systems": part}, {"prefix": 8192, "systems": part}],
        "chance": 1 / 6,
    }


@pytest.fixture
def icl() -> dict:
    found = accuracy(0.5) | {"sets": {"sst2": accuracy(0.6), "mr": accuracy(0.4)}}
    part = {"in_window": 20, "in_memory": 0, "systems": {"longmem": found}}
    return {
        "systems": {"longmem": found},
        "gains": {"backbone": gain(0.01, 0.05)},
        "by_setting": [part, part | {"in_memory": 2000}],
    }


@pytest.fixture
def needle() -> dict:
    row = {"backbone": accuracy(0.0, metric="recall"), "longmem": accuracy(0.5, metric="recall")}
    bands = [
        {"from": 0.0, "to": 0.5, "n": 5, "backbone": 0.0, "longmem": 1.0},
        {"from": 0.5, "to": 1.0, "n": 5, "backbone": 0.0, "longmem": 0.0},
    ]
    return {
        "systems": row,
        "headline": {"kind": "known", "length": 1024},
        "gains": {},
        "by_length": {"known": {"1024": row}, "held_out": {"1024": row}},
        "by_depth": [{"kind": kind, "length": 1024, "bands": bands} for kind in ("known", "held_out")],
        "hit_rate": {"known 1024": {"4.10": 1.0, "4.2": 0.25}, "held_out 1024": {"4.2": 0.5}},
    }


def stale(cosine: float) -> dict:
    values = {"cosine": cosine, "overlap": cosine, "perplexity_stale": 10.0, "perplexity_fresh": 9.0, "change": 0.1}
    bounds = {f"{name}_{side}": value for name, value in values.items() for side in ("low", "high")}
    return values | bounds | {"n": 2}


@pytest.fixture
def staleness() -> dict:
    curve = [
        {"step": step, "longmem": stale(1.0), "memtrm": stale(c), "longmem_is_exact": True}
        for step, c in ((0, 1), (4, 0.9))
    ]
    return {
        "systems": {"longmem": {}, "memtrm": {}},
        "curve": curve,
        "longmem_is_exact": True,
        "settings": {"steps": 4},
    }


@pytest.fixture
def efficiency() -> dict:
    fast = {"read_tokens_per_second": 1000.0, "write_tokens_per_second": 20.0, "state_bytes": 2**21}
    reason = {"read_tokens_per_second": None, "reason": "too long"}
    ratios = {
        "bank_tokens": 4096,
        "writing_full_to_empty_bank": 0.5,
        "full_attention_length": 1024,
        "reading_to_full_attention": 2.0,
        "writing_to_full_attention": 1.5,
        "state_bytes_to_full_attention": 0.25,
    }
    return {
        "settings": {"rounds": 2, "device": "cpu", "threads": 2},
        "ratios": ratios,
        "items": [
            {"length": 1024, "systems": {"longmem": fast, "full_attention": fast}},
            {"length": 65536, "systems": {"full_attention": reason, "longmem": fast}},
        ],
    }


def drop(top: float) -> dict:
    rows = {"top": top, "random_retrieved": 0.0, "random_stored": 0.0}
    return rows | {f"{k}_{s}": v for k, v in rows.items() for s in ("low", "high")} | {"n": 3, "tokens": 6}


@pytest.fixture
def attribution() -> dict:
    token = {"effect": 2.0, "top": [1.5, 1.6], "random_retrieved": [0.1, 0.2], "random_stored": [0.0, 0.0]}
    return {
        "systems": {"longmem": {}},
        "gains": {"random_retrieved": gain(0.5, 0.1)},
        "groups": {"helped": drop(1.0), "hurt": {"n": 0, "tokens": 0}},
        "curve": [drop(0.5) | {"removed": 1}, drop(0.7) | {"removed": 2}],
        "items": [{"title": "a", "scored": [token]}],
    }


@pytest.fixture
def comparison() -> dict:
    def item(name: str, change: float, recall: float | None, changes: dict) -> dict:
        gains = {"change": change, "low": change - 0.01, "high": change + 0.01}
        return {"name": name, "changes": changes, "change": gains, "recall": recall}

    items = [item("plain", -0.01, 0.5, {}), item("mean", -0.05, None, {"chunk_key": "mean"})]
    return {"systems": {}, "items": items}


def figure_of(page: str, name: str, result: dict, **options: object):
    chart = next(chart for chart in PAGES[page].charts if chart.name == name)
    return experiment_charts.figure_of(chart, result, **options)[0]


def traces(figure) -> dict:
    return {trace.name: trace for trace in figure.data}


def test_perplexity_by_length_is_drawn_for_every_system_and_group(perplexity):
    found = traces(figure_of("perplexity", "length", perplexity))
    assert list(found["LongMem"].y) == [7.0]
    assert list(found["LongMem"].error_y.array) == [2.0]
    assert list(found["LongMem"].error_y.arrayminus) == [1.0]
    assert list(found["backbone, window only"].y) == [8.0]


def test_perplexity_by_position_has_intervals_from_the_windows(perplexity):
    table = tables.perplexity_by_position(perplexity)
    late = table[(table.x == "512 and more") & (table.series == "LongMem")].iloc[0]
    assert late.value == pytest.approx(math.exp(1.9))
    assert late.low == pytest.approx(late.high) == pytest.approx(math.exp(1.9))  # both documents are alike
    perplexity["items"][0]["windows"][1][3][1] = 10.0
    table = tables.perplexity_by_position(perplexity)
    wide = table[(table.x == "512 and more") & (table.series == "LongMem")].iloc[0]
    assert wide.low == pytest.approx(math.exp(1.0))
    assert wide.high == pytest.approx(math.exp(1.9))


def test_change_is_against_the_backbone_of_the_same_documents(perplexity):
    found = traces(figure_of("perplexity", "change", perplexity))
    assert set(found) == {"LongMem"}
    change = 100 * (math.exp(-0.1) - 1)
    assert list(found["LongMem"].y) == pytest.approx([0.0, change])
    table = tables.perplexity_change(perplexity)
    assert list(table.low) == list(table.high) == pytest.approx([0.0, change / 100])  # both documents are alike


def test_suffix_shows_chance_and_leaves_out_what_was_not_measured(suffix):
    figure = figure_of("suffix", "accuracy", suffix)
    assert list(traces(figure)["LongMem"].y) == pytest.approx([20.0, 20.0])
    assert "full attention" not in traces(figure)
    assert figure.layout.shapes[0].y0 == pytest.approx(100 / 6)
    assert list(figure.layout.xaxis.ticktext) == ["512", "8,192"]


def test_icl_is_drawn_by_setting_and_by_set(icl):
    assert list(figure_of("icl", "setting", icl).layout.xaxis.ticktext) == ["20 + 0", "20 + 2,000"]
    figure = figure_of("icl", "set", icl)
    assert list(figure.layout.xaxis.ticktext) == ["sst2", "mr"]
    assert list(figure.data[0].y) == pytest.approx([60.0, 40.0])


def test_the_needle_heatmap_has_length_across_depth_down_and_a_panel_for_each_kind(needle):
    figure = figure_of("needle", "depth", needle)
    assert len(figure.data) == 2  # two kinds; a system that never recalls has no panel
    assert figure.data[0].z.tolist() == [[100.0], [0.0]]
    assert list(figure.layout.yaxis.ticktext) == ["0 to 50 %", "50 to 100 %"]
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]  # the beginning of the text on top
    assert [a.text for a in figure.layout.annotations] == ["known templates · LongMem", "held-out templates · LongMem"]


def test_a_system_that_recalls_something_gets_its_own_heatmap(needle):
    for part in needle["by_depth"]:
        part["bands"][0]["memtrm"], part["bands"][1]["memtrm"] = 0.5, 0.0
    needle["systems"]["memtrm"] = accuracy(0.25, metric="recall")
    assert len(figure_of("needle", "depth", needle).data) == 4


def test_recall_by_length_has_a_panel_for_each_kind(needle):
    figure = figure_of("needle", "length", needle)
    assert [trace.yaxis for trace in figure.data] == ["y", "y", "y2", "y2"]
    assert list(traces(figure)["LongMem"].y) == [50.0]


def test_heads_stand_in_the_order_of_their_numbers_and_those_that_found_nothing_are_zero(needle):
    figure = figure_of("needle", "heads", needle)
    assert list(figure.layout.yaxis.ticktext) == ["layer 4, head 2", "layer 4, head 10"]
    assert figure.data[0].z.tolist() == [[25.0], [100.0]]
    assert figure.data[1].z.tolist() == [[50.0], [0.0]]


def test_staleness_is_drawn_over_steps(staleness):
    found = traces(figure_of("staleness", "cosine", staleness))
    assert list(found["Memorizing Transformer"].x) == [0, 4]
    assert list(found["Memorizing Transformer"].y) == [1.0, 0.9]
    assert list(found["LongMem"].y) == [1.0, 1.0]
    staleness["settings"]["steps"] = 40  # a run that is not at its end: the axis is
    assert figure_of("staleness", "cosine", staleness).layout.xaxis.range[1] > 40
    figure = figure_of("staleness", "perplexity", staleness)
    assert [list(trace.y) for trace in figure.data[:2]] == [[9.0, 9.0], [10.0, 10.0]]
    assert [trace.yaxis for trace in figure.data] == ["y", "y", "y2", "y2"]


def test_efficiency_leaves_out_lengths_that_were_not_measured(efficiency):
    found = traces(figure_of("efficiency", "read", efficiency))
    assert list(found["LongMem"].y) == [1000.0, 1000.0]
    assert list(found["full attention"].y) == [1000.0]
    assert list(traces(figure_of("efficiency", "bytes", efficiency))["LongMem"].y) == [2.0, 2.0]


def test_attribution_is_drawn_by_number_by_sign_and_by_token(attribution):
    top = tables.KIND_NAMES["top"]
    assert list(traces(figure_of("attribution", "removed", attribution))[top].y) == [0.5, 0.7]
    assert list(figure_of("attribution", "sign", attribution).layout.xaxis.ticktext) == ["helped by memory"]
    cloud = traces(figure_of("attribution", "tokens", attribution))[top]
    assert (list(cloud.x), list(cloud.y)) == ([2.0], [1.5])


def test_variants_stand_in_the_order_of_their_change_whatever_they_are_called(comparison):
    figure = figure_of("comparison", "change", comparison)
    assert list(figure.layout.yaxis.ticktext) == ["mean", "plain"]
    assert list(figure.data[0].x) == pytest.approx([-5.0, -1.0])
    recall = figure_of("comparison", "recall", comparison)
    assert list(recall.layout.yaxis.ticktext) == ["plain"]  # the other one has none
    assert "chunk key mean" in figure.data[0].hovertext[0]


def test_the_table_says_what_the_chart_shows(suffix):
    chart = PAGES["suffix"].charts[0]
    rows = cells(chart, chart.table(suffix))
    assert rows[0] == ["tokens of prefix", "system", "accuracy (%), 95 % interval", "n"]
    assert ["8,192", "LongMem", "20.0 (10.0 to 30.0)", "10"] in rows
    html = experiment_markup.details_table(chart.title, rows)
    assert html.count("<tr>") == 5
    assert html.startswith("<details>")


def test_one_item_has_no_interval():
    row = accuracy(0.5, n=1)
    table = tables.points([tables._row("", "LongMem", "1", row, "accuracy")])
    assert math.isnan(table.low[0])
    figure = draw(PAGES["suffix"].charts[0], table)
    assert figure.data[0].error_y.array is None


def test_a_small_run_is_marked_in_the_chart(suffix):
    figure = figure_of("suffix", "accuracy", suffix, small="n = 8 chapter breaks")
    assert figure.layout.title.text.startswith("Small run")
    assert "n = 8" in figure.layout.title.subtitle.text
    assert any(annotation.text == "small run" for annotation in figure.layout.annotations)
    plain = figure_of("suffix", "accuracy", suffix)
    assert "Small" not in plain.layout.title.text


@pytest.mark.parametrize("page", PAGES)
def test_every_chart_of_every_page_is_drawn_and_has_a_table_and_words(page, request):
    result = request.getfixturevalue(page)
    for chart in PAGES[page].charts:
        table = chart.table(result)
        assert list(table.columns) == tables.COLUMNS
        assert draw(chart, table).data
        assert len(cells(chart, table)) > 1
    assert verdict(page, result)
    assert any(character.isdigit() for character in sample_size(page, result))


@pytest.mark.parametrize("form", ["lines", "dots", "rows", "heat"])
def test_hostile_names_are_escaped_in_every_form(form):
    table = tables.points([(HOSTILE, HOSTILE, HOSTILE, 0.5, 0.4, 0.6, 3)])
    chart = Chart("a", HOSTILE, HOSTILE, lambda result: table, Quantity(HOSTILE), HOSTILE, form, HOSTILE)
    figure = draw(chart, table, level=(0.5, HOSTILE), small=HOSTILE).to_json()
    assert "<img" not in figure
    assert "\\u003cimg" not in figure
    html = experiment_markup.details_table(HOSTILE, cells(chart, table))
    assert "<img" not in html


def test_hostile_words_are_escaped():
    page = PAGES["suffix"]
    pieces = (
        experiment_markup.recorded([HOSTILE], [(HOSTILE, HOSTILE)], HOSTILE),
        experiment_markup.small_run([HOSTILE], [(HOSTILE, HOSTILE)], HOSTILE, True),
        experiment_markup.damaged(HOSTILE, HOSTILE, page),
        experiment_markup.run_progress(HOSTILE, 1, 2, 3.0),
    )
    assert all("<img" not in piece for piece in pieces)


def test_an_empty_table_is_an_empty_plane_that_says_so():
    figure = draw(PAGES["suffix"].charts[0], tables.points([]))
    assert "nothing" in figure.layout.annotations[0].text


def test_the_colour_says_whether_a_system_looks_things_up():
    names = ["LongMem", "Memorizing Transformer", "LongMem, empty memory", "backbone, window only", "stranger"]
    colours = [style(name, names)[0] for name in names]
    assert colours == [theme.WITH_MEMORY] * 2 + [theme.WITHOUT_MEMORY] * 3
    assert len({style(name, names)[1:] for name in names}) == len(names)


def test_an_interval_that_includes_zero_shows_nothing():
    assert judged(-0.1, 0.1, "up", "down") == NOTHING_SHOWN
    assert judged(0.1, 0.2, "up", "down") == "up"
    assert judged(-0.2, -0.1, "up", "down") == "down"
    assert judged(None, None, "up", "down") == NOTHING_SHOWN
    assert "nothing is shown" in judged(0.1, 0.1, "up", "down", n=1)


def test_a_skill_that_is_not_shown_is_said_plainly(suffix, icl):
    assert any("no such skill" in sentence for sentence in verdict("suffix", suffix))
    assert any(NOTHING_SHOWN in sentence for sentence in verdict("icl", icl))
    assert any("does not show that it learns" in sentence for sentence in verdict("icl", icl))
    icl["gains"] = {"backbone": gain(0.2, 0.05)}
    assert not any("does not show" in sentence for sentence in verdict("icl", icl))
    suffix["systems"]["longmem"] = accuracy(0.5)
    assert any("above chance" in s and "not above" not in s for s in verdict("suffix", suffix))


def test_pages_name_the_file_that_their_command_writes():
    assert PAGES["perplexity"].recorded_as == "perplexity-books-test"
    assert PAGES["efficiency"].recorded_as == "efficiency-cpu"
