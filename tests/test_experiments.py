"""The pages of the experiments without a page: recorded files, missing and damaged ones, and small runs that stop."""

import json
import shutil
import threading
from pathlib import Path

import pytest

from app.experiment_pages import PAGES
from app.experiment_runs import Job, run
from app.experiments import OWN_RUN, Experiments, Wishes, numbers
from app.handlers import Studio
from app.reading import SampleShelf
from app.session import SessionStore
from longmem.documents import Document
from longmem.errors import LongMemError, Stopped

RECORDED = Path(__file__).parent.parent / "assets" / "results"
KEY = "visitor"
STORY = "The lighthouse keeper wrote the name of every ship in a long ledger. In the morning the ship returned. "
CHAPTERS = "".join(f"CHAPTER {number}\n\n{STORY * 4}\n\n" for number in range(1, 10))
# Numbers as small as a random model of 32 tokens of window needs them.
SMALL = {
    "perplexity": {"tokens": 128, "items": 3},
    "suffix": {"tokens": 64, "items": 2},
    "icl": {"memory": 6, "items": 3},
    "needle": {"tokens": 256, "items": 3},
    "staleness": {"steps": 4},
    "efficiency": {"tokens": 512, "new": 2},
    "attribution": {"tokens": 64, "per_part": 2, "items": 2},
    "comparison": {"tokens": 96, "items": 2},
}


@pytest.fixture
def results(tmp_path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


@pytest.fixture
def experiments(tiny_model, tmp_path, results) -> Experiments:
    samples = tmp_path / "samples"
    samples.mkdir()
    (samples / "chapters.txt").write_text(CHAPTERS, encoding="utf-8")
    store = SessionStore(tiny_model.new_bank)
    return Experiments(Studio(tiny_model, store, SampleShelf(tiny_model, samples)), results)


@pytest.fixture
def small_knobs(monkeypatch):
    """Knobs without their lower bounds, and made-up texts of few tokens: the model has a window of 32."""
    monkeypatch.setattr("app.experiments.numbers", lambda page, given: given)
    monkeypatch.setattr("app.experiment_runs.word_examples", lambda rng, n: [("a", "xy"[i % 2]) for i in range(n)])
    monkeypatch.setattr("app.experiment_runs.MADE_UP_TEMPLATE", "{text} {label}. ")


def wish(page: str, **more: object) -> Wishes:
    return Wishes("sample:chapters.txt" if PAGES[page].takes_text else None, SMALL[page], **more)


def measure(experiments: Experiments, page: str, wishes: Wishes | None = None) -> list:
    experiments.prepare(KEY, page)
    return list(experiments.run(KEY, page, wishes or wish(page)))


class AfterOneItem(threading.Event):
    """A stop that is set when it is asked for the second time."""

    asked = 0

    def is_set(self) -> bool:
        self.asked += 1
        return self.asked > 1


def job(model, page: str) -> Job:
    return Job(model, [("chapters.txt", CHAPTERS)], SMALL[page])


# Recorded results --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_the_recorded_results_in_the_box_are_drawn(experiments, page, results):
    shutil.rmtree(results)
    shutil.copytree(RECORDED, results)
    view = experiments.show(KEY, page)
    assert view.chosen == f"{PAGES[page].recorded_as}.json"
    assert "Recorded result" in view.said
    assert "python -m longmem evaluate" in view.said
    assert "n = " in view.said
    assert len(view.figures) == len(view.tables) == len(PAGES[page].charts)
    assert all(figure.data for figure in view.figures)
    assert all("<table>" in table for table in view.tables)


@pytest.mark.parametrize("page", PAGES)
def test_a_missing_file_names_the_command_that_makes_it(experiments, page):
    view = experiments.show(KEY, page)
    assert view.chosen is None
    assert view.choices == []
    assert f"evaluate {page}" in view.said
    assert len(view.figures) == len(PAGES[page].charts)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[1, 2]",
        '{"evaluation": "suffix"}',
        '{"evaluation": "suffix", "by_prefix": 3, "systems": {}}',
        "\udce9\udcff",
    ],
)
def test_a_damaged_file_is_said_and_breaks_nothing(experiments, results, text):
    (results / "suffix.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    view = experiments.show(KEY, "suffix")
    assert "suffix.json cannot be shown" in view.said
    assert "evaluate suffix" in view.said
    assert not view.figures[0].data


def test_hostile_names_in_a_result_never_become_html(experiments, results):
    evil = "<img src=x onerror=pwn()>"
    text = (RECORDED / "comparison.json").read_text().replace("paper-all", evil).replace("runs/comparison", evil)
    (results / f"comparison-{evil.replace('/', '')}.json").write_text(text)
    view = experiments.show(KEY, "comparison")
    shown = view.said + "".join(view.tables) + "".join(figure.to_json() for figure in view.figures)
    assert "&lt;img" in shown
    assert "<img" not in shown


def test_every_file_of_an_evaluation_can_be_chosen(experiments, results):
    for name in ("perplexity-books-test.json", "suffix.json"):
        shutil.copy(RECORDED / name, results)
    shutil.copy(RECORDED / "perplexity-books-test.json", results / "perplexity-others.json")
    view = experiments.show(KEY, "perplexity", "perplexity-others.json")
    assert [value for _, value in view.choices] == ["perplexity-books-test.json", "perplexity-others.json"]
    assert view.chosen == "perplexity-others.json"
    assert "n = 25" in view.said


def test_a_choice_that_is_not_offered_reads_no_file(experiments, results, tmp_path):
    (tmp_path / "secret.json").write_text('{"evaluation": "suffix"}')
    assert experiments.show(KEY, "suffix", "../secret.json").chosen is None


def test_a_result_of_another_model_says_so(experiments, results):
    shutil.copy(RECORDED / "suffix.json", results)
    assert "another one than is loaded here" in experiments.show(KEY, "suffix").said


def test_systems_that_nobody_knows_are_drawn_too(experiments, results):
    result = json.loads((RECORDED / "suffix.json").read_text())
    for part in result["by_prefix"]:
        part["systems"]["new_system"] = part["systems"]["longmem"]
    (results / "suffix.json").write_text(json.dumps(result))
    assert "new system" in {trace.name for trace in experiments.show(KEY, "suffix").figures[0].data}


# Small runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_a_small_run_is_measured_and_marked_as_small(experiments, page, small_knobs):
    views = measure(experiments, page)
    assert all(view.busy for view in views[:-1])
    last = views[-1]
    assert not last.busy
    assert last.notice == ""
    assert "lm-done" in last.status
    assert last.page.chosen == OWN_RUN
    assert "Small run, yours" in last.page.said
    assert all(figure.data for figure in last.page.figures[:1])
    assert "Small run" in last.page.figures[0].layout.title.text
    assert any('role="progressbar"' in view.status for view in views[:-1])


def test_curves_of_staleness_grow_while_it_runs(experiments, small_knobs):
    views = measure(experiments, "staleness")
    drawn = [view.page for view in views if view.page is not None]
    lengths = [len(page.figures[0].data[0].x) for page in drawn]
    assert lengths[0] == 1
    assert lengths[-1] == 2


def test_a_small_run_leaves_memory_and_model_as_they_were(experiments, tiny_model, small_knobs):
    session = experiments.studio.store.get(KEY)
    tiny_model.remember(Document.from_text("story", STORY * 3), memory=session.bank)
    before, weights = session.bank.n_tokens, {k: v.clone() for k, v in tiny_model.state_dict().items()}
    settings = tiny_model.config.to_dict()
    for page in ("staleness", "comparison", "efficiency", "perplexity"):
        assert "lm-done" in measure(experiments, page)[-1].status
    assert session.bank.n_tokens == before
    assert list(session.bank.documents) == [0]
    assert tiny_model.config.to_dict() == settings
    assert all((weights[name] == value).all() for name, value in tiny_model.state_dict().items())
    assert not tiny_model.backbone.training


def test_a_small_run_takes_the_text_in_memory(experiments, tiny_model, small_knobs):
    session = experiments.studio.store.get(KEY)
    tiny_model.remember(Document.from_text("one", STORY * 20), memory=session.bank)
    assert experiments.sources(KEY) == [("in memory: one", "memory:0"), ("sample: chapters.txt", "sample:chapters.txt")]
    measure(experiments, "perplexity", Wishes("memory:0", SMALL["perplexity"]))
    assert session.measured["perplexity"]["source"] == "one"
    tiny_model.remember(Document.from_text("two", STORY * 20), memory=session.bank)
    assert experiments.sources(KEY)[0] == ("in memory: all documents", "memory:all")
    measure(experiments, "perplexity", Wishes("memory:all", SMALL["perplexity"]))
    assert session.measured["perplexity"]["source"] == "one, two"


def test_own_demonstrations_can_be_measured(experiments, tmp_path, small_knobs):
    rows = [{"text": f"s{i}", "label": "xy"[i % 2]} for i in range(20)]
    paths = tmp_path / "mine.jsonl", tmp_path / "asked.jsonl"
    for path in paths:
        path.write_text("\n".join(map(json.dumps, rows)))
    last = measure(experiments, "icl", wish("icl", files=tuple(map(str, paths))))[-1]
    assert last.notice == ""
    assert "mine" in last.page.tables[1]
    last = measure(experiments, "icl", wish("icl", files=(str(paths[0]), None)))[-1]
    assert "Give both files" in last.notice


@pytest.mark.parametrize("page", ["perplexity", "needle", "attribution", "comparison", "efficiency"])
def test_a_run_that_is_stopped_in_the_middle_keeps_what_it_measured(tiny_model, page):
    updates = list(run(page, job(tiny_model, page), AfterOneItem()))
    assert updates[-1].ended
    assert updates[-1].result["stopped"]
    assert len(updates[-1].result["items"]) == 1 < max(update.total for update in updates)


def test_training_that_is_stopped_keeps_its_curve(tiny_model):
    stop = threading.Event()
    long = Job(tiny_model, [("chapters.txt", CHAPTERS)], {"steps": 200})
    for update in run("staleness", long, stop):
        if update.done == 2:
            stop.set()
    assert update.result["stopped"]
    assert 2 <= len(update.result["curve"]) < 20


def test_a_stop_before_the_first_item_is_no_error(experiments, small_knobs):
    experiments.prepare(KEY, "perplexity")
    experiments.stop(KEY, "perplexity")
    views = list(experiments.run(KEY, "perplexity", wish("perplexity")))
    assert "Stopped before anything" in views[-1].status
    assert views[-1].notice == ""
    assert "lm-done" in measure(experiments, "perplexity")[-1].status  # and it can be run again


def test_a_stop_belongs_to_one_page(experiments, small_knobs):
    experiments.prepare(KEY, "perplexity")
    experiments.stop(KEY, "suffix")
    assert "lm-done" in list(experiments.run(KEY, "perplexity", wish("perplexity")))[-1].status


def test_a_stopped_run_is_said_to_be_stopped(experiments, small_knobs):
    experiments.prepare(KEY, "perplexity")
    views = []
    for view in experiments.run(KEY, "perplexity", wish("perplexity")):
        views.append(view)
        if "1 of 3" in view.status:
            experiments.stop(KEY, "perplexity")
    assert "lm-stopped" in views[-1].status
    assert "It was stopped" in views[-1].page.said


def test_a_visitor_who_leaves_ends_the_run_and_its_thread(experiments, tiny_model, small_knobs):
    experiments.prepare(KEY, "staleness")
    views = experiments.run(KEY, "staleness", wish("staleness"))
    next(views)
    session = experiments.studio.store.get(KEY)
    (stop,) = session.stops._running["staleness"]
    experiments.studio.leave(KEY)
    assert stop.is_set()
    views.close()
    assert "longmem-measure" not in {thread.name for thread in threading.enumerate()}
    assert not session.is_busy


def test_a_run_writes_into_a_temporary_folder_that_is_gone_afterwards(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    seen = []
    for _ in run("perplexity", job(tiny_model, "perplexity"), threading.Event()):
        seen += list(tmp_path.glob("longmem-run-*/*"))
    assert [path.name for path in seen][:1] == ["parts.jsonl"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("page", "wishes", "said"),
    [
        ("perplexity", Wishes("memory:7", SMALL["perplexity"]), "not in memory any more"),
        ("perplexity", Wishes(None, SMALL["perplexity"]), "not in memory any more"),
        ("perplexity", Wishes("sample:/etc/passwd", SMALL["perplexity"]), "no sample"),
        ("needle", Wishes("sample:chapters.txt", {"tokens": 500_000, "items": 3}), "asks for 500,000"),
        ("attribution", Wishes("sample:chapters.txt", {"tokens": 9_000_000, "per_part": 1, "items": 1}), "in a row"),
    ],
)
def test_what_cannot_be_measured_is_said_and_nothing_is_lost(experiments, small_knobs, page, wishes, said):
    views = measure(experiments, page, wishes)
    assert said in views[-1].notice
    assert not views[-1].busy
    assert "lm-done" in measure(experiments, page)[-1].status


def test_an_error_of_ours_is_not_told_in_detail(experiments, small_knobs, monkeypatch, caplog):
    monkeypatch.setattr("app.experiment_runs.RUNS", {"suffix": lambda *_: 1 / 0})
    assert "Something failed inside LongMem" in measure(experiments, "suffix")[-1].notice


@pytest.mark.parametrize("value", [None, "many", 0, 100_000, 2.5, True, float("nan"), float("inf")])
def test_numbers_outside_what_is_allowed_name_the_knob(value):
    with pytest.raises(LongMemError, match="Chapter breaks, at most is"):
        numbers(PAGES["suffix"], {"tokens": 1024, "items": value})
    assert numbers(PAGES["suffix"], {"tokens": 1024.0, "items": 3}) == {"tokens": 1024, "items": 3}


def test_the_knobs_of_every_page_allow_what_they_start_with():
    for page in PAGES.values():
        assert numbers(page, {name: knob.value for name, knob in page.knobs.items()})


def test_stopped_is_raised_where_nothing_was_measured(tiny_model):
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        list(run("icl", job(tiny_model, "icl"), stop))
