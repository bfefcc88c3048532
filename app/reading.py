"""Reading a document into a bank while the page goes on: `remember` in a thread, its progress as an iterator.

Also the sample documents in the box, and the bank that every visitor starts with, read once for all.
"""

import copy
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from longmem.documents import Document
from longmem.errors import DocumentError, LongMemError, is_out_of_memory
from longmem.memory_bank import MemoryBank
from longmem.model import LongMemForCausalLM

SAMPLES = Path(__file__).parent.parent / "assets" / "samples"
OPENING_SAMPLE = "the-keeper.txt"
OPENING_PROMPT = "The secret number of Maren Holt is"


MOST_BYTES = 5_000_000  # of a text in UTF-8: the Bible has 4.4 million; its tokens take 2 GB while they are made


def check_length(document: Document) -> None:
    """Errors: LongMemError where a document is too long to be read at once."""
    n_bytes = len(document.text)
    if n_bytes <= MOST_BYTES:
        n_bytes = len(document.text.encode())
    if n_bytes > MOST_BYTES:
        raise LongMemError(
            f"{document.name} holds {n_bytes:,} bytes of text or more; at most {MOST_BYTES:,} are read: split it."
        )


@dataclass(frozen=True)
class Progress:
    """Tokens of one document that are read, of how many, and for how many seconds it has been going."""

    name: str
    done: int
    total: int
    seconds: float


def read(model: LongMemForCausalLM, document: Document, bank: MemoryBank, stop: threading.Event) -> Iterator[Progress]:
    """Read `document` into `bank`, giving progress after every segment; errors of the reading are raised here.

    Setting `stop`, or closing the iterator, ends the reading after the current segment; what was read stays. Where
    memory runs out nothing of the document stays: it is as if it had not been begun.
    """
    events: queue.SimpleQueue = queue.SimpleQueue()
    first = bank.next_document

    def work() -> None:
        try:
            model.remember(document, memory=bank, progress=lambda done, total: events.put((done, total)), stop=stop)
            events.put(None)
        except BaseException as error:  # whatever it is belongs to the thread that waits
            events.put(error)

    thread = threading.Thread(target=work, name="longmem-read", daemon=True)
    began = time.monotonic()
    thread.start()
    event: object = ()
    try:
        while (event := events.get()) is not None:
            if isinstance(event, BaseException):
                if is_out_of_memory(event):
                    bank.remove_from(first)
                raise event
            yield Progress(document.name, *event, time.monotonic() - began)
    finally:
        # A thread that has said its last word may live for a moment more: that is no reason to stop what comes next.
        if event is not None and not isinstance(event, BaseException):
            stop.set()
        thread.join()


class SampleShelf:
    """The sample documents, and a bank with the opening one that is read once and copied for every session."""

    def __init__(self, model: LongMemForCausalLM, folder: Path = SAMPLES):
        self._model = model
        self._paths = {path.name: path for path in sorted(folder.glob("*.txt"))}
        self._prepared: MemoryBank | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()

    @property
    def names(self) -> list[str]:
        """File names of the samples, the opening one first."""
        return sorted(self._paths, key=lambda name: (name != OPENING_SAMPLE, name))

    def document(self, name: str) -> Document:
        """A sample by its file name. Errors: DocumentError where there is none of that name."""
        if name not in self._paths:
            raise DocumentError(f"There is no sample {name!r}: choose one of {', '.join(self.names) or 'none'}.")
        return Document.from_file(self._paths[name])

    @property
    def is_ready(self) -> bool:
        """Whether the opening bank has been read, or there is nothing to read."""
        return self._prepared is not None or OPENING_SAMPLE not in self._paths

    def opening_bank(self) -> MemoryBank:
        """A bank of one's own with the opening sample in it; the first call reads it, the others wait and copy."""
        with self._lock:
            if self._prepared is None:
                bank = self._model.new_bank()
                if OPENING_SAMPLE in self._paths:
                    self._model.remember(self.document(OPENING_SAMPLE), memory=bank, stop=self._stop)
                self._prepared = bank
        return copy.deepcopy(self._prepared)
