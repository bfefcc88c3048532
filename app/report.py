"""A run as one HTML file that opens without a network: texts, charts, passages, numbers and what they mean.

Everything is inside: plotly.js stands in it once. A Content-Security-Policy lets nothing be fetched, and no script run
but the charts' own, by their hashes. Every string of a document, a prompt or the model is escaped.
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from app import inspection, theme
from app.exporting import ExportedFile, file_name
from app.methods import METHODS
from app.report_figures import DrawnFigure, draw
from app.session import Run

STYLE = Path(__file__).parent.parent / "assets" / "report" / "report.css"
CONFIG = {"displaylogo": False, "responsive": True}
SETTINGS = {"max_new_tokens": "length (tokens)", "temperature": "temperature", "top_p": "top-p", "seed": "seed"}
MEANING = """
<p><b>Effect</b> is what memory did: the log-probability of a token with memory minus the one with an empty memory, both
on the same preceding words, in nats. +0.7 doubles the probability, −0.7 halves it. Tokens are tinted by it.</p>
<p><b>Weight</b> is where a head looked: its attention inside memory times {share}; the weights of a token, layer and
head add up to that. Passages are tinted by it, in the colour of their document. A large weight does not show that
a passage changed the token: that is measured by switching it off.</p>
<p>{meaning} <b>Score</b> is how well a passage matched when
it was searched.</p>
"""


@dataclass(frozen=True)
class About:
    """What a report says beside its run; `model` is HTML, `other_text` was written with an empty memory."""

    model: str
    fingerprint: str
    made: datetime
    other_text: str = ""


def build_report(run: Run, about: About) -> ExportedFile:
    """The report on a run; about 5 MB, nearly all of which draws the charts."""
    described, method = inspection.describe(run), METHODS[run.recipe.method]
    step, layer = described["focus"], described["layer"]
    figures = draw(run, -1 if step is None else step, -1 if layer is None else layer)
    charts = _charts(figures)
    body = "".join(
        [
            _header(run, about),
            _section("What it wrote", _texts(run, described, about)),
            _section("What the numbers mean", MEANING.format(share=method.share, meaning=method.meaning)),
            _section("Where it looked", charts),
            _section("All tokens", _tokens(run)),
            _section("What every token looked up", _passages(described)),
        ]
    )
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(charts)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_title(run)}</title><style>{_style()}</style></head>"
        f"<body><main>{body}</main></body></html>"
    )
    return ExportedFile(file_name(run, "report.html"), page.encode("utf-8", "replace"))


def _style() -> str:
    dark = " ".join(f"--lm-{name}: {value};" for name, value in theme.DARK.items())
    scheme = f"@media (prefers-color-scheme: dark) {{ :root {{ color-scheme: dark; {dark} }} }}"
    return "\n".join([theme.css_variables(), scheme, STYLE.read_text(encoding="utf-8")])


def _policy(html: str) -> str:
    """Nothing is fetched, and no script runs that is not in `html` now."""
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", html, flags=re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in dict.fromkeys(digests))
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>"


def _header(run: Run, about: About) -> str:
    recipe = run.recipe
    facts = {"made": f"{about.made:%Y-%m-%d %H:%M} {about.made:%Z}".strip(), "run": f"{run.number}, {recipe.kind}"}
    if recipe.settings is not None:
        facts |= {words: str(getattr(recipe.settings, name)) for name, words in SETTINGS.items()}
    if recipe.before is not None:
        document = run.sources.get(recipe.before[0])
        name = document.name if document else f"document {recipe.before[0]}"
        facts["searched"] = f"of {name} only what stands before token {recipe.before[1]:,}"
    facts["model's fingerprint"] = about.fingerprint
    listed = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in facts.items())
    return (
        f'<header><h1>{_title(run)}</h1><div class="model">{about.model}</div>'
        f"<dl>{listed}</dl>{_documents(run)}</header>"
    )


def _title(run: Run) -> str:
    """LongMem's name, or what the method is instead, and the number of the run."""
    label = escape(run.recipe.method)
    return f"Run {run.number}, {label}" if label else f"LongMem run {run.number}"


def _documents(run: Run) -> str:
    """What was in memory during the run."""
    if run.chunks.empty:
        return "<p>Memory was empty.</p>"
    sizes = run.chunks.groupby("document_id")["n_tokens"].agg(["sum", "size"])
    rows = "".join(
        f"<li>{_dot(i)}<b>{escape(run.sources[i].name)}</b> {row['sum']:,} tokens in {row['size']:,} chunks</li>"
        for i, row in sizes.iterrows()
    )
    return f'<h2>In memory</h2><ul class="documents">{rows}</ul>'


def _dot(document: int) -> str:
    return f'<i class="dot" style="background:{theme.document_colour(document)}"></i>'


def _texts(run: Run, described: dict, about: About) -> str:
    """The prompt and what follows it, every token tinted by its effect and leading to what it looked up."""
    tokens = "".join(
        f'<a href="#token-{step["step"]}" title="{_numbers(step)}" '
        f'style="background:{theme.effect_tint(step["effect"])}">{_shown(step["token"])}</a>'
        for step in described["steps"]
    )
    prompt = f'<span class="prompt">{escape(run.recipe.prompt)}</span>'
    empty = ""
    if about.other_text:
        empty = f'<h3>With an empty memory</h3><div class="text">{prompt}{escape(about.other_text)}</div>'
    steps = (-3, -1.5, -0.5, 0, 0.5, 1.5, 3)
    swatches = "".join(f'<i style="background:{theme.effect_tint(nats)}">{nats:+g}</i>' for nats in steps)
    return (
        f'<h3>With memory</h3><div class="text">{prompt}{tokens}</div>'
        f'<p class="legend">memory lowered {swatches} raised the token (nats)</p>{empty}'
    )


def _numbers(step: dict) -> str:
    return f"{step['p']} with memory · {step['p_empty']} without · {step['effect']:+.2f} nats"


def _shown(token: str) -> str:
    return escape(token).replace("\n", "↵<br>") or "∅"


def _charts(figures: list[DrawnFigure]) -> str:
    """All charts as HTML; the first one brings plotly.js."""
    parts = []
    for i, drawn in enumerate(figures):
        html = drawn.figure.to_html(
            full_html=False, include_plotlyjs=i == 0, config=CONFIG, div_id=f"chart-{drawn.name}", default_width="100%"
        )
        table = f"<p>{escape(drawn.caption)}</p>"
        if drawn.table is not None:
            table = f"<details><summary>{escape(drawn.caption)}</summary>{table_of(drawn.table)}</details>"
        parts.append(f"<figure>{html}<figcaption>{table}</figcaption></figure>")
    return "".join(parts).replace("\r\n", "\n").replace("\r", "\n")  # as a browser hashes it


def _tokens(run: Run) -> str:
    rows = run.tokens[["step", "token"]].assign(
        **{
            "with memory": [inspection.percent(p) for p in np.exp(run.tokens.logprob)],
            "with an empty one": [inspection.percent(p) for p in np.exp(run.tokens.logprob_empty)],
            "effect (nats)": [f"{effect:+.3f}" for effect in run.tokens.effect],
        }
    )
    return f"<details open><summary>{len(rows):,} tokens</summary>{table_of(rows)}</details>"


def _passages(described: dict) -> str:
    """For every token, per memory layer, the passages of the inspector."""
    parts = []
    for step in described["steps"]:
        shown = " open" if step["step"] == described["focus"] else ""
        layers = "".join(_layer(layer, described["documents"], described["share"]) for layer in step["layers"])
        # The target stands inside: a browser opens what it must to show it.
        parts.append(
            f'<details class="token"{shown}><summary>{step["step"]} <q>{_shown(step["token"])}</q> '
            f'<span class="quiet">{_numbers(step)}</span></summary>'
            f'<p id="token-{step["step"]}">{escape(step["sentence"])}</p>{layers}</details>'
        )
    return "".join(parts)


def _layer(layer: dict, documents: dict[str, dict], share: str) -> str:
    passages = "".join(_passage(passage, documents[str(passage["document"])]) for passage in layer["passages"])
    found = f"<ol>{passages}</ol>" if passages else '<p class="quiet">Nothing was retrieved.</p>'
    return f"<h3>layer {layer['layer']} · {escape(share)} {100 * layer['gate']:.1f} %</h3>{found}"


def _passage(passage: dict, document: dict) -> str:
    words = "".join(_part(part) for part in passage["parts"])
    heads = f"{passage['heads']} head{'' if passage['heads'] == 1 else 's'}"
    return (
        f'<li style="--hue:{document["colour"]}">{_dot(passage["document"])}<b>{escape(document["name"])}</b> '
        f"weight {100 * passage['weight']:.2f} % "
        f'<span class="quiet">best score {passage["score"]:.2f} · {heads}</span><p>{words}</p></li>'
    )


def _part(part: list) -> str:
    """Text around a chunk, or [text, chunk, strength 0..1] as a mark."""
    if len(part) == 1:
        return escape(part[0])
    text, chunk, strength = part
    share = round(18 + 57 * strength**0.5)
    return f'<mark style="--strength:{share}%" title="chunk #{chunk}">{escape(text)}</mark>'


def table_of(frame: pd.DataFrame) -> str:
    """A frame as an HTML table, everything escaped; fractions with three decimals."""
    numeric = [is_numeric_dtype(dtype) for dtype in frame.dtypes]
    heads = "".join(f'<th scope="col">{escape(str(column))}</th>' for column in frame.columns)
    rows = "".join(
        "<tr>" + "".join(_cell(value, number) for value, number in zip(row, numeric, strict=True)) + "</tr>"
        for row in frame.itertuples(index=False, name=None)
    )
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cell(value: object, number: bool) -> str:
    if not number:
        return f"<td>{_shown(str(value))}</td>"
    if pd.isna(value):
        return '<td class="number">–</td>'
    return f'<td class="number">{value:.3f}</td>' if isinstance(value, float) else f'<td class="number">{value}</td>'
