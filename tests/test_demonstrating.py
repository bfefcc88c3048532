"""The Demonstrations tab without its page: files, reading, classifying, measuring, and what hostile files do."""

import json
from pathlib import Path

import pytest

from app import demonstrating, demonstration_api, demonstration_markup
from app.demonstration_accuracy import Tally, draw, sizes_of, summarize, wilson
from app.demonstration_files import SAMPLE, SAMPLE_TEST, SAMPLE_TEXT, Source, inspect_file, preview
from app.handlers import Studio
from app.reading import SampleShelf
from app.session import SessionStore
from app.turns import Work
from longmem.demonstrations import Demonstration, DemonstrationSet, Template, read_demonstrations
from longmem.errors import DemonstrationError, LongMemError

PATTERN = "{text} is {label}.\n"
TEXTS = "the ship,the sea,a ledger,the keeper,a long story,the winter,a house,the name".split(",")


@pytest.fixture
def studio(tiny_model, tmp_path) -> Studio:
    return Studio(tiny_model, SessionStore(tiny_model.new_bank), SampleShelf(tiny_model, tmp_path))


def write(folder: Path, rows: list[tuple[str, str]], name: str = "shown.jsonl") -> Source:
    path = folder / name
    path.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in rows), encoding="utf-8")
    return Source(str(path), "text", "label", PATTERN)


def rows(n: int, labels: tuple[str, ...] = ("cold", "warm")) -> list[tuple[str, str]]:
    return [(f"{TEXTS[i % 8]} {i}", labels[i % len(labels)]) for i in range(n)]


def last(views):
    return list(views)[-1]


def read(studio: Studio, source: Source):
    return last(demonstrating.read_demonstrations(studio, "me", source))


# Files -------------------------------------------------------------------------------------------------------------


def test_columns_that_look_like_text_and_label_are_chosen(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,Sentence,split,Label\n1,a ship,train,cold\n")
    view = inspect_file(str(path))
    assert (view.columns, view.text_column, view.label_column) == (
        ["id", "Sentence", "split", "Label"],
        "Sentence",
        "Label",
    )
    path.write_text("first,second,third\n1,2,3\n")
    assert (inspect_file(str(path)).text_column, inspect_file(str(path)).label_column) == ("first", "third")


def test_a_file_that_cannot_be_used_is_said(tmp_path):
    for name, content, said in (
        ("a.txt", "text,label", "extension"),
        ("b.csv", "", "names no columns"),
        ("c.jsonl", "[1]\n", "names no columns"),
    ):
        (tmp_path / name).write_text(content)
        view = inspect_file(str(tmp_path / name))
        assert said in view.notice
        assert view.columns == []


def test_the_preview_shows_the_first_demonstrations_the_prompt_and_what_memory_holds(studio, tmp_path):
    html = preview(studio.model.tokenizer, 4096, write(tmp_path, rows(9)), "the sea")
    assert "9 demonstrations" in html
    assert "… and 6 more" in html
    assert html.count('<b class="lm-label">') == 3
    assert "the ship 0 is" in html
    assert 'the sea is <span class="lm-gap">' in html
    assert "that memory holds" in html
    assert "the oldest leave" in preview(studio.model.tokenizer, 16, write(tmp_path, rows(9)), "the sea")


def test_wrong_rows_are_listed_by_line_and_left_out_only_if_asked(studio, tmp_path):
    source = write(tmp_path, [*rows(3), ("", "cold"), *rows(2), ("the ship", "")])
    html = preview(studio.model.tokenizer, 4096, source, "")
    assert "2 rows cannot be used" in html
    assert "<td>4</td>" in html
    assert "<td>7</td>" in html
    assert "nothing is left out by itself" in html
    view = read(studio, source)
    assert "line 4: " in view.notice
    assert studio.store.get("me").bank.is_empty
    view = read(studio, Source(source.path, "text", "label", PATTERN, skip_wrong=True))
    assert not view.notice
    [shown] = studio.store.get("me").demonstrations.values()
    assert len(shown.demonstrations) == 5


def test_a_template_without_a_field_is_said_in_the_preview(studio, tmp_path):
    source = write(tmp_path, rows(2))
    assert "{label} not at all" in preview(
        studio.model.tokenizer, 9, Source(source.path, "text", "label", "{text}"), ""
    )


def test_hostile_labels_texts_and_names_are_only_text(studio, tmp_path):
    path = tmp_path / "x<img src=x>.csv"
    path.write_text("text,label\n<script>1</script>,<script>\n=1+1,=2+2\n@SUM(1),<img>\n")
    source = Source(str(path), "text", "label", PATTERN)
    pages = [preview(studio.model.tokenizer, 4096, source, "<script>")]
    view = read(studio, source)
    pages += [view.documents, view.status, demonstrating.about_memory(studio, "me", 0)]
    found = last(demonstrating.classify_text(studio, "me", None, "<img>", 0))
    assert not found.notice
    measured = last(demonstrating.evaluate(studio, "me", None, source, n_texts=3, in_window=0, sizes=[2]))
    pages += [found.result, found.tokens, demonstration_markup.accuracy_words(measured.result)]
    pages += [demonstration_markup.wrong_cases(measured.result), demonstration_markup.confusion_table(measured.result)]
    assert not [page for page in pages if "<script" in page or "<img" in page]
    assert "&lt;script&gt;" in pages[0]
    for label in ("=2+2", "&lt;script&gt;", "&lt;img&gt;"):  # a formula is a label as any other
        assert f'<span class="lm-label">{label}</span>' in found.result


# Reading -----------------------------------------------------------------------------------------------------------


def test_demonstrations_are_read_as_a_document_of_the_sessions_bank(studio, tmp_path):
    views = list(demonstrating.read_demonstrations(studio, "me", write(tmp_path, rows(40))))
    assert "tokens/s" in views[0].status
    assert views[0].busy
    session = studio.store.get("me")
    assert [record.name for record in session.bank.documents.values()] == ["shown.jsonl"]
    assert "shown.jsonl" in views[-1].documents
    assert demonstrating.choices(studio, "me") == [("shown.jsonl (40)", 0)]
    assert "40 of 40 demonstrations" in demonstrating.about_memory(studio, "me", 0)


def test_nothing_chosen_is_said(studio):
    assert "No file is chosen" in last(demonstrating.read_demonstrations(studio, "me", None)).notice
    assert "no demonstrations in memory" in last(demonstrating.classify_text(studio, "me", None, "a", 1)).notice
    assert "no demonstrations in memory" in last(demonstrating.evaluate(studio, "me", None, None)).notice


def test_more_demonstrations_than_memory_holds_push_the_oldest_out_and_that_is_said(tiny_model, tmp_path):
    studio = Studio(
        tiny_model, SessionStore(lambda: tiny_model.new_bank(capacity=128)), SampleShelf(tiny_model, tmp_path)
    )
    read(studio, write(tmp_path, rows(60)))
    bank, shown = studio.store.get("me").bank, studio.store.get("me").demonstrations[0]
    first, end = demonstrating.demonstrations_held(bank, 0, shown)
    assert 0 < first < end == 60
    oldest = min(chunk.start for chunk in bank.chunks())
    assert shown.starts[first - 1] < oldest <= shown.starts[first]
    said = demonstrating.about_memory(studio, "me", 0)
    assert f"{end - first} of 60 demonstrations" in said
    assert f"the oldest {first} have left it" in said
    found = last(demonstrating.classify_text(studio, "me", 0, "the sea", 1))
    assert "With memory" in found.result


def test_stopping_a_reading_keeps_what_was_read_and_says_what_was_not(studio, tmp_path):
    views = demonstrating.read_demonstrations(studio, "me", write(tmp_path, rows(300)))
    next(views)
    studio.stop("me", Work.EXAMPLES)
    assert "Stopped" in last(views).status
    said = demonstrating.about_memory(studio, "me", 0)
    assert "were not read" in said
    assert "With memory" in last(demonstrating.classify_text(studio, "me", 0, "the sea", 1)).result


def test_demonstrations_that_were_removed_are_no_longer_offered(studio, tmp_path):
    read(studio, write(tmp_path, rows(10)))
    read(studio, write(tmp_path, rows(12), "others.jsonl"))
    assert [id for _, id in demonstrating.choices(studio, "me")] == [1, 0]
    studio.remove("me", 1)
    assert [id for _, id in demonstrating.choices(studio, "me")] == [0]
    assert "have left memory" in last(demonstrating.classify_text(studio, "me", 1, "the sea", 1)).notice
    studio.clear("me")
    assert "no demonstrations in memory" in demonstrating.about_memory(studio, "me", 0)


# Classifying -------------------------------------------------------------------------------------------------------


def test_a_classified_text_is_the_sessions_run_and_the_inspector_begins_at_its_label(studio, tmp_path):
    read(studio, write(tmp_path, rows(40)))
    view = last(demonstrating.classify_text(studio, "me", 0, "the sea", 1))
    run = studio.store.get("me").run
    from_focus = [step["token"] for step in view.payload["steps"] if step["step"] >= view.payload["focus"]]
    assert "".join(from_focus).strip() in ("cold", "warm")
    assert studio.store.get("me").chosen == (view.payload["focus"], view.payload["layer"])
    assert "".join(run.tokens.token).strip().startswith("the sea is")
    assert view.tokens.count("data-step") == len(run.tokens)


def test_what_the_page_shows_is_what_the_api_gives(studio, tmp_path):
    read(studio, write(tmp_path, rows(40)))
    found = demonstration_api.classify(studio, "me", "the sea", in_window=1)
    assert json.loads(json.dumps(found)) == found
    for answer in (found["with_memory"], found["without_memory"]):
        assert sum(answer["probabilities"].values()) == pytest.approx(1)
        assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].get)
    by_label = {label: sum(r["weight"] for r in found["retrieved"] if r["label"] == label) for label in found["labels"]}
    assert found["vote"] == pytest.approx(by_label)
    run = studio.store.get("me").run
    at_label = run.trace[run.trace.step == studio.store.get("me").chosen[0]]
    weight = at_label.weight.sum() / run.trace["head"].nunique()
    assert sum(found["vote"].values()) + found["other_documents"] == pytest.approx(weight)
    page = last(demonstrating.classify_text(studio, "me", 0, "the sea", 1)).result
    assert f">{found['with_memory']['label']}</span>" in page
    assert page.count('<th scope="row">') == 2
    assert page.count('class="lm-looked-up"') == 2


@pytest.mark.parametrize("in_window", [-1, 65, 1.5, None, float("nan"), True])
def test_a_window_that_is_no_number_is_named(studio, tmp_path, in_window):
    read(studio, write(tmp_path, rows(10)))
    assert "In the window is" in last(demonstrating.classify_text(studio, "me", 0, "the sea", in_window)).notice


def test_one_label_only_is_said_and_memory_stays(studio, tmp_path):
    assert not read(studio, write(tmp_path, rows(10, ("cold",)))).notice
    view = last(demonstrating.classify_text(studio, "me", 0, "the sea", 1))
    assert "two labels at least" in view.notice
    assert view.result is None
    assert not studio.store.get("me").bank.is_empty


def test_an_empty_text_and_one_too_long_are_said(studio, tmp_path):
    read(studio, write(tmp_path, rows(10)))
    assert "text is empty" in last(demonstrating.classify_text(studio, "me", 0, " ", 1)).notice
    assert "at most 20,000" in last(demonstrating.classify_text(studio, "me", 0, "a" * 20_001, 1)).notice
    assert "the window holds" in last(demonstrating.classify_text(studio, "me", 0, "the ship " * 50, 1)).notice


def test_a_memory_in_use_is_said(studio, tmp_path):
    read(studio, write(tmp_path, rows(10)))
    with studio.store.get("me").lock:
        assert "just now" in last(demonstrating.classify_text(studio, "me", 0, "the sea", 1)).notice
        assert "just now" in last(demonstrating.evaluate(studio, "me", 0, write(tmp_path, rows(4)))).notice


# Measuring ---------------------------------------------------------------------------------------------------------


def test_accuracy_is_measured_with_each_number_on_banks_of_their_own(studio, tmp_path):
    read(studio, write(tmp_path, rows(40)))
    bank = studio.store.get("me").bank
    before = [chunk.id for chunk in bank.chunks()], bank.nbytes
    test = write(tmp_path, rows(20), "test.jsonl")
    views = list(demonstrating.evaluate(studio, "me", 0, test, n_texts=18, in_window=2, sizes=[0, 20, 2_000, None]))
    assert any("20 in memory (2 of 3): reading" in view.status for view in views)
    assert any("16 of 18 texts" in view.status for view in views)
    assert "tokens" not in next(view.status for view in views if "classifying" in view.status)
    result = views[-1].result
    assert json.loads(json.dumps(result)) == result
    assert [size["in_memory"] for size in result["by_size"]] == [0, 20, 38]  # two stood in the window
    assert [size["n"] for size in result["by_size"]] == [18] * 3
    for size in result["by_size"]:
        right = sum(size["confusion"][i][i] for i in range(2))
        assert size["accuracy"] == pytest.approx(right / 18)
        assert len(size["wrong"]) == 18 - right
        assert size["low"] <= size["accuracy"] <= size["high"]
    assert ([chunk.id for chunk in bank.chunks()], bank.nbytes) == before
    assert studio.store.get("me").promised == 0
    assert not studio.store.get("me").is_busy
    assert "Done: 18 texts" in views[-1].status


def test_measured_banks_count_towards_the_budget_of_all_sessions(tiny_model, tmp_path):
    store = SessionStore(tiny_model.new_bank)
    studio = Studio(tiny_model, store, SampleShelf(tiny_model, tmp_path))
    read(studio, write(tmp_path, rows(40)))
    test = write(tmp_path, rows(4), "test.jsonl")
    store.byte_budget = store.nbytes + 1000
    view = last(demonstrating.evaluate(studio, "me", 0, test, sizes=[0, 20]))
    assert "that all sessions share" in view.notice
    assert [size["in_memory"] for size in view.result["by_size"]] == [0]  # what there was stays
    assert store.get("me").promised == 0


def test_a_stop_keeps_what_was_measured(studio, tmp_path):
    read(studio, write(tmp_path, rows(40)))
    test = write(tmp_path, rows(40), "test.jsonl")
    views = demonstrating.evaluate(studio, "me", 0, test, sizes=[0, 20, None])
    for view in views:
        if "20 in memory (2 of 3): classifying" in view.status and "16 of 40" in view.status:
            break
    studio.stop("me", Work.EVALUATING)
    view = last(views)
    assert "Stopped" in view.status
    assert [(size["in_memory"], size["n"]) for size in view.result["by_size"]] == [(0, 40), (20, 16)]
    studio.prepare("me", Work.EVALUATING)
    studio.stop("me", Work.EVALUATING)
    assert "before anything was measured" in last(demonstrating.evaluate(studio, "me", 0, test)).status


def test_a_wrong_case_is_classified_again_and_said_beside_what_it_was(studio, tmp_path):
    read(studio, write(tmp_path, rows(10)))
    case = {"line": 7, "text": "the sea", "label": "cold", "said": "<b>"}
    view = last(demonstrating.classify_text(studio, "me", 0, case["text"], 1, case))
    assert "Line 7 of the test" in view.result
    assert "&lt;b&gt;" in view.result
    assert view.payload["run"] == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_texts": 0}, "Texts is 0"),
        ({"n_texts": None}, "Texts is None"),
        ({"in_window": 99}, "In the window is 99"),
        ({"sizes": []}, "choose one at least"),
        ({"sizes": [-5]}, "Demonstrations in memory is -5"),
        ({"sizes": [200], "in_window": 2}, "besides those in the window there are 8"),
    ],
)
def test_options_outside_what_is_allowed_are_said(studio, tmp_path, options, said):
    read(studio, write(tmp_path, rows(10)))
    assert said in last(demonstrating.evaluate(studio, "me", 0, write(tmp_path, rows(4), "t.jsonl"), **options)).notice


def test_a_test_label_that_no_demonstration_has_is_said_with_its_line(studio, tmp_path):
    read(studio, write(tmp_path, rows(10)))
    test = write(tmp_path, [*rows(2), ("the sea", "blue")], "t.jsonl")
    assert (
        "Line 3 of t.jsonl has the label &#x27;blue&#x27;" in last(demonstrating.evaluate(studio, "me", 0, test)).notice
    )


def test_the_window_has_each_label_in_turn_and_memory_has_the_rest(tmp_path):
    labels = ["cold"] * 30 + ["warm"] * 3
    shown = DemonstrationSet.from_demonstrations(
        [Demonstration(f"t{i}", label, i) for i, label in enumerate(labels)], Template(PATTERN), "x"
    )
    window, rest = draw(shown, 4)
    assert sorted(d.label for d in window) == ["cold", "cold", "warm", "warm"]
    assert sorted([*window, *rest], key=lambda d: d.line) == list(shown.demonstrations)
    assert [d.line for d in rest] != sorted(d.line for d in rest)  # a file may be sorted by label
    assert draw(shown, 2)[0] == window[:2]
    assert sizes_of([0, 20, 200, None], len(rest)) == [0, 20, 29]


def test_a_tie_is_wrong_and_macro_accuracy_weighs_labels_alike():
    tests = [Demonstration("t", label, i) for i, label in enumerate(["a", "a", "a", "b"])]
    found = summarize(["a", "b", "c"], tests, Tally(0, 0, [0, 0, None, 0], [1, 1, 1, 1]))
    assert found["accuracy"] == 0.5
    assert found["macro"] == pytest.approx((2 / 3 + 0) / 2)
    assert found["majority"] == 0.75
    assert found["uncalibrated"] == 0.25
    assert found["confusion"] == [[2, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert [(case["line"], case["said"]) for case in found["wrong"]] == [(2, None), (3, "a")]


def test_the_interval_is_wilsons():
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    low, high = wilson(20, 20)
    assert (low, high) == pytest.approx((0.8389, 1.0), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


# The API -----------------------------------------------------------------------------------------------------------


def test_the_api_loads_classifies_and_evaluates(studio, tmp_path):
    loaded = demonstration_api.load_demonstrations(studio, "me", write(tmp_path, rows(30)).path, template=PATTERN)
    assert (loaded["document"], loaded["demonstrations"], loaded["in_memory"]) == (0, 30, 30)
    assert loaded["labels"] == ["cold", "warm"]
    assert loaded["memory"]["documents"][0]["name"] == "shown.jsonl"
    assert demonstration_api.classify(studio, "me", "the sea")["document"] == 0
    test = write(tmp_path, rows(5), "t.jsonl")
    result = demonstration_api.evaluate_demonstrations(studio, "me", test.path, sizes=[0, 20], in_window=1)
    assert [size["n"] for size in result["by_size"]] == [5, 5]
    with pytest.raises(DemonstrationError, match="no column 'text'"):
        demonstration_api.load_demonstrations(studio, "me", SAMPLE.path)
    with pytest.raises(LongMemError, match="have left memory"):
        demonstration_api.classify(studio, "me", "the sea", document=9)


# The sample --------------------------------------------------------------------------------------------------------


def test_the_sample_is_as_described_and_its_test_file_asks_for_new_lines():
    shown, tests = SAMPLE.load(), SAMPLE_TEST.rows()
    assert (len(shown.demonstrations), len(tests)) == (2_400, 300)
    assert shown.labels == ("east", "north", "south", "west")
    lines = {demonstration.text for demonstration in shown.demonstrations}
    assert not lines & {test.text for test in tests}
    assert SAMPLE_TEXT not in lines
    courses: dict[str, set[str]] = {}
    for demonstration in [*shown.demonstrations, *tests]:
        courses.setdefault(demonstration.text.rsplit(" ", 1)[1], set()).add(demonstration.label)
    assert len(courses) == 96
    assert all(len(labels) == 1 for labels in courses.values())


def test_the_script_writes_the_sample_again(tmp_path):
    folder = Path(SAMPLE.path).parent
    script = (folder / "make_sailings.py").read_text(encoding="utf-8")
    (tmp_path / "make_sailings.py").write_text(script, encoding="utf-8")
    names = {"__file__": str(tmp_path / "make_sailings.py"), "__name__": "__main__"}
    exec(compile(script, "make_sailings.py", "exec"), names)
    for name in ("sailings.csv", "sailings-test.csv"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    assert len(read_demonstrations(tmp_path / "sailings.csv", text_column="entry", label_column="course")) == 2_400
