"""A memory in one file: what comes back, and what is refused."""

import json
import zipfile

import pytest

from longmem.documents import Document
from longmem.errors import BankFileError
from longmem.memory_archive import DESCRIPTION, read_archive, write_archive
from longmem.scoring import score

STORY = "The lighthouse keeper wrote the name of every ship in a long ledger. " * 12


@pytest.fixture
def bank(tiny_model):
    bank = tiny_model.new_bank(capacity=1024)
    for name, text in (("story", STORY), ("léger", "In the morning the ship returned. " * 9)):
        tiny_model.remember(Document.from_text(name, text), memory=bank)
    return bank


def load(path, model):
    return read_archive(path, fingerprint=model.fingerprint)


def test_texts_and_settings_come_back_and_states_are_not_in_the_file(tiny_model, bank, tmp_path):
    path = tmp_path / "memory.longmem"
    write_archive(path, bank, extra={"retrieved_tokens": 16})
    found = load(path, tiny_model)
    assert [(d.name, d.text) for d in found.documents] == [(d.name, d.text) for d in bank.documents.values()]
    assert [d.n_tokens for d in found.documents] == [d.n_tokens for d in bank.documents.values()]
    assert (found.fingerprint, found.chunk_size, found.capacity) == (tiny_model.fingerprint, 4, 1024)
    assert found.extra == {"retrieved_tokens": 16}
    assert found.bank is None
    assert path.stat().st_size < 4_000
    assert list(tmp_path.iterdir()) == [path]


def test_with_states_the_bank_answers_as_it_did(tiny_model, bank, tmp_path):
    path = tmp_path / "memory.longmem"
    write_archive(path, bank, with_states=True)
    again = load(path, tiny_model).bank
    text = "The keeper read the ledger."
    assert score(tiny_model, text, memory=again).logprobs == score(tiny_model, text, memory=bank).logprobs
    assert list(again.chunks()) == list(bank.chunks())


def test_states_of_another_model_are_left_aside_and_the_texts_stay(bank, tmp_path):
    path = tmp_path / "memory.longmem"
    write_archive(path, bank, with_states=True)
    found = read_archive(path, fingerprint="another")
    assert found.bank is None
    assert found.documents[0].text == STORY


def forged(path, entries: dict[str, bytes]):
    with zipfile.ZipFile(path, "w") as file:
        for name, data in entries.items():
            file.writestr(name, data)
    return path


def description(**changes: object) -> bytes:
    good = {"format": "longmem memory 1", "fingerprint": "f", "chunk_size": 4, "capacity": 64, "extra": {}}
    return json.dumps(good | {"documents": [{"name": "a", "text": "b", "tokens": 1}]} | changes).encode()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "there is no memory.json"),
        ({DESCRIPTION: b"{"}, "memory.json: "),
        ({DESCRIPTION: b"[" * 100_000}, "memory.json: "),
        ({DESCRIPTION: description(format="pickle")}, "its format is 'pickle'"),
        ({DESCRIPTION: description(fingerprint=7)}, "a name or text is none"),
        ({DESCRIPTION: description(documents=[{"name": 1, "text": "b", "tokens": 1}])}, "a name or text is none"),
        ({DESCRIPTION: description(documents=[{"name": "a"}])}, "'text' is missing"),
        ({DESCRIPTION: description(documents=[{"name": "a", "text": "b", "tokens": -1}])}, "not a whole number"),
        ({DESCRIPTION: description(capacity=2**40)}, "not a whole number"),
        ({DESCRIPTION: description(extra=[])}, "a name or text is none"),
        ({DESCRIPTION: description(), "../../evil.py": b"x"}, "other entries"),
        ({DESCRIPTION: description(), "bank/memory.json": b"{}", "bank/memory.safetensors": b"x"}, "cannot be loaded"),
    ],
)
def test_a_forged_file_is_refused_in_words(entries, message, tmp_path):
    path = forged(tmp_path / "memory.longmem", entries)
    with pytest.raises(BankFileError, match=message) as error:
        read_archive(path, fingerprint="f")
    assert str(tmp_path) not in str(error.value)


def test_what_is_no_zip_or_too_large_is_refused(tiny_model, tmp_path, monkeypatch):
    path = tmp_path / "memory.longmem"
    path.write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(BankFileError, match="not a memory file"):
        load(path, tiny_model)
    monkeypatch.setattr("longmem.memory_archive.MOST_TEXT", 100)
    with pytest.raises(BankFileError, match="larger than"):
        load(forged(path, {DESCRIPTION: description(extra={"x": "y" * 200})}), tiny_model)


def test_a_failed_save_leaves_what_was_there(bank, tmp_path):
    path = tmp_path / "memory.longmem"
    path.mkdir()
    with pytest.raises(BankFileError, match="could not be saved"):
        write_archive(path, bank)
    assert list(tmp_path.iterdir()) == [path]
