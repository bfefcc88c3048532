"""What the export panel does: a session's run as a file to download. Plain values in and out, no components."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from app import markup
from app.bundle import bundle_name, write_bundle
from app.downloads import Downloads
from app.exporting import FORMATS, export_trace
from app.handlers import Studio, alone, said
from app.report import About, build_report
from app.session import Session
from longmem.errors import LongMemError

REPORT, BUNDLE, MEMORY = "report", "bundle", "memory"
KINDS = (REPORT, *FORMATS, BUNDLE, MEMORY)
WORDS = {
    REPORT: "opens in any browser without a network; 4.8 MB of it draw the charts",
    "csv": "the trace, one row per retrieved chunk, for a spreadsheet",
    "csv-zip": "tokens, trace, gates, chunks and single tokens' weights",
    "parquet": "every table with its types and full precision",
    "json": "every table in one record with full precision",
    BUNDLE: "load it here again to see this run as it is",
    MEMORY: "load it here again to go on with this memory",
}


@dataclass(frozen=True)
class Offer:
    """A file for the visitor, or None and why there is none."""

    path: Path | None
    status: str
    notice: str = ""


def offer(studio: Studio, downloads: Downloads, key: str, kind: str, *, with_states: bool = False) -> Offer:
    """The session's run as one of KINDS; `with_states` puts keys and values into a bundle."""
    session = studio.store.get(key)
    try:
        path = make_file(studio, downloads, session, kind, with_states)
    except Exception as error:
        return Offer(None, "", said(error))
    size = path.stat().st_size
    words = f"{path.name}, {file_size(size)}: {WORDS[kind]}."
    if kind in (BUNDLE, MEMORY) and size > studio.max_file_bytes:
        most = file_size(studio.max_file_bytes)
        words += f" It is larger than the {most} that can be loaded here: save it without states."
    return Offer(path, markup.note(words, "done"))


def make_file(studio: Studio, downloads: Downloads, session: Session, kind: str, with_states: bool) -> Path:
    """One of KINDS as a file for the session. Errors: LongMemError."""
    run = session.run
    if kind == MEMORY or (kind == BUNDLE and run is not None):
        kept = None if kind == MEMORY else run
        with alone(session):
            path = downloads.new_path(session.key, bundle_name(kept))
            write_bundle(path, session.bank, kept, studio.settings_of(session), with_states=with_states)
            return path
    if run is None:
        raise LongMemError("There is no run to save yet: generate first.")
    if kind == REPORT:
        about = About(studio.model_line(), studio.model.fingerprint, datetime.now(UTC))
        return downloads.offer(session.key, build_report(run, about))
    return downloads.offer(session.key, export_trace(run, kind))


def file_size(n_bytes: int) -> str:
    """Bytes for people: `812 kB`, `5.2 MB`."""
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:.0f} kB"


def document_names(studio: Studio, key: str) -> dict[int, str]:
    """Names of the documents in the session's memory by id; none while it is being read or written with."""
    session = studio.store.get(key)
    return {} if session.is_busy else {i: record.name for i, record in session.bank.documents.items()}
