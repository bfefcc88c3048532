"""The charts of the Demonstrations tab draw what was measured, and labels are text in them."""

import pytest

from app import demonstration_charts as charts
from app import theme

SIZE = {"tokens": 10, "n": 10, "uncalibrated": 0.5, "macro": 0.5, "majority": 0.6, "wrong": []}
RESULT = {
    "labels": ["<b>cold</b>", "warm"],
    "texts": 10,
    "in_window": 2,
    "chance": 0.5,
    "by_size": [
        {**SIZE, "in_memory": 0, "accuracy": 0.4, "low": 0.2, "high": 0.7, "confusion": [[2, 2, 0], [4, 2, 0]]},
        {**SIZE, "in_memory": 2000, "accuracy": 0.8, "low": 0.5, "high": 0.9, "confusion": [[4, 0, 0], [1, 4, 1]]},
    ],
}


def test_accuracy_is_drawn_with_its_interval_and_without_memory_in_its_own_colour():
    figure = charts.accuracy_by_memory(charts.accuracy_frame(RESULT), 0.5, 0.6)
    [points] = figure.data
    assert list(points.y) == pytest.approx([40, 80])
    assert list(points.error_y.array) == pytest.approx([30, 10])
    assert list(points.error_y.arrayminus) == pytest.approx([20, 30])
    assert list(points.marker.color) == [theme.WITHOUT_MEMORY, theme.WITH_MEMORY]
    assert list(figure.layout.xaxis.ticktext) == ["0", "2,000"]
    assert [line.y0 for line in figure.layout.shapes] == pytest.approx([50, 60])
    assert [note.text for note in figure.layout.annotations] == ["chance", "most frequent label"]


def test_the_confusion_matrix_is_that_of_the_largest_memory_with_ties_only_where_there_are_some():
    frame = charts.confusion_frame(RESULT)
    assert list(frame.n) == [4, 0, 0, 1, 4, 1]
    figure = charts.confusion_matrix(frame, in_memory=2000)
    [cells] = figure.data
    assert [list(row) for row in cells.z] == [[100, 0, 0], pytest.approx([100 / 6, 400 / 6, 100 / 6])]
    assert [list(row) for row in cells.text] == [[4, 0, 0], [1, 4, 1]]
    assert list(figure.layout.yaxis.ticktext) == ["&lt;b&gt;cold&lt;/b&gt;", "warm"]
    assert list(figure.layout.xaxis.ticktext) == ["&lt;b&gt;cold&lt;/b&gt;", "warm", "a tie"]
    without_ties = {**RESULT, "by_size": RESULT["by_size"][:1]}
    assert list(charts.confusion_frame(without_ties).said.unique()) == RESULT["labels"]


def test_before_anything_is_measured_the_charts_say_what_to_do():
    for figure in (
        charts.accuracy_by_memory(charts.accuracy_frame(None)),
        charts.confusion_matrix(charts.confusion_frame(None)),
    ):
        assert "Evaluate first" in figure.layout.annotations[0].text


def test_labels_that_look_alike_when_cut_stay_apart():
    labels = ["a very long label indeed, one", "a very long label indeed, two"]
    result = {**RESULT, "labels": labels}
    figure = charts.confusion_matrix(charts.confusion_frame(result), in_memory=0)
    assert len(figure.layout.yaxis.tickvals) == len(set(figure.layout.yaxis.tickvals)) == 2
    assert all(len(text) <= 24 for text in figure.layout.yaxis.ticktext)
