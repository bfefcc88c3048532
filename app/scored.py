"""A given text under the model's eyes: what memory did to every token, or only what its tokens look up."""

import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from math import exp, isnan

import numpy as np
import pandas as pd

from app import markup
from app.generating import check_prompt, keep, next_run
from app.markup import TokenMark
from app.session import Recipe, Session
from app.settings import Place
from app.zero_gpu import Effort
from longmem.errors import LongMemError
from longmem.model import LongMemForCausalLM
from longmem.scoring import ScoredPage, continuation_point, look_up, score, score_pages
from longmem.trace import RetrievalTrace

MOST_SCORED = 1_024  # tokens
SCORED, NEXT_PAGE, LOOKED_UP = "a text of yours", "the next page of a document", "look up only"


@dataclass(frozen=True)
class ScoreView:
    """The token panel and what it says in words, as HTML, and the inspector's data; None leaves one as it is."""

    panel: str | None
    words: str
    notice: str = ""
    payload: dict | None = None
    next_share: float | None = None  # where the page ends in its document, 0 to 1
    along: pd.DataFrame | None = None  # of every page scored so far: `share, tokens, logprob, logprob_empty`, summed
    busy: bool = False


def score_text(
    model: LongMemForCausalLM, session: Session, text: str, silence: Collection[tuple[int, int | None]]
) -> ScoreView:
    """Score a text of the visitor's."""
    check_prompt(text)
    whole, text = text, shortened(model, text)
    trace = score(model, text, memory=session.bank, silence=silence)
    first = text[: len(text) - len("".join(trace.tokens))]
    return _cut(_kept(model, session, "scored", first, None, trace, silence, own_text=text), text, whole)


def score_page(
    model: LongMemForCausalLM,
    session: Session,
    place: Place,
    n_tokens: int,
    silence: Collection[tuple[int, int | None]],
) -> ScoreView:
    """Score what follows a place in a document of the bank, which is searched only before that place."""
    text = _text_of(session, place, n_tokens)
    at = place.character(text)
    prompt, before = continuation_point(model, session.bank, place.document, at)
    page = shortened(model, text[at : at + 12 * int(n_tokens)], int(n_tokens))
    trace = score(model, page, context=prompt, memory=session.bank, before=before, silence=silence)
    view = _kept(model, session, "scored", prompt, before, trace, silence, own_text=prompt + page)
    return replace(view, next_share=(at + len(page)) / len(text))


def score_onward(
    model: LongMemForCausalLM,
    session: Session,
    place: Place,
    n_tokens: int,
    silence: Collection[tuple[int, int | None]],
    *,
    stop: threading.Event,
) -> Iterator[ScoreView]:
    """Score page after page from a place to the document's end, or until `stop` is set.

    The last page is the session's new run; the views before it carry how far it has come.
    """
    text = _text_of(session, place, n_tokens)
    at, begun, rows, page = place.character(text), time.monotonic(), [], None
    yield ScoreView(None, markup.note("Reading the first page…"), along=_along(rows), busy=True)
    for page in score_pages(model, session.bank, place.document, at, page_tokens=int(n_tokens), silence=silence):
        rows.append((page.stop / len(text), len(page.trace.tokens), *_sums(page.trace)))
        yield ScoreView(None, _progress(rows, at / len(text), time.monotonic() - begun), along=_along(rows), busy=True)
        if stop.is_set():
            break
    if page is None:
        raise LongMemError("Nothing of the document comes after this place: choose an earlier one.")
    view = _kept_page(model, session, page, text, silence)
    words = _along_in_words(_along(rows), at / len(text), stopped=page.stop < len(text))
    yield replace(view, words=words, next_share=page.stop / len(text), along=_along(rows))


def effort_of(model: LongMemForCausalLM) -> Effort:
    """Of the longest text, read with memory and without."""
    return Effort(read=2 * (MOST_SCORED + model.config.window))


def effort_onward(model: LongMemForCausalLM, session: Session, place: Place, n_tokens: float) -> Effort:
    """Of all pages from a place on, as `effort_of`. Errors: LongMemError where there are none."""
    text = _text_of(session, place, n_tokens)
    record = session.bank.documents[place.document]
    left = record.n_tokens * (1 - place.character(text) / len(text))
    return Effort(read=int(2 * left * (1 + model.config.window / n_tokens)))


def _text_of(session: Session, place: Place, n_tokens: float) -> str:
    """The document that is to be scored. Errors: LongMemError, also where a page cannot have so many tokens."""
    record = session.bank.documents.get(place.document)
    if record is None:
        raise LongMemError("The document to score is not in memory: choose one that is.")
    if not isinstance(n_tokens, int | float) or isnan(n_tokens) or not 2 <= n_tokens <= MOST_SCORED:
        raise LongMemError(f"Page is {n_tokens} tokens; it must be from 2 to {MOST_SCORED:,}.")
    return record.text


def _kept_page(
    model: LongMemForCausalLM,
    session: Session,
    page: ScoredPage,
    text: str,
    silence: Collection[tuple[int, int | None]],
) -> ScoreView:
    own_text = page.context + text[page.start : page.stop]
    return _kept(model, session, "scored", page.context, page.before, page.trace, silence, own_text=own_text)


def _sums(trace: RetrievalTrace) -> tuple[float, float]:
    return float(np.sum(trace.logprobs)), float(np.sum(trace.logprobs_empty))


def _along(rows: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["share", "tokens", "logprob", "logprob_empty"])


def _progress(rows: list[tuple], first: float, seconds: float) -> str:
    """How far scoring has come, and how long it will take still."""
    share, n = rows[-1][0], sum(row[1] for row in rows)
    left = seconds * (1 - share) / max(share - first, 1e-9)
    return markup.note(
        f"{n:,} tokens scored, {100 * share:.0f} % of the document reached, {n / max(seconds, 1e-9):,.0f} tokens/s, "
        f"about {left:,.0f} s left."
    )


def _along_in_words(along: pd.DataFrame, first: float, *, stopped: bool) -> str:
    """What memory did over all pages."""
    n, pages = int(along.tokens.sum()), len(along)
    with_memory, without = (exp(-along[column].sum() / n) for column in ("logprob", "logprob_empty"))
    change = 100 * (with_memory / without - 1)
    helped = int((along.logprob > along.logprob_empty).sum())
    said = "Stopped: perplexity" if stopped else "Perplexity"
    return markup.note(
        f"{said} over {n:,} tokens, from {100 * first:.0f} % of the document to {100 * along.share.iloc[-1]:.0f} %: "
        f"{with_memory:.1f} with memory, {without:.1f} with an empty one ({abs(change):.1f} % "
        f"{'lower' if change < 0 else 'higher'}). Memory made {helped:,} of {pages:,} pages likelier. "
        "Below is the last page, to be inspected.",
        "done",
    )


def find(
    model: LongMemForCausalLM, session: Session, text: str, silence: Collection[tuple[int, int | None]]
) -> ScoreView:
    """What each token of a phrase looks up, with nothing written."""
    check_prompt(text)
    whole, text = text, shortened(model, text)
    trace = look_up(model, text, memory=session.bank, silence=silence)
    return _cut(_kept(model, session, "looked up", "", None, trace, silence, own_text=text), text, whole)


def _cut(view: ScoreView, text: str, whole: str) -> ScoreView:
    """The view, with a word where only the beginning of a text was taken."""
    if len(text) == len(whole):
        return view
    share = 100 * len(text) / len(whole)
    words = f"Only the first {MOST_SCORED:,} tokens were taken, {share:.0f} % of the text: score the rest by itself."
    return replace(view, words=view.words + markup.note(words))


def shortened(model: LongMemForCausalLM, text: str, most: int = MOST_SCORED) -> str:
    """The text up to `most` tokens."""
    offsets = model.need_tokenizer()(text, return_offsets_mapping=True, add_special_tokens=False, verbose=False)
    spans = offsets["offset_mapping"]
    return text if len(spans) <= most else text[: spans[most - 1][1]]


def _kept(
    model: LongMemForCausalLM,
    session: Session,
    kind: str,
    prompt: str,
    before: tuple[int, int] | None,
    trace: RetrievalTrace,
    silence: Collection[tuple[int, int | None]],
    *,
    own_text: str,
) -> ScoreView:
    """The session's new run, as it is shown."""
    recipe = Recipe(kind, prompt, before, None, session.memory_version, tuple(silence), model.label)
    number = next_run(session)
    payload = keep(session, recipe, trace, own_text)
    rows = session.run.tokens.itertuples()
    marks = [TokenMark(row.step, row.token, exp(row.logprob), exp(row.logprob_empty), row.effect) for row in rows]
    panel = markup.token_panel(prompt, marks, panel="with" if kind == "scored" else "found", run=number)
    return ScoreView(panel, in_words(trace) if kind == "scored" else "", payload=payload)


def in_words(trace: RetrievalTrace) -> str:
    """What memory did to a whole text."""
    n, effects = len(trace.tokens), np.array(trace.effects)
    with_memory, without = (exp(-float(np.mean(x))) for x in (trace.logprobs, trace.logprobs_empty))
    change = 100 * (with_memory / without - 1)
    direction = "lower" if change < 0 else "higher"
    return markup.note(
        f"Perplexity over {n:,} tokens: {with_memory:.1f} with memory, {without:.1f} with an empty one "
        f"({abs(change):.1f} % {direction}). Memory raised {int((effects > 0).sum()):,} tokens and lowered "
        f"{int((effects < 0).sum()):,}; by more than a factor of two {int((effects > 0.693).sum()):,} up and "
        f"{int((effects < -0.693).sum()):,} down.",
        "done",
    )
