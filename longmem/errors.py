"""Errors for people: each message names the option, the value given and what is allowed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

# How torch words the end of memory on a GPU, on a CPU and on an Apple GPU: there is no exception common to them.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")
DEVICE_ERRORS = ("cuda error", "cuda driver", "mps backend", "accelerator")


class LongMemError(ValueError):
    """Base of every error that a person can mend; its text is one sentence to show as it is."""


class DocumentError(LongMemError):
    """A file that cannot be read as a document: broken, encrypted, of an unknown type, or without text."""


class DemonstrationError(LongMemError):
    """Labelled examples that cannot be read: a missing column, an empty label, a template without a field."""


class UnknownFamilyError(LongMemError):
    """A model whose attention modules longmem does not know how to read."""


class MemoryLayerError(LongMemError):
    """A memory layer outside the backbone, or two of them that meet in one SideNet layer."""


class RetrievalSizeError(LongMemError):
    """Fewer retrieved tokens than one chunk, or not a whole number of chunks."""


class BankMismatchError(LongMemError):
    """A memory bank made by another model or with another shape."""


class BankFileError(LongMemError):
    """A saved memory bank that is missing, damaged or forged."""


class SearchBackendError(LongMemError):
    """A search backend that cannot run here, or not on this bank."""


class MemoryBudgetError(LongMemError):
    """The byte budget for memory banks is used up."""


class Stopped(Exception):
    """A run was ended by its `stop` event."""


class TrainingDataError(LongMemError):
    """Training data or a training configuration that cannot be used."""


@contextmanager
def one_line() -> Iterator[None]:
    """What a command runs in: errors for people become one line on standard error and exit code 2."""
    try:
        yield
    except (LongMemError, OSError, MemoryError, RuntimeError) as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        print(sentence, file=sys.stderr)
        raise SystemExit(2) from error


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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that no memory is left, on whatever device."""
    if isinstance(error, LongMemError):
        return False
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(words in said for words in OUT_OF_MEMORY)
