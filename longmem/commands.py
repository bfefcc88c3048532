"""What the parts of the command line share: options, and errors that become one line and exit code 2."""

import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longmem.errors import LongMemError, is_out_of_memory

if TYPE_CHECKING:
    from longmem.model import LongMemForCausalLM

BUNDLED = Path(__file__).parent.parent / "assets" / "model"
DEVICES = ("auto", "cpu", "cuda", "mps")
DEVICE_ERRORS = ("cuda error", "cuda driver", "mps backend", "accelerator")

Model = Annotated[str, typer.Option("--model", help="A folder or hub id; default: the bundled model.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]


def command(group: typer.Typer, name: str) -> Callable:
    """Register a command whose errors for people become one line and exit code 2."""

    def register(function: Callable) -> Callable:
        @wraps(function)
        def run(*args: object, **kwargs: object) -> None:
            try:
                function(*args, **kwargs)
            except (LongMemError, OSError, MemoryError, RuntimeError) as error:
                sentence = _sentence(error)
                if sentence is None:
                    raise
                print(sentence, file=sys.stderr)
                raise typer.Exit(2) from error

        return group.command(name)(run)

    return register


def _sentence(error: Exception) -> str | None:
    """One line for a person; None where the program itself is wrong and a traceback is due."""
    if isinstance(error, (LongMemError, OSError)):
        return " ".join(str(error).split())
    said = str(error).strip().lower()
    reason = f" ({str(error).strip().splitlines()[0]})" if said else ""
    if is_out_of_memory(error):
        return f"The device is out of memory; use --device cpu or a smaller bank.{reason}"
    if any(words in said for words in DEVICE_ERRORS):
        return f"The device failed; use --device cpu.{reason}"
    return None


def load_model(model: str, device: str) -> "LongMemForCausalLM":
    """Load a model without a word on standard output. Errors: LongMemError where there is none to load."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from safetensors import SafetensorError
    from transformers.utils import logging

    from longmem.model import LongMemForCausalLM

    if device.split(":")[0] not in DEVICES:
        raise LongMemError(f"--device is {device!r}; it must be auto, cpu, cuda, cuda:N or mps.")

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if model == str(BUNDLED) and not (BUNDLED / "config.json").exists():
        raise LongMemError(f"The bundled model is not in {BUNDLED}; name another one with --model.")
    try:
        return LongMemForCausalLM.from_pretrained(model, device=device)
    except LongMemError:
        raise
    except (ValueError, SafetensorError) as error:
        # What transformers and safetensors raise for a model of another kind and for damaged weights.
        reason = str(error).splitlines()[0].rstrip(".")
        raise LongMemError(f"--model is {model!r}; no LongMem model can be loaded from it ({reason}).") from error
