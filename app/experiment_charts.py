"""Charts of the evaluations: a result makes a table (`app.experiment_tables`), the table makes a figure; no model.

Every chart is a `Chart`: which table, what is measured, and in which form it is drawn. Systems that look things up in
memory have the colour of "with memory", all others that of "without memory"; marks and lines tell them apart.
"""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd
from plotly import graph_objects as go
from plotly.graph_objects import Figure
from plotly.subplots import make_subplots

from app import charts, theme
from app.experiment_tables import FRESH_KEYS, KIND_NAMES, OLD_KEYS

NOTHING = "This result holds nothing for this chart."
QUIET = {"gridcolor": "rgba(128,128,128,0.18)", "zeroline": False, "linecolor": "rgba(128,128,128,0.35)"}
REFERENCE = {"line_dash": "dot", "line_color": "rgba(128,128,128,0.9)", "line_width": 1.5}
LOOK_UP = ("LongMem", "Memorizing Transformer", KIND_NAMES["top"], FRESH_KEYS, OLD_KEYS)
# (symbol, dash) of known series; others take those of OTHERS in turn.
MARKS = {
    "LongMem": ("circle", "solid"),
    "Memorizing Transformer": ("diamond-open", "dash"),
    "backbone, window only": ("square", "solid"),
    "backbone, sliding window": ("square-open", "dot"),
    "LongMem, empty memory": ("triangle-up", "dash"),
    "SideNet trained without memory": ("triangle-down-open", "dashdot"),
    "full attention": ("cross", "longdash"),
    "sliding window": ("square-open", "dot"),
    KIND_NAMES["top"]: ("circle", "solid"),
    KIND_NAMES["random_retrieved"]: ("square-open", "dash"),
    KIND_NAMES["random_stored"]: ("diamond-open", "dot"),
    FRESH_KEYS: ("circle", "solid"),
    OLD_KEYS: ("diamond-open", "dash"),
}
OTHERS = [
    ("x-thin-open", "dot"),
    ("star-triangle-up-open", "dash"),
    ("pentagon-open", "dashdot"),
    ("hexagon", "longdash"),
    ("star", "longdashdot"),
]
LEGEND_CHARACTERS = 62  # of legend that fit beside each other, for the room that it gets


@dataclass(frozen=True)
class Quantity:
    """What an axis measures; `factor` turns recorded numbers into the unit, `signed` shows a plus."""

    name: str
    unit: str = ""
    factor: float = 1.0
    digits: int = 1
    signed: bool = False

    @property
    def title(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def number(self, value: float) -> str:
        """A recorded number in the unit; "–" where there is none."""
        sign = "+" if self.signed else ""
        return f"{self.factor * value:{sign},.{self.digits}f}".replace("-", "−") if np.isfinite(value) else "–"


@dataclass(frozen=True)
class Chart:
    """One chart of a page.

    form: "lines" (x in order), "dots" (x without order), "rows" (x downwards), "steps" (x a number), "heat" (series
    down), or "cloud" (x and value are numbers). level: from a result a value to compare with, and what it is called;
    last: where its axis of steps ends, so that a curve grows without moving.
    """

    name: str
    title: str
    note: str
    table: Callable[[dict], pd.DataFrame]
    quantity: Quantity
    x: str
    form: str = "lines"
    series: str = "system"
    level: Callable[[dict], tuple[float, str] | None] | None = None
    last: Callable[[dict], float] | None = None


def figure_of(chart: Chart, result: dict, *, small: str = "") -> tuple[Figure, list[list[str]]]:
    """The figure of a result and its table for people; `small` says how small the run was that it comes from."""
    table = chart.table(result)
    level = chart.level(result) if chart.level is not None else None
    last = chart.last(result) if chart.last is not None else None
    return draw(chart, table, level=level, last=last, small=small), cells(chart, table)


def draw(
    chart: Chart,
    table: pd.DataFrame,
    *,
    level: tuple[float, str] | None = None,
    last: float | None = None,
    small: str = "",
) -> Figure:
    """The figure of a table, with what `Chart` says of `level` and `last`."""
    if table.empty:
        return charts.empty_figure(NOTHING)
    figure = {"heat": _heat, "cloud": _cloud, "rows": _rows}.get(chart.form, _lines)(chart, table)
    if level is not None:
        _draw_level(figure, chart, *level)
    if last is not None:
        figure.update_xaxes(range=[-0.03 * last, 1.03 * last])
    title = f"Small run · {chart.title}" if small else chart.title
    subtitle = f"{small}: the interval is wide" if small else chart.note
    figure.update_layout(title_text=escape(title), title_subtitle_text=escape(subtitle), title_xref="container")
    figure.update_layout(uirevision=escape(f"{chart.name} {small}"))
    if small:
        figure.add_annotation(
            text="small run", xref="paper", yref="paper", x=0.5, y=0.5, showarrow=False, opacity=0.13, font_size=46
        )
    return figure


def cells(chart: Chart, table: pd.DataFrame) -> list[list[str]]:
    """The table for people, the first row its head; all as text that is not escaped yet."""
    panels = bool((table.panel != "").any())
    head = ["of", chart.x, chart.series, f"{chart.quantity.title}, 95 % interval", "n"]
    rows = [head if panels else head[1:]]
    for row in table.itertuples(index=False):
        number = chart.quantity.number
        x = row.x if isinstance(row.x, str) else f"{row.x:g}"
        value = number(row.value)
        if np.isfinite(row.low):
            value += f" ({number(row.low)} to {number(row.high)})"
        found = [row.panel, x, row.series, value, f"{row.n:,}" if row.n else "–"]
        rows.append(found if panels else found[1:])
    return rows


# Forms -------------------------------------------------------------------------------------------------------------


def _lines(chart: Chart, table: pd.DataFrame) -> Figure:
    """A line or a row of dots for each series, with intervals; panels stand one above the other."""
    panels, series = list(table.panel.unique()), list(table.series.unique())
    figure = _panels(panels, height=210 if len(panels) == 1 else 150, legend=series)
    ordinal = chart.form != "steps"
    places = {x: place for place, x in enumerate(table.x.drop_duplicates())}
    for row, panel in enumerate(panels, start=1):
        for number, name in enumerate(series):
            part = table[(table.panel == panel) & (table.series == name)]
            if part.empty:
                continue
            shift = (number - (len(series) - 1) / 2) * min(0.1, 0.6 / len(series))
            at = part.x.map(places) + shift if ordinal else part.x
            trace = _series_trace(chart, part, name, series, at, first=row == 1)
            figure.add_trace(trace, row=row, col=1)
    if ordinal:
        labels = [escape(_short(str(x))) for x in places]
        figure.update_xaxes(tickvals=list(places.values()), ticktext=labels, range=[-0.5, len(places) - 0.5])
    figure.update_xaxes(title_text=escape(chart.x), row=len(panels), col=1)
    figure.update_yaxes(title_text=escape(chart.quantity.title))
    if len(panels) > 1:  # to be compared, they must have one scale
        ends = chart.quantity.factor * table[["value", "low", "high"]].stack()
        room = 0.06 * max(ends.max() - ends.min(), 1e-9)
        figure.update_yaxes(range=[ends.min() - room, ends.max() + room])
    return figure


def _series_trace(
    chart: Chart, part: pd.DataFrame, name: str, series: list[str], at: pd.Series, *, first: bool
) -> go.Scatter:
    factor = chart.quantity.factor
    colour, symbol, dash = style(name, series)
    return go.Scatter(
        x=at,
        y=factor * part.value,
        error_y=_error(part, factor),
        mode="markers" if chart.form == "dots" else "lines+markers",
        name=escape(name),
        legendgroup=escape(name),
        showlegend=first,
        line={"color": colour, "dash": dash, "width": 2},
        marker={"color": colour, "symbol": symbol, "size": 9, "line": {"color": colour, "width": 2}},
        hovertext=[_hover(chart, row) for row in part.itertuples()],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _rows(chart: Chart, table: pd.DataFrame) -> Figure:
    """One row for each x, the first at the top, with its interval across."""
    figure = Figure(layout=theme.figure_layout(130 + 26 * len(table)))
    colour = theme.WITH_MEMORY
    dots = go.Scatter(
        x=chart.quantity.factor * table.value,
        y=np.arange(len(table)),
        error_x=_error(table, chart.quantity.factor),
        mode="markers",
        marker={"color": colour, "size": 9},
        hovertext=[_hover(chart, row) for row in table.itertuples()],
        hovertemplate="%{hovertext}<extra></extra>",
    )
    figure.add_trace(dots)
    figure.update_xaxes(title_text=escape(chart.quantity.title))
    labels = [escape(_short(str(x))) for x in table.x]
    figure.update_yaxes(tickvals=list(range(len(table))), ticktext=labels, range=[len(table) - 0.5, -0.5])
    return figure


def _heat(chart: Chart, table: pd.DataFrame) -> Figure:
    """Series down and x across, a panel below the other; the number stands in every cell."""
    panels, series = list(table.panel.unique()), list(table.series.unique())
    columns = {x: place for place, x in enumerate(table.x.drop_duplicates())}
    figure = _panels(panels, height=34 + 22 * len(series), legend=[])
    for row, panel in enumerate(panels, start=1):
        part = table[table.panel == panel]
        values = np.full((len(series), len(columns)), np.nan)
        hover = np.full(values.shape, "", dtype=object)
        at = (part.series.map(series.index).to_numpy(), part.x.map(columns).to_numpy())
        values[at] = chart.quantity.factor * part.value
        hover[at] = [_hover(chart, cell) for cell in part.itertuples()]
        heat = go.Heatmap(
            x=np.arange(len(columns)),
            y=np.arange(len(series)),
            z=values,
            zmin=0,
            zmax=100,
            text=hover,
            texttemplate="%{z:.0f}",
            colorscale=[[0, theme.rgba(theme.WITH_MEMORY, 0.04)], [1, theme.rgba(theme.WITH_MEMORY, 0.7)]],
            showscale=False,
            xgap=2,
            ygap=2,
            hoverongaps=False,
            hovertemplate="%{text}<extra></extra>",
        )
        figure.add_trace(heat, row=row, col=1)
    labels = [escape(_short(str(x))) for x in columns]
    figure.update_xaxes(tickvals=list(columns.values()), ticktext=labels)
    figure.update_xaxes(title_text=escape(chart.x), row=len(panels), col=1)
    names = [escape(_short(name)) for name in series]
    figure.update_yaxes(tickvals=list(range(len(series))), ticktext=names, range=[len(series) - 0.5, -0.5])
    figure.update_yaxes(showgrid=False)
    return figure


def _cloud(chart: Chart, table: pd.DataFrame) -> Figure:
    """A point for each row: `x` across, `value` up."""
    series = list(table.series.unique())
    figure = _panels([""], height=280, legend=series)
    for name in series:
        part = table[table.series == name]
        colour, symbol, _ = style(name, series)
        cloud = go.Scatter(
            x=part.x,
            y=chart.quantity.factor * part.value,
            mode="markers",
            name=escape(name),
            marker={"color": colour, "symbol": symbol, "size": 6, "opacity": 0.7},
            hovertemplate="effect %{x:+.2f} nats<br>falls by %{y:+.3f} nats<extra></extra>",
        )
        figure.add_trace(cloud)
    reach = [float(table.x.min()), float(table.x.max())]
    figure.add_shape(type="line", x0=reach[0], y0=reach[0], x1=reach[1], y1=reach[1], **REFERENCE, layer="below")
    figure.update_xaxes(title_text=escape(chart.x))
    figure.update_yaxes(title_text=escape(chart.quantity.title))
    return figure


def style(name: str, series: list[str]) -> tuple[str, str, str]:
    """Colour, symbol and dash of a series: the colour says whether it looks anything up."""
    looks_up = name in LOOK_UP or name.startswith(("LongMem, ", "Memorizing Transformer, "))
    colour = theme.WITH_MEMORY if looks_up and name != "LongMem, empty memory" else theme.WITHOUT_MEMORY
    strangers = [other for other in series if other not in MARKS]
    symbol, dash = MARKS.get(name) or OTHERS[strangers.index(name) % len(OTHERS)]
    return colour, symbol, dash


def _panels(panels: list[str], *, height: int, legend: list[str]) -> Figure:
    """Planes of so many pixels, one above the other, with room for the title above and the legend below."""
    titles = [escape(panel) for panel in panels]
    top, bottom = 62, 62 + 20 * _legend_lines(legend)
    whole = top + bottom + len(panels) * (height + 34) - 34
    gap = 34 / (whole - top - bottom) if len(panels) > 1 else 0
    figure = make_subplots(len(panels), 1, shared_xaxes=True, subplot_titles=titles, vertical_spacing=gap)
    figure.update_layout(theme.figure_layout(whole))
    figure.update_layout(
        margin={"t": top + (14 if any(panels) else 0), "b": bottom, "l": 8, "r": 8},
        showlegend=bool(legend) and len(legend) > 1,
        legend={
            "orientation": "h",
            "x": 0,
            "xref": "container",
            "y": 0,
            "yref": "container",
            "yanchor": "bottom",
            "font": {"size": 11},
            "bgcolor": "rgba(0,0,0,0)",
        },
    )
    figure.update_xaxes(**QUIET, automargin=True)
    figure.update_yaxes(**QUIET, automargin=True)
    figure.update_annotations(font_size=12, x=0, xanchor="left")
    return figure


def _legend_lines(names: list[str]) -> int:
    """How many lines a legend takes where it is narrowest, with a mark before each name."""
    if len(names) < 2:
        return 0
    lines, used = 1, 0
    for name in names:
        width = len(name) + 8
        if used and used + width > LEGEND_CHARACTERS:
            lines, used = lines + 1, 0
        used += width
    return lines


def _draw_level(figure: Figure, chart: Chart, value: float, label: str) -> None:
    at = chart.quantity.factor * value
    if chart.form == "rows":
        figure.add_vline(at, **REFERENCE)
        return
    figure.add_hline(
        at, **REFERENCE, annotation_text=escape(label), annotation_position="bottom right", annotation_font_size=11
    )


def _error(part: pd.DataFrame, factor: float) -> dict | None:
    """Intervals as Plotly has them: lengths in both directions; None where no point has one."""
    if part.low.isna().all():
        return None
    up, down = (part.high - part.value).clip(lower=0), (part.value - part.low).clip(lower=0)
    return {
        "type": "data",
        "symmetric": False,
        "array": factor * up,
        "arrayminus": factor * down,
        "thickness": 1.4,
        "width": 4,
    }


def _hover(chart: Chart, row: object) -> str:
    number, unit = chart.quantity.number, f" {chart.quantity.unit}" if chart.quantity.unit else ""
    where = [part for part in (row.panel, row.series) if part]
    x = row.x if isinstance(row.x, str) else f"{row.x:g}"
    interval = f"<br>95 %: {number(row.low)} to {number(row.high)}" if np.isfinite(row.low) else ""
    count = f"<br>n = {row.n:,}" if row.n else ""
    names = escape(" · ".join(map(str, where)))
    return f"{names}<br>{escape(chart.x)}: {escape(x)}<br>{number(row.value)}{unit}{interval}{count}"


def _short(label: str) -> str:
    return label if len(label) <= 24 else label[:23] + "…"
