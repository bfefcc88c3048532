"""What the source view does with a session: it follows the inspector, keeps what was chosen, and ignores nonsense."""

import gc
import weakref

import pytest

from app.generating import keep
from app.handlers import Studio
from app.reading import SampleShelf
from app.session import Recipe, Session, SessionStore
from app.source_handlers import SourceHandlers
from longmem.documents import Document
from longmem.scoring import score

STORY = "The lighthouse keeper wrote the name of every ship in a long ledger. " * 60


@pytest.fixture
def studio(tiny_model, tmp_path) -> Studio:
    return Studio(tiny_model, SessionStore(tiny_model.new_bank), SampleShelf(tiny_model, tmp_path))


@pytest.fixture
def session(studio) -> Session:
    session = studio.store.get("me")
    studio.model.remember(Document.from_text("story.txt", STORY), memory=session.bank)
    keep_run(studio, session)
    return session


def keep_run(studio: Studio, session: Session) -> None:
    trace = score(studio.model, " read the ledger again.", context="The keeper", memory=session.bank)
    keep(session, Recipe("scored", "The keeper"), trace, "")


def test_before_the_first_run_the_view_says_what_to_do(studio):
    handlers = SourceHandlers(studio)
    for drawn in (handlers.draw("me"), handlers.act("me", "hit", 1), handlers.show_chunk("me", 3)):
        assert "Generate or score a text first" in drawn


def test_the_view_follows_the_chosen_token_and_layer(studio, session):
    handlers = SourceHandlers(studio)
    for step, layer in ((1, 1), (2, 3)):
        assert studio.choose("me", step, layer)
        assert f"Token {step} " in handlers.draw("me")
        assert f"this token, layer {layer}" in handlers.draw("me")


def test_grouping_and_scope_are_kept_for_another_token_and_another_run(studio, session):
    handlers = SourceHandlers(studio)
    handlers.act("me", "grouping", "sentence")
    handlers.act("me", "scope", "token")
    studio.choose("me", 2, 1)
    handlers.draw("me")
    keep_run(studio, session)
    handlers.draw("me")
    assert (session.source.grouping, session.source.scope) == ("sentence", "token")
    assert session.source.selection == (2, *session.chosen)


@pytest.mark.parametrize(
    ("action", "value"),
    [
        ("grouping", "paragraph"),
        ("scope", None),
        ("stay", "yes"),
        ("hit", -1),
        ("hit", "1"),
        ("document", 12345),
        ("page", [12345, 0]),
        ("page", 3),
        ("page", [0, "<b>"]),
        ("nothing", {"a": 1}),
        (None, None),
    ],
)
def test_what_makes_no_sense_changes_nothing(studio, session, action, value):
    handlers = SourceHandlers(studio)
    before = handlers.draw("me")
    assert handlers.act("me", action, value) == before


def test_a_page_beyond_the_document_is_its_last(studio, session):
    drawn = SourceHandlers(studio).act("me", "page", [0, 10**9])
    assert f"of {len(STORY):,}" in drawn
    assert f"to {len(STORY):,}" in drawn


def test_a_chunk_is_shown_in_chunks_where_whole_documents_were_chosen(studio, session):
    handlers = SourceHandlers(studio)
    handlers.act("me", "grouping", "document")
    chunk = int(session.run.trace.chunk.iloc[0])
    assert f"chunk #{chunk}<" in handlers.show_chunk("me", chunk)
    assert session.source.grouping == "chunk"
    assert f"chunk #{chunk}<" not in handlers.act("me", "leave", 0)


def test_an_unknown_chunk_leaves_the_view_as_it_is(studio, session):
    handlers = SourceHandlers(studio)
    before = handlers.draw("me")
    assert handlers.show_chunk("me", 10**9) == handlers.show_chunk("me", "<b>") == before


def test_what_was_found_out_about_a_run_is_let_go_with_it(studio, session):
    handlers = SourceHandlers(studio)
    handlers.act("me", "grouping", "token")
    old = weakref.ref(session.run)
    keep_run(studio, session)
    gc.collect()
    assert old() is None
    assert len(handlers._spans) == 0
