"""Memory and run in one file: a memory file (`longmem.memory_archive`) that holds the run's record among its extras.

Whatever reads memory files reads the memory of a bundle too. Texts are always in it, keys and values only if asked for;
without them the documents are read again, as the same documents: a document keeps its id, and so its colour.
"""

import math
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

from app import inspection, markup
from app.exporting import file_name
from app.generating import next_run
from app.handlers import MemoryView, Studio, alone, said
from app.markup import TokenMark
from app.run_records import from_record, to_record
from app.session import Run, Session
from app.settings import MemorySettings, Settings
from app.turns import Work
from longmem.documents import Document
from longmem.errors import BankFileError, LongMemError
from longmem.memory_archive import MemoryArchive, read_archive, write_archive
from longmem.memory_bank import MemoryBank
from longmem.model import LongMemForCausalLM

SUFFIX = ".longmem"
MOST_DOCUMENTS = 10_000
MOST_SKIPPED = 1_000  # ids of documents that have left the memory, which are passed over to keep those of the others


@dataclass(frozen=True)
class LoadView:
    """The memory panel, and at the end what was loaded with it; None leaves the page as it is."""

    memory: MemoryView | None
    with_memory: str | None = None
    plain: str | None = None
    payload: dict | None = None
    prompt: str | None = None
    settings: Settings | None = None


def bundle_name(run: Run | None) -> str:
    """A harmless file name."""
    return "memory" + SUFFIX if run is None else file_name(run, f"and-memory{SUFFIX}")


def write_bundle(
    path: Path, bank: MemoryBank, run: Run | None, settings: MemorySettings, *, with_states: bool = False
) -> None:
    """Write a bank, how it is used, and a run if there is one as one file. Hold the session's lock.

    Errors: BankFileError.
    """
    extra = {"document_ids": list(bank.documents), "settings": asdict(settings)}
    if run is not None:
        extra["run"] = to_record(run)
    write_archive(path, bank, with_states=with_states, extra=extra)


def read_bundle(path: Path, model: LongMemForCausalLM) -> tuple[MemoryArchive, Run | None, MemorySettings]:
    """Memory, run and settings of a file, all checked; a bank that this model cannot search is left out.

    Errors: BankFileError, RunFileError.
    """
    archive = read_archive(path, fingerprint=model.fingerprint, device=model.device)
    if len(archive.documents) > MOST_DOCUMENTS:
        raise BankFileError(f"The file holds {len(archive.documents):,} documents; at most {MOST_DOCUMENTS:,} may be.")
    settings = _settings(archive, model)
    if archive.bank is not None:
        _check_shape(archive.bank, model.with_retrieval(chunk_size=settings.chunk_size))
    run = from_record(archive.extra["run"]) if "run" in archive.extra else None
    return archive, run, settings


def _settings(archive: MemoryArchive, model: LongMemForCausalLM) -> MemorySettings:
    """How the memory was used; layers that this model does not have are passed over. Errors: BankFileError."""
    own = MemorySettings.of(model)
    found = archive.extra.get("settings", {})
    try:
        layers = [layer for layer in found.get("layers", own.layers) if layer in own.layers]
        retrieved = found.get("retrieved_tokens", max(own.retrieved_tokens, archive.chunk_size))
        backend = found.get("backend", own.backend)
        settings = MemorySettings(archive.capacity, archive.chunk_size, retrieved, tuple(layers), backend)
        model.with_retrieval(chunk_size=settings.chunk_size, retrieved_tokens=settings.retrieved_tokens)
    except (AttributeError, TypeError, LongMemError) as error:
        raise BankFileError(f"The settings in this file cannot be used: {error}") from error
    return settings


def load_bundle(studio: Studio, key: str, path: Path) -> Iterator[LoadView]:
    """Make a bundle's memory and run those of a session, with progress where its documents are read again.

    A file that cannot be loaded changes nothing. A reading that is stopped, or fails, keeps what was read until then.
    """
    session = studio.store.get(key)
    loaded, status, notice = None, "", ""
    try:
        with session.stops.working(Work.READING) as stop, alone(session):
            archive, run, settings = read_bundle(path, studio.model)
            view = studio.memory_view(session)  # nobody looks at a bank while a thread fills it
            for progress in _take_memory(studio, session, archive, settings, stop):
                yield LoadView(replace(view, status=progress, busy=True))
            loaded = _leave_run(session) if run is None else _take_run(session, run)
            status = _how(archive, studio.model, stopped=stop.is_set())
    except Exception as error:
        notice = said(error)
    memory = studio.memory_view(session, status=status, notice=notice)
    yield LoadView(memory) if loaded is None else replace(loaded, memory=memory)


def _check_shape(bank: MemoryBank, model: LongMemForCausalLM) -> None:
    """A bank may say that it is of this model and be of another shape."""
    model.check_bank(bank)
    own = model.new_bank(capacity=model.config.chunk_size)
    shape, expected = ((list(b.memory_layers), b.kv_heads, b.head_dim) for b in (bank, own))
    if shape != expected:
        raise BankFileError(
            f"The memory in this file has layers, heads and dimension {shape}; this model's has {expected}."
        )


def _take_memory(
    studio: Studio, session: Session, archive: MemoryArchive, settings: MemorySettings, stop: threading.Event
) -> Iterator[str]:
    """The archive's memory becomes the session's; gives the HTML of the progress where documents are read again."""
    studio.check_search(settings.backend)
    if archive.bank is not None:
        studio.settle(session, archive.bank, settings.backend)
        session.bank, session.settings = archive.bank, studio.own_settings(settings)
        return
    documents = [Document.from_text(saved.name, saved.text) for saved in archive.documents]
    chunks = {"chunk_size": settings.chunk_size, "retrieved_tokens": settings.retrieved_tokens}
    bank = studio.model.with_retrieval(**chunks).new_bank(capacity=archive.capacity, backend=settings.backend)
    session.bank, session.settings = bank, studio.own_settings(settings)
    following = 0
    for document, wanted in zip(documents, _ids(archive), strict=True):
        for _ in range(wanted - following):
            session.bank.remove(session.bank.begin_document(""))
        yield from studio.read_all(session, [document], stop)
        following = wanted + 1


def _ids(archive: MemoryArchive) -> list[int]:
    """The ids that the documents had, where those can be had again, else the ids that they get by themselves."""
    ids, n = archive.extra.get("document_ids"), len(archive.documents)
    listed = isinstance(ids, list) and len(ids) == n and all(type(i) is int for i in ids)
    if listed and all(a < b for a, b in pairwise([-1, *ids, n + MOST_SKIPPED])):
        return ids
    return list(range(n))


def _leave_run(session: Session) -> LoadView:
    """The session's run stays, but it was made on another memory, whatever that counts."""
    if session.run is not None:
        session.run = replace(session.run, recipe=replace(session.run.recipe, version=(0, 0, 0, 0)))
    return LoadView(None)


def _take_run(session: Session, run: Run) -> LoadView:
    """The run becomes the session's; what the page shows of it, still without the memory panel."""
    run = replace(run, number=next_run(session))
    payload = inspection.describe(run)
    session.run, session.chosen, session.head = run, (payload["focus"], payload["layer"]), None
    written = run.recipe.kind == "generated"
    prompt = run.recipe.prompt if written and run.recipe.before is None else None
    return LoadView(
        memory=None,
        with_memory=markup.token_panel(run.recipe.prompt, marks_of(run), panel="with", run=run.number),
        plain=markup.empty_panel("The text with an empty memory is not kept in a file.", panel="plain"),
        payload=payload,
        prompt=prompt,
        settings=run.recipe.settings if written else None,
    )


def marks_of(run: Run) -> list[TokenMark]:
    """The run's tokens as the output panel shows them."""
    return [
        TokenMark(t.step, t.token, math.exp(t.logprob), math.exp(t.logprob_empty), t.effect)
        for t in run.tokens.itertuples()
    ]


def _how(archive: MemoryArchive, model: LongMemForCausalLM, *, stopped: bool) -> str:
    """HTML: what was loaded, and what is not as it was."""
    if stopped:
        return markup.note("Stopped: what was read until then is in memory; the run is shown as it was.", "stopped")
    other = " The file is of another model: its run is shown as it was, its documents were read with this one."
    what = "memory and run" if "run" in archive.extra else "memory"
    return markup.note(f"Loaded {what}.{other if archive.fingerprint != model.fingerprint else ''}", "done")
