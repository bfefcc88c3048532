"""Charts of the Demonstrations tab: an evaluation's frame -> Plotly figure. No model, no page.

  accuracies  `in_memory, accuracy, low, high, n, tokens`: a row per number of demonstrations in memory, shares in 0..1
  confusion   `label, said, n`: a row per pair; labels and what was said in the order of their first row

Labels are escaped: Plotly reads a little HTML.
"""

import html

import pandas as pd
from plotly import graph_objects as go
from plotly.graph_objects import Figure

from app import theme
from app.charts import empty_figure

NOT_MEASURED = "Evaluate first: then this shows how many texts get the right label."
MOST_NUMBERED = 24  # labels up to which every cell says its number
TIE = "a tie"


def accuracy_frame(result: dict | None) -> pd.DataFrame:
    """The result of an evaluation -> `accuracies`."""
    columns = ["in_memory", "accuracy", "low", "high", "n", "tokens"]
    return pd.DataFrame(
        [{name: size[name] for name in columns} for size in (result or {}).get("by_size", [])], columns=columns
    )


def confusion_frame(result: dict | None) -> pd.DataFrame:
    """The result of an evaluation -> `confusion` of its largest memory; ties only where there are some."""
    if not result or not result["by_size"]:
        return pd.DataFrame(columns=["label", "said", "n"])
    rows, labels = result["by_size"][-1]["confusion"], result["labels"]
    said = [*labels, *([TIE] if any(row[-1] for row in rows) else [])]
    pairs = [(label, said[j], row[j]) for label, row in zip(labels, rows, strict=True) for j in range(len(said))]
    return pd.DataFrame(pairs, columns=["label", "said", "n"])


def accuracy_by_memory(accuracies: pd.DataFrame, chance: float = 0.0, majority: float = 0.0) -> Figure:
    """Points with 95 % intervals: demonstrations in memory across, evenly spaced, accuracy in % up."""
    if accuracies.empty:
        return empty_figure(NOT_MEASURED)
    places = list(range(len(accuracies)))
    colours = [theme.WITH_MEMORY if n else theme.WITHOUT_MEMORY for n in accuracies.in_memory]
    points = go.Scatter(
        x=places,
        y=100 * accuracies.accuracy,
        mode="lines+markers",
        line={"color": theme.WITH_MEMORY, "width": 1.5},
        marker={
            "color": colours,
            "size": 11,
            "symbol": ["circle" if n else "circle-open" for n in accuracies.in_memory],
        },
        error_y={
            "array": 100 * (accuracies.high - accuracies.accuracy),
            "arrayminus": 100 * (accuracies.accuracy - accuracies.low),
            "color": theme.WITHOUT_MEMORY,
            "thickness": 1.5,
            "width": 5,
        },
        customdata=accuracies[["in_memory", "n", "low", "high", "tokens"]].to_numpy(),
        hovertemplate="%{customdata[0]:,.0f} in memory (%{customdata[4]:,.0f} tokens)<br>"
        "%{y:.1f} % of %{customdata[1]:.0f} "
        "texts are right<br>95 %: %{customdata[2]:.1%} to %{customdata[3]:.1%}<extra></extra>",
    )
    figure = Figure(points, layout=theme.figure_layout(320))
    for value, name, position in ((chance, "chance", "bottom right"), (majority, "most frequent label", "top right")):
        figure.add_hline(
            y=100 * value,
            line={"color": theme.WITHOUT_MEMORY, "width": 1, "dash": "dot"},
            annotation={"text": name, "font": {"size": 11}},
            annotation_position=position,
        )
    figure.update_layout(
        title_text="How many texts get the right label", title_subtitle_text="bars: 95 % intervals over the texts"
    )
    ticks = [f"{n:,}" for n in accuracies.in_memory]
    figure.update_xaxes(title_text="demonstrations in memory", tickvals=places, ticktext=ticks)
    figure.update_xaxes(range=[-0.35, len(places) - 0.65 + 0.3])
    figure.update_yaxes(title_text="accuracy (%)", range=[0, 104])
    return figure


def confusion_matrix(confusion: pd.DataFrame, in_memory: int = 0) -> Figure:
    """Heatmap: the right label down, what was said across; a number of texts, strength is its share of the row."""
    if confusion.empty:
        return empty_figure(NOT_MEASURED)
    labels, said = list(confusion.label.unique()), list(confusion.said.unique())
    counts = confusion.n.to_numpy(dtype=int).reshape(len(labels), len(said))
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    numbered = {"text": counts, "texttemplate": "%{text}"} if len(labels) <= MOST_NUMBERED else {}
    heatmap = go.Heatmap(
        z=100 * shares,
        x=list(range(len(said))),
        y=list(range(len(labels))),
        zmin=0,
        zmax=100,
        # Never so strong that the numbers could not be read on it.
        colorscale=[[0, theme.rgba(theme.WITH_MEMORY, 0.0)], [1, theme.rgba(theme.WITH_MEMORY, 0.45)]],
        showscale=False,
        xgap=2,
        ygap=2,
        customdata=[
            [f"{shown(label)} → {shown(answer)}: {n}" for answer, n in zip(said, row, strict=True)]
            for label, row in zip(labels, counts, strict=True)
        ],
        hovertemplate="%{customdata} texts<br>%{z:.0f} % of this label<extra></extra>",
        **numbered,
    )
    figure = Figure(heatmap, layout=theme.figure_layout(max(240, 150 + 34 * len(labels))))
    figure.update_layout(
        title_text=f"Which labels are taken for which · {in_memory:,} in memory",
        title_subtitle_text="numbers of texts; full colour = all texts of a label",
    )
    figure.update_xaxes(title_text="said", tickvals=list(range(len(said))), ticktext=[shown(label) for label in said])
    figure.update_yaxes(title_text="is", tickvals=list(range(len(labels))), ticktext=[shown(label) for label in labels])
    figure.update_yaxes(range=[len(labels) - 0.5, -0.5])
    return figure


def shown(label: str, most: int = 24) -> str:
    """A label for a tick or hover text: escaped, on one line, cut where it is long."""
    line = " ".join(label.split())
    return html.escape(line if len(line) <= most else line[: most - 1] + "…")
