"""A folder or file cut into parts small enough to be carried, and joined again, every part known by its SHA-256.

`NAME.parts/` holds `part-0000`, `part-0001`, ... and `manifest.json`. The parts one after the other are a plain tar
archive: `cat NAME.parts/part-* | tar x` joins them where this module is not at hand.

Usage: `python -m longmem train split PATH` and `train join PATH.parts`, or without typer
`python -m longmem.training.parts split PATH` and `join PATH.parts`.
"""

import argparse
import hashlib
import json
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from longmem.errors import LongMemError, one_line

MANIFEST = "manifest.json"
MEGABYTE = 1_000_000
BLOCK = 2**20


def split(path: str | Path, most_megabytes: float = 15.0) -> Path:
    """Cut a folder or file into parts of at most so many megabytes (10^6 bytes) each. Returns `NAME.parts` beside it.

    The parts are written beside their place and renamed when all are there; those of an earlier call are replaced.

    Raises:
        LongMemError: there is nothing at `path`, it holds something that is neither file nor folder, the size is no
            size, or what stands in the place of the parts is something else.
    """
    path, most = Path(path).resolve(), int(most_megabytes * MEGABYTE)
    if not path.exists():
        raise LongMemError(f"{path} does not exist; give the folder or file to split.")
    if most < 1:
        raise LongMemError(f"--most-megabytes is {most_megabytes}; it must be above 0.")
    target = path.with_name(f"{path.name}.parts")
    if target.exists() and not (target / MANIFEST).exists():
        raise LongMemError(f"{target} is there and holds no {MANIFEST}; move it away, the parts go there.")
    unfinished = _emptied(path.with_name(f"splitting-{path.name}"))
    unfinished.mkdir()
    with _Parts(unfinished, most) as parts, tarfile.open(fileobj=parts, mode="w|", dereference=True) as tar:
        tar.add(path, arcname=path.name, filter=_file_or_folder)
    manifest = {"name": path.name, "bytes": parts.bytes, "sha256": parts.whole.hexdigest(), "parts": parts.made}
    (unfinished / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    _emptied(target)
    return unfinished.rename(target)


def join(folder: str | Path, output: str | Path | None = None) -> Path:
    """Put what was split together again, once every part is what the manifest says. Returns where it is.

    folder: `NAME.parts`. output: the folder to put NAME into; default: the one that `NAME.parts` lies in.

    Raises:
        LongMemError: a part is missing or wrong (all such parts are named), or NAME is there already.
    """
    folder = Path(folder).resolve()
    manifest = _manifest(folder)
    target = (Path(output).resolve() if output is not None else folder.parent) / manifest["name"]
    if target.exists():
        raise LongMemError(f"{target} is there already; move it away, or join into another folder with --output.")
    _check(folder, manifest)
    unfinished = _emptied(target.with_name(f"joining-{target.name}"))
    unfinished.mkdir(parents=True)
    paths = [folder / part["name"] for part in manifest["parts"]]
    with _Joined(paths) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            _unpack(tar, member, unfinished)
    (unfinished / manifest["name"]).rename(target)
    unfinished.rmdir()
    return target


class _Parts:
    """What is written here goes into one file after the other. made: name, bytes and SHA-256 of each."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most
        self.made: list[dict] = []
        self.bytes, self.whole = 0, hashlib.sha256()
        self.file: BinaryIO | None = None

    def __enter__(self) -> "_Parts":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def write(self, data: bytes) -> int:
        self.whole.update(data)
        self.bytes += len(data)
        rest = memoryview(data)
        while len(rest):
            if self.file is None:
                self.file = (self.folder / f"part-{len(self.made):04}").open("wb")
                self.left, self.digest = self.most, hashlib.sha256()
            piece, rest = rest[: self.left], rest[self.left :]
            self.file.write(piece)
            self.digest.update(piece)
            self.left -= len(piece)
            if not self.left:
                self._end()
        return len(data)

    def _end(self) -> None:
        if self.file is not None:
            self.file.close()
            size = self.most - self.left
            self.made.append({"name": Path(self.file.name).name, "bytes": size, "sha256": self.digest.hexdigest()})
            self.file = None


class _Joined:
    """Files read as if they were one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.waiting = list(paths)
        self.file: BinaryIO | None = None

    def __enter__(self) -> "_Joined":
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()

    def read(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size:
            if self.file is None:
                if not self.waiting:
                    break
                self.file = self.waiting.pop(0).open("rb")
            if piece := self.file.read(size - len(found)):
                found += piece
            else:
                self.file.close()
                self.file = None
        return bytes(found)


def _file_or_folder(member: tarfile.TarInfo) -> tarfile.TarInfo:
    if not (member.isfile() or member.isdir()):
        raise LongMemError(f"{member.name} is neither a file nor a folder; only those can be split.")
    return member


def _unpack(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """One file or folder of the archive, under `folder` whatever it is called. Errors: LongMemError."""
    _file_or_folder(member)
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise LongMemError(f"The parts hold {member.name!r}, which lies outside of what is joined; nothing was joined.")
    target = folder / name
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        shutil.copyfileobj(tar.extractfile(member), file, BLOCK)


def _manifest(folder: Path) -> dict:
    path = folder / MANIFEST
    if not path.exists():
        raise LongMemError(f"{folder} holds no {MANIFEST}; give the folder NAME.parts that `split` has written.")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        names = [manifest["name"], *(part["name"] for part in manifest["parts"])]
        is_whole = all(isinstance(manifest[key], kind) for key, kind in (("bytes", int), ("sha256", str)))
        is_whole &= all(Path(name).name == name not in ("", "..") for name in names)
        is_whole &= all("sha256" in part for part in manifest["parts"])
    except (ValueError, KeyError, TypeError):
        is_whole = False
    if not is_whole:
        raise LongMemError(f"{path} is damaged; copy it again.")
    return manifest


def _check(folder: Path, manifest: dict) -> None:
    """Errors: LongMemError naming every part that is missing or is not what was written."""
    whole, wrong = hashlib.sha256(), []
    for part in manifest["parts"]:
        path, digest = folder / part["name"], hashlib.sha256()
        if not path.exists():
            wrong.append(f"{part['name']} is missing")
            continue
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
                whole.update(block)
        if digest.hexdigest() != part["sha256"]:
            wrong.append(f"{part['name']} is wrong ({path.stat().st_size:,} bytes of {part['bytes']:,})")
    if wrong:
        raise LongMemError(f"{folder}: {', '.join(wrong)}; copy them again. Nothing was joined.")
    if whole.hexdigest() != manifest["sha256"]:
        raise LongMemError(f"{folder}: each part is right, but not the whole: {MANIFEST} is damaged; copy it again.")


def _emptied(folder: Path) -> Path:
    """The path, with nothing there; what a kill has left there goes."""
    if folder.exists():
        shutil.rmtree(folder)
    return folder


def main() -> None:
    """What `python -m longmem.training.parts` does."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    cut = verbs.add_parser("split", help="cut a folder or file into parts")
    cut.add_argument("path")
    cut.add_argument("--most-megabytes", type=float, default=15.0, help="of each part; default: 15")
    joined = verbs.add_parser("join", help="put parts together again")
    joined.add_argument("path", help="the folder NAME.parts")
    joined.add_argument("--output", help="folder to put it into; default: beside the parts")
    given = parser.parse_args()
    with one_line():
        print(split(given.path, given.most_megabytes) if given.verb == "split" else join(given.path, given.output))


if __name__ == "__main__":
    main()
