"""Files of strangers are parsed in a process of its own, which may use so much time and memory and no more.

A parser that loops for ever, or asks for all memory, ends with its process and becomes a sentence; ours lives on. Plain
text in UTF-8 needs no parser and is decoded here at once.

The child is `python -m longmem.confined`: it imports only `longmem.readers`, limits itself before it has seen a byte of
the file, reads a line of JSON and the file from its standard input, and answers on its standard output. It has no
environment but the paths of its modules. Where the system knows no limits (Windows), time is bounded all the same, by
the parent; memory is then bounded only by what the readers allow a file to be.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath

from longmem import readers
from longmem.errors import DocumentError

try:
    import resource
except ImportError:  # Windows
    resource = None

ROOT = Path(__file__).parent.parent
PLAIN = (".txt", ".md", ".markdown")
KEPT_VARIABLES = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
TEXT, REFUSED, NO_MEMORY = b"T", b"R", b"M"
MOST_SAID = 400  # characters of an error


@dataclass(frozen=True)
class Limits:
    """Seconds of a processor, and bytes of address space, that parsing one file may take.

    By the clock it may take CLOCK times as long, for a machine that is busy.
    """

    seconds: int = 60
    address_bytes: int = 1024 * readers.MEGABYTE


LIMITS = Limits()
CLOCK = 4 if resource is not None else 1


def read_document(name: str, data: bytes) -> str:
    """The text of a file, as `readers.read_text` says. Errors: DocumentError, one sentence naming the file."""
    readers.check_file(name, len(data))
    if PurePath(name).suffix.lower() in PLAIN:
        return decode(name, data)
    return _parse_apart("document", name, data)


def decode(name: str, data: bytes) -> str:
    """Bytes -> text, as `readers.decode` says. Errors: DocumentError."""
    readers.check_size(name, len(data))
    with suppress(UnicodeDecodeError):
        return readers.check_text(name, data.decode("utf-8-sig"))
    return _parse_apart("text", name, data)  # which encoding it is takes long to find out, for some files


def _parse_apart(what: str, name: str, data: bytes) -> str:
    """What the child makes of the file."""
    order = json.dumps({"what": what, "name": name, "limits": asdict(LIMITS)}).encode() + b"\n"
    paths = os.pathsep.join([str(ROOT), *(path for path in sys.path if path)])
    kept = {key: os.environ[key] for key in KEPT_VARIABLES if key in os.environ}
    try:
        child = subprocess.run(
            [sys.executable, "-m", "longmem.confined"],
            input=order + data,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**kept, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"},
            cwd=ROOT,
            timeout=CLOCK * LIMITS.seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _too_slow(name) from error
    except OSError as error:
        raise DocumentError(
            f"{name} cannot be read now: no process can be started for it ({error.strerror})."
        ) from error
    return _answered(name, child.returncode, child.stdout)


def _answered(name: str, code: int, answer: bytes) -> str:
    """The text in an answer, or the error that it means."""
    if code == 0 and answer[:1] == TEXT:
        return answer[1:].decode("utf-8", "surrogatepass")
    if code == 0 and answer[:1] == REFUSED:
        said = " ".join(answer[1:].decode("utf-8", "replace").split())
        raise DocumentError(said[:MOST_SAID])
    if code == 0 and answer[:1] == NO_MEMORY:
        most = LIMITS.address_bytes // readers.MEGABYTE
        raise DocumentError(f"{name} needs more than the {most:,} MB of memory that reading a file may take: split it.")
    if resource is not None and code == -_signal("SIGXCPU"):
        raise _too_slow(name)
    raise readers.broken(name)  # the parser has taken its whole process with it


def _signal(name: str) -> int:
    import signal

    return int(getattr(signal, name, 0))


def _too_slow(name: str) -> DocumentError:
    return DocumentError(f"{name} takes longer to read than the {LIMITS.seconds} seconds that are allowed: split it.")


def _confine(limits: Limits) -> None:
    """Limit this process for good: address space, time, and that it writes no file and starts no other process."""
    if resource is None:
        return
    wanted = {
        "RLIMIT_AS": limits.address_bytes,
        "RLIMIT_CPU": limits.seconds,
        "RLIMIT_FSIZE": 0,
        "RLIMIT_CORE": 0,
        "RLIMIT_NPROC": 0,
    }
    for name, most in wanted.items():
        with suppress(
            AttributeError, OSError, ValueError
        ):  # some systems know some of them only, or take no address space
            _, hard = resource.getrlimit(getattr(resource, name))
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            # A soft limit of time ends with a signal that says so; the hard one kills.
            last = most + 1 if name == "RLIMIT_CPU" and hard in (resource.RLIM_INFINITY, most + 1) else most
            resource.setrlimit(getattr(resource, name), (most, last))


def _attempt(read: Callable[[str, bytes], str], name: str, data: bytes) -> tuple[bytes, str]:
    """What to answer."""
    try:
        return TEXT, read(name, data)
    except MemoryError:
        return NO_MEMORY, ""
    except DocumentError as error:
        cause = error.__cause__
        if isinstance(cause, MemoryError) or "out of memory" in str(cause):  # so says expat
            return NO_MEMORY, ""
        return REFUSED, str(error)


def main() -> None:
    """Be the child."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a parser prints is no answer
    order = json.loads(sys.stdin.buffer.readline())
    _confine(Limits(**order["limits"]))
    data = sys.stdin.buffer.read()
    read = {"document": readers.read_text, "text": readers.decode_text}[order["what"]]
    status, said = _attempt(read, order["name"], data)
    try:
        said = said.encode("utf-8", "surrogatepass")
    except MemoryError:
        status, said = NO_MEMORY, b""
    answers.write(status)
    answers.write(said)
    answers.flush()


if __name__ == "__main__":
    main()
