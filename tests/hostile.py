"""Over 200 hostile inputs: none executes, gives away a file, or takes more time and memory than it may.

`python -m tests.hostile --json FILE` runs them all and records what became of them. Each is made in a folder of its
own, given to the program as a visitor would give it, and must end in a sentence or as harmless text.
"""

import argparse
import csv
import io
import json
import platform
import re
import resource
import shutil
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from html import unescape
from pathlib import Path

import httpx

from app import ui
from app.bundle import load_bundle, write_bundle
from app.exporting import FORMATS, export_trace
from app.markup import MemoryLine, documents_list
from app.report import About, build_report
from longmem import confined
from longmem.demonstrations import SENTIMENT_TEMPLATE, DemonstrationSet, read_demonstrations
from longmem.documents import Document
from longmem.errors import LongMemError
from tests import hostile_files, hostile_memory
from tests.conftest import make_tiny_model, make_tiny_tokenizer
from tests.hostile_files import CANARY, Written
from tests.made_runs import CELLS, HOSTILE, run_by_hand, studio_with_a_run

LIMITS = confined.Limits(seconds=3, address_bytes=512 * 2**20)
CLOCK = 60  # times as long by the clock: what else runs on the machine decides nothing here
MOST_SECONDS = LIMITS.seconds + 4  # of a processor, the start of a process and all that is not parsed apart with it
MOST_MIB = 700  # by which the program itself may grow, besides the process that parses
ROOT = Path(__file__).parent.parent
FORMULA_BEGINNINGS = tuple("=+-@\t\r\n＝＋－＠")  # of a cell that a spreadsheet computes
EDITED = ROOT / "assets"
SLOW_KINDS = ("HTML", "PDF", "EPUB", "DOCX")  # a process is started for each


@dataclass(frozen=True)
class Attempt:
    """An input: how to make it, and what giving it to the program comes to: a message, empty where it was read."""

    kind: str
    title: str
    give: Callable[[], str]
    make: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Outcome:
    """What became of an attempt; `harm` is what must not be; `seconds` are a processor's."""

    kind: str
    title: str
    message: str
    seconds: float
    clock_seconds: float
    mib: float
    harm: str


class Trap:
    """A secret file, an address that nobody may ask, and a folder that only code in an input would make."""

    def __init__(self, folder: Path):
        self.folder, self.asked = folder, 0
        (folder / "secret.txt").write_text(CANARY)
        self.marker = folder / "executed"
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self.asked += 1
            connection.close()

    def close(self) -> None:
        self._server.close()

    def harm(self, shown: str) -> str:
        """What has happened that must not."""
        left = {path.name for path in self.folder.iterdir()} - {
            "secret.txt",
            "work",
            "samples",
            "cache",
            "good.longmem",
        }
        if CANARY in shown:
            return "the secret file was shown"
        if self.asked:
            return "an address was asked"
        return f"{min(left)} was made" if left else ""


def check_document(path: Path) -> str:
    """Read it; what is shown of it must be inert."""
    document = Document.from_file(path)
    shown = documents_list([MemoryLine(0, document.name, 1, 1)])
    assert "<script" not in shown, "a name became a script"
    assert "<img" not in shown, "a name became a picture"
    assert "\x00" not in document.text, "a NUL was left"
    assert all(c.isprintable() or c in "\u200c\u200d" for c in document.name), "a name commands a terminal"
    assert CANARY not in document.text, "the secret file was read"
    return ""


def check_table(path: Path) -> str:
    """Read labelled examples and write them as a document: what they hold is words."""
    rows = read_demonstrations(path)
    assert DemonstrationSet.from_demonstrations(rows, SENTIMENT_TEMPLATE, path.name).demonstrations == tuple(rows)
    return ""


def given_files(kind: str, files: list[Written], check: Callable[[Path], str], work: Path) -> Iterator[Attempt]:
    for title, name, write in files:
        path = work / name
        yield Attempt(kind, title, lambda path=path: check(path), lambda path=path, write=write: write(path))


def memory_files(trap: Trap, work: Path) -> Iterator[Attempt]:
    """Forged memory files, loaded into a session whose memory and run must stay."""
    (trap.folder / "samples").mkdir()
    studio = studio_with_a_run(make_tiny_model(make_tiny_tokenizer()), trap.folder / "samples")
    session, good = studio.store.get("me"), trap.folder / "good.longmem"
    write_bundle(good, session.bank, session.run, studio.settings_of(session), with_states=True)
    path = work / "forged.longmem"
    for title, forge in hostile_memory.forgeries(trap.marker):

        def make(forge: Callable[[Path], None] = forge) -> None:
            forge(Path(shutil.copy(good, path)))

        def give() -> str:
            before = session.bank.version, session.run, session.settings
            notice = list(load_bundle(studio, "me", path))[-1].memory.notice
            assert notice, "a forged memory was loaded"
            assert (session.bank.version, session.run, session.settings) == before, "the session has changed"
            assert "Something failed" not in notice, "nobody has thought of this"
            return unescape(re.sub(r"<[^>]+>|×", "", notice))

        yield Attempt("memory file", title, give, make)


def exports() -> Iterator[Attempt]:
    """Runs of hostile words as files: no cell is a formula, no word is markup, no name is a path."""

    def as_csv(word: str) -> str:
        data = export_trace(run_by_hand([word], name=word), "csv").data.decode("utf-8-sig")
        cells = [cell for row in csv.reader(io.StringIO(data, newline="")) for cell in row]
        texts = [cell for cell in cells if not re.fullmatch(r"-?[\d.e+-]+|", cell)]
        assert not [cell for cell in texts if cell.startswith(FORMULA_BEGINNINGS)], "a cell is a formula"
        parted = [part.lstrip(' "') for cell in texts for part in re.split(r"[;|\t\r\n]", cell)[1:]]
        assert not [part for part in parted if part.startswith(tuple("=+-@"))], "a part of a cell is a formula"
        return ""

    def as_report(word: str) -> str:
        run = run_by_hand([word], name=word, text=word * 40)
        page = build_report(run, About("", "f", time_of_report())).data.decode()
        assert word not in page, "words became markup"
        assert "default-src 'none'" in page
        return ""

    def named(format: str) -> str:
        name = export_trace(run_by_hand(["../../x"], name="../../x"), format).name
        assert re.fullmatch(r"longmem-run-\d+-[\w.-]+", name), "a visitor's word is in the name of a file"
        return ""

    formulas = [cell for cell in CELLS if cell.startswith(FORMULA_BEGINNINGS) or re.search(r"[;|\t\n]", cell)]
    formulas += ['=HYPERLINK("http://x")', "@x|'y'!A0"]
    for word in formulas:
        yield Attempt("export", f"CSV of {word!r}", lambda word=word: as_csv(word))
    for word in (HOSTILE, "<script>pwned()</script>", "</script><svg/onload=pwned()>", "<img src=x onerror=pwned()>"):
        yield Attempt("export", f"report of {word[:30]!r}", lambda word=word: as_report(word))
    for format in FORMATS:
        yield Attempt("export", f"name of {format}", lambda format=format: named(format))


def time_of_report():
    from datetime import UTC, datetime

    return datetime(2026, 1, 1, tzinfo=UTC)


def requests(trap: Trap) -> Iterator[Attempt]:
    """What strangers ask the server for: files that are not theirs, and addresses that it should ask in their place."""
    secret = trap.folder / "secret.txt"
    wanted = [
        str(secret),
        f"../{secret.name}",
        "/etc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
        "..%252f..%252fetc%252fpasswd",
        "/proc/self/environ",
        "/proc/self/cmdline",
        "file:///etc/passwd",
        f"http://127.0.0.1:{trap.port}/",
        "//etc/passwd",
        str(EDITED.parent / "app.py"),
        str(EDITED.parent / ".git" / "config"),
        str(EDITED / "model" / "config.json"),
        "C:\\windows\\win.ini",
        "/dev/zero",
        "a" * 5000,
    ]
    demo = ui.build(make_tiny_model(make_tiny_tokenizer()), samples=trap.folder / "cache", read_opening_sample=False)
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **ui.launch_options(100_000))

    def ask(path: str) -> str:
        answer = httpx.get(f"{url}gradio_api/file={path}", timeout=20, follow_redirects=False)
        assert answer.status_code in (400, 401, 403, 404, 414), f"answered {answer.status_code}"
        return f"{answer.status_code} {anywhere(answer.text, trap)[:80]}"

    def give_path(path: str) -> str:
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        called = httpx.post(f"{url}gradio_api/call/load_documents", json={"data": [[file], [], ""]}, timeout=20)
        events = httpx.get(f"{url}gradio_api/call/load_documents/{called.json()['event_id']}", timeout=20).text
        assert "event: error" in events, "a file of the server was read"
        return anywhere(events, trap)[:80]

    def upload(name: str) -> str:
        answer = httpx.post(f"{url}gradio_api/upload", files={"files": (name, b"harmless")}, timeout=20)
        if answer.status_code == 200:
            path = Path(answer.json()[0])
            assert path.resolve().parent.parent == Path(demo.GRADIO_CACHE).resolve(), "an upload left its folder"
            shutil.rmtree(path.parent)
        return f"{answer.status_code}"

    try:
        for path in wanted:
            yield Attempt("request", f"the file {anywhere(path, trap)[:60]}", lambda path=path: ask(path))
        for path in wanted[:11]:
            yield Attempt("request", f"the document {anywhere(path, trap)[:60]}", lambda path=path: give_path(path))
        for name in ("../../evil.txt", "/tmp/evil.txt", "a" * 3000 + ".txt", "<script>.txt", "..\\evil.txt", ".."):
            yield Attempt("request", f"an upload named {name[:30]}", lambda name=name: upload(name))
    finally:
        demo.close()


def attempts(trap: Trap, work: Path) -> Iterator[Attempt]:
    folder, port = trap.folder, trap.port
    kinds = {
        "text": hostile_files.texts(),
        "name": hostile_files.names(),
        "HTML": hostile_files.pages(folder, port),
        "PDF": hostile_files.pdfs(),
        "EPUB": hostile_files.books(folder, port),
        "DOCX": hostile_files.letters(folder, port),
    }
    for kind, files in kinds.items():
        yield from given_files(kind, files, check_document, work)
    yield from given_files("examples", hostile_files.tables(), check_table, work)
    yield from memory_files(trap, work)
    yield from exports()
    yield from requests(trap)


def try_out(attempt: Attempt, trap: Trap, work: Path) -> Outcome:
    """Give one input to the program and see what happens."""
    work.mkdir()
    message, harm = "", ""
    attempt.make()
    before, began, clock = _resident(reset=True), _processor(), time.monotonic()
    try:
        message = attempt.give()
    except LongMemError as error:
        message = str(error)
    except AssertionError as error:
        harm = str(error)
    except BaseException as error:
        harm = f"{type(error).__name__}: {error}"
    seconds, mib = _processor() - began, _resident() - before
    clock = time.monotonic() - clock
    shutil.rmtree(work)
    said, title = (anywhere(words, trap) for words in (" ".join(message.split()), attempt.title))
    harm = anywhere(harm, trap) or trap.harm(message)
    if not harm and seconds > MOST_SECONDS:
        harm = f"it took {seconds:.1f} s"
    if not harm and mib > MOST_MIB:
        harm = f"it took {mib:.0f} MiB"
    if not harm and (len(said) > 700 or "Traceback" in said):
        harm = "its message is no sentence"
    return Outcome(attempt.kind, title, said, round(seconds, 2), round(clock, 2), round(max(0.0, mib)), harm)


def anywhere(words: str, trap: Trap) -> str:
    """Words without what is of this machine and this run. Before they are cut: half a path would stay."""
    for own, shown in ((str(trap.folder), "FOLDER"), (str(ROOT), "ROOT"), (f":{trap.port}", ":PORT")):
        words = words.replace(own, shown)
    return words


def _processor() -> float:
    """Seconds that processors have worked for this process and for those that it has started and seen end."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _resident(reset: bool = False) -> float:
    """MiB that this process holds at its most since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024


@contextmanager
def tight_limits() -> Iterator[None]:
    kept = confined.LIMITS, confined.CLOCK
    confined.LIMITS, confined.CLOCK = LIMITS, CLOCK
    try:
        yield
    finally:
        confined.LIMITS, confined.CLOCK = kept


def run_all(*, sample: bool = False) -> list[Outcome]:
    """Every input; as a `sample` only every third of those kinds whose parsers are started for each."""
    seen: Counter[str] = Counter()

    def is_tried(attempt: Attempt) -> bool:
        seen[attempt.kind] += 1
        return not sample or attempt.kind not in SLOW_KINDS or seen[attempt.kind] % 3 == 1

    with tempfile.TemporaryDirectory() as name, tight_limits():
        trap = Trap(Path(name))
        work = trap.folder / "work"
        try:
            return [try_out(attempt, trap, work) for attempt in attempts(trap, work) if is_tried(attempt)]
        finally:
            trap.close()


def summary(outcomes: list[Outcome]) -> dict:
    """Counts by kind, the worst of time and memory, and every input with its message."""
    kinds = {}
    for kind in dict.fromkeys(outcome.kind for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.kind == kind]
        kinds[kind] = {
            "inputs": len(own),
            "refused": sum(bool(outcome.message) for outcome in own),
            "harmful": sum(bool(outcome.harm) for outcome in own),
            "different_messages": len(Counter(outcome.message for outcome in own if outcome.message)),
            "worst_seconds": max(outcome.seconds for outcome in own),
            "worst_mib": max(outcome.mib for outcome in own),
        }
    return {
        "inputs": len(outcomes),
        "harmful": sum(bool(outcome.harm) for outcome in outcomes),
        "limits": asdict(LIMITS) | {"own_mib": MOST_MIB},
        "seconds": round(sum(outcome.seconds for outcome in outcomes), 1),
        "worst_mib_of_a_parser": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
        "python": platform.python_version(),
        "kinds": kinds,
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where to record what became of them")
    chosen = parser.parse_args()
    found = summary(run_all())
    if chosen.json:
        found = {"command": "python -m tests.hostile", **found}
        chosen.json.write_text(json.dumps(found, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in found.items() if key != "outcomes"}, indent=1))
    for outcome in found["outcomes"]:
        if outcome["harm"]:
            print(f"{outcome['kind']}: {outcome['title']}: {outcome['harm']}")


if __name__ == "__main__":
    main()
