"""What the buttons do, on a real tiny model: reading, generating, stopping, inspecting, and errors that stay small."""

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import asdict

import pytest

from app.figure_tables import table_html
from app.handlers import CHARTS, Studio
from app.inspection import passages_of
from app.reading import SampleShelf, read
from app.scored import LOOKED_UP, NEXT_PAGE, SCORED
from app.session import SessionStore
from app.settings import MemorySettings, Place
from app.source_handlers import SourceHandlers
from app.switches import Switches
from app.turns import Work
from app.what_if import again
from app.what_if_markup import comparison
from longmem import kept_index
from longmem.documents import Document
from longmem.errors import DocumentError, LongMemError, MemoryBudgetError
from longmem.memory_bank import MemoryBank
from longmem.scoring import score

STORY = "The lighthouse keeper wrote the name of every ship in a long ledger. " * 12
SETTINGS = {"max_new_tokens": 6, "temperature": 0.8, "top_p": 0.9, "seed": 1}


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    (folder / "the-keeper.txt").write_text(STORY, encoding="utf-8")
    (folder / "another.txt").write_text("In the morning the ship returned. " * 8, encoding="utf-8")
    return folder


@pytest.fixture
def studio(tiny_model, samples) -> Studio:
    return Studio(tiny_model, SessionStore(tiny_model.new_bank), SampleShelf(tiny_model, samples))


@pytest.fixture
def opened(studio) -> Studio:
    """A studio in which visitor "me" has the sample in memory."""
    list(studio.open("me"))
    return studio


def bank(studio: Studio, key: str = "me") -> MemoryBank:
    return studio.store.get(key).bank


def last(views):
    return list(views)[-1]


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def test_the_page_opens_with_the_sample_in_memory(studio):
    views = list(studio.open("me"))
    assert "Reading the sample story" in views[0].status
    assert "the-keeper.txt" in views[-1].documents
    assert not views[-1].busy
    assert len(list(studio.open("you"))) == 1  # read once, copied for everybody


def test_visitors_do_not_share_their_copy_of_the_sample(opened):
    list(opened.open("you"))
    opened.clear("you")
    assert bank(opened, "you").is_empty
    assert bank(opened).n_tokens > 0


def test_samples_are_listed_with_the_opening_one_first(studio):
    assert studio.shelf.names == ["the-keeper.txt", "another.txt"]
    with pytest.raises(DocumentError, match=r"another\.txt"):
        studio.shelf.document("../secret.txt")


def test_pasted_text_is_read_under_its_name(opened):
    view = last(opened.read_text("me", "my <b>notes</b>", "The ship returned in the morning."))
    assert "my &lt;b&gt;notes" in view.documents
    assert "my &lt;b&gt;notes" in view.status
    assert view.choices[-1][1] == max(bank(opened).documents)


def test_files_are_read_one_after_the_other_with_progress(opened, tmp_path):
    paths = [tmp_path / "one.txt", tmp_path / "two.md"]
    for path in paths:
        path.write_text(STORY, encoding="utf-8")
    views = list(opened.read_files("me", [str(path) for path in paths]))
    assert "Reading one.txt (1 of 2)" in views[0].status
    assert "tokens/s" in views[0].status
    assert views[0].busy
    assert [record.name for record in bank(opened).documents.values()] == ["the-keeper.txt", "one.txt", "two.md"]


def test_a_file_that_cannot_be_read_is_said_and_the_memory_stays(opened, tmp_path):
    broken = tmp_path / "broken.pdf"
    broken.write_bytes(b"%PDF-1.7 nothing")
    before = bank(opened).n_tokens
    view = last(opened.read_files("me", [str(broken)]))
    assert 'role="alert"' in view.notice
    assert "broken.pdf" in view.notice
    assert bank(opened).n_tokens == before


def test_empty_text_is_an_error_in_words(opened):
    assert "holds no text" in last(opened.read_text("me", "empty", "   ")).notice


def test_stopping_a_reading_keeps_what_was_read(opened):
    views = opened.read_text("me", "long", STORY * 30)
    next(views)
    opened.stop("me", Work.READING)
    view = last(views)
    assert "Stopped" in view.status
    assert 0 < bank(opened).documents[1].n_tokens < len(STORY) * 30 / 8
    assert not opened.store.get("me").is_busy


def test_a_stop_while_waiting_for_the_model_reads_nothing(opened):
    opened.prepare("me", Work.READING)
    opened.stop("me", Work.READING)
    assert "Stopped" in last(opened.read_text("me", "late", STORY)).status
    assert len(bank(opened).documents) == 1


def test_leaving_in_the_middle_of_a_reading_ends_its_thread(opened):
    views = opened.read_text("me", "long", STORY * 30)
    next(views)
    views.close()
    assert not opened.store.get("me").is_busy
    assert "longmem-read" not in {thread.name for thread in threading.enumerate()}


def test_errors_of_the_reading_thread_reach_the_reader(tiny_model):
    class Broken:
        def remember(self, document, *, memory, progress, stop):
            progress(1, 2)
            raise LongMemError("the segment is broken")

    progress = read(Broken(), Document.from_text("a", "b"), tiny_model.new_bank(), threading.Event())
    assert next(progress).done == 1
    with pytest.raises(LongMemError, match="segment is broken"):
        next(progress)


def test_documents_are_removed_one_by_one_and_all_at_once(opened):
    last(opened.read_sample("me", "another.txt"))
    view = opened.remove("me", 0)
    assert "the-keeper" not in view.documents
    assert "another.txt" in view.documents
    assert "Memory is empty" in opened.clear("me").documents


def test_removing_what_is_not_there_is_said(opened):
    assert 'role="alert"' in opened.remove("me", 99).notice


def test_nothing_changes_the_bank_while_it_is_in_use(opened):
    with opened.store.get("me").lock:
        assert "just now" in opened.clear("me").notice
        assert "just now" in last(opened.generate("me", "The", SETTINGS)).notice
        assert "just now" in opened.place_preview("me", Place(0, 0.5))
    assert not bank(opened).is_empty


def test_a_place_before_all_that_is_in_memory_is_said(tiny_model, samples):
    store = SessionStore(lambda: tiny_model.new_bank(capacity=64))
    studio = Studio(tiny_model, store, SampleShelf(tiny_model, samples))
    last(studio.read_text("me", "long", STORY * 3))
    assert "any more: of this document" in studio.place_preview("me", Place(0, 0.5))
    assert "nothing reads its own answer" in studio.place_preview("me", Place(0, 0.99))


def test_the_budget_is_said_when_it_is_reached(tiny_model, samples):
    store = SessionStore(tiny_model.new_bank, byte_budget=1)
    studio = Studio(tiny_model, store, SampleShelf(tiny_model, samples))
    assert "that all sessions share" in last(studio.open("me")).notice
    assert "that all sessions share" in last(studio.read_text("me", "a", STORY)).notice
    assert bank(studio).is_empty


def test_reading_never_takes_more_than_the_budget(tiny_model, samples):
    """However little is left: what a reading may take is known, and promised, before it begins."""
    refused = 0
    for budget in range(560_000, 600_000, 4_000):
        store = SessionStore(tiny_model.new_bank, byte_budget=budget)
        studio = Studio(tiny_model, store, SampleShelf(tiny_model, samples))
        list(studio.open("me"))
        for number in range(4):
            view = last(studio.read_text("me", f"t{number}", STORY * 3))
            refused += "of memory, but" in view.notice
            assert bank(studio).nbytes <= budget
            assert store.get("me").promised == 0
    assert refused


def test_a_promised_reading_counts_while_it_goes_on(tiny_model):
    store = SessionStore(tiny_model.new_bank, byte_budget=1_000_000)
    store.reserve(store.get("me"), 700_000)
    with store.get("me").lock, pytest.raises(MemoryBudgetError):
        store.reserve(store.get("you"), 700_000)
    store.settle(store.get("me"))
    store.reserve(store.get("you"), 700_000)


@pytest.mark.parametrize("ranks", ["4", None, -1, True, 1.5])
def test_ranks_that_are_no_number_are_named(opened, ranks):
    with pytest.raises(LongMemError, match="trace_ranks is"):
        list(opened.generate_text("me", "The", SETTINGS, use_memory=True, trace_ranks=ranks))


def test_a_place_that_is_no_number_is_named():
    with pytest.raises(LongMemError, match="Place is nan"):
        Place(0, float("nan"))


def test_a_visitor_whose_memory_was_freed_is_told(tiny_model, samples):
    store = SessionStore(tiny_model.new_bank, idle_seconds=-1)
    studio = Studio(tiny_model, store, SampleShelf(tiny_model, samples))
    list(studio.open("me"))
    list(studio.open("you"))
    assert "was freed" in last(studio.read_text("me", "a", "Some text.")).notice


def test_generating_fills_both_panels_and_the_inspector(opened):
    views = list(opened.generate("me", "The keeper", SETTINGS))
    done = views[-1]
    assert "Writing" in views[1].status
    assert "Done: 6 of 6 tokens" in done.status
    assert done.with_memory.count("data-step") == done.plain.count("data-step") == 6
    assert len(done.payload["steps"]) == 6
    assert done.payload["layers"] == [1, 3]
    assert all(layer["passages"] for step in done.payload["steps"] for layer in step["layers"])


def test_an_empty_memory_writes_the_same_as_no_memory(opened):
    opened.clear("me")
    done = last(opened.generate("me", "The keeper", SETTINGS))
    texts = [panel.count("lm-parting") for panel in (done.with_memory, done.plain)]
    assert texts == [0, 0]
    assert set(opened.store.get("me").run.tokens.effect) == {0.0}


def test_a_seed_gives_the_same_text_again(opened):
    texts = [last(opened.generate("me", "The keeper", SETTINGS)).with_memory for _ in range(2)]
    texts = [re.sub(r'data-run="\d"', "", text) for text in texts]
    assert texts[0] == texts[1]


def test_stopping_ends_both_texts_and_keeps_them(opened):
    views = opened.generate("me", "The keeper", {**SETTINGS, "max_new_tokens": 200})
    for _ in range(4):
        next(views)
    opened.stop("me", Work.GENERATING)
    view = last(views)
    assert "Stopped" in view.status
    steps = len(opened.store.get("me").run.tokens)
    assert 3 <= steps < 100
    assert view.with_memory.count("data-step") == steps
    wait_until(lambda: "longmem-generate" not in {thread.name for thread in threading.enumerate()})


def test_a_stop_before_the_first_token_still_ends_well(opened):
    opened.prepare("me", Work.GENERATING)
    opened.stop("me", Work.GENERATING)
    view = last(opened.generate("me", "The keeper", SETTINGS))
    assert "Stopped" in view.status
    assert not view.busy


def test_a_stop_ends_what_it_was_pressed_for_whatever_waits(opened):
    views = opened.generate("me", "The keeper", {**SETTINGS, "max_new_tokens": 200})
    for _ in range(4):
        next(views)
    opened.prepare("me", Work.SCORING)
    opened.prepare("me", Work.GENERATING)  # another text, by Enter in the prompt
    opened.stop("me", Work.GENERATING)
    assert "Stopped" in last(views).status
    assert len(list(opened.score_onward("me", Place(0, 0.5), 30))[-1].along) > 1
    assert "Done" in last(opened.generate("me", "The keeper", SETTINGS)).status


def test_leaving_in_the_middle_of_a_generation_frees_the_bank(opened):
    views = opened.generate("me", "The keeper", {**SETTINGS, "max_new_tokens": 200})
    for _ in range(3):
        next(views)
    views.close()
    assert not opened.store.get("me").is_busy
    wait_until(lambda: "longmem-generate" not in {thread.name for thread in threading.enumerate()})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_new_tokens": 0}, "Length is 0"),
        ({"max_new_tokens": None}, "must all be numbers"),
        ({"temperature": -1}, "Temperature is -1"),
        ({"temperature": float("nan")}, "must all be numbers"),
        ({"top_p": 0}, "Top-p is 0"),
        ({"seed": -5}, "Seed is -5"),
    ],
)
def test_settings_outside_what_is_allowed_are_said(opened, settings, said):
    view = last(opened.generate("me", "The", {**SETTINGS, **settings}))
    assert said in view.notice
    assert view.with_memory is None  # what stood on the page stays


def test_an_empty_prompt_is_said(opened):
    assert "prompt is empty" in last(opened.generate("me", "  ", SETTINGS)).notice


def test_an_error_of_ours_is_logged_and_the_session_lives_on(opened, monkeypatch, caplog):
    def broken(*args: object, stop: object) -> None:
        raise RuntimeError("secret path")

    monkeypatch.setattr("app.run_handlers.generate_pair", broken)
    view = last(opened.generate("me", "The", SETTINGS))
    assert "Something failed" in view.notice
    assert "secret path" not in view.notice
    assert "secret path" in caplog.text
    assert not opened.store.get("me").is_busy


def test_continuing_a_document_searches_only_before_the_place(opened):
    list(opened.generate("me", "", SETTINGS, Place(0, 0.5)))
    run = opened.store.get("me").run
    text = bank(opened).documents[0].text
    assert STORY.startswith(text[:50])
    place = Place(0, 0.5).character(text)
    retrieved = run.trace[run.trace.chunk >= 0]
    assert len(retrieved)
    assert retrieved.end.max() <= place
    assert text[:place].endswith(run.recipe.prompt)


def test_a_place_is_previewed_with_what_really_follows(opened):
    html = opened.place_preview("me", Place(0, 0.5))
    assert "lm-after" in html
    assert "Choose a document" in opened.place_preview("me", None)
    assert "Choose a document" in opened.place_preview("me", Place(7, 0.5))
    assert "not in memory" in last(opened.generate("me", "", SETTINGS, Place(7, 0.5))).notice


def test_places_stay_inside_the_text():
    assert Place(0, -1).character("one two") == 1
    assert Place(0, 2).character("one two three") == 7
    assert Place(0, 0.5).character("onetwothree") == 5


def test_charts_follow_the_chosen_token_and_layer(opened):
    assert "Generate or score" in opened.chart("me", "layers").layout.annotations[0].text
    list(opened.generate("me", "The keeper", SETTINGS))
    assert opened.choose("me", 3, 1)
    assert "token 3" in opened.chart("me", "layers").layout.title.text
    assert "layer 1 · token 3" in opened.chart("me", "heads").layout.title.text
    assert "all tokens" in opened.chart("me", "layers", whole_run=True).layout.title.text
    for name in CHARTS:
        assert opened.chart("me", name).data


@pytest.mark.parametrize(("step", "layer"), [(99, 1), (0, 2), ("<script>", None), (None, None), (-1, 1)])
def test_choices_that_the_run_does_not_have_are_ignored(opened, step, layer):
    list(opened.generate("me", "The keeper", SETTINGS))
    assert not opened.choose("me", step, layer)


def test_a_run_outlives_the_documents_it_used(opened):
    list(opened.generate("me", "The keeper", SETTINGS))
    chunk = int(opened.store.get("me").run.trace.chunk.iloc[0])
    opened.clear("me")
    assert f"#{chunk}" in SourceHandlers(opened).show_chunk("me", chunk)
    assert opened.chart("me", "layers").data


def test_text_longer_than_the_window_shows_what_it_retrieved_of_itself(opened, tiny_model):
    opened.clear("me")
    list(opened.generate("me", STORY[:400], {**SETTINGS, "max_new_tokens": 60}))
    run = opened.store.get("me").run
    own = run.trace[run.trace.chunk < 0]
    assert len(own)
    row = own.iloc[0]
    assert run.sources[-1].text[row.start : row.end] == row.text
    assert opened.chart("me", "layers").data
    assert f"#{row.chunk}" in SourceHandlers(opened).show_chunk("me", int(row.chunk))


def test_api_results_are_plain_values(opened):
    *partial, whole = opened.generate_text("me", "The keeper", SETTINGS, use_memory=True, trace_ranks=1)
    assert [len(result["tokens"]) for result in partial] == [1, 2, 3, 4, 5, 6]
    assert whole["text"] == "".join(whole["tokens"])
    assert {row["rank"] for row in whole["trace"]} == {0}
    assert whole["memory"]["documents"][0]["name"] == "the-keeper.txt"


def test_api_without_memory_retrieves_nothing(opened):
    whole = last(opened.generate_text("me", "The", SETTINGS, use_memory=False, trace_ranks=4))
    assert whole["trace"] == []
    assert set(whole["effect"]) == {0.0}


def test_api_loads_texts_and_files_and_clears(opened, tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(STORY, encoding="utf-8")
    summary = opened.load_documents("api", [str(path)], ["The ship returned."])
    assert [document["name"] for document in summary["documents"]] == ["book.txt", "text-1"]
    assert summary["tokens"] == sum(document["tokens"] for document in summary["documents"])
    assert opened.clear_memory("api")["tokens"] == 0
    assert opened.memory_summary("api")["capacity"] == bank(opened, "api").capacity


def test_leaving_ends_the_session(opened):
    opened.leave("me")
    assert "me" not in opened.store


def test_nothing_runs_on_a_memory_whose_opening_sample_is_still_being_read(studio):
    opening = studio.open("early")
    next(opening)
    last = list(studio.generate("early", "The keeper", {"max_new_tokens": 2}))[-1]
    assert last.payload is None
    assert "wait until it has ended" in last.notice
    list(opening)
    assert studio.memory_summary("early")["tokens"] > 0


MEMORY = {"capacity": 2048, "chunk_size": 4, "retrieved_tokens": 8, "layers": (1, 3)}


def test_capacity_retrieved_tokens_and_layers_take_effect_at_once(opened):
    before = bank(opened)
    view = last(opened.set_memory("me", MEMORY | {"layers": (3,)}))
    assert "Memory is set" in view.status
    assert (view.settings.capacity, view.settings.layers) == (2048, (3,))
    assert bank(opened) is before
    assert before.capacity == 2048
    list(opened.generate("me", "The keeper", SETTINGS))
    trace = opened.store.get("me").run.trace
    assert set(trace.layer) == {3}
    assert trace["rank"].max() == 1


def test_a_search_by_index_is_chosen_and_its_recall_stands_under_the_gauge(opened, monkeypatch):
    monkeypatch.setattr(kept_index, "LEAST_TOKENS", 64)
    before = opened.store.get("me").memory_version
    view = last(opened.set_memory("me", MEMORY | {"backend": "faiss-sq8"}))
    assert view.settings.backend == bank(opened).backend == "faiss-sq8"
    assert "faiss-sq8: no search by index yet" in view.gauge
    assert opened.store.get("me").memory_version != before
    list(opened.generate("me", "The keeper", SETTINGS))
    assert re.search(r"faiss-sq8: recall (100\.0|9\d\.\d)% of exact search, over \d+ queries", opened.look("me").gauge)
    view = last(opened.set_memory("me", MEMORY | {"backend": "faiss-hnsw", "chunk_size": 8}))
    assert "Memory is set" in view.status, view.notice
    assert bank(opened).backend == "faiss-hnsw"
    assert "faiss" not in last(opened.set_memory("me", MEMORY)).gauge


def test_a_search_whose_index_finds_no_room_is_said_and_the_old_one_goes_on(opened, monkeypatch):
    monkeypatch.setattr(kept_index, "LEAST_TOKENS", 64)
    list(opened.set_memory("me", MEMORY))
    monkeypatch.setattr(opened.store, "byte_budget", bank(opened).nbytes)
    view = last(opened.set_memory("me", MEMORY | {"backend": "faiss-hnsw"}))
    assert "memory" in view.notice
    assert view.settings.backend == bank(opened).backend == "torch"


def test_chunks_of_another_size_are_read_again(opened):
    text, n_tokens = bank(opened).documents[0].text, bank(opened).n_tokens
    views = list(opened.set_memory("me", MEMORY | {"chunk_size": 8}))
    assert "again (1 of 1)" in views[0].status
    assert (bank(opened).chunk_size, bank(opened).n_tokens) == (8, n_tokens)
    assert bank(opened).documents[0].text == text
    list(opened.generate("me", "The keeper", SETTINGS))
    assert opened.store.get("me").run.chunks.n_tokens.max() == 8
    list(opened.read_text("me", "more", STORY))
    assert len(bank(opened).documents) == 2


def test_reading_again_that_is_stopped_leaves_memory_as_it_was(opened):
    before = bank(opened)
    views = opened.set_memory("me", MEMORY | {"chunk_size": 8})
    next(views)
    opened.stop("me", Work.READING)
    view = last(views)
    assert "as it was before" in view.status
    assert bank(opened) is before
    assert view.settings.chunk_size == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"capacity": 3}, "Capacity is 3"),
        ({"capacity": None}, "whole numbers"),
        ({"chunk_size": 3}, "Chunk size is 3"),
        ({"retrieved_tokens": 6}, "Retrieved tokens are 6"),
        ({"backend": "faiss-cpu"}, "must be one of torch, torch-coarse, faiss-ivf"),
        ({"layers": (2,)}, "Layers [2] have no memory"),
    ],
)
def test_a_memory_setting_outside_what_is_allowed_is_said_and_changes_nothing(opened, changes, words):
    view = last(opened.set_memory("me", MEMORY | changes))
    assert words in view.notice
    assert view.settings == opened.settings_of(opened.store.get("me"))
    assert bank(opened).capacity == 4096
    assert bank(opened).n_tokens > 0


def test_a_text_is_scored_and_inspected(opened):
    view = opened.score("me", SCORED, "The keeper wrote the name of every ship.", None, 64)
    run = opened.store.get("me").run
    assert view.payload["kind"] == "scored"
    assert f"over {len(run.tokens)} tokens" in view.words
    assert run.recipe.prompt + "".join(run.tokens.token) == "The keeper wrote the name of every ship."
    assert view.panel.count("data-step") == len(run.tokens)
    assert opened.chart("me", "running").data[0].y[-1] > 0


def test_the_next_page_of_a_document_searches_only_what_comes_before_it(opened):
    place = Place(0, 0.5)
    view = opened.score("me", NEXT_PAGE, "", place, 30)
    assert place.share < view.next_share < 1  # where the next press goes on
    run = opened.store.get("me").run
    assert len(run.tokens) == 30
    at = place.character(STORY)
    assert STORY[at:].startswith("".join(run.tokens.token)[:20])
    retrieved = run.trace[run.trace.chunk >= 0]
    assert len(retrieved)
    assert retrieved.end.max() <= at
    assert view.payload["steps"]
    assert "Choose a document" in opened.score("me", NEXT_PAGE, "", None, 30).notice
    assert "Page is 1 tokens" in opened.score("me", NEXT_PAGE, "", place, 1).notice


def test_a_document_is_scored_page_after_page_to_its_end(opened, tiny_model):
    place = Place(0, 0.5)
    views = list(opened.score_onward("me", place, 30))
    along = views[-1].along
    at = place.character(STORY)
    ids = tiny_model.tokenizer(STORY[at:], add_special_tokens=False)["input_ids"]
    assert abs(along.tokens.sum() - len(ids)) <= 1  # cut at a word, the text may begin otherwise
    assert set(along.tokens[:-1]) == {30}
    assert along.share.iloc[-1] == 1
    assert along.share.is_monotonic_increasing
    assert [view.busy for view in views] == [True] * (len(along) + 1) + [False]
    assert all("left" in view.words for view in views[1:-1])
    run = opened.store.get("me").run
    assert len(run.tokens) == along.tokens.iloc[-1]
    assert run.tokens.logprob.sum() == pytest.approx(along.logprob.iloc[-1])
    assert STORY.endswith("".join(run.tokens.token)[-10:])
    assert "from 50 % of the document to 100 %" in views[-1].words
    assert "Choose a document" in last(opened.score_onward("me", None, 30)).notice


def test_scoring_on_can_be_stopped_after_a_page_and_keeps_what_it_has(opened):
    opened.prepare("me", Work.SCORING)
    views = []
    for view in opened.score_onward("me", Place(0, 0.3), 30):
        views.append(view)
        if len(view.along) == 2:
            opened.stop("me", Work.SCORING)
    assert len(views[-1].along) == 2
    assert "Stopped: perplexity over 60 tokens" in views[-1].words
    assert len(opened.store.get("me").run.tokens) == 30


def test_a_phrase_is_looked_up_without_predicting_anything(opened):
    view = opened.score("me", LOOKED_UP, "every ship in a long", None, 0)
    json.dumps(view.payload, allow_nan=False)
    step = view.payload["steps"][view.payload["focus"]]
    assert step["effect"] is None
    assert "Nothing was predicted" in step["sentence"]
    assert step["layers"][0]["passages"]
    assert "Nothing was predicted" in last(opened.run_again("me")).notice
    assert "Nothing was predicted here" in opened.chart("me", "running").layout.annotations[0].text
    assert len(opened.chart("me", "scores").data) == 2


def test_every_chart_of_a_run_is_drawn_and_has_its_table(opened):
    list(opened.generate("me", "The keeper", SETTINGS))
    for name in CHARTS:
        figure = opened.chart("me", name)
        assert figure.data, name
        assert "<td>" in table_html(figure), name


def test_a_run_again_without_a_layer_is_the_score_and_the_text_without_it(opened, tiny_model):
    list(opened.generate("me", "The keeper", SETTINGS))
    run = opened.store.get("me").run
    opened.choose("me", 2, 1)
    bar = opened.toggle("me", "layers", [1])
    assert "layer 1" in bar.bar
    opened.toggle("me", "layers", [3])
    view = last(opened.run_again("me"))
    assert not view.busy
    assert "layer 1, layer 3" in view.result
    assert f"«{run.tokens.token[2].strip()}»" in view.result
    found = list(
        again(tiny_model, opened.store.get("me"), run, opened.store.get("me").switches, 2, stop=threading.Event())
    )[-1]
    assert [t.logprob_off for t in found.tokens] == pytest.approx(run.tokens.logprob_empty[2:].tolist(), abs=1e-4)
    assert [t.text for t in found.written][: len(run.tokens)] != []
    assert opened.all_on("me").result == ""


def test_a_run_again_is_stopped_and_keeps_what_it_has_until_everything_is_on(opened):
    list(opened.generate("me", "The keeper", SETTINGS))
    opened.toggle("me", "layers", [1])
    views = opened.run_again("me")
    next(views)
    opened.stop("me", Work.AGAIN)
    assert "Stopped here." in last(views).result
    views = opened.run_again("me")
    next(views)
    opened.all_on("me")
    assert last(views).result == ""


def test_a_run_again_with_nothing_that_matters_off_writes_the_same_text(opened, tiny_model):
    list(opened.generate("me", "The keeper", SETTINGS))
    session = opened.store.get("me")
    unseen = {c.id for c in session.bank.chunks()} - set(session.run.trace.chunk)
    found = list(
        again(tiny_model, session, session.run, Switches(chunks=frozenset(list(unseen)[:1])), 1, stop=threading.Event())
    )[-1]
    assert [t.token_id for t in found.written] == session.run.tokens.token_id[1:].tolist()
    assert found.parting is None


def test_what_a_passage_is_worth_is_the_score_without_its_chunks(opened, tiny_model):
    opened.score("me", SCORED, "The keeper wrote the name of every ship.", None, 64)
    session = opened.store.get("me")
    opened.choose("me", 5, 1)
    found = opened.measure("me")
    assert (found["run"], found["step"]) == (session.run.number, 5)
    shown = passages_of(session.run, 5)
    assert {int(layer): len(rows) for layer, rows in found["effects"].items()} == {k: len(v) for k, v in shown.items()}
    chunks = [part[1] for part in shown[3][0]["parts"] if len(part) > 1]
    without = score(tiny_model, "The keeper wrote the name of every ship.", memory=session.bank, exclude=chunks)
    assert found["effects"]["3"][0] == pytest.approx(session.run.tokens.logprob[5] - without.logprobs[5], abs=2e-3)


def test_of_the_runs_own_text_nothing_is_measured(opened, monkeypatch):
    opened.score("me", SCORED, "The keeper wrote the name of every ship.", None, 64)
    own = {"document": -1, "parts": [["words", -2, 1.0]]}
    monkeypatch.setattr("app.inspection.passages_of", lambda run, step: {3: [own]})
    assert opened.measure("me")["effects"] == {"3": [None]}


def test_what_is_switched_off_is_of_the_token_that_the_page_shows(opened):
    list(opened.generate("me", "The keeper", SETTINGS))
    view = opened.toggle("me", "layers", [1], {"step": 2, "layer": 3, "head": None})
    assert opened.store.get("me").chosen == (2, 3)
    assert "runs again from token 2" in view.bar
    assert "&quot;layers&quot;: [1]" in view.bar


def test_another_number_of_retrieved_tokens_makes_a_run_one_of_another_memory(opened):
    list(opened.generate("me", "The keeper", SETTINGS))
    session, model = opened.store.get("me"), opened.model
    wanted = asdict(MemorySettings.of(model)) | {"retrieved_tokens": model.config.chunk_size}
    list(opened.set_memory("me", wanted))
    assert "Memory has changed" in opened.toggle("me", "layers", [1]).notice
    list(opened.set_memory("me", asdict(MemorySettings.of(model))))
    assert session.settings is None
    assert not opened.toggle("me", "layers", [1]).notice


def test_a_text_that_ends_elsewhere_is_not_called_the_same(opened, tiny_model):
    list(opened.generate("me", "The keeper", SETTINGS))
    session = opened.store.get("me")
    unseen = {c.id for c in session.bank.chunks()} - set(session.run.trace.chunk)
    found = list(
        again(tiny_model, session, session.run, Switches(chunks=frozenset(list(unseen)[:1])), 1, stop=threading.Event())
    )[-1]
    assert "The same text is written." in comparison(found)
    found.written.append(found.written[-1])
    assert "The same text as far as both go; here it is 1 token longer." in comparison(found)


def test_a_change_that_is_stopped_while_it_waits_changes_nothing(opened):
    before = {i: record.text for i, record in opened.store.get("me").bank.documents.items()}
    opened.prepare("me", Work.READING)
    opened.stop("me", Work.READING)
    view = last(opened.change_document("me", Place(0, 0.5), "purse", "ledger"))
    assert "is as it was" in view.status
    assert {i: record.text for i, record in opened.store.get("me").bank.documents.items()} == before


def test_a_change_that_is_stopped_while_it_is_read_changes_nothing(opened):
    list(opened.read_text("me", "long", STORY * 30))
    before, version = bank(opened), bank(opened).version
    views = opened.change_document("me", Place(1, 0.5), "purse", "ledger")
    next(views)
    opened.stop("me", Work.READING)
    assert "Stopped: long is as it was." in last(views).status
    assert bank(opened) is before
    assert before.version == version


def test_after_memory_has_changed_nothing_can_be_switched_off(opened):
    list(opened.generate("me", "The keeper", SETTINGS))
    list(opened.read_text("me", "more", STORY))
    assert "Memory has changed" in opened.toggle("me", "layers", [1]).notice
    assert opened.measure("me") is None
    assert "Memory has changed" in opened.chart("me", "scores").layout.annotations[0].text


@pytest.mark.parametrize(("kind", "values"), [("wings", [1]), ("chunks", ["1"]), ("heads", [3]), ("layers", [True])])
def test_what_cannot_be_switched_off_is_said(opened, kind, values):
    list(opened.generate("me", "The keeper", SETTINGS))
    assert opened.toggle("me", kind, values).notice
    assert not opened.store.get("me").switches


def test_a_false_fact_takes_the_place_of_the_true_one_in_memory(opened):
    view = last(opened.change_document("me", Place(0, 0.5), "purse", "ledger"))
    assert "Read: the-keeper.txt" in view.status
    (record,) = bank(opened).documents.values()
    assert record.text == STORY.replace("ledger", "purse")
    put = last(opened.change_document("me", Place(record.id, 0.5), "The lamp was green.", ""))
    (record,) = bank(opened).documents.values()
    assert " The lamp was green. " in record.text
    assert put.choices[0][1] == record.id
    for find, put, words in (("lighthouse wine", "x", "is nowhere in this document"), ("", " ", "nothing to put in")):
        assert words in last(opened.change_document("me", Place(record.id, 0.5), put, find)).notice
    assert bank(opened).documents[record.id].text == record.text
    assert "Choose a document" in last(opened.change_document("me", Place(99, 0.5), "x", "")).notice


def test_a_text_goes_on_and_what_left_the_window_enters_memory_once(opened):
    options = {"max_new_tokens": 20, "temperature": 0.8, "top_p": 0.9, "seed": 1}
    list(opened.generate("me", "The keeper wrote the name of every ship in a ledger.", options))
    session = opened.store.get("me")
    text = session.written.text
    list(opened.go_on("me", " And then", options, keep=False))
    assert session.run.recipe.prompt == f"{text} And then"
    assert len(bank(opened).documents) == 1
    text, left = session.written.text, session.written.n_left
    assert left > 0
    list(opened.go_on("me", "", options, keep=True))
    record = list(bank(opened).documents.values())[-1]
    assert (record.name, record.n_tokens) == ("generated", left)
    assert text.startswith(record.text)
    assert text.endswith(session.run.recipe.prompt)
    # A character that is cut by the edge of the window stands on both sides.
    assert 0 <= len(record.text) + len(session.run.recipe.prompt) - len(text) <= 8
    view = last(opened.go_on("you", "", options, keep=True))
    assert "no text to continue" in view.notice
