"""Fuzzing of what reads files of strangers, guided by coverage: `python -m tests.fuzz --json FILE [--seconds 60]`.

Needs the package `atheris`, which is no requirement of the project. Each reader is fed mutations of good files for so
many seconds, in a process of its own; it may answer, or refuse with a LongMemError, and everything else is a find.
The document readers run without the process around them, which would hide what they do.
"""

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from longmem.errors import LongMemError

ROOT = Path(__file__).parent.parent
READERS = ("text", "html", "pdf", "epub", "docx", "examples", "memory")
SECONDS_OF_ONE = 20  # of a processor; an input that takes longer is a find: the process around the readers would end it
CLOCK_SECONDS_OF_ONE = 300  # after which one that waits for something is a find, on a machine that others use too


def good_files(reader: str) -> list[bytes]:
    """What the mutations begin with."""
    from tests.test_documents import STORY, make_docx, make_epub, make_pdf

    if reader == "memory":
        return [_memory()]
    return {
        "text": [STORY.encode(), STORY.encode("utf-16")],
        "html": [b"<p>one<br>two <b a='1'>three</b><!-- x --><script>y</script><pre>\n z</pre>&amp;&#65;"],
        "pdf": [make_pdf("The first page.", "The second page.")],
        "epub": [make_epub()],
        "docx": [make_docx("<w:p><w:r><w:t>word</w:t><w:tab/></w:r></w:p>")],
        "examples": [b'text,label\n"a ""b""",c\n', b'{"text": "a", "label": 1}\n'],
    }[reader]


def _memory() -> bytes:
    """A memory file with states, of a bank of two chunks."""
    import torch

    from longmem.memory_archive import write_archive
    from longmem.memory_bank import MemoryBank

    bank = MemoryBank(memory_layers=[1], kv_heads=1, head_dim=2, fingerprint="f", capacity=64, dtype=torch.float32)
    states = torch.ones(1, 1, 6, 2)
    spans = torch.arange(6)[:, None] + torch.tensor([0, 1])
    bank.add(bank.begin_document("a", "abcdef"), states, states, spans)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.longmem"
        write_archive(path, bank, with_states=True)
        return path.read_bytes()


def target(reader: str, folder: Path) -> Callable[[bytes], None]:
    """Feeds one input to a reader."""
    from longmem import demonstrations, readers
    from longmem.demonstrations import read_demonstrations
    from longmem.memory_archive import read_archive

    path = folder / "a.longmem"
    demonstrations.decode = readers.decode_text  # not in a process of its own either

    def feed(data: bytes) -> None:
        began = time.process_time()
        try:
            if reader == "memory":
                path.write_bytes(data)
                read_archive(path, fingerprint="f")
            elif reader == "examples":
                read_demonstrations((f"a.{'jsonl' if data[:1] == b'{' else 'csv'}", data), skip_bad=True)
            else:
                readers.read_text(f"a.{'txt' if reader == 'text' else reader}", data)
        except LongMemError as error:
            if "\n" in str(error) or str(folder) in str(error):
                raise AssertionError("the message is no line, or tells a path") from error
        if (seconds := time.process_time() - began) > SECONDS_OF_ONE:
            raise AssertionError(f"it took {seconds:.0f} seconds")

    return feed


def fuzz(reader: str, seconds: int, folder: Path) -> None:
    """Be the process that fuzzes; ends with its first find."""
    import atheris

    modules = ["longmem.readers", "longmem.demonstrations", "longmem.memory_archive", "longmem.bank_files"]
    with atheris.instrument_imports(include=[*modules, "pypdf", "zipfile", "html.parser"]):
        import pypdf  # noqa: F401  (the readers import it when they need it)

        feed = target(reader, folder)
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, data in enumerate(good_files(reader)):
        (corpus / str(number)).write_bytes(data)
    options = [f"-max_total_time={seconds}", f"-timeout={CLOCK_SECONDS_OF_ONE}", "-rss_limit_mb=2500"]
    options += ["-max_len=20000", "-report_slow_units=100000"]  # slow by the clock, which others make slow too
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={folder}/", "-print_final_stats=1", str(corpus)], feed)
    atheris.Fuzz()


def run(reader: str, seconds: int) -> dict:
    """Counts of one reader, and what was found."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "tests.fuzz",
            "--reader",
            reader,
            "--seconds",
            str(seconds),
            "--folder",
            folder,
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
        said = done.stdout + done.stderr
        counts = {
            "inputs": re.findall(r"stat::number_of_executed_units:\s+(\d+)", said),
            "covered": re.findall(r"cov: (\d+)", said),
            "kept": re.findall(r"corp: (\d+)", said),
            "peak_mib": re.findall(r"stat::peak_rss_mb:\s+(\d+)", said),
            "slowest_seconds": re.findall(r"stat::slowest_unit_time_sec:\s+(\d+)", said),
        }
        finds = [path for path in Path(folder).iterdir() if re.match("crash|timeout|oom|slow", path.name)]
        found = [
            {"kind": path.name.partition("-")[0], "bytes": path.stat().st_size, "head": repr(path.read_bytes()[:200])}
            for path in finds
        ]
        errors = re.findall(r"^\s*(?:=== Uncaught Python exception: ===\n)?(\w+(?:Error|Exception): .*)$", said, re.M)
        numbers = {name: int(values[-1]) if values else None for name, values in counts.items()}
        return {"seconds": seconds, **numbers, "code": done.returncode, "found": found, "errors": errors[-3:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where to record it")
    parser.add_argument("--seconds", type=int, default=60, help="for each reader")
    parser.add_argument("--reader", choices=READERS, help="only this one")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.folder:
        fuzz(chosen.reader, chosen.seconds, chosen.folder)
        return
    record = {
        "command": f"python -m tests.fuzz --seconds {chosen.seconds}",
        "python": platform.python_version(),
        "readers": {},
    }
    for reader in READERS if chosen.reader is None else (chosen.reader,):
        record["readers"][reader] = run(reader, chosen.seconds)
        print(reader, json.dumps(record["readers"][reader]), flush=True)
        if chosen.json:
            chosen.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
