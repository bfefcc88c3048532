"""What one visitor has open: a memory bank, the last run, and how to stop it; and the store of all visitors.

The model is shared, a `Session` never is. The store keeps sessions by an opaque key, frees those that were idle for
long or used longest ago, and holds all banks together under a byte budget, which it says when it is reached.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import pandas as pd

from app.settings import MemorySettings, Settings
from app.source_choice import SourceChoice
from app.switches import Switches
from app.turns import Stops, TurnLock
from longmem.demonstrations import DemonstrationSet
from longmem.errors import MemoryBudgetError
from longmem.generation import WrittenText
from longmem.memory_bank import MemoryBank
from longmem.search import BACKENDS

GIB = 2**30
OWN_TEXT = -1  # document id of what a run itself wrote and then retrieved


@dataclass(frozen=True)
class Source:
    """A document as it was in memory during a run; `text` is shared with the bank, not copied."""

    name: str
    text: str


@dataclass(frozen=True)
class Recipe:
    """How a run came about, so that it can be made again with something switched off.

    kind: "generated", "scored" or "looked up"; prompt: what stood before the run's tokens; before: of this document
    only what ends at this token was searched; settings: of a generation; silence: layers and heads that were off;
    version: of the memory that was searched; method: label of the model's method, "" for LongMem.
    """

    kind: str
    prompt: str
    before: tuple[int, int] | None = None
    settings: Settings | None = None
    version: tuple[int, int, int, int] = (0, 0, 0, 0)
    silence: tuple[tuple[int, int | None], ...] = ()
    method: str = ""


@dataclass(frozen=True, eq=False)
class Run:
    """Some tokens and everything the inspector shows of them, untouched by what later happens to the bank.

    `tokens`, `trace`, `gates` and `token_weights` are the frames of the `RetrievalTrace`; `chunks` is `memory_map` of
    that moment, and `sources` the documents by id, with the run's own text as OWN_TEXT.
    """

    number: int
    recipe: Recipe
    tokens: pd.DataFrame
    trace: pd.DataFrame
    gates: pd.DataFrame
    token_weights: pd.DataFrame
    chunks: pd.DataFrame
    sources: dict[int, Source]


@dataclass
class Session:
    """One visitor's bank and last run.

    Hold `lock` to read into the bank or to generate from it, and `lock.aside()` to measure in the background.
    """

    key: str
    bank: MemoryBank
    lock: TurnLock = field(default_factory=TurnLock)
    stops: Stops = field(default_factory=Stops)
    measured: dict[str, dict] = field(default_factory=dict)  # the result of the last small run of each evaluation
    run: Run | None = None
    written: WrittenText | None = None  # the last text, as long as it can be continued
    demonstrations: dict[int, DemonstrationSet] = field(default_factory=dict)  # by document id; some may have left
    chosen: tuple[int | None, int | None] = (None, None)  # step and layer that the inspector is at
    head: int | None = None  # and the head of that layer, or all
    switches: Switches = field(default_factory=Switches)  # what is off in a what-if
    settings: MemorySettings | None = None  # None: as the model says
    source: SourceChoice = field(default_factory=SourceChoice)  # where the source view is at
    used: float = 0.0
    promised: int = 0  # bytes that the bank will hold once what is being read has been read
    follows_freed: bool = False  # the store ended an earlier session of this key: its visitor must be told

    @property
    def is_busy(self) -> bool:
        """Whether something is being read or generated just now."""
        return self.lock.locked()

    @property
    def memory_version(self) -> tuple[int, int, int, int]:
        """Other whenever a run on this memory could find something else."""
        retrieved = 0 if self.settings is None else self.settings.retrieved_tokens
        # An index may find other chunks. Saved runs have four numbers, and retrieved tokens are fewer than a thousand.
        retrieved += 1_000 * BACKENDS.index(self.bank.backend)
        return (*self.bank.version, retrieved)

    def stop(self) -> None:
        """End whatever runs, after the segment or token that it is at."""
        self.stops.stop_all()


def memory_map(bank: MemoryBank) -> pd.DataFrame:
    """Where every chunk lies: `chunk, document_id, document, position, n_tokens, first_token, start, end`.

    Oldest first. `position` counts tokens from the oldest one still in memory, `first_token` from the beginning of the
    document; `start` and `end` are characters of its text.
    """
    rows = [(c.id, c.document, c.token_stop - c.token_start, c.token_start, c.start, c.stop) for c in bank.chunks()]
    columns = ["chunk", "document_id", "n_tokens", "first_token", "start", "end"]
    frame = pd.DataFrame(rows, columns=columns).astype("int64")
    frame["document"] = frame.document_id.map({i: record.name for i, record in bank.documents.items()})
    frame["position"] = frame.n_tokens.cumsum() - frame.n_tokens
    return frame


def with_own_text(chunks: pd.DataFrame, trace: pd.DataFrame) -> pd.DataFrame:
    """`chunks` and, after them, what the run retrieved of its own text that had left the window.

    Those chunks have negative ids in a trace; here they belong to the document OWN_TEXT.
    """
    own = trace[trace.chunk < 0].drop_duplicates("chunk").sort_values("chunk", ascending=False)
    if own.empty:
        return chunks
    size = int(chunks.n_tokens.max()) if len(chunks) else 1
    end = int((chunks.position + chunks.n_tokens).max()) if len(chunks) else 0
    rows = {"chunk": own.chunk, "document_id": OWN_TEXT, "n_tokens": size, "document": own.document}
    rows |= {"first_token": size * (-2 - own.chunk), "start": own.start, "end": own.end}
    frame = pd.DataFrame({**rows, "position": end + size * (own.chunk.max() - own.chunk)})
    return pd.concat([chunks, frame], ignore_index=True)


class SessionStore:
    """Sessions by key; `byte_budget` bounds all banks together, `max_sessions` their number, `idle_seconds` their rest.

    A busy session is never freed. Keys are given by the server to one browser or client and shown to nobody else.
    """

    def __init__(
        self,
        new_bank: Callable[[], MemoryBank],
        *,
        byte_budget: int = 4 * GIB,
        max_sessions: int = 256,
        idle_seconds: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._new_bank = new_bank
        self.byte_budget = byte_budget
        self.max_sessions = max_sessions
        self.idle_seconds = idle_seconds
        self._clock = clock
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._freed: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, key: str) -> bool:
        return key in self._sessions

    @property
    def nbytes(self) -> int:
        """Bytes of all banks together, what is being read counted as if it had been."""
        return sum(max(session.bank.nbytes, session.promised) for session in list(self._sessions.values()))

    def create(self, key: str) -> Session:
        """A new session with an empty bank under `key`; frees what was idle or too many. Replaces one of that key."""
        with self._lock:
            return self._create(key)

    def get(self, key: str) -> Session:
        """The session of `key`, made if there is none, and marked as just used."""
        with self._lock:
            session = self._sessions.get(key) or self._create(key)
            session.used = self._clock()
            self._sessions.move_to_end(key)
            return session

    def free(self, key: str) -> None:
        """End a session: stop what runs and let its bank go."""
        with self._lock:
            self._drop(key)

    def reserve(self, session: Session, n_bytes: int) -> None:
        """Promise this session's bank `n_bytes` in all, by freeing others that rest; hold its lock, then `settle`.

        Errors: MemoryBudgetError where that is not enough.
        """
        with self._lock:
            self._free_idle()
            session.promised = 0
            extra_bytes = max(0, n_bytes - session.bank.nbytes)
            while self.nbytes + extra_bytes > self.byte_budget:
                if not self._free_oldest(keep=session.key):
                    raise MemoryBudgetError(
                        f"Reading this needs {_mib(extra_bytes)} of memory, but {_mib(self.nbytes)} of the "
                        f"{_mib(self.byte_budget)} that all sessions share are in use: remove a document, clear the "
                        "memory, or read a shorter text."
                    )
            session.promised = n_bytes

    def settle(self, session: Session) -> None:
        """What was promised has been read, or will not be: from now on the bank counts with what it holds."""
        session.promised = 0

    def _create(self, key: str) -> Session:
        self._drop(key)
        self._free_idle()
        while len(self._sessions) >= self.max_sessions and self._free_oldest(keep=key):
            pass
        freed = self._freed.pop(key, 0) is None
        self._sessions[key] = Session(key, self._new_bank(), used=self._clock(), follows_freed=freed)
        return self._sessions[key]

    def _drop(self, key: str) -> None:
        session = self._sessions.pop(key, None)
        if session is not None:
            session.stop()

    def _free_idle(self) -> None:
        limit = self._clock() - self.idle_seconds
        for key in [k for k, session in self._sessions.items() if session.used < limit and not session.is_busy]:
            self._let_go(key)

    def _free_oldest(self, keep: str) -> bool:
        """Free the session used longest ago that rests and is not `keep`; False where there is none."""
        for key, session in self._sessions.items():
            if key != keep and not session.is_busy:
                self._let_go(key)
                return True
        return False

    def _let_go(self, key: str) -> None:
        self._drop(key)
        self._freed[key] = None
        while len(self._freed) > 1000:
            self._freed.popitem(last=False)


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:,.0f} MiB" if n_bytes >= 2**20 else f"{n_bytes / 2**10:,.0f} KiB"
