"""Work for the GPU of a ZeroGPU Space, which only forked workers have.

What the package `spaces` (0.51.3) does there, and what is made of it here:

- In the main process torch only imitates a GPU: the model stays on the CPU, which does what is not sent to a worker.
- A function under `spaces.GPU` runs in a forked worker, which is used again and sees the main process as it was at the
  fork. Arguments and what it yields are pickled; nothing else that it changes comes back. So a memory bank travels as a
  folder of its own kind of files under an id that nobody can guess, and a session's changes as the last thing yielded.
- Each decorated function has workers of its own: there is one, so that a worker that has the model on its GPU is found.
- Of an error only the name of its class comes back: errors are values here.
- A worker is told to stop by a file, and ends by itself before the seconds that were asked for are over. One that is
  killed leaves memory as it was.

Outside ZeroGPU nothing of this is used.
"""

import os
import pickle
import secrets
import shutil
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from app.session import Run, Session
from longmem.errors import LongMemError
from longmem.memory_bank import MemoryBank
from longmem.model import LongMemForCausalLM

# What a call asks for. Not measured on ZeroGPU: these are rates of two CPU cores, which every GPU should exceed. On its
# present hardware the package asks for 1.5 times as much, and who is not logged in has two minutes a day.
START_SECONDS, MOST_SECONDS = 15, 80
READ_PER_SECOND, WRITTEN_PER_SECOND = 2_000, 15
SMALL = 500_000_000  # parameters; a larger model is that much slower
USABLE = 0.75  # of the seconds: then a worker stops by itself, to save what it has
POLL_SECONDS = 0.05
BACK = ("run", "written", "chosen", "head", "switches")  # fields of a session that come back from a worker
AS_IT_WAS = "as it was"  # in the place of a text that no worker goes on with
WORKERS = "ZeroGPU lends a GPU to every call that reads, writes or scores"
KILLED = (
    "The GPU was taken away before this had ended: what is in your memory is as it was. Try it again, or with a "
    "shorter text."
)
OVER = "The GPU's time for one call ({} s) was over, and it was stopped there. Go on with less at once."


@dataclass(frozen=True)
class Effort:
    """Tokens that a call will read and write, as far as can be said before."""

    read: int = 0
    written: int = 0

    def seconds(self, n_parameters: int) -> int:
        """For how long it asks for a GPU."""
        work = self.read / READ_PER_SECOND + self.written / WRITTEN_PER_SECOND
        return int(min(START_SECONDS + work * max(1.0, n_parameters / SMALL), MOST_SECONDS))


@dataclass(frozen=True)
class Job:
    """One call: `work(model, session, *arguments)` gives a value, or with a `stop` an iterator of values.

    All of it is pickled.

    bank: the id under which it lies, and its version; result: the id under which it shall lie where it changes.
    retrieval: chunk size and retrieved tokens. state: fields of the session. can_stop: whether it takes an event that
    ends it.
    """

    work: Callable
    arguments: tuple
    bank: tuple[str, tuple]
    result: str
    retrieval: tuple[int, int]
    state: dict
    can_stop: bool
    seconds: int


@dataclass(frozen=True)
class Outcome:
    """What a worker says last: fields of the session that have changed, whether the bank has, and what went wrong."""

    state: dict
    bank_changed: bool
    error: Exception | None
    is_late: bool


def decorator() -> Callable | None:
    """`spaces.GPU` on a ZeroGPU Space, else None. To be called before anything has used CUDA."""
    if os.environ.get("SPACES_ZERO_GPU", "").lower() not in ("1", "t", "true"):  # as the package itself asks
        return None
    import spaces  # only there on Spaces

    return spaces.GPU


class ZeroGpu:
    """Sends work to workers that have a GPU. To be made before the page is launched, with the model on the CPU.

    gpu: `spaces.GPU`, or what behaves so. device: where the model is in a worker.
    """

    def __init__(self, model: LongMemForCausalLM, gpu: Callable, device: str = "cuda"):
        self._model, self._device = model, device
        self._n_parameters = sum(parameter.numel() for parameter in model.parameters())
        self._kept = tempfile.TemporaryDirectory(prefix="longmem-zero-")  # for this user's eyes only
        self._folder = Path(self._kept.name)
        self._saved: weakref.WeakKeyDictionary[MemoryBank, tuple[str, tuple]] = weakref.WeakKeyDictionary()
        self._at_hand: tuple[tuple[str, tuple], MemoryBank] | None = None  # in a worker: the bank of its last call

        def work(job: Job) -> Iterator[bytes]:
            yield from self._work(job)

        self._call = gpu(duration=lambda job: job.seconds)(work)

    # In the main process ---------------------------------------------------------------------------------------------

    def run(
        self,
        work: Callable,
        model: LongMemForCausalLM,
        session: Session,
        arguments: tuple,
        *,
        effort: Effort,
        stop: threading.Event | None = None,
    ) -> Iterator:
        """What `work(model, session, *arguments)` gives, made by a worker; then the session is as it left it.

        stop: for work that takes one too, `stop=`, an event of its own that follows this one.

        model: this process's, for how it retrieves. Hold the session's lock.
        Errors: those of the work; LongMemError where no GPU is to be had, or it was taken away.
        """
        retrieval = (model.config.chunk_size, model.config.retrieved_tokens)
        seconds, result = effort.seconds(self._n_parameters), secrets.token_urlsafe(18)
        can_stop, stop = stop is not None, stop or threading.Event()
        job = Job(work, arguments, self._file_of(session.bank), result, retrieval, _state(session), can_stop, seconds)
        flag, ended = self._flag(job), threading.Event()
        passing_on = threading.Thread(target=_pass_on, args=(stop, flag, ended), daemon=True)
        passing_on.start()
        try:
            outcome = None
            with closing(self._call(job)) as sent:
                try:
                    for outcome in map(pickle.loads, sent):
                        if not isinstance(outcome, Outcome):
                            yield outcome
                except GeneratorExit:
                    flag.touch()
                    raise
                except Exception as error:
                    raise _in_words(error) from error
            self._take(session, job, outcome, stop)
        finally:
            ended.set()
            passing_on.join()  # or it may put the file there once more
            flag.unlink(missing_ok=True)
            if session.bank not in self._saved or self._saved[session.bank][0] != result:
                shutil.rmtree(self._folder / result, ignore_errors=True)

    def _take(self, session: Session, job: Job, outcome: object, stop: threading.Event) -> None:
        """Make what a worker has changed the session's; raises what went wrong there."""
        if not isinstance(outcome, Outcome):
            raise LongMemError(KILLED)
        if outcome.bank_changed:
            session.bank = MemoryBank.load(self._folder / job.result, device=self._model.device)
            self._keep(session.bank, job.result)
        for name, value in outcome.state.items():
            setattr(session, name, value)
        if outcome.error is not None:
            raise outcome.error
        if outcome.is_late:
            stop.set()
            raise LongMemError(OVER.format(job.seconds))

    def _file_of(self, bank: MemoryBank) -> tuple[str, tuple]:
        """The id of a folder that holds the bank as it is now, and its version; it is deleted with the bank."""
        id, state = self._saved.get(bank, (None, None))
        if state != _version(bank):
            id = id or secrets.token_urlsafe(18)
            bank.save(self._folder / id)
            self._keep(bank, id)
        return self._saved[bank]

    def _keep(self, bank: MemoryBank, id: str) -> None:
        if bank not in self._saved:
            weakref.finalize(bank, _remove, self._folder / id, os.getpid()).atexit = False
        self._saved[bank] = (id, _version(bank))

    def _flag(self, job: Job) -> Path:
        """The file whose being there stops a job."""
        return self._folder / f"{job.result}.stop"

    # In a worker -----------------------------------------------------------------------------------------------------

    def _work(self, job: Job) -> Iterator[bytes]:
        deadline = time.monotonic() + USABLE * job.seconds
        session = changed = error = None
        stop, ended, late = threading.Event(), threading.Event(), threading.Event()
        try:
            model = self._model.to(self._device).with_retrieval(
                chunk_size=job.retrieval[0], retrieved_tokens=job.retrieval[1]
            )
            session = Session("", self._bank_of(job), **job.state)
            before = session.bank, _version(session.bank)
            watched = (self._flag(job), stop, deadline, ended, late)
            threading.Thread(target=_watch, args=watched, daemon=True).start()
            if job.can_stop:
                yield from map(pickle.dumps, job.work(model, session, *job.arguments, stop=stop))
            else:
                yield pickle.dumps(job.work(model, session, *job.arguments))
        except Exception as raised:
            error = _picklable(raised)
        finally:
            ended.set()
        try:
            changed = session is not None and self._put_away(session.bank, job, before)
        except Exception as raised:
            changed, error = False, _picklable(raised)
        is_late = job.can_stop and late.is_set()  # what could not be stopped was done after all
        yield pickle.dumps(Outcome(_changes(session, job), changed, error, is_late))

    def _put_away(self, bank: MemoryBank, job: Job, before: tuple) -> bool:
        """Save the bank where it is another than before, and keep it at hand; whether it is."""
        changed = (bank, _version(bank)) != before
        if changed:
            bank.save(self._folder / job.result)
        self._at_hand = (job.result, _version(bank)) if changed else job.bank, bank
        return changed

    def _bank_of(self, job: Job) -> MemoryBank:
        """The bank of a job, for it alone: the one at hand, or that of the files."""
        at_hand, self._at_hand = self._at_hand, None
        if at_hand is not None and at_hand[0] == job.bank:
            return at_hand[1]
        return MemoryBank.load(self._folder / job.bank[0], device=self._model.device)


def _version(bank: MemoryBank) -> tuple:
    """Another whenever the files of a bank would differ."""
    return (*bank.version, bank.capacity, bank.next_document, bank.backend)


def _remove(folder: Path, process: int) -> None:
    """Delete a folder, but not from a forked process in which a copy of its bank is let go."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


def _state(session: Session) -> dict:
    """What a worker must know of a session; of its run the number alone."""
    fields = ("chosen", "head", "switches", "settings")
    others = {"run": session.run and _bare(session.run), "written": AS_IT_WAS}
    return {name: getattr(session, name) for name in fields} | others


def _bare(run: Run) -> Run:
    nothing = pd.DataFrame()
    return replace(run, tokens=nothing, trace=nothing, gates=nothing, token_weights=nothing, chunks=nothing, sources={})


def _changes(session: Session | None, job: Job) -> dict:
    """Fields of the session that the work has set, on the CPU."""
    if session is None:
        return {}
    if session.written not in (None, AS_IT_WAS):
        session.written = session.written.to("cpu")
    return {name: getattr(session, name) for name in BACK if getattr(session, name) is not job.state.get(name)}


def _pass_on(stop: threading.Event, flag: Path, ended: threading.Event) -> None:
    """In the main process: a stop becomes a file."""
    while not ended.is_set():
        if stop.wait(POLL_SECONDS):
            flag.touch()
            return


def _watch(flag: Path, stop: threading.Event, deadline: float, ended: threading.Event, late: threading.Event) -> None:
    """In a worker: the file becomes a stop, and so does the time that is nearly over."""
    while not ended.wait(POLL_SECONDS):
        if time.monotonic() > deadline:
            late.set()
        if late.is_set() or flag.exists():
            stop.set()
            return


def _picklable(error: Exception) -> Exception:
    """An error for a person as it is; of any other its words and where it was raised, for the log."""
    if type(error).__init__ is ValueError.__init__ and isinstance(error, LongMemError):
        return error
    return RuntimeError("".join(traceback.format_exception(error)))


def _in_words(error: Exception) -> Exception:
    """What the package raises where there is no GPU (queue, quota, a killed worker), as an error for a person."""
    if not hasattr(error, "message") or not hasattr(error, "title"):  # no error of Gradio's, so none of the package's
        return error
    said = str(error.message)
    return LongMemError(KILLED if "abort" in said else f"{error.title}: {said}")
