"""The studio on a ZeroGPU Space: the same calls, made by forked workers, give the same results and nothing else back.

`Gpu` stands in for `spaces.GPU`, with what its source (spaces 0.51.3, `zero/wrappers.py`) does: a worker is forked at
the first call and used again, so it sees this process as it was then; it gets (args, kwargs) and gives what the
generator yields, all pickled through `multiprocessing` queues, and runs it in a thread of its own; `duration` is called
with the same arguments, here; of an error only its class's name comes back, as an error with a title and a message like
Gradio's; a worker that is killed becomes "GPU task aborted"; closing the generator waits for the worker's next value.
"""

import gc
import inspect
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from app import demonstrating, scored, zero_gpu
from app.demonstration_files import Source
from app.handlers import Studio
from app.reading import SampleShelf
from app.session import SessionStore
from app.settings import MemorySettings, Place
from app.turns import Work
from app.zero_gpu import MOST_SECONDS, START_SECONDS, Effort, ZeroGpu
from longmem.demonstrations import SENTIMENT_TEMPLATE
from longmem.errors import LongMemError
from longmem.memory_bank import MemoryBank

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
STORY = "The lighthouse keeper wrote the name of every ship in a long ledger. " * 12
LATER = "In the morning the ship returned, and the keeper read the ledger again. " * 3
SETTINGS = {"max_new_tokens": 4, "temperature": 0.8, "top_p": 0.9, "seed": 1}
LONGEST = 60.0  # seconds that a worker may be silent
FORK = multiprocessing.get_context("fork")


class GpuError(Exception):
    """As `gradio.Error`, which the package raises."""

    def __init__(self, title: str, message: str):
        super().__init__(message)
        self.title, self.message = title, message


class Worker:
    """A forked process that runs one function again and again."""

    def __init__(self, task: Callable):
        self.calls, self.results = FORK.SimpleQueue(), FORK.SimpleQueue()
        self.stop = FORK.Event()
        self.process = FORK.Process(target=self._serve, args=(task,), daemon=True)
        self.process.start()
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        self.process.join()
        self.results.put(("aborted", None))

    def _serve(self, task: Callable) -> None:
        while True:
            args, kwargs = self.calls.get()
            self.stop.clear()
            thread = threading.Thread(target=self._iterate, args=(task, args, kwargs))
            thread.start()
            thread.join()
            self.results.put(("end", None))

    def _iterate(self, task: Callable, args: tuple, kwargs: dict) -> None:
        given = task(*args, **kwargs)
        try:
            for value in given:
                if self.stop.is_set():
                    given.close()
                    return
                self.results.put(("value", value))
        except Exception as error:
            self.results.put(("error", type(error).__name__))


class Gpu:
    """`spaces.GPU`, with a note of the seconds that were asked for."""

    def __init__(self) -> None:
        self.seconds: list[int] = []
        self.workers: list[Worker] = []

    def __call__(self, *, duration: Callable) -> Callable:
        def decorate(task: Callable) -> Callable:
            assert inspect.isgeneratorfunction(task)

            def handler(*args: object, **kwargs: object) -> Iterator:
                self.seconds.append(duration(*args, **kwargs))
                if not self.workers or not self.workers[-1].process.is_alive():
                    self.workers.append(Worker(task))
                worker = self.workers[-1]
                worker.calls.put((args, kwargs))
                for kind, value in iter(worker.results.get, ("end", None)):
                    if kind == "aborted":
                        raise GpuError("ZeroGPU worker error", "GPU task aborted")
                    if kind == "error":
                        raise GpuError("ZeroGPU worker error", value)
                    try:
                        yield value
                    except GeneratorExit:
                        worker.stop.set()
                        while worker.results.get() != ("end", None):
                            pass
                        raise

            return handler

        return decorate

    def end(self) -> None:
        for worker in self.workers:
            worker.process.kill()


@pytest.fixture(scope="module")
def shelf(tiny_model, tmp_path_factory) -> SampleShelf:
    folder = tmp_path_factory.mktemp("samples")
    (folder / "the-keeper.txt").write_text(STORY, encoding="utf-8")
    return SampleShelf(tiny_model, folder)


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    gpu = Gpu()
    yield gpu
    gpu.end()


def studio_of(model, shelf: SampleShelf, gpu: Gpu | None = None) -> Studio:
    studio = Studio(model, SessionStore(model.new_bank), shelf)
    studio.zero_gpu = gpu and ZeroGpu(model, gpu, device="cpu")
    list(studio.open("me"))
    return studio


@pytest.fixture
def plain(tiny_model, shelf) -> Studio:
    """A studio as it is everywhere else."""
    return studio_of(tiny_model, shelf)


@pytest.fixture
def away(tiny_model, shelf, gpu) -> Studio:
    """A studio whose work is done by workers."""
    return studio_of(tiny_model, shelf, gpu)


def bank(studio: Studio, key: str = "me") -> MemoryBank:
    return studio.store.get(key).bank


def last(views):
    return list(views)[-1]


def kept(studio: Studio) -> list[str]:
    """Folders of banks that lie on the disk."""
    return sorted(path.name for path in studio.zero_gpu._folder.iterdir())


def same_bank(one: MemoryBank, other: MemoryBank) -> bool:
    (rows, keys, values), (rows_2, keys_2, values_2) = one._ring.ordered(), other._ring.ordered()
    tensors = zip(keys + values, keys_2 + values_2, strict=True)
    return one.documents == other.documents and (rows == rows_2).all() and all(a.equal(b) for a, b in tensors)


def same_run(one, other) -> bool:
    frames = ("tokens", "trace", "gates", "token_weights", "chunks")
    plain = (one.number, one.recipe, one.sources) == (other.number, other.recipe, other.sources)
    return plain and all(getattr(one, name).equals(getattr(other, name)) for name in frames)


def test_what_a_worker_reads_and_writes_is_what_is_read_and_written_here(plain, away, gpu):
    for studio in (plain, away):
        list(studio.read_text("me", "later", LATER))
        studio.views = list(studio.generate("me", "The keeper read the", SETTINGS))
    assert same_bank(bank(plain), bank(away))
    assert [record.name for record in bank(away).documents.values()] == ["the-keeper.txt", "later"]
    texts = [[(view.with_memory, view.plain) for view in studio.views] for studio in (plain, away)]
    assert texts[0][-1] == texts[1][-1]
    assert len(texts[1]) >= 4  # as it was written, not at the end
    here, there = (studio.store.get("me") for studio in (plain, away))
    assert same_run(here.run, there.run)
    assert (here.chosen, here.written.text) == (there.chosen, there.written.text)
    assert len(gpu.workers) == 1  # used again
    assert all(START_SECONDS <= seconds <= MOST_SECONDS and type(seconds) is int for seconds in gpu.seconds)


def test_going_on_scoring_and_taking_away_are_the_same(plain, away):
    results = []
    for studio in (plain, away):
        list(studio.generate("me", LATER[:140], SETTINGS))  # more than a window
        list(studio.go_on("me", "", SETTINGS, keep=True))  # what left the window has come back from the worker
        views = [studio.score("me", scored.SCORED, LATER[:60], None, 0)]
        views += [studio.score("me", scored.NEXT_PAGE, "", Place(0, 0.4), 24)]
        onward = list(studio.score_onward("me", Place(0, 0.8), 24))
        studio.toggle("me", "documents", [0])
        again = last(studio.run_again("me"))
        run = studio.store.get("me").run
        chart = studio.chart("me", "scores").to_dict()
        results.append((views, onward[-1].words, onward[-1].payload, len(onward), again, run, chart))
    (views, *here, run, chart), (views_2, *there, run_2, chart_2) = results
    assert [view.notice for view in views_2] == [""] * 2
    assert [(v.panel, v.words, v.payload) for v in views] == [(v.panel, v.words, v.payload) for v in views_2]
    assert here == there
    assert same_run(run, run_2)
    assert str(chart) == str(chart_2)  # of the bank that came back, by this process
    assert same_bank(bank(plain), bank(away))
    assert [record.name for record in bank(away).documents.values()] == ["the-keeper.txt", "generated"]


def test_the_endpoints_give_the_same(plain, away, tmp_path):
    file = tmp_path / "reviews.csv"
    rows = ["a warm and funny story,positive", "a long and cold story,negative"] * 4
    file.write_text("text,label\n" + "\n".join(rows), encoding="utf-8")
    source, results = Source(str(file), "text", "label", SENTIMENT_TEMPLATE.pattern), []
    for studio in (plain, away):
        found = [studio.load_documents("me", [], [LATER])["tokens"], studio.retrieve("me", "the ledger", trace_ranks=2)]
        found += [studio.score_text("me", LATER[:60], "", trace_ranks=1)]
        found += [studio.what_if("me", LATER[:60], "", {"layers": [1]})]
        found += list(studio.generate_text("me", "The ship", SETTINGS, use_memory=True, trace_ranks=1))[-1:]
        list(demonstrating.read_demonstrations(studio, "me", source))
        view = last(demonstrating.classify_text(studio, "me", None, "a warm story", 2))
        measured = last(demonstrating.evaluate(studio, "me", None, source, n_texts=3, in_window=2, sizes=(0, 4)))
        results.append((found, view, measured.result, measured.notice))
    for found, *_ in results:
        found[-1]["memory"].pop("bytes")  # a bank from a file has no room to spare
    assert str(results[0]) == str(results[1])


def test_what_one_visitor_reads_no_other_sees(away):
    list(away.open("you"))
    list(away.read_text("you", "later", LATER))
    list(away.generate("me", "The keeper", SETTINGS))
    assert {source.name for source in away.store.get("me").run.sources.values()} == {"the-keeper.txt", "this text"}
    assert [record.name for record in bank(away).documents.values()] == ["the-keeper.txt"]
    assert len(kept(away)) == 2  # under ids of their own


def test_a_bank_on_the_disk_goes_with_its_visitor_and_is_written_when_it_has_changed(away):
    list(away.generate("me", "The keeper", SETTINGS))
    (id,) = kept(away)
    written = (away.zero_gpu._folder / id / "memory.json").stat().st_mtime_ns
    list(away.generate("me", "The ship", SETTINGS))
    assert (away.zero_gpu._folder / id / "memory.json").stat().st_mtime_ns == written
    away.remove("me", 0)
    view = last(away.generate("me", "The ship", SETTINGS))
    assert view.notice == ""
    assert away.store.get("me").run.trace.empty  # the worker has not kept the old one
    list(away.read_text("me", "later", LATER))
    (newer,) = kept(away)
    assert newer != id
    away.leave("me")
    gc.collect()
    assert kept(away) == []


def wait(model, session, count: int, *, stop: threading.Event) -> Iterator[int]:
    """Gives numbers until it is stopped."""
    for number in range(count):
        if stop.wait(0.02):
            return
        yield number


def change_and_die(model, session, *, stop: threading.Event) -> Iterator[int]:
    """Empties memory, and is killed."""
    session.bank.clear()
    yield os.getpid()
    os.kill(os.getpid(), signal.SIGKILL)


def sleep_and_say(model, session) -> str:
    time.sleep(0.9)
    return "done"


def fail(model, session, error: Exception) -> None:
    session.bank.clear()
    raise error


def test_a_worker_that_is_killed_leaves_memory_as_it_was(away, gpu):
    before = bank(away)
    given = away.work(change_and_die, away.store.get("me"), effort=Effort(), stop=threading.Event())
    assert next(given) != os.getpid()
    with pytest.raises(LongMemError, match="taken away"):
        next(given)
    assert bank(away) is before
    assert len(kept(away)) == 1
    assert not before.is_empty
    assert last(away.generate("me", "The keeper", SETTINGS)).notice == ""  # by a new one
    assert len(gpu.workers) == 2


def test_a_reading_that_is_killed_says_so_and_the_memory_stays(away, gpu):
    views = away.read_text("me", "long", STORY * 20)
    next(view for view in views if "Reading" in view.status)
    gpu.workers[-1].process.kill()
    assert "GPU was taken away" in last(views).notice
    assert [record.name for record in bank(away).documents.values()] == ["the-keeper.txt"]
    assert not away.store.get("me").is_busy


def test_a_stop_reaches_the_worker_and_what_was_done_stays(away):
    away.prepare("me", Work.READING)
    for view in away.read_text("me", "long", STORY * 20):
        if "Reading" in view.status:
            away.stop("me", Work.READING)
    assert "Stopped" in view.status
    assert 0 < bank(away).documents[1].n_tokens < 20 * bank(away).documents[0].n_tokens
    session = away.store.get("me")
    stop = threading.Event()
    given = away.work(wait, session, 10_000, effort=Effort(), stop=stop)
    assert next(given) == 0
    stop.set()
    assert len(list(given)) < 1_000
    given = away.work(wait, session, 10_000, effort=Effort(), stop=threading.Event())
    next(given)
    given.close()  # who asked has gone
    assert [name for name in kept(away) if name.endswith(".stop")] == []


def test_work_that_takes_too_long_ends_by_itself_and_says_so(away, monkeypatch):
    monkeypatch.setattr(zero_gpu, "START_SECONDS", 1)
    given, stop = [], threading.Event()
    with pytest.raises(LongMemError, match="time for one call"):
        given.extend(away.work(wait, away.store.get("me"), 10_000, effort=Effort(), stop=stop))
    assert stop.is_set()
    assert len(given) < 1_000


def test_errors_come_back_with_their_words(away):
    session = away.store.get("me")
    with pytest.raises(LongMemError, match=r"^Mend it\.$"):
        away.ask(fail, session, LongMemError("Mend it."), effort=Effort())
    assert bank(away).is_empty  # what was done before stays, as it does here
    with pytest.raises(RuntimeError, match="no such name"):
        away.ask(fail, session, KeyError("no such name"), effort=Effort())
    assert "most probable" not in last(away.generate("me", "x", SETTINGS | {"seed": 2})).notice


def test_what_the_package_says_where_there_is_no_gpu_is_told(tiny_model, shelf):
    def gpu(*, duration: Callable) -> Callable:
        def refuse(job: object) -> Iterator:
            raise GpuError("ZeroGPU quota exceeded", "You have exceeded your free ZeroGPU quota.")
            yield

        return lambda task: refuse

    view = last(studio_of(tiny_model, shelf, gpu).generate("me", "The keeper", SETTINGS))
    assert "ZeroGPU quota exceeded: You have exceeded your free ZeroGPU quota." in view.notice


def test_settings_of_a_visitor_hold_in_a_worker_too(plain, away):
    for studio in (plain, away):
        values = {"capacity": 512, "chunk_size": 8, "retrieved_tokens": 16, "layers": (1, 3)}
        assert last(studio.set_memory("me", values)).notice == ""
        list(studio.generate("me", "The keeper", SETTINGS))
    assert bank(away).chunk_size == 8
    assert isinstance(away.store.get("me").settings, MemorySettings)
    assert same_run(plain.store.get("me").run, away.store.get("me").run)


def test_the_search_of_a_visitor_holds_in_a_worker_too_and_an_index_is_refused(away):
    values = {"capacity": 512, "chunk_size": 4, "retrieved_tokens": 16, "layers": (1, 3)}
    assert last(away.set_memory("me", values | {"backend": "torch-coarse"})).notice == ""
    list(away.read_text("me", "later", LATER))
    assert bank(away).backend == "torch-coarse"
    notice = last(away.set_memory("me", values | {"backend": "faiss-sq8"})).notice
    assert "on ZeroGPU it must be one of torch, torch-coarse" in notice
    assert bank(away).backend == away.store.get("me").settings.backend == "torch-coarse"


def test_a_document_is_changed_by_a_worker(plain, away, gpu):
    for studio in (plain, away):
        assert last(studio.change_document("me", Place(0, 0.5), "A gull cried. ", "")).notice == ""
    assert same_bank(bank(plain), bank(away))
    assert "A gull cried." in bank(away).documents[1].text
    assert len(gpu.seconds) == 1


def test_a_text_that_failed_leaves_none_to_go_on_with(plain, away, gpu, monkeypatch):
    for studio in (plain, away):
        list(studio.generate("me", "The keeper", SETTINGS))
        assert studio.store.get("me").written is not None
        assert last(studio.generate("me", "", SETTINGS)).notice != ""
        assert studio.store.get("me").written is not None  # refused before anything was done
    gpu.end()
    monkeypatch.setattr("app.generating.begin", lambda *_, **__: 1 / 0)  # a new worker is forked with it
    gpu.workers.clear()
    for studio in (plain, away):
        assert "Something failed" in last(studio.generate("me", "The keeper", SETTINGS)).notice
        assert studio.store.get("me").written is None


def test_what_could_not_be_stopped_and_was_done_is_kept_though_it_was_late(away, monkeypatch):
    monkeypatch.setattr(zero_gpu, "START_SECONDS", 1)
    assert away.ask(sleep_and_say, away.store.get("me"), effort=Effort()) == "done"


def test_what_is_asked_for_grows_with_the_work_up_to_a_limit():
    assert Effort().seconds(10**7) == START_SECONDS
    assert START_SECONDS < Effort(read=20_000).seconds(10**7) < Effort(read=20_000).seconds(2 * 10**9) < MOST_SECONDS
    assert Effort(read=10**9, written=10**9).seconds(10**7) == MOST_SECONDS


def test_elsewhere_there_is_no_decorator(monkeypatch):
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    assert zero_gpu.decorator() is None
