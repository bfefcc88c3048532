"""What the source view does: a session and what was asked for in, HTML out, no components."""

from dataclasses import replace
from weakref import WeakKeyDictionary

from app.handlers import Studio, said
from app.session import Run, Session
from app.source_choice import GROUPINGS, SCOPES, SourceChoice
from app.source_markup import no_source, source_html
from app.source_spans import TokenSpans
from app.source_view import chunk_place, view_source


class SourceHandlers:
    """The source views of all visitors. `key` in every method tells whose session is meant."""

    def __init__(self, studio: Studio):
        self._studio = studio
        self._spans: WeakKeyDictionary[Run, TokenSpans] = WeakKeyDictionary()

    def draw(self, key: str) -> str:
        """HTML for the session's run, the token and layer that the inspector is at, and the visitor's choice."""
        session = self._studio.store.get(key)
        if session.run is None:
            return no_source()
        return self._drawn(session, session.run, _choice(session))

    def show_chunk(self, key: str, chunk: object) -> str:
        """HTML of the page that a chunk stands on, with the tokens that looked at it; as it was if it is unknown."""
        session = self._studio.store.get(key)
        place = chunk_place(session.run, chunk) if session.run is not None and isinstance(chunk, int) else None
        if place is None:
            return self.draw(key)
        choice = _with_page(_choice(session)).at_place(place.document, place.start, place.chunk)
        return self._drawn(session, session.run, choice)

    def act(self, key: str, action: object, value: object) -> str:
        """HTML after something was asked for in the view itself; what makes no sense is passed over.

        Actions and their values: `grouping` and `scope` (of GROUPINGS, SCOPES); `stay` (bool); `hit` (rank of a place,
        0 the heaviest); `document` (its id, for its heaviest place); `page` ([document, character at which the page
        shall begin]); `leave` the chunk (nothing).
        """
        session = self._studio.store.get(key)
        if session.run is None:
            return no_source()
        return self._drawn(session, session.run, _acted(session.run, _choice(session), action, value))

    def _drawn(self, session: Session, run: Run, choice: SourceChoice) -> str:
        try:
            view = view_source(run, session.chosen, choice, self._spans_of(run))
            session.source = view.choice
            return source_html(view)
        except Exception as error:
            return said(error)

    def _spans_of(self, run: Run) -> TokenSpans:
        """What has been found out about the run's texts; it is let go with the run."""
        return self._spans.setdefault(run, TokenSpans(self._studio.model.need_tokenizer()))


def _choice(session: Session) -> SourceChoice:
    """The visitor's choice for what the inspector is at now."""
    return session.source.following((session.run.number, *session.chosen))


def _with_page(choice: SourceChoice) -> SourceChoice:
    """Whole documents have no page: a place in one is shown in chunks."""
    return choice.showing(grouping="chunk") if choice.grouping == "document" else choice


def _acted(run: Run, choice: SourceChoice, action: object, value: object) -> SourceChoice:
    """The choice after an action of `SourceHandlers.act`."""
    match action, value:
        case "grouping", str() if value in GROUPINGS:
            return choice.showing(grouping=value)
        case "scope", str() if value in SCOPES:
            return choice.showing(scope=value)
        case "stay", bool():
            return replace(choice, stay=value)
        case "hit", int() if value >= 0:
            return choice.at_hit(value)
        case "document", int() if value in run.sources:
            return _with_page(choice).at_place(value, None)
        case "page", [int(document), int(start)] if document in run.sources:
            return _with_page(choice).at_page(document, start)
        case "leave", _:
            return replace(choice, chunk=None)
    return choice
