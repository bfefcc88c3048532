"""Files made for one visitor: each in a folder of its own whose name nobody can guess, and deleted when they leave.

Gradio gives any file below its cache folder to whoever knows its path, and copies others there, equal files of two
visitors into one place. So a file is made below that folder at once, in a folder named by 256 random bits that only the
visitor's own page is told, and that belongs to nobody else.
"""

import secrets
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.exporting import ExportedFile

KEPT = 4  # files of one visitor: a download that is slow to begin still finds its file
SECONDS = 3600.0


@dataclass(frozen=True)
class _Made:
    folder: Path
    at: float


class Downloads:
    """Files by visitor, below `root`; each of them has at most KEPT, none older than SECONDS once others are made."""

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.monotonic):
        self._root = root
        self._clock = clock
        self._made: dict[str, list[_Made]] = {}
        self._lock = threading.Lock()

    def new_path(self, key: str, name: str) -> Path:
        """Where the visitor's next file is to be written; `name` must be a harmless one."""
        folder = self._root / secrets.token_hex(32)
        folder.mkdir(parents=True, mode=0o700)
        with self._lock:
            self._made.setdefault(key, []).append(_Made(folder, self._clock()))
            gone = self._outdated(key)
        for made in gone:
            shutil.rmtree(made.folder, ignore_errors=True)
        return folder / name

    def offer(self, key: str, file: ExportedFile) -> Path:
        """Write a file for the visitor; gives its path, which is all that is needed to have it."""
        path = self.new_path(key, file.name)
        path.write_bytes(file.data)
        return path

    def free(self, key: str) -> None:
        """The visitor has gone: delete their files."""
        with self._lock:
            gone = self._made.pop(key, [])
        for made in gone:
            shutil.rmtree(made.folder, ignore_errors=True)

    def _outdated(self, key: str) -> list[_Made]:
        """Take out of the books what the visitor has too many of, and what anybody has for too long."""
        gone, limit = [], self._clock() - SECONDS
        for owner, files in list(self._made.items()):
            latest = files[-KEPT:] if owner == key else files
            kept = [made for made in latest if made.at > limit]
            gone += [made for made in files if made not in kept]
            self._made[owner] = kept
            if not kept:
                del self._made[owner]
        return gone
