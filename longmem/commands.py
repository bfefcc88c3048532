"""What the parts of the command line share: options, and errors that become one line and exit code 2."""

import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from tqdm import tqdm

from longmem.errors import LongMemError, one_line

if TYPE_CHECKING:
    from longmem.memory_bank import MemoryBank
    from longmem.model import LongMemForCausalLM

BUNDLED = Path(__file__).parent.parent / "assets" / "model"
DEVICES = ("auto", "cpu", "cuda", "mps")

Model = Annotated[str, typer.Option("--model", help="A folder or hub id; default: the bundled model.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]


def command(group: typer.Typer, name: str) -> Callable:
    """Register a command whose errors for people become one line and exit code 2."""

    def register(function: Callable) -> Callable:
        @wraps(function)
        def run(*args: object, **kwargs: object) -> None:
            with one_line():
                function(*args, **kwargs)

        return group.command(name)(run)

    return register


def quietly(device: str) -> None:
    """Let nothing that is loaded write to standard output. Errors: LongMemError for a device that does not exist."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from transformers.utils import logging

    if device.split(":")[0] not in DEVICES:
        raise LongMemError(f"--device is {device!r}; it must be auto, cpu, cuda, cuda:N or mps.")

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load_model(model: str, device: str, dtype: str | None = None) -> "LongMemForCausalLM":
    """Load a model without a word on standard output. Errors: LongMemError where there is none to load.

    dtype: "auto" for that of its files; None for the device's own.
    """
    quietly(device)
    from safetensors import SafetensorError

    from longmem.model import LongMemForCausalLM

    if model == str(BUNDLED) and not (BUNDLED / "config.json").exists():
        raise LongMemError(f"The bundled model is not in {BUNDLED}; name another one with --model.")
    try:
        return LongMemForCausalLM.from_pretrained(model, device=device, dtype=dtype)
    except LongMemError:
        raise
    except (ValueError, SafetensorError) as error:
        # What transformers and safetensors raise for a model of another kind and for damaged weights.
        reason = str(error).splitlines()[0].rstrip(".")
        raise LongMemError(f"--model is {model!r}; no LongMem model can be loaded from it ({reason}).") from error


def remember_files(model: "LongMemForCausalLM", documents: list[Path], memory: "MemoryBank") -> list[int]:
    """Read files into a bank, with a bar of tokens on standard error. Returns the documents' ids in the bank."""
    from longmem.documents import Document

    numbers = []
    for document in [Document.from_file(path) for path in documents]:
        with tqdm(desc=document.name, unit="tok", file=sys.stderr) as bar:

            def show(done: int, total: int, bar: tqdm = bar) -> None:
                bar.total = total
                bar.update(done - bar.n)

            numbers.append(model.remember(document, memory=memory, progress=show))
    return numbers


def summary_of(memory: "MemoryBank") -> dict:
    """What is in a bank, as the commands print it."""
    documents = [{"name": d.name, "tokens": d.n_tokens, "chunks": d.n_chunks} for d in memory.documents.values()]
    return {"documents": documents, "tokens": memory.n_tokens, "capacity": memory.capacity}


def layer_numbers(given: str | None) -> list[int] | None:
    """Layers separated by commas. Errors: LongMemError."""
    if given is None:
        return None
    try:
        return [int(part) for part in given.split(",")]
    except ValueError:
        raise LongMemError(
            f"--memory-layers is {given!r}; it must be layers separated by commas, such as 4,7."
        ) from None
