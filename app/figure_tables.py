"""The table behind a figure, read off the figure itself: what a chart shows, for those who cannot see it."""

import re
from html import escape, unescape

import numpy as np
import pandas as pd
from plotly.basedatatypes import BaseTraceType
from plotly.graph_objects import Figure, Layout, layout

MOST_ROWS = 200


def figure_table(figure: Figure) -> pd.DataFrame:
    """One row per point, bar or filled cell of a figure, in the words of its axes.

    Of more than MOST_ROWS those of the largest values stay.
    """
    rows = []
    for trace in figure.data:
        rows += _cells(trace, figure.layout) if trace.type == "heatmap" else _points(trace, figure.layout)
    table = pd.DataFrame(rows)
    if len(table) > MOST_ROWS:
        largest = table["value"].abs().nlargest(MOST_ROWS).index
        table = table.loc[sorted(largest)]
    return table.rename(
        columns={"value": _axis_name(figure.layout.yaxis, "value") if _is_points(figure) else "value (%)"}
    )


def table_html(figure: Figure, summary: str = "Table") -> str:
    """The table in a fold; empty where the figure holds no data."""
    table = figure_table(figure)
    if table.empty:
        return ""
    head = "".join(f'<th scope="col">{escape(str(column))}</th>' for column in table.columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_shown(value))}</td>" for value in row) + "</tr>"
        for row in table.itertuples(index=False)
    )
    title = _text(figure.layout.title.text)
    more = f" (the {MOST_ROWS} largest)" if len(table) == MOST_ROWS else ""
    return (
        f'<details class="lm-table"><summary>{escape(summary)}</summary><div class="lm-scroll" tabindex="0"><table>'
        f"<caption>{escape(title)}{more}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details>"
    )


def _is_points(figure: Figure) -> bool:
    return any(trace.type != "heatmap" for trace in figure.data)


def _cells(trace: BaseTraceType, plane: Layout) -> list[dict]:
    """Filled cells of a heatmap."""
    values = np.asarray(trace.z, dtype=float)
    across, down = _labels(plane.xaxis, trace.x), _labels(plane.yaxis, trace.y)
    names = _axis_name(plane.yaxis, "row"), _axis_name(plane.xaxis, "column")
    rows = []
    for i, j in zip(*np.nonzero(~np.isnan(values)), strict=True):
        words = {} if trace.text is None or trace.texttemplate else {"what": _text(trace.text[i][j])}
        rows.append({names[0]: down[i], names[1]: across[j], **_named(trace), "value": values[i, j], **words})
    return rows


def _points(trace: BaseTraceType, plane: Layout) -> list[dict]:
    """Points of a scatter, or bars."""
    across = _labels(plane.xaxis, trace.x)
    rows = []
    for i, (x, y) in enumerate(zip(across, trace.y, strict=True)):
        more = {} if trace.hovertext is None else {"what": _text(trace.hovertext[i])}
        rows.append({_axis_name(plane.xaxis, "x"): x, **_named(trace), "value": float(y), **more})
    return rows


def _named(trace: BaseTraceType) -> dict:
    return {"series": _text(trace.name)} if trace.name else {}


def _labels(axis: layout.XAxis, values: object) -> list:
    """Tick labels where an axis has them for these values, else the values."""
    known = dict(zip(axis.tickvals or (), axis.ticktext or (), strict=True))
    return [
        f"{value} «{_text(known[value])}»" if _adds(known, value) else known.get(value, value) for value in list(values)
    ]


def _adds(known: dict, value: object) -> bool:
    """Whether a tick label (such as a token) does not say the number it stands at."""
    return value in known and not re.search(r"(layer|head|#)", str(known[value])) and str(known[value]) != str(value)


def _axis_name(axis: layout.XAxis, fallback: str) -> str:
    return _text(axis.title.text) or fallback


def _text(words: object) -> str:
    """Plotly's little HTML as plain words."""
    return unescape(re.sub(r"<br>", " ", str(words))) if words else ""


def _shown(value: object) -> str:
    return f"{value:,.4g}" if isinstance(value, float | np.floating) else str(value)
