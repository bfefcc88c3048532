"""Where the values of a memory bank live: with its keys, in pinned memory beside a GPU, or in a file.

A search reads every key, but values only of the chunks that it found; so they may stand where little is read at a time.
"""

import mmap
import os
import shutil
import tempfile
from collections.abc import Sequence
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from longmem.errors import LongMemError

PLACES = ("device", "pinned", "mapped")


class ValueStore:
    """Gives tensors for values.

    place: "device", where the keys are; "pinned", memory of the host that a GPU reads at full speed; "mapped", a file
        in `folder` (default: the system's for temporary files). The file has no name and is gone with the last tensor
        in it, however the process ends. What is mapped is cached by the system while there is memory for it.

    Errors: LongMemError for a place that does not exist, or not here.
    """

    def __init__(self, place: str = "device", device: torch.device | str = "cpu", folder: str | Path | None = None):
        if place not in PLACES:
            raise LongMemError(f"values is {place!r}; it must be one of {', '.join(PLACES)}.")
        if place == "pinned" and torch.device(device).type != "cuda":
            raise LongMemError(f"values is 'pinned', but the keys are on {device}; it must be device or mapped.")
        if folder is not None and place != "mapped":
            raise LongMemError(f"values_folder is {str(folder)!r}; it goes with values='mapped' only.")
        self.folder = Path(folder or tempfile.gettempdir())
        if place == "mapped" and not self.folder.is_dir():
            raise LongMemError(f"values_folder is {str(folder)!r}; it must be a folder that exists.")
        self.place = place
        self.device = torch.device(device) if place == "device" else torch.device("cpu")

    @property
    def is_in_memory(self) -> bool:
        return self.place != "mapped"

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Room for values. Errors: LongMemError where the disk has none left."""
        if self.place == "mapped" and prod(shape):
            return self._mapped(prod(shape) * dtype.itemsize).view(dtype).view(*shape)
        return torch.empty(*shape, dtype=dtype, device=self.device, pin_memory=self.place == "pinned")

    def _mapped(self, n_bytes: int) -> Tensor:
        """Bytes of a new file. They are taken from the disk now: a full one would end the process while it writes."""
        try:
            free = shutil.disk_usage(self.folder).free
            if free < n_bytes:
                raise OSError(f"it has {free / 2**20:,.0f} MiB left")
            with tempfile.TemporaryFile(dir=self.folder) as file:
                file.truncate(n_bytes)
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, n_bytes)
                return torch.frombuffer(mmap.mmap(file.fileno(), n_bytes), dtype=torch.uint8)
        except OSError as error:
            raise LongMemError(
                f"values_folder is {str(self.folder)!r}; it must have room for {n_bytes / 2**20:,.0f} MiB of values "
                f"({error.strerror or error})."
            ) from error
