"""A memory in one file that a person can keep and load again: a zip of texts and settings, and if wanted the bank.

Keys and values are many times as large as the texts they come from, and the model can make them again; so they are in
the file only if asked for. Entries: `memory.json`, and with states `bank/memory.json` and `bank/memory.safetensors` as
`longmem.bank_files` writes them. Nothing is unpacked by its name in the file, and nothing is larger than it may be.
"""

import errno
import io
import json
import lzma
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from longmem.bank_files import SETTINGS, TENSORS, parse_json
from longmem.errors import BankFileError, LongMemError
from longmem.memory_bank import MemoryBank

FORMAT = "longmem memory 1"
DESCRIPTION = "memory.json"
STATES = {f"bank/{name}": name for name in (SETTINGS, TENSORS)}
MOST_TEXT = 64 * 2**20  # bytes of JSON that are believed
MOST_STATES = 8 * 2**30
PIECE = 2**20
# RuntimeError: encrypted, or compressed in a way that is not known here; the others: what a damaged directory leads to
BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, EOFError, ValueError, struct.error)


class _InPieces(io.BufferedReader):
    """A file that is read in pieces only: a zip's directory is read at once, however long it says that it is."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > PIECE:
            raise zipfile.BadZipFile(f"{size} bytes are asked for at once")
        return super().read(size)


@dataclass(frozen=True)
class SavedDocument:
    """A document as it was in memory; `n_tokens` were read of it."""

    name: str
    text: str
    n_tokens: int


@dataclass(frozen=True)
class MemoryArchive:
    """What a file held. `bank` is None where its documents must be read again; `extra` is what the writer added."""

    fingerprint: str
    chunk_size: int
    capacity: int
    documents: tuple[SavedDocument, ...]
    extra: dict[str, Any]
    bank: MemoryBank | None


def write_archive(
    path: str | Path, bank: MemoryBank, *, with_states: bool = False, extra: Mapping[str, Any] | None = None
) -> None:
    """Write a bank's texts, and with `with_states` its keys and values, as one file beside `path`, then rename it.

    extra: JSON-able; comes back as it is. Errors: BankFileError.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    description = {
        "format": FORMAT,
        "fingerprint": bank.fingerprint,
        "chunk_size": bank.chunk_size,
        "capacity": bank.capacity,
        "documents": [{"name": d.name, "text": d.text, "tokens": d.n_tokens} for d in bank.documents.values()],
        "extra": dict(extra or {}),
    }
    try:
        text = json.dumps(description)  # ASCII
        if len(text) > MOST_TEXT:
            raise BankFileError(f"The memory's texts take {len(text):,} bytes; a file holds at most {MOST_TEXT:,}.")
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as file, tempfile.TemporaryDirectory() as folder:
            file.writestr(DESCRIPTION, text)
            if with_states:
                bank.save(Path(folder) / "bank")
                for entry, name in STATES.items():
                    file.write(Path(folder) / "bank" / name, entry, compress_type=zipfile.ZIP_STORED)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise BankFileError(f"The memory could not be saved as {path.name}: {error.strerror or error}.") from error


def read_archive(path: str | Path, *, fingerprint: str, device: str | torch.device = "cpu") -> MemoryArchive:
    """What `write_archive` wrote. Its bank is loaded where it holds one and was made by the model of `fingerprint`.

    Errors: BankFileError where the file is damaged, forged or too large.
    """
    path = Path(path)
    try:
        with _InPieces(io.FileIO(path)) as pieces, zipfile.ZipFile(pieces) as file:
            _check_entries(path, file)
            described = _parse(path, _limited(path, file, DESCRIPTION, MOST_TEXT))
            bank = None
            if set(STATES) <= set(file.namelist()) and described["fingerprint"] == fingerprint:
                bank = _read_bank(path, file, fingerprint, device)
    except BankFileError:
        raise
    except BROKEN_ZIP as error:
        raise _refused(path, "it is not a memory file, or it is damaged") from error
    except OSError as error:
        damaged = error.errno == errno.EINVAL  # its directory points before its beginning
        reason = "it is not a memory file, or it is damaged" if damaged else error.strerror or error
        raise _refused(path, reason) from error
    return MemoryArchive(**described, bank=bank)


def _refused(path: Path, reason: object) -> BankFileError:
    return BankFileError(f"The memory file {path.name} cannot be loaded: {reason}.")


def _check_entries(path: Path, file: zipfile.ZipFile) -> None:
    """What the file holds is what a memory has, once, and its states are as large as they are in the file."""
    names = file.namelist()
    if set(names) - {DESCRIPTION, *STATES} or len(names) != len(set(names)):
        raise _refused(path, "it holds other entries than a memory has")
    for entry in file.infolist():
        if entry.filename in STATES and (entry.compress_type, entry.file_size) != (
            zipfile.ZIP_STORED,
            entry.compress_size,
        ):
            raise _refused(path, f"{entry.filename} is packed, and keys and values never are")


def _limited(path: Path, file: zipfile.ZipFile, entry: str, most: int) -> bytes:
    """One entry, whatever size it claims to have."""
    if entry not in file.namelist():
        raise _refused(path, f"there is no {entry} in it")
    data = bytearray()
    with file.open(entry) as stream:
        while piece := stream.read(PIECE):
            data += piece
            if len(data) > most:
                raise _refused(path, f"its texts are larger than {most // 2**20} MiB")
    return bytes(data)


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    """The fields of a MemoryArchive but its bank, checked one by one."""
    try:
        found = parse_json(data)
        if found["format"] != FORMAT:
            raise ValueError(f"its format is {str(found['format'])[:40]!r}, not {FORMAT!r}")
        if not isinstance(found["documents"], list):
            raise ValueError("its documents are no list")
        documents = tuple(SavedDocument(d["name"], d["text"], d["tokens"]) for d in found["documents"])
        fields = {name: found[name] for name in ("fingerprint", "chunk_size", "capacity", "extra")}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)[:120]
        raise _refused(path, f"{DESCRIPTION}: {reason}") from error
    texts = [fields["fingerprint"], *(part for d in documents for part in (d.name, d.text))]
    numbers = [fields["chunk_size"], fields["capacity"], *(d.n_tokens for d in documents)]
    if not all(isinstance(text, str) for text in texts) or not isinstance(fields["extra"], dict):
        raise _refused(path, f"{DESCRIPTION}: a name or text is none")
    if not all(type(number) is int and 0 < number < 2**31 for number in numbers):
        raise _refused(path, f"{DESCRIPTION}: a size is not a whole number above 0")
    return {**fields, "documents": documents}


def _read_bank(path: Path, file: zipfile.ZipFile, fingerprint: str, device: str | torch.device) -> MemoryBank:
    """The bank, by way of a folder of our own."""
    with tempfile.TemporaryDirectory() as folder:
        for entry, name in STATES.items():
            left = MOST_STATES
            with file.open(entry) as stream, (Path(folder) / name).open("wb") as target:
                while piece := stream.read(PIECE):
                    left -= len(piece)
                    if left < 0:
                        raise _refused(path, f"its states are larger than {MOST_STATES // 2**30} GiB")
                    target.write(piece)
        try:
            return MemoryBank.load(folder, fingerprint=fingerprint, device=device)
        except LongMemError as error:  # also where it is of another model, or for a search that cannot run here
            raise _refused(path, str(error).replace(folder, "it").rstrip(".")) from error
