"""Where no memory is left: the visitor gets a sentence, the bank is as it was, and the next thing works."""

import threading
from functools import wraps

import pytest
import torch

from app.handlers import Studio
from app.reading import SampleShelf
from app.scored import SCORED
from app.session import SessionStore
from app.settings import Place
from longmem.errors import DocumentError, is_out_of_memory
from longmem.memory_bank import MemoryBank
from longmem.model import LongMemForCausalLM

STORY = "The lighthouse keeper wrote the name of every ship in a long ledger. " * 12
SETTINGS = {"max_new_tokens": 4, "temperature": 0.8, "top_p": 0.9, "seed": 1}
ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes."),
]
by_kind = pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)


@pytest.fixture
def studio(tiny_model, tmp_path) -> Studio:
    studio = Studio(tiny_model, SessionStore(tiny_model.new_bank), SampleShelf(tiny_model, tmp_path))
    list(studio.read_text("me", "story", STORY))
    return studio


def state(bank: MemoryBank) -> list:
    """Everything in a bank that can be found in it."""
    keys = [tensor.clone() for tensor in bank._ring.ordered()[1]]
    return [list(bank.chunks()), bank.documents, bank.nbytes, *(key.tolist() for key in keys)]


def failing(monkeypatch: pytest.MonkeyPatch, owner: type, method: str, error: Exception, after: int = 0) -> None:
    """The method raises the error once it has worked `after` times."""
    real, calls = getattr(owner, method), []

    @wraps(real)  # `generate` looks at the arguments of `forward`
    def fail(*arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) > after:
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(owner, method, fail)


def works_again(studio: Studio) -> None:
    session = studio.store.get("me")
    assert not session.is_busy
    assert session.promised == 0
    assert list(studio.generate("me", "The keeper", SETTINGS))[-1].notice == ""
    assert list(studio.read_text("me", "more", STORY))[-1].notice == ""


@by_kind
@pytest.mark.parametrize("after", [0, 3])
def test_a_reading_without_memory_leaves_the_bank_as_it_was(studio, monkeypatch, error, after):
    before = state(studio.store.get("me").bank)
    with monkeypatch.context() as patch:
        failing(patch, LongMemForCausalLM, "read_segments", error, after)
        view = list(studio.read_text("me", "second", STORY * 4))[-1]
    assert "no memory left" in view.notice
    assert "second" not in view.documents
    assert state(studio.store.get("me").bank) == before
    works_again(studio)


@by_kind
def test_a_bank_that_cannot_grow_is_as_it_was(studio, monkeypatch, error):
    before = state(studio.store.get("me").bank)
    with monkeypatch.context() as patch:
        failing(patch, MemoryBank, "reserve", error)
        view = list(studio.read_text("me", "second", STORY))[-1]
    assert "no memory left" in view.notice
    assert state(studio.store.get("me").bank) == before
    works_again(studio)


@by_kind
@pytest.mark.parametrize("after", [0, 2])
def test_a_generation_without_memory_is_said_and_leaves_the_bank_alone(studio, monkeypatch, error, after):
    before = state(studio.store.get("me").bank)
    with monkeypatch.context() as patch:
        failing(patch, LongMemForCausalLM, "forward", error, after)
        view = list(studio.generate("me", "The keeper", SETTINGS))[-1]
    assert "no memory left" in view.notice
    assert not view.busy
    assert state(studio.store.get("me").bank) == before
    assert not [thread for thread in threading.enumerate() if thread.name in ("longmem-write", "longmem-read")]
    works_again(studio)


@by_kind
@pytest.mark.parametrize(("owner", "method"), [(LongMemForCausalLM, "read_segments"), (MemoryBank, "reserve")])
def test_a_change_without_memory_leaves_the_document_as_it_was(studio, monkeypatch, error, owner, method):
    before = state(studio.store.get("me").bank)
    with monkeypatch.context() as patch:
        failing(patch, owner, method, error)
        view = list(studio.change_document("me", Place(0, 0.5), "purse", "ledger"))[-1]
    assert "no memory left" in view.notice
    assert "story" in view.documents
    assert state(studio.store.get("me").bank) == before
    works_again(studio)


def test_a_change_that_fails_half_way_leaves_everything_as_it_was(studio, monkeypatch):
    before = state(studio.store.get("me").bank)
    with monkeypatch.context() as patch:
        failing(patch, LongMemForCausalLM, "read_segments", OSError("whatever"), after=2)
        view = list(studio.change_document("me", Place(0, 0.5), "purse " * 20, "ledger"))[-1]
    assert "Something failed" in view.notice
    assert state(studio.store.get("me").bank) == before
    works_again(studio)


@by_kind
def test_a_scoring_without_memory_is_said(studio, monkeypatch, error):
    with monkeypatch.context() as patch:
        failing(patch, LongMemForCausalLM, "forward", error)
        view = studio.score("me", SCORED, "The keeper read the ledger.", None, 8)
    assert "no memory left" in view.notice
    works_again(studio)


def test_other_visitors_are_not_touched(studio, monkeypatch):
    list(studio.read_text("you", "story", STORY))
    before = state(studio.store.get("you").bank)
    with monkeypatch.context() as patch:
        failing(patch, LongMemForCausalLM, "read_segments", MemoryError())
        list(studio.read_text("me", "second", STORY))
    assert state(studio.store.get("you").bank) == before


def test_only_the_end_of_memory_is_taken_for_it():
    assert all(is_out_of_memory(error) for error in ERRORS)
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    assert not is_out_of_memory(DocumentError("out of memory.txt holds no text"))


def test_a_text_that_is_too_long_is_refused_before_it_is_encoded(studio, monkeypatch):
    monkeypatch.setattr("app.reading.MOST_BYTES", 1000)
    monkeypatch.setattr("longmem.documents.Document.encode", lambda *_: pytest.fail("encoded"))
    for text in ("x" * 1001, "é" * 501):
        assert "at most 1,000 are read" in list(studio.read_text("me", "long", text))[-1].notice
