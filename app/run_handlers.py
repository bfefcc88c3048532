"""What makes runs: generating and scoring. Plain values in and out, no components."""

from collections.abc import Iterator
from dataclasses import replace

from app import markup, scored, theme
from app.generating import RunView, continuation, generate_pair
from app.scored import ScoreView
from app.settings import Place, Settings
from app.studio import StudioBase, alone, news, said
from app.turns import PATIENCE, Work
from longmem.errors import LongMemError


class RunHandlers(StudioBase):
    """The tabs Generate and Score."""

    def place_preview(self, key: str, place: Place | None) -> str:
        """HTML of the text around the place where a document would be continued."""
        session = self.store.get(key)
        try:
            with alone(session, patience=PATIENCE):
                documents = session.bank.documents
        except LongMemError:
            return markup.note("Memory is being read or written with just now: the place is shown when that has ended.")
        if place is None or place.document not in documents:
            return markup.note("Choose a document that is in memory; the model goes on from any place in it.")
        record = documents[place.document]
        at = place.character(record.text)
        before, after = record.text[max(0, at - 260) : at], record.text[at : at + 160]
        first = min((c.start for c in session.bank.chunks() if c.document == place.document), default=0)
        begins = first / len(record.text) if first >= at else None
        return markup.place_preview(record.name, before, after, theme.document_colour(place.document), begins)

    def generate(self, key: str, prompt: str, settings: dict, place: Place | None = None) -> Iterator[RunView]:
        """Go on from `prompt`, or from `place` in a document, with memory and, same seed, with an empty memory."""
        session = self.store.get(key)
        view, notice = RunView(None, None, status=""), news(session)
        try:
            with session.stops.working(Work.GENERATING) as stop, alone(session):
                model, silence = self.model_of(session), self.silent_layers(session)
                for view in generate_pair(model, session, prompt, Settings(**settings), place, stop, silence):
                    yield replace(view, notice=notice)
        except Exception as error:
            yield replace(view, status="", notice=said(error), payload=None, busy=False)

    def go_on(self, key: str, more: str, settings: dict, *, keep: bool) -> Iterator[RunView]:
        """Go on from the last text, with `more` words after it; with `keep` what left the window enters memory."""
        session = self.store.get(key)
        view, notice = RunView(None, None, status=""), news(session)
        try:
            with session.stops.working(Work.GENERATING) as stop, alone(session):
                chosen = Settings(**settings)
                model, silence = self.model_of(session), self.silent_layers(session)
                if session.generation is not None:
                    wanted = session.bank.nbytes_with(session.generation.n_left, session.generation.running.text)
                    self.store.reserve(session, wanted)
                try:
                    prompt = continuation(session, more, keep=keep)
                finally:
                    self.store.settle(session)
                for view in generate_pair(model, session, prompt, chosen, None, stop, silence):
                    yield replace(view, notice=notice)
        except Exception as error:
            yield replace(view, status="", notice=said(error), payload=None, busy=False)

    def score_onward(self, key: str, place: Place | None, n_tokens: float) -> Iterator[ScoreView]:
        """Score a document from a place to its end, page after page."""
        session = self.store.get(key)
        notice = news(session)
        try:
            with session.stops.working(Work.SCORING) as stop, alone(session):
                if place is None:
                    raise LongMemError("Choose a document that is in memory: it will be scored from the place on.")
                model, silence = self.model_of(session), self.silent_layers(session)
                for view in scored.score_onward(model, session, place, n_tokens, stop, silence):
                    yield replace(view, notice=notice)
        except Exception as error:
            yield ScoreView(None, "", notice=said(error))

    def score(self, key: str, what: str, text: str, place: Place | None, n_tokens: float) -> ScoreView:
        """Score a text or the next page of a document, or look a phrase up; `what` is one of the three of `scored`."""
        session = self.store.get(key)
        notice = news(session)
        try:
            with alone(session):
                model, silence = self.model_of(session), self.silent_layers(session)
                if what == scored.SCORED:
                    view = scored.score_text(model, session, text, silence)
                elif what == scored.LOOKED_UP:
                    view = scored.find(model, session, text, silence)
                elif place is None:
                    raise LongMemError("Choose a document that is in memory: its next page will be scored.")
                else:
                    view = scored.score_page(model, session, place, n_tokens, silence)
            return replace(view, notice=notice)
        except Exception as error:
            return ScoreView(None, "", notice=said(error))
