"""Pieces of HTML for the experiments. Every string from a result, a file name or an error is escaped here."""

from collections.abc import Sequence
from html import escape

from app.experiment_page import Page
from app.markup import duration


def about(page: Page) -> str:
    """What is asked, how it is measured, and what the paper published."""
    published = table(page.published) if page.published else ""
    return (
        f'<article class="lm-about"><h2>{escape(page.heading)}</h2>'
        f"<p>{escape(page.question)}</p>"
        f'<p class="lm-quiet">{escape(page.method)}</p>'
        f'<details class="lm-published" open><summary>In the paper</summary>{published}'
        f'<p class="lm-quiet">{escape(page.caveat)}</p></details></article>'
    )


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a table that scrolls by itself where the page is narrow; the first one is its head."""
    head, *body = rows
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(c)}</td>" for c in row[1:]) + "</tr>"
        for row in body
    )
    return (
        f'<div class="lm-table" tabindex="0" role="group" aria-label="Table"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def details_table(title: str, rows: Sequence[Sequence[str]]) -> str:
    """The table behind a chart, folded."""
    if len(rows) < 2:
        return ""
    return f"<details><summary>Table: {escape(title)} ({len(rows) - 1} rows)</summary>{table(rows)}</details>"


def recorded(sentences: Sequence[str], facts: Sequence[tuple[str, str]], command: str) -> str:
    """What a recorded result says, and where it comes from."""
    return (
        f'<div class="lm-verdict"><span class="lm-badge">Recorded result</span>{_sentences(sentences)}{_facts(facts)}'
        f'<p class="lm-command"><code>{escape(command)}</code></p></div>'
    )


def small_run(sentences: Sequence[str], facts: Sequence[tuple[str, str]], size: str, stopped: bool) -> str:
    """What a run of the visitor's says, marked as small."""
    ended = " It was stopped: this is what it had measured until then." if stopped else ""
    return (
        '<div class="lm-verdict lm-small"><span class="lm-badge">Small run, yours</span>'
        f"<p><b>{escape(size)}.</b> So few make the interval wide: read it as a demonstration, not as a measurement."
        f"{ended}</p>{_sentences(sentences)}{_facts(facts)}</div>"
    )


def missing(page: Page) -> str:
    """No recorded result: what would stand here and how it is made."""
    return (
        '<div class="lm-verdict lm-missing"><b>No recorded result is here.</b><p>Run it small below, or make one '
        f'with this command:</p><p class="lm-command"><code>{escape(page.command)}</code></p></div>'
    )


def damaged(name: str, reason: str, page: Page) -> str:
    """A file that cannot be read as a result."""
    return (
        f'<div class="lm-verdict lm-missing"><b>{escape(name)} cannot be shown.</b><p>{escape(reason)} Measure it '
        f'again with:</p><p class="lm-command"><code>{escape(page.command)}</code></p></div>'
    )


def waiting() -> str:
    """A run that waits for its turn."""
    return '<div class="lm-note lm-info" role="status"><span>Waiting for the model…</span></div>'


def run_progress(what: str, done: int, total: int, seconds: float) -> str:
    """How far a run is, how long each takes and how long it still takes, as far as that is known."""
    speed = (
        f" · {duration(seconds / done)} each · about {duration(seconds / done * (total - done))} left" if done else ""
    )
    share = 100 * done / total if total else 0
    return (
        f'<div class="lm-progress" role="progressbar" aria-valuemin="0" aria-valuemax="{total}" aria-valuenow="{done}">'
        f'<span class="lm-bar"><i style="width:{share:.1f}%"></i></span>'
        f'<span class="lm-quiet">{done:,} of {total:,} {escape(what)} · {duration(seconds)} so far{speed}</span></div>'
    )


def _sentences(sentences: Sequence[str]) -> str:
    return "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    pairs = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    return f'<dl class="lm-facts">{pairs}</dl>'
