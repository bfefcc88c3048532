"""What all handlers of the studio stand on: the shared model, the sessions, and how visitors are told of errors."""

import logging
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from app import markup
from app.reading import SampleShelf
from app.session import Session, SessionStore
from app.settings import MemorySettings
from app.uploads import Uploads
from app.zero_gpu import Effort, ZeroGpu
from longmem.errors import LongMemError, is_out_of_memory
from longmem.model import LongMemForCausalLM

Value = TypeVar("Value")
logger = logging.getLogger(__name__)
MAX_FILE_BYTES = 64 * 2**20  # that the page takes as an upload, unless it is told otherwise
NO_MEMORY = (
    "The machine has no memory left for this: what is in your memory stays. Read a shorter text, clear what you do not "
    "need, or try again in a while."
)
NAMED = "memory-"  # keys of sessions that are known by an id that nobody can guess


class StudioBase:
    """The shared model and the sessions of all visitors. `key` in every method tells whose session is meant."""

    def __init__(self, model: LongMemForCausalLM, store: SessionStore, shelf: SampleShelf):
        self.model = model
        self.store = store
        self.shelf = shelf
        self.uploads = Uploads()
        self.max_file_bytes = MAX_FILE_BYTES
        self.zero_gpu: ZeroGpu | None = None

    def work(
        self,
        function: Callable[..., Iterator[Value]],
        session: Session,
        *arguments: object,
        effort: Effort,
        stop: threading.Event,
    ) -> Iterator[Value]:
        """What `function(model, session, *arguments, stop=stop)` gives: made here, or by a worker where only those
        have a GPU.

        There function and arguments are pickled, and `stop` is an event that follows this one. Hold the lock.
        """
        model = self.model_of(session)
        if self.zero_gpu is None:
            return function(model, session, *arguments, stop=stop)
        return self.zero_gpu.run(function, model, session, arguments, effort=effort, stop=stop)

    def ask(self, function: Callable[..., Value], session: Session, *arguments: object, effort: Effort) -> Value:
        """What `function(model, session, *arguments)` gives: as `work`, of one value and with nothing to stop it."""
        model = self.model_of(session)
        if self.zero_gpu is None:
            return function(model, session, *arguments)
        (value,) = self.zero_gpu.run(function, model, session, arguments, effort=effort)
        return value

    def key_of(self, client: str, memory: str) -> str:
        """The session of a client of the API: its own (""), a new one that outlives it ("new"), or one of those by id.

        Errors: LongMemError where there is no such memory (any more).
        """
        if not memory:
            return client
        if memory == "new":
            memory = f"{NAMED}{secrets.token_urlsafe(18)}"
            self.store.create(memory)
        elif not str(memory).startswith(NAMED) or memory not in self.store:
            raise LongMemError(
                f"memory is {str(memory)[:60]!r}; there is no such memory (any more): 'new' makes one and gives its id."
            )
        return memory

    @property
    def labels(self) -> dict[str, str]:
        """What every answer of the API says of a model that is not LongMem: `method`."""
        return {"method": self.model.label} if self.model.label else {}

    def prepare(self, key: str, work: str) -> None:
        """A visitor has asked for some `work` (`Work`, or an evaluation's name) that waits for its turn."""
        self.store.get(key).stops.prepare(work)

    def stop(self, key: str, work: str) -> None:
        """A visitor has pressed the Stop button of this kind of work: it ends after the token or segment it is at."""
        self.store.get(key).stops.stop(work)

    def settings_of(self, session: Session) -> MemorySettings:
        """How this visitor's memory is used: as the model says until they set something."""
        return session.settings or MemorySettings.of(self.model)

    def own_settings(self, settings: MemorySettings) -> MemorySettings | None:
        """What a session keeps of settings: None where they are the model's."""
        return None if settings == MemorySettings.of(self.model) else settings

    def model_of(self, session: Session) -> LongMemForCausalLM:
        """The shared model, retrieving as this visitor has set it."""
        settings, config = self.settings_of(session), self.model.config
        if (settings.chunk_size, settings.retrieved_tokens) == (config.chunk_size, config.retrieved_tokens):
            return self.model
        return self.model.with_retrieval(chunk_size=settings.chunk_size, retrieved_tokens=settings.retrieved_tokens)

    def silent_layers(self, session: Session) -> list[tuple[int, None]]:
        """Memory layers that this visitor has switched off, as `silence` takes them."""
        return [
            (layer, None) for layer in self.model.config.memory_layers if layer not in self.settings_of(session).layers
        ]


@contextmanager
def alone(session: Session, *, patience: float = 0.0) -> Iterator[Session]:
    """Hold the session's lock for an action. Errors: LongMemError where another has it for over `patience` seconds."""
    if not session.lock.acquire(patience):
        raise LongMemError("This memory is being read or written with just now: wait until it has ended, or stop it.")
    try:
        yield session
    finally:
        session.lock.release()


def news(session: Session) -> str:
    """HTML of what a visitor must be told once: that the store freed their earlier memory."""
    told, session.follows_freed = session.follows_freed, False
    text = "Your earlier memory rested for an hour, or longest of all, and was freed: read your documents again."
    return markup.note(text if told else "", "error")


def said(error: Exception) -> str:
    """An error for the one place that stays: a person's to mend as it is, any other logged and named as ours."""
    if isinstance(error, LongMemError):
        return markup.note(str(error), "error")
    if is_out_of_memory(error):
        logger.warning("out of memory in a handler: %s", error)
        return markup.note(NO_MEMORY, "error")
    logger.error("unexpected error in a handler", exc_info=error)
    return markup.note("Something failed inside LongMem; your memory lives on. The server's log says more.", "error")
