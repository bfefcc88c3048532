"""A run with something switched off beside the run as it was, as HTML; all text is escaped here."""

from html import escape
from math import exp

from app import theme
from app.inspection import percent
from app.markup import visible
from app.what_if import Changed, WhatIf


def comparison(found: WhatIf, *, running: bool = False, ended: str = "") -> str:
    """A run with something off beside the run as it was: the first change in words, tokens, and what is written.

    running: more may come; ended: why nothing more does.
    """
    words = escape(_said(found.tokens[0], found.off)) if found.tokens else ""
    old = "".join(_token(token, found.off) for token in found.tokens)
    was = f"<section><h4>As it was</h4><p>{old}</p></section>"
    parts = [f'<p class="lm-sentence">{words}</p><div class="lm-whatif-sides">{was}']
    if found.writes:
        new = "".join(
            f'<span class="lm-token{" lm-parting" if found.parting == found.step + i else ""}" '
            f'title="{percent(exp(token.logprob))}">{visible(token.text)}</span>'
            for i, token in enumerate(found.written)
        )
        caret = '<span class="lm-caret" aria-hidden="true"></span>' if running and not ended else ""
        words = ended or ("" if running else _sameness(found))
        last = f'<p class="lm-quiet">{escape(words)}</p>' if words else ""
        parts.append(f"<section><h4>Without {escape(found.off)}</h4><p>{new}{caret}</p>{last}</section>")
    note = "Tint: how much less (violet) or more (amber) probable each token is with it off."
    return f'<div class="lm-whatif">{"".join(parts)}</div><p class="lm-quiet">{note}</p></div>'


def _sameness(found: WhatIf) -> str:
    """Whether the same text was written; empty where it was another."""
    if found.parting is not None:
        return ""
    more = len(found.written) - len(found.tokens)
    if more == 0:
        return "The same text is written."
    tokens = f"{abs(more)} token{'s' if abs(more) > 1 else ''}"
    return f"The same text as far as both go; here it is {tokens} {'longer' if more > 0 else 'shorter'}."


def _token(token: Changed, off: str) -> str:
    title = f"{percent(exp(token.logprob))} as it was · {percent(exp(token.logprob_off))} with {escape(off)} off"
    tint = theme.effect_tint(token.change)
    return f'<span class="lm-token" title="{title}" style="background:{tint}">{visible(token.text)}</span>'


def _said(changed: Changed, off: str) -> str:
    """The change of one token in words."""
    token = changed.text.strip() or changed.text
    was, now = percent(exp(changed.logprob)), percent(exp(changed.logprob_off))
    return f"With {off} off, the probability of «{token}» goes from {was} to {now}."
