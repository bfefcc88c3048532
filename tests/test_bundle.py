"""Memory and run in one file: what comes back in a session, and what is refused without changing anything."""

import json
import zipfile
from pathlib import Path

import pytest

from app import inspection
from app.bundle import LoadView, bundle_name, load_bundle, write_bundle
from app.handlers import Studio
from app.turns import Work
from longmem.memory_archive import DESCRIPTION, read_archive, write_archive
from tests.made_runs import PROMPT, SETTINGS, STORY, studio_with_a_run


@pytest.fixture
def studio(tiny_model, tmp_path) -> Studio:
    folder = tmp_path / "samples"
    folder.mkdir()
    return studio_with_a_run(tiny_model, folder)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "kept.longmem"


def keep(studio: Studio, path: Path, **options: bool) -> None:
    session = studio.store.get("me")
    write_bundle(path, session.bank, session.run, studio.settings_of(session), **options)


def load(studio: Studio, path: Path, key: str = "you") -> LoadView:
    return list(load_bundle(studio, key, path))[-1]


def change_description(path: Path, change) -> None:
    """Forge the file: its description as `change` leaves it, everything else as it was."""
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    found = json.loads(entries[DESCRIPTION])
    change(found)
    entries[DESCRIPTION] = json.dumps(found).encode()
    with zipfile.ZipFile(path, "w") as file:
        for name, data in entries.items():
            file.writestr(name, data)


@pytest.mark.parametrize("with_states", [False, True])
def test_another_session_has_the_memory_and_the_run_as_they_were(studio, path, with_states):
    keep(studio, path, with_states=with_states)
    view = load(studio, path)
    mine, yours = studio.store.get("me"), studio.store.get("you")
    assert view.memory.notice == ""
    assert "Loaded memory and run" in view.memory.status
    assert "the-keeper.txt" in view.memory.documents
    assert [(d.name, d.text, d.n_tokens) for d in yours.bank.documents.values()] == [
        (d.name, d.text, d.n_tokens) for d in mine.bank.documents.values()
    ]
    assert inspection.describe(yours.run) == inspection.describe(mine.run) == view.payload
    assert yours.chosen == mine.chosen
    assert yours.bank.version == mine.bank.version
    assert (view.prompt, view.settings) == (PROMPT, mine.run.recipe.settings)


def test_the_loaded_memory_answers_as_the_kept_one(studio, path):
    keep(studio, path)
    load(studio, path)
    list(studio.generate("you", PROMPT, SETTINGS))
    mine, yours = studio.store.get("me").run, studio.store.get("you").run
    assert list(yours.tokens.token) == list(mine.tokens.token)
    assert list(yours.trace.chunk) == list(mine.trace.chunk)


def test_documents_are_read_again_with_progress_only_without_states(studio, path):
    keep(studio, path)
    assert "Reading the-keeper.txt" in next(iter(load_bundle(studio, "you", path))).memory.status
    keep(studio, path, with_states=True)
    assert len(list(load_bundle(studio, "other", path))) == 1


def test_a_document_keeps_its_id_and_so_its_colour(studio, path):
    list(studio.read_text("me", "second", STORY))
    studio.remove("me", 0)
    list(studio.generate("me", PROMPT, SETTINGS))
    keep(studio, path)
    load(studio, path)
    assert list(studio.store.get("you").bank.documents) == [1]


@pytest.mark.parametrize("ids", [None, [], [0, 0], [5, 3], [-1, 2], ["0", 1], [0, 10**9], [True, 2]])
def test_forged_ids_are_passed_over(studio, path, ids):
    list(studio.read_text("me", "second", STORY))
    keep(studio, path)
    change_description(path, lambda found: found["extra"].update(document_ids=ids))
    load(studio, path)
    assert list(studio.store.get("you").bank.documents) == [0, 1]


def test_a_place_in_a_document_is_no_prompt(studio, path):
    run = studio.store.get("me").run
    object.__setattr__(run.recipe, "before", (0, 5))
    keep(studio, path)
    assert load(studio, path).prompt is None


def test_the_file_is_a_memory_file_too(studio, path, tiny_model):
    keep(studio, path)
    assert read_archive(path, fingerprint=tiny_model.fingerprint).documents[0].text == STORY


def test_the_text_and_its_effects_are_shown_again(studio, path):
    keep(studio, path)
    view = load(studio, path)
    assert view.with_memory.count("data-step=") == len(studio.store.get("me").run.tokens)
    assert "not kept" in view.plain


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found["extra"].update(run=None), "run in this file cannot be shown"),
        (lambda found: found["extra"].update(settings=[1]), "settings in this file"),
        (lambda found: found["extra"].update(settings={"retrieved_tokens": 7}), "settings in this file"),
        (lambda found: found["extra"]["run"].pop("tables"), "run in this file cannot be shown"),
        (lambda found: found["extra"]["run"]["recipe"].update(kind="x"), "its kind is"),
        (lambda found: found.update(documents=[{"name": "a", "text": " ", "tokens": 1}]), "holds no text"),
        (lambda found: found.update(capacity=1), "Capacity is 1"),
        (lambda found: found.update(documents=[{"name": "a", "text": "b", "tokens": 1}] * 10_001), "at most 10,000"),
    ],
)
def test_a_forged_file_is_refused_in_words_and_changes_nothing(studio, path, change, message):
    keep(studio, path)
    change_description(path, change)
    before = studio.store.get("me").run
    version = studio.store.get("me").bank.version
    view = load(studio, path, key="me")
    assert message in view.memory.notice
    assert view.payload is None
    assert studio.store.get("me").run is before
    assert studio.store.get("me").bank.version == version


def test_what_is_no_bundle_is_refused(studio, path):
    path.write_bytes(b"PK\x03\x04 nothing")
    assert "not a memory file" in load(studio, path).memory.notice


def test_a_bank_of_another_shape_is_refused(studio, path, tiny_model):
    other = tiny_model.new_bank()
    other.memory_layers = (0, 2)
    write_archive(path, other, with_states=True, extra={"run": {}})
    assert "cannot be loaded" in load(studio, path).memory.notice or "layers" in load(studio, path).memory.notice


def test_a_file_of_another_model_is_read_again_and_says_so(studio, path):
    keep(studio, path, with_states=True)
    change_description(path, lambda found: found.update(fingerprint="another"))
    view = load(studio, path)
    assert "of another model" in view.memory.status
    assert "the-keeper.txt" in view.memory.documents


@pytest.mark.parametrize("with_states", [True, False])
def test_the_way_memory_was_used_comes_back_with_it(studio, path, with_states):
    wanted = {"capacity": 2048, "chunk_size": 8, "retrieved_tokens": 24, "layers": (3,), "backend": "faiss-sq8"}
    list(studio.set_memory("me", wanted))
    session = studio.store.get("me")
    keep(studio, path, with_states=with_states)
    load(studio, path)
    other = studio.store.get("you")
    assert other.settings == session.settings
    assert (other.bank.chunk_size, other.bank.capacity, other.bank.backend) == (8, 2048, "faiss-sq8")
    assert [c.stop for c in other.bank.chunks()] == [c.stop for c in session.bank.chunks()]


def test_a_memory_without_a_run_is_loaded_and_the_page_keeps_its_run(studio, path):
    session = studio.store.get("me")
    write_bundle(path, session.bank, None, studio.settings_of(session))
    view = load(studio, path)
    assert "Loaded memory." in view.memory.status
    assert view.payload is None
    assert "the-keeper.txt" in view.memory.documents
    assert bundle_name(None) == "memory.longmem"


def test_a_busy_session_is_left_alone(studio, path):
    keep(studio, path)
    session = studio.store.get("you")
    with session.lock:
        assert "just now" in load(studio, path).memory.notice
    assert session.run is None


def test_a_stopped_reading_keeps_what_was_read_and_shows_the_run(studio, path):
    list(studio.read_text("me", "second", STORY * 30))
    keep(studio, path)
    views = load_bundle(studio, "you", path)
    for view in views:
        if "second" in view.memory.status:
            studio.stop("you", Work.READING)
    assert "Stopped" in view.memory.status
    assert view.payload is not None
    assert not studio.store.get("you").is_busy


def test_a_bundle_beyond_the_budget_is_refused_in_words(studio, path):
    keep(studio, path, with_states=True)
    studio.store.byte_budget = studio.store.get("me").bank.nbytes // 2
    view = load(studio, path, key="me")
    assert "all sessions share" in view.memory.notice


def test_the_name_of_a_bundle_is_harmless(studio):
    assert bundle_name(studio.store.get("me").run) == "longmem-run-1-and-memory.longmem"
