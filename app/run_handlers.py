"""What makes runs: generating and scoring. Plain values in and out, no components."""

from collections.abc import Iterator
from dataclasses import replace

from app import markup, scored, theme
from app.generating import RunView, continuation, effort_of, generate_pair
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
                chosen, silence = Settings(**settings), self.silent_layers(session)
                run = (generate_pair, session, prompt, chosen, place, silence)
                for view in self.work(*run, effort=effort_of(self.model, prompt, chosen), stop=stop):
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
                silence = self.silent_layers(session)
                if session.written is not None:
                    wanted = session.bank.nbytes_with(session.written.n_left, session.written.text)
                    self.store.reserve(session, wanted)
                try:
                    prompt = continuation(session, more, keep=keep)
                finally:
                    self.store.settle(session)
                run = (generate_pair, session, prompt, chosen, None, silence)
                for view in self.work(*run, effort=effort_of(self.model, prompt, chosen), stop=stop):
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
                run = (scored.score_onward, session, place, n_tokens, self.silent_layers(session))
                effort = scored.effort_onward(self.model, session, place, n_tokens)
                for view in self.work(*run, effort=effort, stop=stop):
                    yield replace(view, notice=notice)
        except Exception as error:
            yield ScoreView(None, "", notice=said(error))

    def score(self, key: str, what: str, text: str, place: Place | None, n_tokens: float) -> ScoreView:
        """Score a text or the next page of a document, or look a phrase up; `what` is one of the three of `scored`."""
        session = self.store.get(key)
        notice = news(session)
        try:
            with alone(session):
                silence = self.silent_layers(session)
                effort = scored.effort_of(self.model)
                if what == scored.SCORED:
                    view = self.ask(scored.score_text, session, text, silence, effort=effort)
                elif what == scored.LOOKED_UP:
                    view = self.ask(scored.find, session, text, silence, effort=effort)
                elif place is None:
                    raise LongMemError("Choose a document that is in memory: its next page will be scored.")
                else:
                    view = self.ask(scored.score_page, session, place, n_tokens, silence, effort=effort)
            return replace(view, notice=notice)
        except Exception as error:
            return ScoreView(None, "", notice=said(error))
