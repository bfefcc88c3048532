"""What every button of the studio does: plain values in and out, no components.

Handlers that work for long are generators of views; each view holds everything that its part of the page shows. An
error that a person can mend becomes the view's `notice`; session and bank live on. The methods of `Studio` that end in
a dictionary serve the API: they raise LongMemError instead.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from app import charts, inspection, markup, theme
from app.charts import Figure
from app.generating import RunView, begin, check_prompt, generate_pair
from app.markup import MemoryLine
from app.reading import SampleShelf, read
from app.session import Session, SessionStore
from app.settings import Place, Settings
from app.writing import write
from longmem.documents import Document
from longmem.errors import LongMemError
from longmem.generation import GeneratedToken
from longmem.memory_bank import MemoryBank
from longmem.model import LongMemForCausalLM

logger = logging.getLogger(__name__)

MAX_PASTE = 5_000_000  # characters
CHARTS = ("layers", "timeline", "heads", "gates", "effects")
NOTHING_YET = "Generate first: then this shows what was retrieved."


@dataclass(frozen=True)
class MemoryView:
    """The sidebar as HTML; `choices` are (name, id) of the documents in memory."""

    documents: str
    gauge: str
    status: str
    notice: str
    choices: list[tuple[str, int]]
    busy: bool = False


class Studio:
    """The shared model and the sessions of all visitors. `key` in every method tells whose session is meant."""

    def __init__(self, model: LongMemForCausalLM, store: SessionStore, shelf: SampleShelf):
        self.model = model
        self.store = store
        self.shelf = shelf

    def model_line(self) -> str:
        """HTML of what runs here."""
        n_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        layers, device = self.model.config.memory_layers, self.model.device
        return markup.model_line(n_parameters, layers, str(device), self.model.device_reason)

    def open(self, key: str) -> Iterator[MemoryView]:
        """A new visitor: their memory begins with the opening sample; the first one of all waits until it is read."""
        session = self.store.create(key)
        try:
            # Held while waiting too: a run that began now would find an empty memory, and then see it filled.
            with alone(session):
                if not self.shelf.is_ready:
                    note = markup.note("Reading the sample story into memory…")
                    yield self._memory_view(session, status=note, busy=True)
                bank = self.shelf.opening_bank()
                self.store.reserve(session, bank.nbytes)
                session.bank = bank
                self.store.settle(session)
            yield self._memory_view(session)
        except Exception as error:
            yield self._memory_view(session, notice=said(error))

    def read_files(self, key: str, paths: Sequence[str]) -> Iterator[MemoryView]:
        """Read uploaded files: paths that the server itself gave to the uploads, never a visitor's words."""
        yield from self._read(key, lambda: [Document.from_file(path) for path in paths])

    def read_text(self, key: str, name: str, text: str) -> Iterator[MemoryView]:
        """Read pasted text under a name of the visitor's choice."""
        yield from self._read(key, lambda: [pasted(name, text)])

    def read_sample(self, key: str, name: str) -> Iterator[MemoryView]:
        """Read a sample from the box."""
        yield from self._read(key, lambda: [self.shelf.document(name)])

    def prepare_reading(self, key: str) -> None:
        """Forget an earlier stop before the reading waits for its turn: a stop while it waits then still counts."""
        self.store.get(key).stop_reading.clear()

    def stop_reading(self, key: str) -> None:
        """End the reading after the segment that it is at."""
        self.store.get(key).stop_reading.set()

    def remove(self, key: str, document: int) -> MemoryView:
        """Take one document out of memory."""
        return self._change(key, lambda bank: self.model.forget(bank, document))

    def clear(self, key: str) -> MemoryView:
        """Empty the memory."""
        return self._change(key, lambda bank: bank.clear())

    def place_preview(self, key: str, place: Place | None) -> str:
        """HTML of the text around the place where a document would be continued."""
        session = self.store.get(key)
        if session.is_busy:
            return markup.note("Memory is being read or written with just now: the place is shown when that has ended.")
        documents = session.bank.documents
        if place is None or place.document not in documents:
            return markup.note("Choose a document that is in memory; the model goes on from any place in it.")
        record = documents[place.document]
        at = place.character(record.text)
        before, after = record.text[max(0, at - 260) : at], record.text[at : at + 160]
        first = min((c.start for c in session.bank.chunks() if c.document == place.document), default=0)
        begins = first / len(record.text) if first >= at else None
        return markup.place_preview(record.name, before, after, theme.document_colour(place.document), begins)

    def generate(self, key: str, prompt: str, settings: dict, place: Place | None = None) -> Iterator[RunView]:
        """Go on from `prompt`, or from `place` in a document, with memory and, same seed, with an empty memory."""
        session = self.store.get(key)
        view, notice = RunView(None, None, status=""), news(session)
        try:
            with alone(session):
                for view in generate_pair(self.model, session, prompt, Settings(**settings), place):
                    yield replace(view, notice=notice)
        except Exception as error:
            yield replace(view, status="", notice=said(error), payload=None, busy=False)

    def prepare_run(self, key: str) -> None:
        """As `prepare_reading`, for generating."""
        self.store.get(key).stop_generating.clear()

    def stop_generating(self, key: str) -> None:
        """End the generation after the token that it is at."""
        self.store.get(key).stop_generating.set()

    def choose(self, key: str, step: object, layer: object) -> bool:
        """Remember the token and layer that the page chose; False, and no change, where the last run has no such."""
        session = self.store.get(key)
        run = session.run
        known = run is not None and isinstance(step, int) and isinstance(layer, int | None)
        if not known or step not in set(run.tokens.step) or layer not in {None, *run.gates.layer}:
            return False
        session.chosen = (int(step), None if layer is None else int(layer))
        return True

    def chart(self, key: str, name: str, *, whole_run: bool = False) -> Figure:
        """One of CHARTS for the last run; `layers`, `heads` and `gates` follow the chosen token and layer.

        With `whole_run` the map of layers and the gates show all tokens instead.
        """
        session = self.store.get(key)
        run, (step, layer) = session.run, session.chosen
        if run is None or step is None:
            return charts.empty_figure(NOTHING_YET)
        if name == "timeline":
            return charts.steps_by_position(run.trace, run.chunks)
        if name == "effects":
            return charts.effect_strip(run.tokens)
        if name == "heads":
            last = run.gates.layer.max() if len(run.gates) else -1
            return charts.heads_by_chunk(run.trace, run.chunks, step=step, layer=last if layer is None else layer)
        shown = None if whole_run else step
        if name == "gates":
            return charts.gate_bars(run.gates, step=shown)
        return charts.layers_by_position(run.trace, run.chunks, step=shown)

    def chunk(self, key: str, chunk: object) -> str:
        """HTML of a chunk in its place in the document, and the tokens of the last run that retrieved it."""
        run = self.store.get(key).run
        known = run is not None and isinstance(chunk, int)
        return markup.chunk_card(inspection.chunk_in_place(run, chunk) if known else None)

    def leave(self, key: str) -> None:
        """The visitor has gone: stop what runs and let their memory go."""
        self.store.free(key)

    def load_documents(self, key: str, paths: Sequence[str], texts: Sequence[str]) -> dict:
        """API: read files and texts into the session's memory, then its summary."""
        documents = [Document.from_file(path) for path in paths]
        documents += [pasted(f"text-{i}", text) for i, text in enumerate(texts, start=1)]
        with alone(self.store.get(key)) as session:
            session.stop_reading.clear()
            for _ in self._read_all(session, documents):
                pass
            return summary(session.bank)

    def generate_text(
        self, key: str, prompt: str, settings: dict, *, use_memory: bool, trace_ranks: int
    ) -> Iterator[dict]:
        """API: `text, tokens, effect` after every token; the last has `memory` and `trace` (its first ranks) too."""
        chosen = Settings(**settings)
        check_prompt(prompt)
        if not isinstance(trace_ranks, int) or isinstance(trace_ranks, bool) or trace_ranks < 0:
            raise LongMemError(f"trace_ranks is {trace_ranks!r}; it must be a whole number, 0 or more.")
        with alone(self.store.get(key)) as session:
            session.stop_generating.clear()
            writing = begin(self.model, prompt, chosen, session.bank if use_memory else None)
            tokens = []
            try:
                for (token,) in write([writing], session.stop_generating):
                    tokens.append(token)
                    yield result(tokens)
            finally:
                tokens += writing.end()
            frame = writing.generation.trace.to_frame()
            rows = frame[frame["rank"] < trace_ranks].to_dict("records")
            yield {**result(tokens), "memory": summary(session.bank), "trace": rows}

    def clear_memory(self, key: str) -> dict:
        """API: empty the session's memory, then its summary."""
        with alone(self.store.get(key)) as session:
            session.bank.clear()
            return summary(session.bank)

    def memory_summary(self, key: str) -> dict:
        """API: `documents` (id, name, tokens, chunks), `tokens`, `chunks`, `capacity`, `bytes`, `device`."""
        with alone(self.store.get(key)) as session:
            return summary(session.bank)

    def _read(self, key: str, make: Callable[[], list[Document]]) -> Iterator[MemoryView]:
        """Make documents and read them, with progress; a stop or an error keeps what was read until then."""
        session = self.store.get(key)
        status, notice = "", news(session)
        try:
            with alone(session):
                documents = make()
                view = self._memory_view(session, notice=notice)  # nobody looks at a bank while a thread fills it
                for progress in self._read_all(session, documents):
                    yield replace(view, status=progress, busy=True)
                names = ", ".join(document.name for document in documents) or "nothing"
                if session.stop_reading.is_set():
                    status = markup.note(f"Stopped: what was read of {names} until then is in memory.", "stopped")
                else:
                    status = markup.note(f"Read: {names}.", "done")
        except Exception as error:
            notice = said(error)
        yield self._memory_view(session, status=status, notice=notice)

    def _read_all(self, session: Session, documents: Sequence[Document]) -> Iterator[str]:
        """Read into the session's bank; gives the HTML of the progress."""
        for number, document in enumerate(documents, start=1):
            if session.stop_reading.is_set():
                return
            n_tokens = len(document.encode(self.model.tokenizer).token_ids)
            self.store.reserve(session, session.bank.nbytes_with(n_tokens, document.text))
            title = f"Reading {document.name}" + (f" ({number} of {len(documents)})" if len(documents) > 1 else "")
            try:
                for progress in read(self.model, document, session.bank, session.stop_reading):
                    yield markup.progress(title, progress.done, progress.total, progress.seconds)
            finally:
                self.store.settle(session)

    def _change(self, key: str, change: Callable[[MemoryBank], object]) -> MemoryView:
        """Change the bank while nothing else uses it."""
        session = self.store.get(key)
        try:
            with alone(session):
                change(session.bank)
        except Exception as error:
            return self._memory_view(session, notice=said(error))
        return self._memory_view(session, notice=news(session))

    def _memory_view(self, session: Session, status: str = "", notice: str = "", busy: bool = False) -> MemoryView:
        bank = session.bank
        lines = [MemoryLine(r.id, r.name, r.n_tokens, r.n_chunks) for r in list(bank.documents.values())]
        return MemoryView(
            documents=markup.documents_list(lines),
            gauge=markup.memory_gauge(lines, bank.capacity, bank.nbytes, str(bank.device)),
            status=status,
            notice=notice,
            choices=[(f"{line.name} ({line.n_tokens:,} tokens)", line.document) for line in lines],
            busy=busy,
        )


@contextmanager
def alone(session: Session) -> Iterator[Session]:
    """Hold the session's lock, or say at once that it is taken. Errors: LongMemError."""
    if not session.lock.acquire(blocking=False):
        raise LongMemError("This memory is being read or written with just now: wait until it has ended, or stop it.")
    try:
        yield session
    finally:
        session.lock.release()


def news(session: Session) -> str:
    """HTML of what a visitor must be told once: that the store freed their earlier memory."""
    told, session.follows_freed = session.follows_freed, False
    text = "Your earlier memory rested for long and was freed: read your documents again." if told else ""
    return markup.note(text, "error")


def pasted(name: str, text: str) -> Document:
    """A document of text from a form. Errors: LongMemError where it is empty or too long."""
    if len(text) > MAX_PASTE:
        raise LongMemError(f"The text has {len(text):,} characters; at most {MAX_PASTE:,} can be pasted: use a file.")
    return Document.from_text(name.strip()[:80] or "pasted text", text)


def result(tokens: list[GeneratedToken]) -> dict:
    """Tokens so far, as the API gives them; effects in nats."""
    return {
        "text": "".join(token.text for token in tokens),
        "tokens": [token.text for token in tokens],
        "effect": [round(token.effect, 6) for token in tokens],
    }


def summary(bank: MemoryBank) -> dict:
    """A bank in numbers, as the API gives them."""
    records = bank.documents.values()
    documents = [{"id": r.id, "name": r.name, "tokens": r.n_tokens, "chunks": r.n_chunks} for r in records]
    size = {"tokens": bank.n_tokens, "chunks": bank.n_chunks, "capacity": bank.capacity}
    return {"documents": documents, **size, "bytes": bank.nbytes, "device": str(bank.device)}


def said(error: Exception) -> str:
    """An error for the one place that stays: a person's to mend as it is, any other logged and named as ours."""
    if isinstance(error, LongMemError):
        return markup.note(str(error), "error")
    logger.error("unexpected error in a handler", exc_info=error)
    return markup.note("Something failed inside LongMem; your memory lives on. The server's log says more.", "error")
