"""What visitors upload, and that it is gone when they are.

Gradio keeps an upload in a folder named by a hash of its bytes, so that equal files of two visitors are one: it goes
with the last of them. What was uploaded and never used goes an hour later, by Gradio's own cleaning.
"""

import shutil
import threading
from collections.abc import Iterable
from pathlib import Path


class Uploads:
    """Who uses which upload below `root`; without a root nothing is kept in the books, and nothing deleted."""

    def __init__(self, root: Path | None = None):
        self._root = root
        self._owners: dict[Path, set[str]] = {}
        self._lock = threading.Lock()

    def claim(self, key: str, paths: Iterable[str]) -> None:
        """The visitor's handler was given these files; what is no upload is passed over."""
        if self._root is None:
            return
        folders = [Path(path).resolve().parent for path in paths]
        with self._lock:
            for folder in folders:
                if self._root in folder.parents:
                    self._owners.setdefault(folder, set()).add(key)

    def free(self, key: str) -> None:
        """The visitor has gone: delete what nobody else uses."""
        with self._lock:
            left = [folder for folder, owners in self._owners.items() if owners == {key}]
            for owners in self._owners.values():
                owners.discard(key)
            for folder in left:
                del self._owners[folder]
                shutil.rmtree(folder, ignore_errors=True)  # before another visitor can claim it
