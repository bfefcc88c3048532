"""The charts of a report: each by its name in its module, with the numbers that it draws as a table beside it.

To add a chart to the report, name it in FIGURES. What it needs is given by the names of its parameters: the
run's tables, and `step` and `layer` of the token that the report points out; what has a default keeps it.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from app import charts, perplexity_charts
from app.charts import Figure
from app.methods import labelled
from app.run_records import TABLES
from app.session import Run

MOST_ROWS = 24  # of a table beside a chart: the heaviest


@dataclass(frozen=True)
class DrawnFigure:
    """One chart of the report; `table` is None where the report has the numbers elsewhere."""

    name: str
    figure: Figure
    caption: str
    table: pd.DataFrame | None


def draw(run: Run, step: int, layer: int) -> list[DrawnFigure]:
    """Every chart in FIGURES of this run."""
    values = {name: getattr(run, name) for name in TABLES} | {"step": step, "layer": layer}
    drawn = []
    for name, (caption, table) in FIGURES.items():
        chart = getattr(charts, name, None) or getattr(perplexity_charts, name)
        needed = [p.name for p in inspect.signature(chart).parameters.values() if p.default is p.empty]
        figure = labelled(chart(**{parameter: values[parameter] for parameter in needed}), run.recipe.method)
        drawn.append(DrawnFigure(name, figure, caption, table(run, step, layer) if table else None))
    return drawn


def heaviest_chunks(run: Run, step: int, layer: int) -> pd.DataFrame:
    """The chunks that the layers looked at most over the whole run: share of a head's attention, mean of all tokens."""
    located = charts.locate(run.trace, run.chunks)
    queries = run.trace.drop_duplicates(["layer", "step", "head"]).groupby("layer").size()
    keys = ["layer", "chunk", "document", "position", "text"]
    rows = located.groupby(keys, as_index=False)["weight"].sum().assign(queries=lambda f: f.layer.map(queries))
    rows["share (%)"] = 100 * rows.weight / rows.queries.astype(float)
    return _heaviest(rows, "share (%)")[["layer", "document", "position", "chunk", "share (%)", "text"]]


def heaviest_looks(run: Run, step: int, layer: int) -> pd.DataFrame:
    """What single tokens looked at most: weight averaged over the layer's heads."""
    located = charts.locate(run.trace, run.chunks)
    heads = run.trace.groupby("layer")["head"].nunique()
    keys = ["step", "token", "layer", "chunk", "document", "position", "text"]
    rows = located.groupby(keys, as_index=False)["weight"].sum()
    rows["weight (%)"] = 100 * rows.weight / rows.layer.map(heads).astype(float)
    return _heaviest(rows, "weight (%)")[
        ["step", "token", "layer", "document", "position", "chunk", "weight (%)", "text"]
    ]


def heads_of_token(run: Run, step: int, layer: int) -> pd.DataFrame:
    """The heads' weights on the heaviest chunks of one token and layer, in %."""
    rows = run.trace[(run.trace.step == step) & (run.trace.layer == layer)]
    rows = rows.assign(weight=100.0 * rows.weight)
    if rows.empty:
        return rows[["chunk", "text"]]
    table = rows.pivot_table(index=["chunk", "text"], columns="head", values="weight", aggfunc="sum")
    heaviest = table.sum(axis=1).sort_values(ascending=False).head(MOST_ROWS).index
    return table.loc[heaviest].rename(columns=lambda head: f"head {head} (%)").reset_index()


def gates_of_heads(run: Run, step: int, layer: int) -> pd.DataFrame:
    """How far every head's gate was open over the run, in %."""
    gates = run.gates.assign(gate=100.0 * run.gates.gate)
    table = gates.groupby(["layer", "head"], as_index=False)["gate"].agg(["mean", "min", "max"])
    return table.rename(columns={name: f"{name} (%)" for name in ("mean", "min", "max")})


def _heaviest(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    return rows.sort_values(column, ascending=False, kind="stable").head(MOST_ROWS)


FIGURES: dict[str, tuple[str, Callable[[Run, int, int], pd.DataFrame] | None]] = {
    "effect_strip": ("The numbers are in the table of all tokens below.", None),
    "layers_by_position": (f"The {MOST_ROWS} chunks with the largest share, over all tokens", heaviest_chunks),
    "steps_by_position": (f"The {MOST_ROWS} heaviest retrievals of single tokens", heaviest_looks),
    "heads_by_chunk": ("The weights of the token that is pointed out, by head", heads_of_token),
    "layer_head_grid": ("What every head took from memory, over all tokens", gates_of_heads),
    "chunk_ranking": ("What the heads of the layer found for the token that is pointed out", heads_of_token),
    "running_perplexity": ("The numbers are in the table of all tokens below.", None),
    "gate_bars": ("What every head took from memory, over all tokens", gates_of_heads),
}
