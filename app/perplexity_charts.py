"""Charts of how unsure the model is of a text: pure functions, tables in, a Plotly figure out, as in `app.charts`."""

import numpy as np
import pandas as pd
from plotly import graph_objects as go
from plotly.graph_objects import Figure

from app import theme
from app.charts import empty_figure, set_title, token_ticks

LINES = (
    ("logprob_empty", "empty memory", theme.WITHOUT_MEMORY, "dash"),
    ("logprob", "with memory", theme.WITH_MEMORY, "solid"),
)
COLOURS = "amber: with memory · grey, dashed: with an empty memory"


def running_perplexity(tokens: pd.DataFrame) -> Figure:
    """Lines: perplexity of all tokens so far, with memory and with an empty one."""
    if tokens.empty or tokens.logprob.isna().any():
        return empty_figure("Nothing was predicted here: score a text to see its perplexity grow.")
    figure = Figure(layout=theme.figure_layout(280))
    count = np.arange(1, len(tokens) + 1)
    for column, name, colour, dash in LINES:
        _line(figure, tokens.step, np.exp(-tokens[column].cumsum() / count), name, colour, dash, "first %{x} tokens")
    set_title(figure, "Perplexity of the text so far", COLOURS)
    figure.update_xaxes(title_text="token", **token_ticks(tokens))
    figure.update_yaxes(title_text="perplexity", rangemode="tozero")
    return figure


def perplexity_along(pages: pd.DataFrame) -> Figure:
    """Lines: perplexity of all pages so far, by the place reached in the document; points: of each page alone.

    pages: `share` (of the document, at the page's end), `tokens`, and sums of `logprob` and `logprob_empty`.
    """
    if pages.empty:
        return empty_figure("The first page is being scored.")
    figure, place, count = Figure(layout=theme.figure_layout(280)), 100 * pages.share, pages.tokens.cumsum()
    for column, name, colour, dash in LINES:
        running = np.exp(-pages[column].cumsum() / count)
        _line(figure, place, running, name, colour, dash, "from the beginning to %{x:.1f} % of the document")
        figure.add_trace(
            go.Scatter(
                x=place,
                y=np.exp(-pages[column] / pages.tokens),
                mode="markers",
                name=f"one page, {name}",
                marker={"color": colour, "size": 6, "opacity": 0.55, "symbol": "circle" if dash == "solid" else "x"},
                hovertemplate=f"the page that ends at %{{x:.1f}} %<br>perplexity, {name}, %{{y:.1f}}<extra></extra>",
            )
        )
    set_title(
        figure, "Perplexity along the document", "amber: with memory · grey: empty · line: so far · point: a page"
    )
    figure.update_xaxes(title_text="place in the document (%)")
    figure.update_yaxes(title_text="perplexity", rangemode="tozero")
    return figure


def _line(figure: Figure, x: pd.Series, y: pd.Series, name: str, colour: str, dash: str, where: str) -> None:
    figure.add_trace(
        go.Scatter(
            x=x,
            y=y,
            mode="lines",
            name=name,
            line={"color": colour, "width": 2, "dash": dash},
            hovertemplate=f"{where}<br>perplexity {name} %{{y:.1f}}<extra></extra>",
        )
    )
