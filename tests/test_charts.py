"""Charts as pure functions: from small tables to figures whose numbers, titles and chunk ids can be checked."""

import time

import numpy as np
import pandas as pd
import pytest

from app import charts, theme
from app.perplexity_charts import perplexity_along
from longmem.trace import COLUMNS


def make_chunks(n_tokens: int = 40, n_documents: int = 2, chunk_size: int = 4) -> pd.DataFrame:
    """Memory of `n_documents` equal documents, filled one after the other."""
    position = np.arange(0, n_tokens, chunk_size)
    document_id = position * n_documents // n_tokens
    names = [f"book-{i}.txt" for i in document_id]
    chunk = np.arange(100, 100 + len(position))
    return pd.DataFrame(
        {"chunk": chunk, "document_id": document_id, "document": names, "position": position, "n_tokens": chunk_size}
    )


def make_trace(chunks: pd.DataFrame, *, steps=3, layers=(4, 7), heads=2, ranks=3, seed=0) -> pd.DataFrame:
    """A trace in which every (step, layer, head) puts a gate of 0.6 on `ranks` chunks."""
    rng = np.random.default_rng(seed)
    rows = []
    for step, layer, head in np.ndindex(steps, len(layers), heads):
        share = rng.dirichlet(np.ones(ranks))
        for rank, index in enumerate(rng.choice(len(chunks), ranks, replace=False)):
            chunk = chunks.iloc[index]
            score, weight = float(ranks - rank), 0.6 * share[rank]
            place = (chunk.document, int(chunk.position) * 5, int(chunk.position) * 5 + 20, f"words of {chunk.chunk}")
            rows.append((step, f" w{step}", layers[layer], head, rank, int(chunk.chunk), score, weight, 0.6, *place))
    return pd.DataFrame(rows, columns=COLUMNS)


def make_tokens(steps: int = 3) -> pd.DataFrame:
    logprob, empty = np.log(np.linspace(0.2, 0.6, steps)), np.log(np.full(steps, 0.3))
    words = [f" w{i}" for i in range(steps)]
    columns = {"step": range(steps), "token": words, "token_id": range(steps), "logprob": logprob}
    return pd.DataFrame({**columns, "logprob_empty": empty, "effect": logprob - empty})


def make_gates(trace: pd.DataFrame) -> pd.DataFrame:
    return trace[["step", "layer", "head", "gate"]].drop_duplicates().reset_index(drop=True)


@pytest.fixture
def chunks() -> pd.DataFrame:
    return make_chunks()


@pytest.fixture
def trace(chunks) -> pd.DataFrame:
    return make_trace(chunks)


def message(figure) -> str:
    return figure.layout.annotations[0].text


def test_layer_shares_add_up_to_the_gate_in_percent(trace, chunks):
    figure = charts.layers_by_position(trace, chunks)
    per_layer = sum(np.nansum(heatmap.z, axis=1) for heatmap in figure.data)
    np.testing.assert_allclose(per_layer, [60, 60])


def test_layer_heatmap_has_one_trace_and_one_hue_per_document(trace, chunks):
    figure = charts.layers_by_position(trace, chunks)
    assert [heatmap.name for heatmap in figure.data] == ["book-0.txt", "book-1.txt"]
    tops = [heatmap.colorscale[-1][1] for heatmap in figure.data]
    assert tops == [theme.rgba(theme.document_colour(i), 1) for i in (0, 1)]
    assert len({heatmap.zmax for heatmap in figure.data}) == 1  # strengths of two documents can be compared


def test_layer_heatmap_cells_carry_the_heaviest_chunk(trace, chunks):
    one = trace[trace.step == 0]
    figure = charts.layers_by_position(trace, chunks, step=0)
    heaviest = one[one.layer == 7].groupby("chunk").weight.sum().idxmax()
    row = np.concatenate([heatmap.z[1] for heatmap in figure.data])
    ids = np.concatenate([heatmap.customdata[1, :, 0] for heatmap in figure.data])
    assert ids[np.nanargmax(row)] == heaviest


def test_full_memory_is_binned_and_drawn_quickly():
    chunks = make_chunks(65_536, 3)
    trace = make_trace(chunks, steps=64, layers=(4, 5, 7), heads=6, ranks=16)
    began = time.perf_counter()
    figure = charts.layers_by_position(trace, chunks)
    scatter = charts.steps_by_position(trace, chunks)
    assert time.perf_counter() - began < 2
    assert sum(heatmap.z.shape[1] for heatmap in figure.data) <= charts.MAX_BINS + 3
    assert sum(len(points.x) for points in scatter.data) <= charts.MAX_POINTS
    assert f"the {charts.MAX_POINTS:,} heaviest of" in scatter.layout.title.text


def test_axis_covers_the_whole_memory_and_names_its_unit(trace, chunks):
    axis = charts.layers_by_position(trace, chunks).layout.xaxis
    assert axis.range == (0, 40)
    assert "tokens" in axis.title.text


def test_scatter_points_carry_chunk_ids_and_sit_at_their_position(trace, chunks):
    figure = charts.steps_by_position(trace, chunks)
    position = dict(zip(chunks.chunk, chunks.position, strict=True))
    for points in figure.data:
        assert [position[int(chunk)] for chunk in points.customdata[:, 0]] == list(points.y)


def test_scatter_weights_average_over_heads(trace, chunks):
    figure = charts.steps_by_position(trace, chunks)
    total = sum(points.customdata[:, 2].astype(float).sum() for points in figure.data)
    assert total == pytest.approx(3 * 2 * 60)  # steps x layers x gate in percent


def test_heads_view_shows_each_head_with_weights_that_sum_to_its_gate(trace, chunks):
    figure = charts.heads_by_chunk(trace, chunks, step=2, layer=7)
    per_head = sum(np.nansum(heatmap.z, axis=1) for heatmap in figure.data)
    np.testing.assert_allclose(per_head, [60, 60])
    assert list(figure.layout.yaxis.ticktext) == ["head 0", "head 1"]


def test_heads_view_keeps_the_heaviest_chunks_and_says_so(chunks):
    many = make_chunks(400)
    wide = make_trace(many, steps=1, layers=(4,), heads=3, ranks=30)
    figure = charts.heads_by_chunk(wide, many, step=0, layer=4)
    assert len(figure.layout.xaxis.ticktext) == charts.MAX_COLUMNS
    assert f"the {charts.MAX_COLUMNS} heaviest of" in figure.layout.title.text


def test_gates_are_shown_in_percent_for_a_token_and_as_means(trace):
    gates = make_gates(trace)
    gates.loc[gates.step == 0, "gate"] = 0.3
    assert charts.gate_bars(gates, step=0).data[0].y == pytest.approx([30, 30])
    assert charts.gate_bars(gates).data[0].y == pytest.approx([50, 50])
    assert charts.gate_bars(gates).layout.yaxis.range == (0, 100)


def test_effects_have_two_colours_and_say_both_probabilities():
    figure = charts.effect_strip(make_tokens())
    assert list(figure.data[0].marker.color) == [theme.LOWERED, theme.RAISED, theme.RAISED]
    np.testing.assert_allclose(figure.data[0].customdata[:, 0], [20, 40, 60])
    np.testing.assert_allclose(figure.data[0].customdata[:, 1], 30)
    assert "nats" in figure.layout.yaxis.title.text


def test_repeated_tokens_keep_their_own_place(chunks):
    tokens = make_tokens().assign(token=" the")
    assert list(charts.effect_strip(tokens).data[0].x) == [0, 1, 2]


@pytest.mark.parametrize("draw", [charts.layers_by_position, charts.steps_by_position])
def test_an_empty_trace_says_so_instead_of_failing(draw, trace, chunks):
    assert "Nothing was retrieved" in message(draw(trace.iloc[:0], chunks))


def test_every_chart_has_an_empty_state(trace, chunks):
    assert "Layer 9" in message(charts.heads_by_chunk(trace, chunks, step=0, layer=9))
    assert "Nothing was taken" in message(charts.gate_bars(make_gates(trace), step=99))
    assert "Nothing" in message(charts.effect_strip(make_tokens().iloc[:0]))


def test_hostile_text_is_escaped_in_hover_labels(trace, chunks):
    evil = '<a href="javascript:alert(1)">x</a><img src=x onerror=alert(1)>'
    trace = trace.assign(text=evil, document=evil, token=evil)
    chunks = chunks.assign(document=evil)
    figures = [
        charts.layers_by_position(trace, chunks),
        charts.steps_by_position(trace, chunks),
        charts.heads_by_chunk(trace, chunks, step=0, layer=4),
        charts.effect_strip(make_tokens().assign(token=evil)),
    ]
    for figure in figures:
        for part in figure.data:
            labels = part.text if part.type == "heatmap" else part.hovertext
            assert not any("<img" in label or "<a" in label for label in np.ravel(labels))
        assert not any("<img" in tick for tick in figure.layout.xaxis.ticktext or ())


def test_charts_are_transparent_and_keep_their_zoom(trace, chunks):
    layout = charts.layers_by_position(trace, chunks).layout
    assert layout.paper_bgcolor == layout.plot_bgcolor == "rgba(0,0,0,0)"
    assert layout.uirevision == "keep"


# Perplexity along a document --------------------------------------------------------------------------------------


def test_perplexity_along_a_document_is_of_all_tokens_so_far_and_of_each_page():
    pages = pd.DataFrame(
        {"share": [0.25, 0.5], "tokens": [100, 50], "logprob": [-100.0, -200.0], "logprob_empty": [-200.0, -200.0]}
    )
    figure = perplexity_along(pages)
    lines = {trace.name: trace for trace in figure.data}
    np.testing.assert_allclose(lines["with memory"].y, np.exp([1, 2]))
    np.testing.assert_allclose(lines["empty memory"].y, np.exp([2, 400 / 150]))
    np.testing.assert_allclose(lines["one page, with memory"].y, np.exp([1, 4]))
    np.testing.assert_allclose(lines["with memory"].x, [25, 50])
    assert lines["with memory"].line.color == theme.WITH_MEMORY


def test_before_the_first_page_the_chart_says_what_is_awaited():
    none = pd.DataFrame(columns=["share", "tokens", "logprob", "logprob_empty"])
    assert "first page" in perplexity_along(none).layout.annotations[0].text
