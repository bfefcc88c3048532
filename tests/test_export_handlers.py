"""The export panel's work: a visitor's own run as a file, and in words why there is none."""

import zipfile

import pytest

from app.downloads import Downloads
from app.export_handlers import BUNDLE, KINDS, REPORT, Offer, document_names, file_size, offer
from app.handlers import Studio
from tests.made_runs import studio_with_a_run


@pytest.fixture(scope="module")
def studio(tiny_model, tmp_path_factory) -> Studio:
    return studio_with_a_run(tiny_model, tmp_path_factory.mktemp("samples"))


@pytest.fixture
def downloads(tmp_path) -> Downloads:
    return Downloads(tmp_path / "cache")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_a_file_with_its_name_and_size_in_words(studio, downloads, kind):
    made = offer(studio, downloads, "me", kind)
    assert made.path.name.startswith(("longmem-run-1-", "memory."))
    assert made.path.stat().st_size > 300
    assert f"{made.path.name}, {file_size(made.path.stat().st_size)}: " in made.status
    assert made.notice == ""


def test_without_a_run_it_says_what_to_do(studio, downloads, tmp_path):
    made = offer(studio, downloads, "somebody else", REPORT)
    assert made.path is None
    assert "There is no run to save yet: generate first." in made.notice
    assert not (tmp_path / "cache").exists()


def test_an_unknown_kind_is_said(studio, downloads):
    assert "format is &#x27;exe&#x27;" in offer(studio, downloads, "me", "exe").notice


def test_states_are_in_a_bundle_only_if_asked_for(studio, downloads):
    def entries(made: Offer) -> list[str]:
        return zipfile.ZipFile(made.path).namelist()

    assert entries(offer(studio, downloads, "me", BUNDLE)) == ["memory.json"]
    assert "bank/memory.safetensors" in entries(offer(studio, downloads, "me", BUNDLE, with_states=True))


def test_a_bundle_too_large_to_be_loaded_says_so(studio, downloads):
    studio.max_file_bytes = 1000
    assert "larger than the 1 kB that can be loaded" in offer(studio, downloads, "me", BUNDLE).status


def test_a_bundle_waits_for_nobody_and_a_table_needs_no_memory(studio, downloads):
    with studio.store.get("me").lock:
        assert "just now" in offer(studio, downloads, "me", BUNDLE).notice
        assert offer(studio, downloads, "me", "csv").path is not None
        assert document_names(studio, "me") == {}
    assert document_names(studio, "me") == {0: "the-keeper.txt"}
