"""Small runs of the evaluations on the model that is loaded: settings that end in about a minute, in a thread.

Nothing is written but into a temporary folder, and no bank of a visitor is touched: evaluations make their own.
"""

import json
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from longmem.documents import Document
from longmem.errors import LongMemError
from longmem.evaluation.attribution import AttributionOptions, measure_attribution
from longmem.evaluation.comparison import RetrievalOptions, measure_retrieval
from longmem.evaluation.efficiency import EfficiencyOptions, measure_efficiency
from longmem.evaluation.in_context_learning import IclOptions, measure_icl, set_name
from longmem.evaluation.needle import NeedleOptions, measure_needle
from longmem.evaluation.perplexity import PerplexityOptions, measure_perplexity
from longmem.evaluation.results import Items, settings_of
from longmem.evaluation.staleness import SETTINGS, StalenessOptions, measured_steps, staleness_result, staleness_steps
from longmem.evaluation.suffix_identification import SuffixOptions, measure_suffix
from longmem.evaluation.systems import Systems
from longmem.model import LongMemForCausalLM
from longmem.records import rounded
from longmem.training.tasks import word_examples

HEARTBEAT = 1.0  # seconds between signs of life
SPARE = 16  # tokens that a part has more than it needs: cut out of its text it may be tokenised a little otherwise
IN_WINDOW = 4  # demonstrations in the window of a small run of in-context learning
MADE_UP_TEMPLATE = "Input: {text} Type: {label}. "
STALE_WINDOW = 128  # tokens: what makes the training of two models fit in a minute on one core
STALE_EVERY = 4


@dataclass(frozen=True)
class Job:
    """What to measure: texts as (name, text), the numbers of the page's knobs, and files of demonstrations."""

    model: LongMemForCausalLM
    texts: Sequence[tuple[str, str]]
    numbers: dict[str, int]
    train: str | None = None
    test: str | None = None


@dataclass(frozen=True)
class Update:
    """How far a run is; `result` is what it has measured, in the last update and, of some, in those before it."""

    done: int
    total: int
    seconds: float
    result: dict | None = None
    ended: bool = False


@dataclass
class Follower:
    """What a run tells, and how it is told to stop."""

    stop: threading.Event
    events: queue.SimpleQueue

    def progress(self, done: int, total: int, result: dict | None = None) -> None:
        self.events.put((done, total, result))

    @property
    def options(self) -> dict:
        """Arguments for the options of an evaluation."""
        return {"progress": self.progress, "stop": self.stop}


def run(page: str, job: Job, stop: threading.Event) -> Iterator[Update]:
    """Measure in a thread and tell how far it is, at least once in HEARTBEAT seconds; its errors are raised here.

    Setting `stop`, or closing the iterator, ends the run after the item that it is at. Errors: LongMemError; Stopped
    where nothing had been measured yet.
    """
    follower = Follower(stop, queue.SimpleQueue())

    def work() -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="longmem-run-") as folder:
                follower.events.put(RUNS[page](job, Path(folder), follower))
        except BaseException as error:  # whatever it is belongs to the thread that waits
            follower.events.put(error)

    thread = threading.Thread(target=work, name="longmem-measure", daemon=True)
    began = time.monotonic()
    thread.start()
    try:
        yield from _updates(follower.events, began)
    finally:
        if thread.is_alive():
            stop.set()
        thread.join()


def _updates(events: queue.SimpleQueue, began: float) -> Iterator[Update]:
    done, total, shown = 0, 0, None
    while True:
        try:
            event = events.get(timeout=HEARTBEAT)
        except queue.Empty:
            event = (done, total, None)
        seconds = time.monotonic() - began
        if isinstance(event, BaseException):
            raise event
        if isinstance(event, dict):
            yield Update(total, total, seconds, rounded(event), ended=True)
            return
        done, total, shown = event
        yield Update(done, total, seconds, None if shown is None else rounded(shown))


# The runs ----------------------------------------------------------------------------------------------------------


def _perplexity(job: Job, folder: Path, follower: Follower) -> dict:
    tokens = job.numbers["tokens"]
    documents = parts(job, folder, tokens, least=job.model.config.window + SPARE)
    options = PerplexityOptions(
        job.model,
        documents=(documents,),
        max_items=job.numbers["items"],
        max_tokens=tokens,
        score_every=2,
        **follower.options,
    )
    return measure_perplexity(options)


def _suffix(job: Job, folder: Path, follower: Follower) -> dict:
    options = SuffixOptions(
        job.model,
        documents=(whole(job, folder),),
        max_items=job.numbers["items"],
        prefix_tokens=job.numbers["tokens"],
        **follower.options,
    )
    return measure_suffix(options)


def _icl(job: Job, folder: Path, follower: Follower) -> dict:
    train, test, template = job.train, job.test, None
    if bool(train) != bool(test):
        raise LongMemError("Give both files, one to learn from and one to classify, or none for a made-up task.")
    name = set_name(Path(train)) if train else "made-up words"
    if not train:
        train, test = made_up(folder, job.numbers["memory"] + IN_WINDOW, job.numbers["items"])
        template = MADE_UP_TEMPLATE
    options = IclOptions(
        job.model,
        train=(Path(train),),
        test=(Path(test),),
        name=(name,),
        template=template,
        in_window=(IN_WINDOW,),
        in_memory=(job.numbers["memory"],),
        seeds=1,
        max_items=job.numbers["items"],
        **follower.options,
    )
    return measure_icl(options)


def _needle(job: Job, folder: Path, follower: Follower) -> dict:
    longest = job.numbers["tokens"]
    options = NeedleOptions(
        job.model,
        documents=(whole(job, folder, least=longest),),
        lengths=(longest // 2, longest),
        depths=5,
        facts=job.numbers["items"],
        **follower.options,
    )
    return measure_needle(options)


def _staleness(job: Job, folder: Path, follower: Follower) -> dict:
    window = min(STALE_WINDOW, job.model.config.window)
    options = StalenessOptions(
        job.model,
        documents=(parts(job, folder, 8 * window, least=8 * window, most=24),),
        window=window,
        steps=job.numbers["steps"],
        every=STALE_EVERY,
        lanes=1,
        memory_tokens=8 * window,
        probes=2,
        probe_tokens=4 * window,
        **follower.options,
    )
    items = Items("staleness", options, Systems(job.model, ("longmem",)), settings_of(options, *SETTINGS))
    steps = [str(step) for step in measured_steps(options)]
    rows = staleness_steps(options, follower.stop)
    for key in items.each(steps):
        row = next(rows, None)
        if row is None:  # stopped in between
            items.is_stopped = True
            break
        items.add(key, row)
        follower.progress(len(items.found), len(steps), staleness_result(items))
    return staleness_result(items)


def _efficiency(job: Job, folder: Path, follower: Follower) -> dict:
    longest = job.numbers["tokens"]
    options = EfficiencyOptions(
        job.model,
        documents=(whole(job, folder),),
        lengths=(longest // 4, longest),
        new_tokens=job.numbers["new"],
        rounds=1,
        **follower.options,
    )
    return measure_efficiency(options)


def _attribution(job: Job, folder: Path, follower: Follower) -> dict:
    read = job.numbers["tokens"]
    tokens = read + job.model.config.window + SPARE
    options = AttributionOptions(
        job.model,
        documents=(parts(job, folder, tokens, least=tokens),),
        max_items=job.numbers["items"],
        read_tokens=read,
        tokens_per_document=job.numbers["per_part"],
        **follower.options,
    )
    return measure_attribution(options)


def _comparison(job: Job, folder: Path, follower: Follower) -> dict:
    tokens = job.numbers["tokens"]
    options = RetrievalOptions(
        job.model,
        documents=(parts(job, folder, tokens, least=job.model.config.window + SPARE, most=job.numbers["items"]),),
        max_tokens=tokens,
        **follower.options,
    )
    return measure_retrieval(options)


RUNS: dict[str, Callable[[Job, Path, Follower], dict]] = {
    "perplexity": _perplexity,
    "suffix": _suffix,
    "icl": _icl,
    "needle": _needle,
    "staleness": _staleness,
    "efficiency": _efficiency,
    "attribution": _attribution,
    "comparison": _comparison,
}


# Texts -------------------------------------------------------------------------------------------------------------


def parts(job: Job, folder: Path, tokens: int, *, least: int, most: int | None = None) -> Path:
    """The texts cut into parts of so many tokens, as documents of a file; a text shorter than that is one part.

    Errors: LongMemError where no text has `least` tokens.
    """
    rows, longest = [], 0
    for name, text in job.texts:
        document = Document.from_text(name, text)
        spans = document.encode(job.model.need_tokenizer()).spans
        longest = max(longest, len(spans))
        size = min(tokens, len(spans))
        for first in range(0, len(spans) - size + 1, size) if size >= least else ():
            cut = document.text[int(spans[first, 0]) : int(spans[first + size - 1, 1])]
            rows.append({"title": f"{document.name}, part {len(rows) + 1}", "text": cut})
    if not rows:
        raise LongMemError(f"The text has {longest:,} tokens; this run needs {least:,} in a row: choose a longer one.")
    return _write(folder / "parts.jsonl", rows[:most])


def whole(job: Job, folder: Path, *, least: int = 0) -> Path:
    """The texts as documents of a file. Errors: LongMemError where they have fewer than `least` tokens together."""
    if least:
        tokenizer = job.model.need_tokenizer()
        n = sum(len(Document.from_text(*row).encode(tokenizer).token_ids) for row in job.texts)
        if n < least:
            raise LongMemError(f"The text has {n:,} tokens; the longest haystack asks for {least:,}: make it shorter.")
    return _write(folder / "texts.jsonl", [{"title": name, "text": text} for name, text in job.texts])


def made_up(folder: Path, n_train: int, n_test: int) -> tuple[Path, Path]:
    """Files of demonstrations and of texts to classify, of a task that nobody can know."""
    rows = [{"text": text, "label": label} for text, label in word_examples(Random(1), n_train + n_test)]
    return _write(folder / "train.jsonl", rows[:n_train]), _write(folder / "test.jsonl", rows[n_train:])


def _write(path: Path, rows: Sequence[dict]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path
