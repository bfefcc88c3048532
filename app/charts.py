"""Charts of a retrieval trace: one pure function each, tables in, a Plotly figure out; no model and no page.

Tables, as pandas DataFrames:
  trace   `step, token, layer, head, rank, chunk, score, weight, gate, document, start, end, text`
          (`RetrievalTrace.to_frame()`)
  chunks  `chunk, document_id, document, position, n_tokens`: what was in memory during the run; `position` is the
          first token of the chunk counted from the oldest token in memory
  tokens  `step, token, logprob, logprob_empty, effect` (`RetrievalTrace.tokens_frame()`), natural logarithms
  gates   `step, layer, head, gate` (`RetrievalTrace.gates_frame()`)

A point or cell that stands for a chunk carries its id as the first entry of `customdata`. Hue is the document,
strength is the weight. Document text and names are escaped: Plotly reads a little HTML in hover labels.
"""

import html
from itertools import cycle

import numpy as np
import pandas as pd
from plotly import graph_objects as go
from plotly.graph_objects import Figure

from app import theme

MAX_BINS = 320  # cells across the memory: about one per pixel of the panel
MAX_POINTS = 1_500  # points the scatter draws: the heaviest
MAX_COLUMNS = 24  # chunks in the heads view: the heaviest
SYMBOLS = {"circle": "●", "square": "■", "diamond": "◆", "triangle-up": "▲", "cross": "✚", "x": "✖"}  # and in text


def locate(trace: pd.DataFrame, chunks: pd.DataFrame) -> pd.DataFrame:
    """The trace with `document_id`, `position` and `n_tokens` of every chunk; chunks not in `chunks` are left out."""
    return trace.merge(chunks[["chunk", "document_id", "position", "n_tokens"]], on="chunk", how="inner")


def empty_figure(message: str, height: int = 220) -> Figure:
    """No data: an empty plane that says why and what to do."""
    figure = Figure(layout=theme.figure_layout(height, xaxis={"visible": False}, yaxis={"visible": False}))
    return figure.add_annotation(text=message, showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5)


def layers_by_position(trace: pd.DataFrame, chunks: pd.DataFrame, *, step: int | None = None) -> Figure:
    """Heatmap: memory layers down, position in memory across, binned to at most MAX_BINS cells.

    A cell is the share of attention (in %) that a query head gave to this stretch of memory: the weights of its
    chunks summed, then averaged over the heads and tokens that were traced (all of them, or those of `step`).
    """
    rows = trace if step is None else trace[trace.step == step]
    located = locate(rows, chunks)
    if located.empty:
        return empty_figure("Nothing was retrieved here: memory is empty or switched off.")
    layers = sorted(trace.layer.unique())
    memory_tokens = int((chunks.position + chunks.n_tokens).max())
    width = max(1, int(np.ceil(memory_tokens / min(MAX_BINS, len(chunks)))))
    queries = rows.groupby("layer")[["step", "head"]].apply(lambda group: len(group.drop_duplicates()))
    located = located.assign(bin=located.position // width, share=100 * located.weight / located.layer.map(queries))
    cells = _heaviest_per_group(located, ["document_id", "layer", "bin"], "share")
    figure = Figure(layout=theme.figure_layout(150 + 44 * len(layers)))
    for document, group in cells.groupby("document_id"):
        figure.add_trace(_position_heatmap(document, group, layers, width, cells.share.max()))
    which = "all tokens" if step is None else f"token {step}"
    set_title(figure, f"Where each layer looked · {which}", _scale_note(cells.share.max()))
    figure.update_xaxes(title_text="position in memory (tokens, oldest first)", range=[0, memory_tokens])
    figure.update_yaxes(
        tickvals=list(range(len(layers))), ticktext=[f"layer {x}" for x in layers], range=[len(layers) - 0.5, -0.5]
    )
    return figure


def steps_by_position(trace: pd.DataFrame, chunks: pd.DataFrame) -> Figure:
    """Scatter: generated token across, position of a retrieved chunk in memory up; area is weight, symbol is layer.

    Weights are averaged over heads; the MAX_POINTS heaviest points are drawn and the title says so.
    """
    located = locate(trace, chunks)
    if located.empty:
        return empty_figure("Nothing was retrieved here: memory is empty or switched off.")
    heads = trace.groupby("layer")["head"].nunique()
    points = _heaviest_per_group(located, ["document_id", "step", "layer", "chunk"], "weight")
    points = points.assign(weight=points.weight / points.layer.map(heads)).sort_values("weight", ascending=False)
    n_points = len(points)
    points = points.head(MAX_POINTS)
    symbol = dict(zip(sorted(trace.layer.unique()), cycle(SYMBOLS), strict=False))
    figure = Figure(layout=theme.figure_layout(300))
    for document, group in points.groupby("document_id"):
        figure.add_trace(_point_cloud(document, group, symbol, points.weight.max()))
    drawn = "" if n_points <= MAX_POINTS else f" · the {MAX_POINTS:,} heaviest of {n_points:,}"
    shapes = "  ".join(f"{SYMBOLS[symbol[layer]]} layer {layer}" for layer in symbol)
    set_title(figure, f"When it looked where{drawn}", f"{shapes} · area = weight")
    figure.update_xaxes(title_text="generated token", **token_ticks(trace))
    figure.update_yaxes(title_text="position in memory (tokens)", rangemode="tozero")
    return figure


def heads_by_chunk(trace: pd.DataFrame, chunks: pd.DataFrame, *, step: int, layer: int) -> Figure:
    """Heatmap of one token and layer: query heads down, the heaviest chunks across in the order of memory.

    A cell is the weight in % (attention inside memory times gate) of that head on that chunk.
    """
    rows = trace[(trace.step == step) & (trace.layer == layer)]
    located = locate(rows, chunks)
    if located.empty:
        return empty_figure(f"Layer {layer} retrieved nothing for token {step}.")
    total = located.groupby("chunk")["weight"].sum().sort_values(ascending=False)
    kept = located[located.chunk.isin(total.head(MAX_COLUMNS).index)].sort_values("position")
    columns = {chunk: i for i, chunk in enumerate(kept.chunk.drop_duplicates())}
    heads = sorted(located["head"].unique())
    figure = Figure(layout=theme.figure_layout(150 + 26 * len(heads)))
    for document, group in kept.groupby("document_id"):
        figure.add_trace(_head_heatmap(document, group, heads, columns, 100 * kept.weight.max()))
    drawn = (
        f"{len(columns)} chunks" if len(total) <= MAX_COLUMNS else f"the {MAX_COLUMNS} heaviest of {len(total)} chunks"
    )
    set_title(figure, f"Heads of layer {layer} · token {step} · {drawn}", _scale_note(100 * kept.weight.max()))
    figure.update_xaxes(title_text="retrieved chunks, in the order of memory (number = chunk id)", tickangle=-60)
    figure.update_xaxes(tickvals=list(columns.values()), ticktext=[f"#{chunk}" for chunk in columns])
    figure.update_yaxes(
        tickvals=list(range(len(heads))), ticktext=[f"head {x}" for x in heads], range=[len(heads) - 0.5, -0.5]
    )
    return figure


def gate_bars(gates: pd.DataFrame, *, step: int | None = None) -> Figure:
    """Bars: what each head of a layer takes from memory (its gate), in % of its output; of one token or the mean."""
    rows = gates if step is None else gates[gates.step == step]
    if rows.empty:
        return empty_figure("Nothing was taken from memory here: it is empty or switched off.")
    means = rows.groupby(["layer", "head"], as_index=False)["gate"].agg(["mean", "min", "max"])
    layers = sorted(means.layer.unique())
    figure = Figure(layout=theme.figure_layout(240))
    for layer in layers:
        group = means[means.layer == layer]
        bars = go.Bar(
            x=[f"{layer}·{head}" for head in group["head"]],
            y=100 * group["mean"],
            marker_color=theme.WITH_MEMORY,
            customdata=np.column_stack([group["head"], 100 * group["min"], 100 * group["max"]]),
            hovertemplate=f"layer {layer}, head %{{customdata[0]:.0f}}<br>%{{y:.1f}} % from memory"
            "<br>from %{customdata[1]:.1f} to %{customdata[2]:.1f} %<extra></extra>",
        )
        figure.add_trace(bars)
    which = "mean over all tokens" if step is None else f"token {step}"
    set_title(figure, f"Taken from memory · {which}", "share of a head's output that comes from memory")
    figure.update_layout(bargap=0.25)
    figure.update_xaxes(title_text="layer·head", type="category")
    figure.update_yaxes(title_text="share from memory (%)", range=[0, 100])
    return figure


def effect_strip(tokens: pd.DataFrame) -> Figure:
    """Bars: what memory did to each token, in nats: log p with memory minus log p with an empty memory."""
    if tokens.empty:
        return empty_figure("Nothing generated yet.")
    colours = np.where(tokens.effect > 0, theme.RAISED, theme.LOWERED)
    bars = go.Bar(
        x=tokens.step,
        y=tokens.effect,
        marker_color=colours,
        customdata=np.column_stack([100 * np.exp(tokens.logprob), 100 * np.exp(tokens.logprob_empty)]),
        hovertext=[_visible(token) for token in tokens.token],
        hovertemplate="token %{x} «%{hovertext}»<br>%{y:+.2f} nats<br>%{customdata[0]:.1f} % with memory"
        "<br>%{customdata[1]:.1f} % with an empty memory<extra></extra>",
    )
    figure = Figure(bars, layout=theme.figure_layout(240))
    set_title(figure, "What memory did to each token", "log-probability with memory minus with an empty memory")
    figure.update_layout(bargap=0.15)
    figure.update_xaxes(title_text="generated token", **token_ticks(tokens))
    figure.update_yaxes(title_text="effect (nats)", zeroline=True, zerolinecolor="rgba(128,128,128,0.5)")
    return figure


def layer_head_grid(gates: pd.DataFrame, *, step: int | None = None) -> Figure:
    """Heatmap: memory layers down, query heads across, the weight of memory in each (its gate) in %.

    Of one token, or the mean over all. A cell's customdata is its layer and head.
    """
    rows = gates if step is None else gates[gates.step == step]
    if rows.empty:
        return empty_figure("Nothing was taken from memory here: it is empty or switched off.")
    means = rows.pivot_table(index="layer", columns="head", values="gate", aggfunc="mean")
    layers, heads = list(means.index), list(means.columns)
    figure = Figure(
        go.Heatmap(
            x=heads,
            y=np.arange(len(layers)),
            z=100 * means.to_numpy(),
            zmin=0,
            zmax=100,
            customdata=np.stack(np.meshgrid(layers, heads, indexing="ij"), axis=-1),
            text=np.round(100 * means.to_numpy()).astype(int),
            texttemplate="%{text} %",
            colorscale=theme.weight_scale(theme.WITH_MEMORY),
            showscale=False,
            xgap=3,
            ygap=3,
            hovertemplate="layer %{customdata[0]}, head %{customdata[1]}<br>%{z:.1f} % from memory<extra></extra>",
        ),
        layout=theme.figure_layout(130 + 44 * len(layers)),
    )
    which = "mean over all tokens" if step is None else f"token {step}"
    set_title(figure, f"How much of each head is memory · {which}", "click a head to follow it in Ranking and Scores")
    figure.update_xaxes(title_text="query head", tickvals=heads, ticktext=[str(head) for head in heads])
    figure.update_yaxes(
        tickvals=list(range(len(layers))), ticktext=[f"layer {x}" for x in layers], range=[len(layers) - 0.5, -0.5]
    )
    return figure


def chunk_ranking(
    trace: pd.DataFrame, chunks: pd.DataFrame, *, step: int, layer: int, head: int | None = None
) -> Figure:
    """Scatter of one token and layer: score of a retrieved chunk across, its weight in % up; the best are numbered.

    Of one head, or, without, of every head that retrieved the chunk.
    """
    rows = trace[(trace.step == step) & (trace.layer == layer)]
    rows = rows if head is None else rows[rows["head"] == head]
    located = locate(rows, chunks).sort_values("weight", ascending=False)
    who = f"layer {layer}" if head is None else f"head {layer}·{head}"
    if located.empty:
        return empty_figure(f"The {who} retrieved nothing for token {step}.")
    located = located.assign(place=np.arange(1, len(located) + 1))
    figure = Figure(layout=theme.figure_layout(300))
    for document, group in located.groupby("document_id"):
        figure.add_trace(_ranked_points(document, group))
    set_title(
        figure,
        f"Score against weight · {who} · token {step}",
        "score is what the search proposed, weight what was used",
    )
    figure.update_xaxes(title_text="score (inner product of query and best key)")
    figure.update_yaxes(title_text="weight (% of a head's output)", rangemode="tozero")
    return figure


def _ranked_points(document: int, rows: pd.DataFrame) -> go.Scatter:
    return go.Scatter(
        x=rows.score,
        y=100 * rows.weight,
        mode="markers+text",
        text=[f"#{chunk}" if place <= 5 else "" for chunk, place in zip(rows.chunk, rows.place, strict=True)],
        textposition="top center",
        name=_visible(rows.document.iloc[0]),
        marker={"color": theme.document_colour(document), "size": 9, "opacity": 0.7},
        customdata=np.column_stack([rows.chunk, rows["head"], rows["rank"]]),
        hovertext=[
            f"{_visible(name)}<br>«{_visible(words)}»" for name, words in zip(rows.document, rows.text, strict=True)
        ],
        hovertemplate="#%{customdata[0]}, head %{customdata[1]}, rank %{customdata[2]} of the search"
        "<br>score %{x:.2f}, weight %{y:.2f} %<br>%{hovertext}<extra></extra>",
    )


def score_histogram(scores: pd.DataFrame, *, step: int, layer: int, head: int) -> Figure:
    """Histogram of the scores of all chunks for one query: retrieved and not. `scores`: `chunk, score, retrieved`.

    Counts are on a logarithmic axis, since few of many thousand are retrieved.
    """
    figure = Figure(layout=theme.figure_layout(280))
    edges = np.histogram_bin_edges(scores.score, bins=60)
    for found, name, colour in ((False, "not retrieved", theme.WITHOUT_MEMORY), (True, "retrieved", theme.WITH_MEMORY)):
        counts, _ = np.histogram(scores.score[scores.retrieved == found], bins=edges)
        figure.add_trace(
            go.Bar(
                x=(edges[:-1] + edges[1:]) / 2,
                y=counts,
                width=np.diff(edges),
                name=name,
                marker_color=colour,
                hovertemplate="%{y:,} chunks " + name + "<br>with a score around %{x:.2f}<extra></extra>",
            )
        )
    title = f"Scores of all {len(scores):,} chunks · head {layer}·{head} · token {step}"
    set_title(figure, title, f"amber: the {int(scores.retrieved.sum())} retrieved · grey: all others")
    figure.update_layout(barmode="stack", bargap=0)
    figure.update_xaxes(title_text="score")
    figure.update_yaxes(title_text="chunks (logarithmic)", type="log")
    return figure


def _heaviest_per_group(located: pd.DataFrame, keys: list[str], weight: str) -> pd.DataFrame:
    """Sum `weight` per group; keep name, number of chunks and, of the group's heaviest chunk, its id and text."""
    per_chunk = located.groupby([*dict.fromkeys([*keys, "chunk"])], as_index=False).agg(
        {weight: "sum", "document": "first", "text": "first", "position": "first", "score": "max"}
    )
    ordered = per_chunk.sort_values(weight, ascending=False, kind="stable")
    first = {"document": "first", "text": "first", "position": "first", "score": "max"}
    if "chunk" in keys:
        return ordered.assign(n_chunks=1)
    grouped = ordered.groupby(keys, as_index=False, sort=False)
    return grouped.agg({weight: "sum", "chunk": "first", **first}).assign(n_chunks=grouped.size()["size"])


def _position_heatmap(document: int, cells: pd.DataFrame, layers: list[int], width: int, top: float) -> go.Heatmap:
    """One document's cells as a heatmap over the bins that it covers."""
    first, last = int(cells.bin.min()), int(cells.bin.max())
    shape = (len(layers), last - first + 1)
    share, chunk, text = np.full(shape, np.nan), np.full(shape, -1), np.full(shape, "", dtype=object)
    rows, columns = cells.layer.map(layers.index).to_numpy(), (cells.bin - first).to_numpy()
    share[rows, columns] = cells.share
    chunk[rows, columns] = cells.chunk
    text[rows, columns] = [
        f"{_visible(name)}<br>{n} chunks, heaviest #{heaviest}:<br>«{_visible(words)}»"
        for name, n, heaviest, words in zip(cells.document, cells.n_chunks, cells.chunk, cells.text, strict=True)
    ]
    return go.Heatmap(
        x=(np.arange(first, last + 1) + 0.5) * width,
        y=np.arange(len(layers)),
        z=share,
        zmin=0,
        zmax=top,
        customdata=chunk[..., None],
        text=text,
        name=_visible(cells.document.iloc[0]),
        colorscale=theme.weight_scale(theme.document_colour(document)),
        showscale=False,
        xgap=0,
        ygap=4,
        hoverongaps=False,
        hovertemplate="%{z:.2f} % of a head's attention<br>around token %{x:,.0f}, %{text}<extra></extra>",
    )


def _point_cloud(document: int, points: pd.DataFrame, symbol: dict[int, str], top: float) -> go.Scatter:
    """One document's retrieved chunks as points; area is proportional to weight."""
    return go.Scatter(
        x=points.step,
        y=points.position,
        mode="markers",
        name=_visible(points.document.iloc[0]),
        marker={
            "color": theme.document_colour(document),
            "size": 2 + 12 * np.sqrt(points.weight / max(top, 1e-12)),
            "symbol": [symbol[layer] for layer in points.layer],
            "opacity": 0.3 + 0.5 * np.sqrt(points.weight / max(top, 1e-12)),
            "line": {"width": 0},
        },
        customdata=np.column_stack([points.chunk, points.layer, 100 * points.weight, points.score]),
        hovertext=[
            f"{_visible(name)}<br>«{_visible(t)}»" for name, t in zip(points.document, points.text, strict=True)
        ],
        hovertemplate="token %{x}, layer %{customdata[1]}<br>weight %{customdata[2]:.2f} %, best score "
        "%{customdata[3]:.2f}<br>#%{customdata[0]} %{hovertext}<extra></extra>",
    )


def _head_heatmap(
    document: int, rows: pd.DataFrame, heads: list[int], columns: dict[int, int], top: float
) -> go.Heatmap:
    """One document's columns of the heads view; cells without a retrieval stay empty."""
    shape = (len(heads), len(columns))
    weight, chunk, text = np.full(shape, np.nan), np.full(shape, -1), np.full(shape, "", dtype=object)
    at = (rows["head"].map(heads.index).to_numpy(), rows.chunk.map(columns).to_numpy())
    weight[at] = 100 * rows.weight
    chunk[at] = rows.chunk
    text[at] = [
        f"{_visible(name)}, rank {rank}, score {score:.2f}<br>«{_visible(words)}»"
        for name, rank, score, words in zip(rows.document, rows["rank"], rows.score, rows.text, strict=True)
    ]
    return go.Heatmap(
        x=np.arange(len(columns)),
        y=np.arange(len(heads)),
        z=weight,
        zmin=0,
        zmax=top,
        customdata=chunk[..., None],
        text=text,
        name=_visible(rows.document.iloc[0]),
        colorscale=theme.weight_scale(theme.document_colour(document)),
        showscale=False,
        xgap=2,
        ygap=2,
        hoverongaps=False,
        hovertemplate="head %{y}, weight %{z:.2f} %<br>#%{customdata[0]} %{text}<extra></extra>",
    )


def set_title(figure: Figure, title: str, subtitle: str) -> None:
    figure.update_layout(title_text=title, title_subtitle_text=subtitle)


def _scale_note(top: float) -> str:
    """What full colour stands for: every heatmap has its own scale, so it must say which."""
    return f"full colour = {top:.2f} % of a head's attention"


def token_ticks(frame: pd.DataFrame) -> dict:
    """Tokens as tick labels at their step, at most sixteen of them (equal labels must not merge: x stays the step)."""
    tokens = frame.drop_duplicates("step")[["step", "token"]]
    shown = tokens.iloc[:: max(1, len(tokens) // 16)]
    return {"tickvals": list(shown.step), "ticktext": [_visible(token) for token in shown.token], "tickangle": -60}


def _visible(text: str) -> str:
    """Text for a label: escaped, with line breaks and spaces that can be seen, at most 80 characters."""
    short = text if len(text) <= 80 else text[:79] + "…"
    return html.escape(short.replace("\n", "↵")) or "∅"
