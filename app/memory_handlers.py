"""What the memory panel does: read, remove, clear, set. Plain values in and out, no components.

Handlers that work for long are generators of views; each view holds everything that the panel shows. An error that a
person can mend becomes the view's `notice`; session and bank live on.
"""

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from app import markup
from app.editing import Change
from app.gutenberg import fetch_book
from app.markup import MemoryLine
from app.reading import Progress, check_length, read
from app.session import Session
from app.settings import SEARCHES, MemorySettings, Place
from app.studio import StudioBase, alone, news, said
from app.turns import Work
from app.zero_gpu import WORKERS, Effort
from longmem.documents import Document
from longmem.errors import LongMemError
from longmem.memory_bank import MemoryBank
from longmem.model import LongMemForCausalLM
from longmem.search import INDEXED

MAX_PASTE = 5_000_000  # characters


@dataclass(frozen=True)
class MemoryView:
    """The sidebar as HTML; `choices` are (name, id) of the documents in memory, `settings` what is in force."""

    documents: str
    gauge: str
    status: str
    notice: str
    choices: list[tuple[str, int]]
    settings: MemorySettings
    busy: bool = False


class MemoryHandlers(StudioBase):
    """The memory panel."""

    def model_line(self) -> str:
        """HTML of what runs here."""
        n_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        layers, device = self.model.config.memory_layers, self.model.device
        reason = self.model.device_reason if self.zero_gpu is None else WORKERS
        return markup.model_line(n_parameters, layers, str(device), reason, self.model.label)

    def open(self, key: str) -> Iterator[MemoryView]:
        """A new visitor: their memory begins with the opening sample; the first one of all waits until it is read."""
        session = self.store.create(key)
        try:
            # Held while waiting too: a run that began now would find an empty memory, and then see it filled.
            with alone(session):
                if not self.shelf.is_ready:
                    note = markup.note("Reading the sample story into memory…")
                    yield self.memory_view(session, status=note, busy=True)
                bank = self.shelf.opening_bank()
                self.store.reserve(session, bank.nbytes)
                session.bank = bank
                self.store.settle(session)
            yield self.memory_view(session)
        except Exception as error:
            yield self.memory_view(session, notice=said(error))

    def read_files(self, key: str, paths: Sequence[str]) -> Iterator[MemoryView]:
        """Read uploaded files: paths that the server itself gave to the uploads, never a visitor's words."""
        self.uploads.claim(key, paths)
        yield from self.read_documents(key, lambda: [Document.from_file(path) for path in paths])

    def read_text(self, key: str, name: str, text: str) -> Iterator[MemoryView]:
        """Read pasted text under a name of the visitor's choice."""
        yield from self.read_documents(key, lambda: [pasted(name, text)])

    def read_sample(self, key: str, name: str) -> Iterator[MemoryView]:
        """Read a sample from the box."""
        yield from self.read_documents(key, lambda: [self.shelf.document(name)])

    def read_book(self, key: str, number: object) -> Iterator[MemoryView]:
        """Read a book of Project Gutenberg by its number."""
        yield from self.read_documents(key, lambda: [fetch_book(number)])

    def change_document(self, key: str, place: Place | None, put: str, find: str) -> Iterator[MemoryView]:
        """Put words into a document and read it again; stopped or failed, memory is as it was."""

        def steps(session: Session, stop: threading.Event) -> Iterator[str]:
            if place is None or place.document not in session.bank.documents:
                raise LongMemError("Choose a document that is in memory: it will be changed and read again.")
            record = session.bank.documents[place.document]
            changed = Document(record.name, Change(place, put, find).apply(record.text))
            check_length(changed)
            yield from self._read_changed(session, record.id, changed, stop)
            if stop.is_set():
                yield markup.note(f"Stopped: {record.name} is as it was.", "stopped")
            else:
                yield markup.note(f"Read: {record.name}.", "done")

        yield from self._reading(key, steps)

    def _read_changed(self, session: Session, document: int, changed: Document, stop: threading.Event) -> Iterator[str]:
        """Into a copy of the bank without the old state, which takes the bank's place once all of it has been read."""
        n_tokens = len(changed.encode(self.model.tokenizer).token_ids)
        self.store.reserve(session, session.bank.nbytes + session.bank.nbytes_with(n_tokens, changed.text))
        try:
            fresh = Session(session.key, copy.deepcopy(session.bank), settings=session.settings)
            self.model.forget(fresh.bank, document)
            for progress in self.read_one(fresh, changed, n_tokens, stop):
                title = f"Reading {changed.name}"
                yield markup.progress(title, progress.done, progress.total, progress.seconds)
        finally:
            self.store.settle(session)
        if not stop.is_set():
            session.bank = fresh.bank

    def look(self, key: str) -> MemoryView:
        """What is in memory now."""
        return self.memory_view(self.store.get(key))

    def remove(self, key: str, document: int) -> MemoryView:
        """Take one document out of memory."""
        return self._change(key, lambda bank: self.model.forget(bank, document))

    def clear(self, key: str) -> MemoryView:
        """Empty the memory."""
        return self._change(key, lambda bank: bank.clear())

    def set_memory(self, key: str, values: dict) -> Iterator[MemoryView]:
        """Use memory as `values` (the fields of MemorySettings) say; chunks of another size are read again.

        Until that has ended, or if it is stopped, memory is and works as before.
        """

        def steps(session: Session, stop: threading.Event) -> Iterator[str]:
            wanted = MemorySettings(**values)
            yield from self._apply(session, wanted, stop)
            applied = self.settings_of(session) == wanted
            words = "Memory is set." if applied else "Stopped: memory is as it was before."
            yield markup.note(words, "done" if applied else "stopped")

        yield from self._reading(key, steps)

    def _apply(self, session: Session, wanted: MemorySettings, stop: threading.Event) -> Iterator[str]:
        """Change the bank where it must; then the session has these settings. Gives the progress of a reading."""
        bank = session.bank
        unknown = sorted(set(wanted.layers) - set(self.model.config.memory_layers))
        if unknown:
            raise LongMemError(f"Layers {unknown} have no memory; {self.model.config.memory_layers} have.")
        self.check_search(wanted.backend)
        self.model.with_retrieval(chunk_size=wanted.chunk_size, retrieved_tokens=wanted.retrieved_tokens)
        if wanted.chunk_size != bank.chunk_size:
            yield from self._read_again(session, wanted, stop)
            return
        if wanted.capacity != bank.capacity:
            self.store.reserve(session, bank.nbytes)
            bank.resize(wanted.capacity)
            self.store.settle(session)
        session.settings = self.own_settings(replace(wanted, backend=bank.backend))
        if wanted.backend != bank.backend:
            yield markup.note("Changing the search: an index is made of what is in memory…")
            self._search_by(session, wanted.backend)
            session.settings = self.own_settings(wanted)

    def check_search(self, backend: str) -> None:
        """Errors: LongMemError for an index where every worker would have to make it anew."""
        if self.zero_gpu is not None and backend in INDEXED:
            exact = ", ".join(search for search in SEARCHES if search not in INDEXED)
            raise LongMemError(
                f"Search is {backend!r}; on ZeroGPU it must be one of {exact}: an index does not travel."
            )

    def _search_by(self, session: Session, backend: str) -> None:
        """Another search, with its index made now; where there is no room for that, the one before."""
        before = session.bank.backend
        try:
            self.settle(session, session.bank, backend)
        except Exception:
            session.bank.use_backend(before)
            raise

    def settle(self, session: Session, bank: MemoryBank, backend: str) -> None:
        """Give a bank its search, with its index made now. Errors: LongMemError where there is no room for one."""
        if backend != bank.backend:
            bank.use_backend(backend)
        try:
            self.store.reserve(session, bank.nbytes_with(0))
            bank.settle()
        finally:
            self.store.settle(session)

    def _read_again(self, session: Session, wanted: MemorySettings, stop: threading.Event) -> Iterator[str]:
        """All documents into a new bank, which takes the place of the old one once it is whole."""
        model = self.model.with_retrieval(chunk_size=wanted.chunk_size, retrieved_tokens=wanted.retrieved_tokens)
        bank = model.new_bank(capacity=wanted.capacity, backend=wanted.backend)
        fresh = Session(session.key, bank, settings=self.own_settings(wanted))
        records = list(session.bank.documents.values())
        for number, record in enumerate(records, start=1):
            document = Document(record.name, record.text)
            n_tokens = len(document.encode(model.tokenizer).token_ids)
            self.store.reserve(session, session.bank.nbytes + fresh.bank.nbytes_with(n_tokens, record.text))
            try:
                for progress in self.read_one(fresh, document, n_tokens, stop):
                    title = f"Reading {record.name} again ({number} of {len(records)})"
                    yield markup.progress(title, progress.done, progress.total, progress.seconds)
            finally:
                self.store.settle(session)
            if stop.is_set():
                return
        sets = {shown.document.text: shown for shown in session.demonstrations.values()}
        session.demonstrations = {i: sets[r.text] for i, r in fresh.bank.documents.items() if r.text in sets}
        session.bank, session.settings = fresh.bank, fresh.settings

    def read_documents(
        self, key: str, make: Callable[[], list[Document]], work: Work = Work.READING
    ) -> Iterator[MemoryView]:
        """Make documents and read them, with progress; a stop or an error keeps what was read until then."""

        def steps(session: Session, stop: threading.Event) -> Iterator[str]:
            documents = make()
            yield from self.read_all(session, documents, stop)
            names = ", ".join(document.name for document in documents) or "nothing"
            if stop.is_set():
                yield markup.note(f"Stopped: what was read of {names} until then is in memory.", "stopped")
            else:
                yield markup.note(f"Read: {names}.", "done")

        yield from self._reading(key, steps, work)

    def _reading(
        self,
        key: str,
        steps: Callable[[Session, threading.Event], Iterator[str]],
        work: Work = Work.READING,
    ) -> Iterator[MemoryView]:
        """The panel along `steps`, which change memory and give the HTML of how far they are, at last how they ended.

        They are given the session, held by its lock, and the event that stops them.
        """
        session = self.store.get(key)
        status, notice = "", news(session)
        try:
            with session.stops.working(work) as stop, alone(session):
                view = self.memory_view(session, notice=notice)  # nobody looks at a bank while a thread fills it
                for status in steps(session, stop):
                    yield replace(view, status=status, busy=True)
        except Exception as error:
            status, notice = "", said(error)
        yield self.memory_view(session, status=status, notice=notice)

    def read_all(self, session: Session, documents: Sequence[Document], stop: threading.Event) -> Iterator[str]:
        """Read into the session's bank until `stop` is set; gives the HTML of the progress."""
        for number, document in enumerate(documents, start=1):
            if stop.is_set():
                return
            check_length(document)
            n_tokens = len(document.encode(self.model.tokenizer).token_ids)
            self.store.reserve(session, session.bank.nbytes_with(n_tokens, document.text))
            title = f"Reading {document.name}" + (f" ({number} of {len(documents)})" if len(documents) > 1 else "")
            try:
                for progress in self.read_one(session, document, n_tokens, stop):
                    yield markup.progress(title, progress.done, progress.total, progress.seconds)
            finally:
                self.store.settle(session)

    def read_one(
        self, session: Session, document: Document, n_tokens: int, stop: threading.Event
    ) -> Iterator[Progress]:
        """Read a document of so many tokens into the session's bank."""
        effort = Effort(read=2 * n_tokens if self.model.config.read_overlap else n_tokens)
        return self.work(read_into, session, document, effort=effort, stop=stop)

    def _change(self, key: str, change: Callable[[MemoryBank], object]) -> MemoryView:
        """Change the bank while nothing else uses it."""
        session = self.store.get(key)
        try:
            with alone(session):
                change(session.bank)
        except Exception as error:
            return self.memory_view(session, notice=said(error), busy=session.is_busy)
        return self.memory_view(session, notice=news(session))

    def document_choices(self, key: str) -> list[tuple[str, int]]:
        """(name, id) of the documents in memory, oldest first."""
        return _choices(_lines(self.store.get(key).bank))

    def memory_view(self, session: Session, status: str = "", notice: str = "", busy: bool = False) -> MemoryView:
        bank = session.bank
        lines = _lines(bank)
        first = next(bank.chunks(), None) if not busy else None
        return MemoryView(
            documents=markup.documents_list(lines),
            gauge=markup.memory_gauge(lines, bank.capacity, bank.nbytes, str(bank.device), first, _search_line(bank)),
            status=status,
            notice=notice,
            settings=self.settings_of(session),
            choices=_choices(lines),
            busy=busy,
        )


def read_into(
    model: LongMemForCausalLM, session: Session, document: Document, *, stop: threading.Event
) -> Iterator[Progress]:
    """Read a document into the session's bank until it ends, or `stop` is set."""
    return read(model, document, session.bank, stop)


def _lines(bank: MemoryBank) -> list[MemoryLine]:
    return [MemoryLine(r.id, r.name, r.n_tokens, r.n_chunks) for r in list(bank.documents.values())]


def _search_line(bank: MemoryBank) -> str:
    """How a bank with an index is searched, and what its latest searches found of what exact ones find."""
    if not bank.has_index:
        return ""
    if bank.recall is None:
        return f"{bank.backend}: no search by index yet"
    return f"{bank.backend}: recall {bank.recall.share:.1%} of exact search, over {bank.recall.queries} queries"


def _choices(lines: list[MemoryLine]) -> list[tuple[str, int]]:
    return [(f"{line.name} ({line.n_tokens:,} tokens)", line.document) for line in lines]


def pasted(name: str, text: str) -> Document:
    """A document of text from a form. Errors: LongMemError where it is empty or too long."""
    if len(text) > MAX_PASTE:
        raise LongMemError(f"The text has {len(text):,} characters; at most {MAX_PASTE:,} can be pasted: use a file.")
    return Document.from_text(name.strip()[:80] or "pasted text", text)
