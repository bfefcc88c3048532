"""The lesson is complete, and its numbers are those that the library gives for the model at hand."""

import json
import re
import xml.etree.ElementTree as ET
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch

from app import inspector_panel, lesson_marks, recorded
from app.handlers import CHARTS as INSPECTOR_CHARTS
from app.lesson import Lesson, charts_table, loading, memory_now, steps_list
from app.lesson_numbers import find_sentence
from app.lesson_steps import ACTIONS, AGAIN, CHARTS, STEPS
from app.reading import OPENING_PROMPT, OPENING_SAMPLE, SampleShelf
from app.session import Session
from longmem import score
from longmem.anatomy import every_score
from longmem.model import LongMemForCausalLM
from tests.conftest import CORPUS, tiny_smollm3

SENTENCE = f"{OPENING_PROMPT} 4 7 1 1"
STORY = " ".join([*CORPUS, f"{SENTENCE}, she said.", *CORPUS, f"“{SENTENCE}.” It was so.", *CORPUS])
NUMBERS = range(1, len(STEPS) + 1)


@pytest.fixture(scope="module")
def tiny_model(tiny_tokenizer) -> LongMemForCausalLM:
    """As everywhere, but with gates that differ from token to token."""
    model = LongMemForCausalLM.from_backbone(
        tiny_smollm3(len(tiny_tokenizer)),
        memory_layers=[1, 3],
        window=32,
        retrieved_tokens=16,
        memory_size=4096,
        initialization="paper",
    )
    torch.manual_seed(1)
    for gate in model.sidenet.gates.values():
        torch.nn.init.normal_(gate.weight_HD)
    model.tokenizer = tiny_tokenizer
    return model.eval()


def shelf_with(folder: Path, model, text: str) -> SampleShelf:
    (folder / OPENING_SAMPLE).write_text(text, encoding="utf-8")
    return SampleShelf(model, folder)


@pytest.fixture(scope="module")
def lesson(tiny_model, tmp_path_factory) -> Lesson:
    return Lesson(tiny_model, shelf_with(tmp_path_factory.mktemp("samples"), tiny_model, STORY))


def text_of(html: str) -> str:
    """What a reader sees, on one line."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def cells(html: str, caption: str) -> list[list[str]]:
    """The rows of the table with this caption."""
    for details in ET.fromstring(f"<div>{html}</div>").iter("details"):
        if "".join(details.find("summary").itertext()).startswith(caption):
            return [["".join(cell.itertext()).strip() for cell in row] for row in details.iter("tr")][1:]
    raise AssertionError(f"no table {caption!r}")


# The data


def test_every_step_has_words_something_to_do_and_a_question_with_its_answer():
    assert len(STEPS) == 9
    for step in STEPS:
        assert 1 <= len(step.words) <= 3
        assert all(len(words) < 300 for words in step.words)
        assert step.task
        assert step.actions
        assert step.question.endswith("?")
        assert step.answer
        assert set(step.actions) <= set(ACTIONS)


def test_the_charts_of_the_lesson_are_those_of_the_inspector_each_explained_by_a_step_that_shows_it():
    assert {name: title for name, (title, _, _) in CHARTS.items()} == inspector_panel.TITLES
    assert set(CHARTS) == set(INSPECTOR_CHARTS)
    for name, (_, _, number) in CHARTS.items():
        assert f"chart-{name}" in STEPS[number - 1].actions


def test_every_action_is_a_kind_that_the_page_knows():
    assert {action.split("-")[0] for action in ACTIONS} == {"generate", "chart", "view", "lesson", AGAIN}
    assert all(bool(action.prompt) == name.startswith("generate") for name, action in ACTIONS.items())


@pytest.mark.parametrize("number", NUMBERS)
def test_every_step_is_whole_html_without_an_unfilled_field(lesson, number):
    for html in (lesson.words(number), lesson.live(number), lesson.task(number), loading(number)):
        ET.fromstring(f"<div>{html}</div>")
        assert not re.search(r"\{[a-z_]+\}", html)
        assert "lm-error" not in html


def test_the_list_of_steps_marks_the_current_one():
    root = ET.fromstring(steps_list(4))
    current = [button.get("data-do") for button in root.iter("button") if button.get("aria-current")]
    assert current == ["lesson-4"]
    assert len(list(root.iter("button"))) == 9


def test_every_button_of_the_lesson_asks_for_a_known_action(lesson):
    html = "".join(part for n in NUMBERS for part in (lesson.words(n), lesson.live(n), lesson.task(n))) + charts_table()
    asked = set(re.findall(r'data-do="([^"]+)"', html))
    assert asked <= set(ACTIONS)
    assert {f"lesson-{n}" for n in NUMBERS} <= asked


# The numbers


def test_the_story_and_where_its_sentence_stands(lesson, tiny_model):
    story = lesson.numbers.story
    ids = tiny_model.tokenizer(STORY, add_special_tokens=False)["input_ids"]
    assert story.token_ids.tolist() == ids
    assert (story.prompt, story.answer) == (OPENING_PROMPT, " 4 7 1 1")
    assert len(story.places) == 2
    for place in story.places:
        assert tiny_model.tokenizer.decode(ids[place:]).lstrip(" “").startswith(SENTENCE)
        assert tiny_model.tokenizer.decode([ids[story.answer_token(place)]]).strip() == "4"
    said = text_of(lesson.live(1))
    assert f"{len(ids):,} tokens" in said.replace(" </b>", "")
    assert f"{len(ids) / 32:.1f}" in said
    assert f"token {story.places[0]:,} and {story.places[1]:,}" in said


def test_a_story_without_the_sentence_is_taken_by_its_first_words():
    prompt, answer = find_sentence("Once there were 12 houses by the sea; 7 of them stood empty in the winter.")
    assert "Once there were 12 houses".startswith(prompt[:20])
    assert "Once there were 12 houses by the sea; 7 of them stood empty".startswith(prompt + answer)
    assert answer.strip()


def test_what_a_token_costs_is_what_the_bank_holds(lesson, tiny_model):
    bank = tiny_model.new_bank()
    document = bank.begin_document("one chunk")
    bank.add(document, *torch.zeros(2, 2, 2, 4, 8).to(bank.dtype))
    per_token = (
        sum(x.element_size() * x.numel() for x in (bank._ring.keys[0][:, :4], bank._ring.values[0][:, :4])) * 2 / 4
    )
    assert f"{int(per_token):,} bytes a token" in text_of(lesson.live(2))


def test_keys_and_values_of_the_chosen_token_are_drawn(lesson):
    numbers = lesson.numbers
    html = lesson.live(2, 3)
    key = numbers.anatomy.memory[1].keys_GTD[0, 3]
    assert ", ".join(f"{value:.2f}" for value in key) in html
    assert html.count("<svg") == 4  # a key and a value for each of two layers
    assert '<button type="button" data-pick="3" aria-pressed="true">' in html


def test_chunk_borders_are_those_of_the_bank(lesson):
    numbers = lesson.numbers
    passages = lesson.passages()
    assert len(passages) == 2
    for passage in passages:
        for number, first, tokens in passage:
            chunk = numbers.bank.chunk(number)
            assert chunk.token_start == first
            assert "".join(tokens) == STORY[chunk.start : chunk.stop]
        assert SENTENCE in "".join("".join(tokens) for _, _, tokens in passage)


def test_the_sum_of_step_3_is_right(lesson):
    numbers = lesson.numbers
    token = numbers.story.answer_token(numbers.story.places[0])
    chunk = next(c for c in numbers.bank.chunks() if c.token_start <= token < c.token_stop)
    said = text_of(lesson.task(3))
    assert f"token {token} is «4»" in said
    assert f"{token} : 4 = {chunk.id}, remainder {token - chunk.token_start}" in said


def test_scores_are_those_of_the_models_search(lesson):
    numbers = lesson.numbers
    token = 4
    rows = cells(lesson.live(4, token), "Best and worst")
    for layer, seen in numbers.anatomy.memory.items():
        scores_HC, chunks_HC = every_score(numbers.bank, layer, seen.queries_HTD[:, token])
        for head in range(4):
            row = next(row for row in rows if row[0] == f"{layer}·{head}")
            assert row[1].startswith(f"#{chunks_HC[head, 0]} ")
            assert row[2] == f"{scores_HC[head, 0]:.1f}"
            assert row[4] == f"{scores_HC[head, -1]:.1f}"


def test_gates_and_weights_are_those_of_a_trace(lesson, tiny_model):
    """The query of the last token of the prompt writes the first token of the answer: step 0 of a trace."""
    numbers = lesson.numbers
    prompt, answer = (tiny_model.tokenizer.decode(part) for part in np.split(numbers.token_ids, [numbers.asked + 1]))
    trace = score(tiny_model, answer, context=prompt, memory=numbers.bank)
    gates = trace.gates_frame()[lambda frame: frame.step == 0]
    frame = trace.to_frame()[lambda frame: frame.step == 0]
    shown = {row[0]: row[1] for row in cells(lesson.live(5), "Gates at")}
    heads = {row[0]: row for row in cells(lesson.live(6), "All heads")}
    for row in gates.itertuples():
        name = f"{row.layer}·{row.head}"
        assert shown[name] == f"{100 * row.gate:.1f} %"
        weight = frame[(frame.layer == row.layer) & (frame["head"] == row.head)].weight.max()
        assert float(heads[name][3].removesuffix(" %")) == pytest.approx(100 * weight, abs=0.051)
    best = frame.loc[frame.weight.idxmax()]
    assert numbers.strongest(numbers.asked) == (best.layer, best["head"], best.chunk)


def test_the_arithmetic_of_step_6_adds_up(lesson):
    said = text_of(lesson.live(6, 2)).replace("(", "").replace(")", "")
    a, local, gate, memory, fused = map(
        float,
        re.search(r"first number: ([\d.]+) · (-?[\d.]+) \+ ([\d.]+) · (-?[\d.]+) = (-?[\d.]+)\s?\.", said).groups(),
    )
    assert a + gate == pytest.approx(1, abs=0.002)
    assert a * local + gate * memory == pytest.approx(fused, abs=0.02)


def test_step_6_takes_the_head_whose_gate_is_nearest_to_one_half(lesson):
    for token in range(len(lesson.numbers.tokens)):
        gates = {
            (layer, head): seen.gate_HT[head, token]
            for layer, seen in lesson.numbers.anatomy.memory.items()
            for head in range(4)
        }
        layer, head = min(gates, key=lambda at: abs(gates[at] - 0.5))
        assert f"Layer {layer}, head {head}: of all gates" in lesson.live(6, token)


def test_changes_residuals_and_what_comes_next_are_the_anatomys(lesson, tiny_model):
    numbers, token = lesson.numbers, lesson.numbers.asked
    rows = cells(lesson.live(7), "What each SideNet layer adds")
    for side, row in zip(numbers.anatomy.side, rows, strict=True):
        for cell, length in ((row[1], side.change_T[token]), (row[2], side.residual_T[token])):
            assert float(cell.replace(",", "")) == pytest.approx(length, rel=0.01, abs=0.06)
    ids_BT = torch.tensor([numbers.token_ids[: token + 1]])
    with torch.no_grad():
        best = tiny_model(ids_BT, memory=numbers.bank).logits[0, -1].argmax()
    likely = {row[0]: row[1] for row in cells(lesson.live(7), "What may come after")}
    assert likely["SideNet with memory"].startswith(f"«{tiny_model.tokenizer.decode([int(best)])}»")


def test_reading_again_gives_the_same_numbers(lesson):
    assert "Read again" not in lesson.live(8)
    reread = lesson.numbers.reread
    assert reread.same == reread.numbers == 64 * 2 * 2 * 2 * 8  # two windows, K and V, two layers, two heads, 8 numbers
    assert reread.largest_difference == 0
    assert f"{reread.numbers:,} of {reread.numbers:,} numbers are the same" in text_of(lesson.live(8, AGAIN))


def test_a_memory_that_differs_would_be_seen(tiny_model, tmp_path):
    numbers = Lesson(tiny_model, shelf_with(tmp_path, tiny_model, STORY)).numbers
    numbers.bank._ring.keys[0][0, 0, 0] += 1
    assert numbers.reread.same == numbers.reread.numbers - 1
    assert numbers.reread.largest_difference == pytest.approx(1, abs=0.01)


def test_probabilities_without_some_chunks_are_the_models(lesson, tiny_model):
    numbers = lesson.numbers
    whole, heaviest, stated, nothing = numbers.removals
    ids_BT = torch.tensor([numbers.token_ids[: numbers.asked + 1]])
    answer = numbers.token_ids[numbers.asked + 1]
    best = numbers.strongest(numbers.asked)[2]
    for removal, options in (
        (whole, {"memory": numbers.bank}),
        (heaviest, {"memory": numbers.bank, "exclude": [best]}),
        (stated, {"memory": numbers.bank, "exclude": numbers.stated_chunks()}),
        (nothing, {}),
    ):
        with torch.no_grad():
            expected = tiny_model(ids_BT, **options).logits[0, -1].softmax(-1)[answer]
        assert removal.probability == pytest.approx(float(expected), rel=1e-5)
    assert 0 < heaviest.weight <= 1
    text = "".join(numbers.chunk_text(chunk) for chunk in numbers.stated_chunks())
    assert text.count("Maren Holt") == 2


def test_numbers_are_computed_once(lesson, monkeypatch):
    lesson.live(7)
    monkeypatch.setattr("app.lesson_numbers.dissect", None)
    assert "lm-error" not in lesson.live(7, 1)


# Recorded numbers


def test_the_recorded_curve_is_that_of_the_file(lesson):
    found = json.loads((recorded.RESULTS / "staleness.json").read_text(encoding="utf-8"))
    rows = cells(lesson.live(8), "Recorded")
    assert [row[0] for row in rows] == [str(point["step"]) for point in found["curve"]]
    last = found["curve"][-1]
    assert rows[-1][2] == f"{100 * last['memtrm']['overlap']:.1f} %"
    assert rows[-1][3] == f"{last['memtrm']['cosine']:.3f}"
    answer = text_of(lesson.task(8))
    assert f"{100 * abs(last['memtrm']['change']):.1f} % lower, so no worse" in answer
    assert f"only {100 * last['memtrm']['overlap']:.0f} % of the same chunks" in answer


def test_the_recorded_limits_are_those_of_the_files(lesson):
    def of(name: str) -> dict:
        return json.loads((recorded.RESULTS / f"{name}.json").read_text(encoding="utf-8"))

    expected = [
        of("needle-8k")["by_length"]["known"]["8192"]["longmem"]["recall"],
        of("needle-8k")["by_length"]["held_out"]["8192"]["longmem"]["recall"],
        of("needle")["by_length"]["distractors"]["8192"]["longmem"]["recall"],
        of("icl")["systems"]["longmem"]["accuracy"],
        of("suffix")["systems"]["longmem"]["accuracy"],
    ]
    rows = cells(lesson.live(9), "Recorded")
    assert [row[1].split(" (")[0] for row in rows] == [f"{100 * share:.1f} %" for share in expected]
    assert rows[3][2] == f"{100 * max(of('icl')['systems'][s]['accuracy'] for s in ('backbone', 'empty_bank')):.1f} %"
    assert "another one is loaded" in lesson.live(9)  # the tiny model is not the one in the box


def test_without_result_files_nothing_recorded_is_told(tiny_model, tmp_path):
    lesson = Lesson(tiny_model, shelf_with(tmp_path, tiny_model, STORY), results=tmp_path)
    assert "No training with a memory that ages has been recorded" in lesson.live(8)
    assert "Recorded" not in lesson.live(9)
    assert "Nothing has been recorded here." in lesson.task(8)


# Bad input and what is not there


@pytest.mark.parametrize("pick", [-1, 10_000, "evil", None, 1.5, [1]])
def test_a_pick_that_is_none_shows_the_token_asked_for(lesson, pick):
    assert lesson.live(2, pick) == lesson.live(2)


def test_without_the_story_every_step_says_so_and_its_words_stay(tiny_model, tmp_path):
    lesson = Lesson(tiny_model, SampleShelf(tiny_model, tmp_path))
    for number in NUMBERS:
        assert STEPS[number - 1].title in lesson.words(number)
        assert "lm-way" in lesson.task(number)
        if number != 8:
            assert "There is no sample" in lesson.live(number)
    assert "There is no sample" in lesson.live(8, AGAIN)


def test_hostile_stories_are_escaped(tiny_model, tmp_path):
    hostile = f"<img src=x onerror=alert(1)> {SENTENCE} <script>&, " * 6
    lesson = Lesson(tiny_model, shelf_with(tmp_path, tiny_model, hostile))
    for number in NUMBERS:
        html = lesson.live(number) + lesson.task(number)
        assert "<img" not in html
        assert "<script" not in html
        ET.fromstring(f"<div>{html}</div>")


def test_one_memory_layer_and_a_scalar_gate_are_described(tiny_tokenizer, tmp_path):

    model = LongMemForCausalLM.from_backbone(
        tiny_smollm3(len(tiny_tokenizer)),
        memory_layers=[3],
        window=32,
        gate="scalar",
        chunk_key="mean",
        retrieved_tokens=8,
    )
    model.tokenizer = tiny_tokenizer
    lesson = Lesson(model.eval(), shelf_with(tmp_path, model, STORY))
    assert "layer 3 of the backbone" in lesson.words(2)
    assert "the mean of its keys" in lesson.words(4)
    assert "the same for all tokens" in lesson.words(5)
    assert all("lm-error" not in lesson.live(number) for number in NUMBERS)


# The drawing of a session


def test_the_drawing_shows_what_a_session_holds(lesson):
    session = Session("key", lesson.numbers.bank)
    now = memory_now(session)
    assert (now.tokens, now.chunks) == (session.bank.n_tokens, session.bank.n_chunks)
    assert now.gates == {}
    assert f"{now.tokens:,} of 4,096 tokens" in lesson.drawing(session)


def test_a_busy_memory_is_not_looked_at(lesson, monkeypatch):
    monkeypatch.setattr("app.lesson.PATIENCE", 0.01)
    session = Session("key", lesson.numbers.bank)
    with session.lock:
        assert memory_now(session) is None
    assert memory_now(session) is not None


def test_strips_and_histograms_draw_what_they_are_given():
    strip = ET.fromstring(lesson_marks.strip(np.array([1.0, -2.0, 0.0]), "<key>"))
    heights = [float(rect.get("height")) for rect in strip.iter("rect")]
    assert heights == [9.0, 18.0, 0.4]
    assert "from -2.0 to 1.0" in "".join(strip.itertext())
    scores = np.linspace(10, 0, 500)
    bars = ET.fromstring(f"<div>{lesson_marks.histogram(scores, 16)}</div>").find("svg")
    assert "500 scores from 0.0 to 10.0; the 16 best begin at 9.7" in bars.get("aria-label")
    assert {rect.get("class") for rect in bars} == {"lm-own", "lm-rest"}
