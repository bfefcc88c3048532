"""The process that parses files of strangers: its answers, its limits, and what it cannot do."""

import os
import sys
import time

import pytest

from longmem import confined, readers
from longmem.confined import Limits
from longmem.demonstrations import read_demonstrations
from longmem.documents import Document, clean_name
from longmem.errors import DocumentError
from tests.test_documents import make_docx, make_epub, make_pdf

linux = pytest.mark.skipif(sys.platform != "linux", reason="these limits are Linux's")


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch):
    return lambda **values: monkeypatch.setattr(confined, "LIMITS", Limits(**values))


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("a.pdf", make_pdf("The first page.", "The second."), "The first page.\n\nThe second."),
        ("a.epub", make_epub(), "First\n\nIt & more.\n\nSecond chapter."),
        ("a.docx", make_docx("<w:p><w:r><w:t>wörd 🎉</w:t></w:r></w:p>"), "wörd 🎉"),
        ("a.html", "<p>eins".encode("utf-16"), "eins"),
        ("a.txt", "café noir".encode("cp1252"), "café noir"),
    ],
)
def test_what_is_parsed_apart_is_what_the_readers_say(name, data, text):
    assert Document.from_bytes(name, data).text == text == readers.read_text(name, data)


def test_plain_text_starts_no_process(monkeypatch):
    monkeypatch.setattr(confined.subprocess, "run", lambda *_, **__: pytest.fail("a process"))
    assert Document.from_bytes("a.md", "wörd".encode()).text == "wörd"
    assert read_demonstrations(("a.csv", b"text,label\na,b\n"))[0].label == "b"


def test_an_error_of_the_readers_is_said_as_they_say_it():
    with pytest.raises(DocumentError, match=r"^a\.pdf is broken or is not a PDF file: save it again and retry\.$"):
        Document.from_bytes("a.pdf", b"not that")


def test_a_file_that_takes_too_long_ends_with_a_sentence(limits):
    limits(seconds=1)
    began = time.monotonic()
    with pytest.raises(DocumentError, match=r"a\.html takes longer to read than the 1 seconds that are allowed"):
        Document.from_bytes("a.html", b"<a " * 400_000)
    assert time.monotonic() - began < 10


@linux
def test_a_file_that_takes_too_much_memory_ends_with_a_sentence(limits):
    limits(address_bytes=160 * readers.MEGABYTE)
    with pytest.raises(
        DocumentError, match=r"a\.docx needs more than the 160 MB of memory that reading a file may take"
    ):
        Document.from_bytes("a.docx", make_docx("<w:p/>" * 2_000_000))


def in_child(monkeypatch, tmp_path, code: str) -> None:
    """Let the child run some code in place of the module."""
    real = confined.subprocess.run

    def run(command: list[str], **options: object):
        script = tmp_path / "child.py"
        script.write_text(
            f"import longmem.readers as r\ndef read(name, data):\n    {code}\nr.READERS['.pdf'] = read\n"
            "import longmem.confined as c\nc.main()\n"
        )
        return real([command[0], str(script)], **options)

    monkeypatch.setattr(confined.subprocess, "run", run)


@linux
@pytest.mark.parametrize(
    "code",
    [
        "open('/tmp/longmem-written', 'w').write('x' * 10)",
        "import subprocess; subprocess.run(['true'], check=True)",
        "import os; os.kill(os.getpid(), 11)",
        "import ctypes; ctypes.string_at(0)",
        "raise RecursionError",
    ],
)
def test_code_in_the_parser_writes_nothing_starts_nothing_and_may_crash(monkeypatch, tmp_path, code):
    if "subprocess" in code and os.getuid() == 0:
        pytest.skip("the number of root's processes has no limit")
    in_child(monkeypatch, tmp_path, code)
    with pytest.raises(DocumentError, match=r"a\.pdf is broken"):
        Document.from_bytes("a.pdf", b"x")


def test_the_parser_does_not_know_our_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("LONGMEM_AUTH", "ann:secret")
    in_child(monkeypatch, tmp_path, "import os; return repr(dict(os.environ))")
    assert "secret" not in Document.from_bytes("a.pdf", b"x").text


def test_where_no_process_can_be_started_nothing_is_parsed(monkeypatch):
    monkeypatch.setattr(confined.sys, "executable", "/nowhere/python")
    with pytest.raises(DocumentError, match=r"a\.pdf cannot be read now: no process can be started"):
        Document.from_bytes("a.pdf", make_pdf("x"))


def test_a_large_file_is_refused_before_it_is_in_memory(tmp_path, monkeypatch):
    path = tmp_path / "large.txt"
    with path.open("wb") as file:
        file.truncate(2**30)
    monkeypatch.setattr("pathlib.Path.open", lambda *_: pytest.fail("opened"))
    with pytest.raises(DocumentError, match=r"large\.txt is larger than 128 MB"):
        Document.from_file(path)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb\x1b[2J\u202ec.txt", "a b [2J c.txt"),
        ("👩\u200d🚀 café.txt", "👩\u200d🚀 café.txt"),
        ("x" * 300 + ".txt", "x" * 179 + "…" + "x" * 16 + ".txt"),
    ],
)
def test_names_are_one_short_line_that_commands_nothing(name, shown):
    assert clean_name(name) == shown
    assert clean_name(shown) == shown
