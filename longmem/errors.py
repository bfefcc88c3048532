"""Errors for people: each message names the option, the value given and what is allowed."""


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


# How torch words the end of memory on a GPU, on a CPU and on an Apple GPU: there is no exception common to them.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that no memory is left, on whatever device."""
    if isinstance(error, LongMemError):
        return False
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(words in said for words in OUT_OF_MEMORY)
