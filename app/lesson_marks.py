"""Small drawings and tables of the lesson as HTML: numbers in, strings out, with the numbers beside every drawing."""

from collections.abc import Sequence
from html import escape

import numpy as np

OPEN = ' open="open"'
BINS = 60
PAGE = 14  # characters of a chunk in a table


def strip(values: np.ndarray, said: str) -> str:
    """A list of numbers as bars up and down, with its range and length in words, and all of them on demand."""
    top = float(np.abs(values).max()) or 1.0
    bars = "".join(_bar(i, float(value) / top) for i, value in enumerate(values))
    numbers = ", ".join(f"{value:.2f}" for value in values)
    name = escape(said)
    about = f"{len(values)} numbers from {values.min():.1f} to {values.max():.1f}, length {np.linalg.norm(values):.1f}"
    return (
        f'<div class="lm-strip"><span><b>{name}</b> <span class="lm-quiet">{about}</span></span>'
        f'<svg viewBox="0 0 {4 * len(values)} 36" preserveAspectRatio="none" role="img" aria-label="{name}: {about}">'
        f'{bars}</svg><details class="lm-all"><summary>all numbers</summary><p class="lm-quiet">{numbers}</p>'
        "</details></div>"
    )


def _bar(index: int, share: float) -> str:
    height = max(0.4, 18 * abs(share))
    return f'<rect x="{4 * index}" y="{18 - height if share > 0 else 18:.1f}" width="3" height="{height:.1f}"/>'


def histogram(scores_C: np.ndarray, fetched: int) -> str:
    """All scores in BINS columns; the columns of the `fetched` best are filled."""
    low, high = float(scores_C[-1]), float(scores_C[0])
    counts, edges = np.histogram(scores_C, bins=BINS, range=(low, high if high > low else low + 1))
    best, _ = np.histogram(scores_C[:fetched], bins=edges)
    top = np.sqrt(counts.max())
    bars = []
    for i, (all_of_them, taken) in enumerate(zip(counts, best, strict=True)):
        for number, kind in ((all_of_them, "lm-rest"), (taken, "lm-own")):
            if number:  # the root, so that one chunk among thousands can be seen
                height = 44 * np.sqrt(number) / top
                bars.append(f'<rect class="{kind}" x="{6 * i}" y="{46 - height:.1f}" width="5" height="{height:.1f}"/>')
    said = (
        f"{len(scores_C)} scores from {low:.1f} to {high:.1f}; the {fetched} best begin at {scores_C[fetched - 1]:.1f}"
    )
    return (
        f'<svg class="lm-histogram" viewBox="0 0 {6 * BINS} 46" preserveAspectRatio="none" role="img" '
        f'aria-label="{said}">'
        f'{"".join(bars)}</svg><p class="lm-axis" aria-hidden="true"><span>{low:.0f}</span><span>score</span>'
        f"<span>{high:.0f}</span></p>"
    )


def table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    escaped: bool = False,
    is_open: bool = False,
) -> str:
    """A table that folds; `escaped` cells are HTML already."""
    cells = [[cell if escaped else escape(cell) for cell in row] for row in rows]
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in cells)
    headings = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    return (
        f'<details class="lm-words"{OPEN if is_open else ""}><summary>{escape(caption)}</summary>'
        f'<div class="lm-scroll"><table><thead><tr>{headings}</tr></thead><tbody>{body}</tbody></table></div></details>'
    )


def meter(share: float, kind: str = "lm-own") -> str:
    """A share (0..1) as a bar and a number."""
    number = f"{100 * share:.1f} %" if share < 0.9995 else "100 %"
    return f'<span class="lm-meter"><i class="{kind}" style="width:{100 * share:.1f}%"></i></span> {number}'


def length(value: float, longest: float, kind: str) -> str:
    """The length of a vector as a bar, against the longest one, and a number."""
    number = f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
    width = 100 * value / max(longest, 1e-9)
    return f'<span class="lm-meter"><i class="{kind}" style="width:{width:.1f}%"></i></span> {number}'


def visible(text: str) -> str:
    """A token as HTML in which spaces and line breaks can be seen."""
    return escape(plain(text).replace(" ", "␣")) or "∅"


def shown(token: str) -> str:
    """A token in quotation marks, as plain text."""
    return f"«{plain(token.strip(' ')) or '␣'}»"


def clip(text: str) -> str:
    """The beginning of a chunk, as plain text."""
    flat = plain(text)
    return flat if len(flat) <= PAGE else flat[: PAGE - 1] + "…"


def plain(text: str) -> str:
    """Text on one line, without characters that cannot be seen: a token may be any byte."""
    return "".join(c if c.isprintable() else "↵" if c == "\n" else "�" for c in text)
