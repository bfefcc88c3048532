"""Labels by demonstrations: what the scores are, what the window holds, and what the vote adds up."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from longmem.classification import (
    MOST_LABELS,
    Answer,
    Classifier,
    Task,
    all_label_tokens,
    classify,
    label_tokens,
    query_tokens,
    retrieved_demonstrations,
    tokens,
    vote,
)
from longmem.demonstrations import Demonstration, DemonstrationSet, Template
from longmem.documents import Document
from longmem.errors import LongMemError
from longmem.memory_bank import MemoryBank

TEMPLATE = Template("{text} is {label}.\n")
TEXTS = "the ship,the sea,a ledger,the keeper,a long story,the winter,a house,the name".split(",")
SHOWN = tuple(Demonstration(text, ("cold", "warm")[i % 2], i + 2) for i, text in enumerate(TEXTS * 3))
TASK = Task(("cold", "warm"), TEMPLATE, SHOWN[:1])


@pytest.fixture(scope="module")
def shown() -> DemonstrationSet:
    return DemonstrationSet.from_demonstrations(SHOWN, TEMPLATE, "shown.csv")


@pytest.fixture
def bank(tiny_model, shown) -> MemoryBank:
    """A story (document 0), and the demonstrations (document 1)."""
    bank = tiny_model.new_bank()
    tiny_model.remember(Document.from_text("story", "The keeper read the ledger again. " * 5), memory=bank)
    tiny_model.remember(shown.document, memory=bank)
    return bank


def log_p(model, ids: list[int], n_label: int, memory: MemoryBank | None) -> float:
    """Of the last n_label tokens, from one pass over all of them."""
    with torch.no_grad():
        logits = model(torch.tensor([ids]), memory=memory).logits[0].log_softmax(-1)
    return sum(logits[i - 1, ids[i]].item() for i in range(len(ids) - n_label, len(ids)))


# Scores ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_window", [0, 1])
def test_answers_are_log_probabilities_with_and_without_memory(tiny_model, bank, in_window):
    task = Task(TASK.labels, TEMPLATE, SHOWN[:in_window])
    found = classify(tiny_model, "a funny name", task, bank)
    tokenizer = tiny_model.tokenizer
    prefix = tokens(tokenizer, TEMPLATE.render(SHOWN[0]).rstrip()) if in_window else []
    for answer, memory in ((found.with_memory, bank), (found.without, None)):
        for place, label in enumerate(task.labels):
            label_ids = label_tokens(tokenizer, TEMPLATE, label)
            for text, scores_N in (("a funny name", answer.log_p_N), ("N/A", answer.no_content_N)):
                ids = [*prefix, *query_tokens(tokenizer, TEMPLATE, text), *label_ids]
                assert scores_N[place] == pytest.approx(log_p(tiny_model, ids, len(label_ids), memory), abs=1e-3)
    assert found.in_window == in_window
    assert not np.allclose(found.with_memory.log_p_N, found.without.log_p_N)


def test_an_empty_memory_answers_as_no_memory(tiny_model):
    found = classify(tiny_model, "the ship", TASK, tiny_model.new_bank())
    assert np.array_equal(found.with_memory.log_p_N, found.without.log_p_N)
    assert found.trace.effects == [0.0] * len(found.trace.tokens)


def test_calibration_takes_off_what_a_text_without_content_gets():
    answer = Answer(np.log([0.6, 0.3]), np.log([0.8, 0.1]))
    assert answer.choice() == 1
    assert answer.choice(calibrated=False) == 0
    assert answer.probabilities() == pytest.approx([0.2, 0.8])
    assert answer.probabilities(calibrated=False) == pytest.approx([2 / 3, 1 / 3])
    assert Answer(np.log([0.5, 0.5]), np.log([0.5, 0.5])).choice() is None


def test_a_label_that_begins_another_is_scored_with_what_follows_it(tiny_model, bank):
    tokenizer = tiny_model.tokenizer
    labels = ("cold", "cold and long", "warm")
    plain = [label_tokens(tokenizer, TEMPLATE, label) for label in labels]
    found = all_label_tokens(tokenizer, TEMPLATE, labels)
    assert found == [ids + tokens(tokenizer, ".")[:1] for ids in plain]
    assert all_label_tokens(tokenizer, TEMPLATE, labels[1:]) == plain[1:]
    # The shorter one is no longer at least as probable as the longer one, whatever the text.
    answer = classify(tiny_model, "the ship", Task(labels, TEMPLATE), bank).with_memory
    ids = [*query_tokens(tokenizer, TEMPLATE, "the ship"), *found[0]]
    assert answer.log_p_N[0] == pytest.approx(log_p(tiny_model, ids, len(found[0]), bank), abs=1e-3)


def test_scores_of_many_texts_are_those_of_each(tiny_model, bank):
    texts = ["the ship", "a long and cold story", "a house"]
    together = Classifier(tiny_model, TASK, bank, texts).ask(texts)
    for text, answer in zip(texts, together, strict=True):
        [alone] = Classifier(tiny_model, TASK, bank, texts).ask([text])
        assert answer.log_p_N == pytest.approx(alone.log_p_N, abs=1e-4)


def test_with_all_layers_silent_memory_says_what_an_empty_one_does(tiny_model, bank):
    silent = [(layer, None) for layer in tiny_model.config.memory_layers]
    found = classify(tiny_model, "the ship", TASK, bank, silence=silent)
    assert found.with_memory.log_p_N == pytest.approx(found.without.log_p_N, abs=1e-4)
    heard = classify(tiny_model, "the ship", TASK, bank)
    assert heard.with_memory.log_p_N != pytest.approx(heard.without.log_p_N, abs=1e-4)
    assert found.trace.to_frame().empty


def test_the_window_holds_as_many_demonstrations_as_fit_beside_the_text(tiny_model):
    task = Task(TASK.labels, TEMPLATE, SHOWN)
    few = Classifier(tiny_model, task, None, ["a long and funny story by the sea"])
    more = Classifier(tiny_model, task, None, ["a"])
    assert 0 <= few.in_window < more.in_window < len(SHOWN)
    assert len(more.prefix) + len(more.query("N/A")) + max(map(len, more.labels)) - 1 <= tiny_model.config.window


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ((), "there is none"),
        (("<script>",), "only '<script>'"),
        (tuple(map(str, range(MOST_LABELS + 1))), "101 differ"),
    ],
)
def test_too_few_or_too_many_labels_are_said(labels, said):
    with pytest.raises(LongMemError, match=said):
        Task(labels, TEMPLATE)


def test_texts_that_cannot_be_classified_are_said(tiny_model, bank):
    with pytest.raises(LongMemError, match="text is empty"):
        classify(tiny_model, "  \n", TASK, bank)
    with pytest.raises(LongMemError, match="the window holds 32"):
        classify(tiny_model, "the ship and the sea " * 20, TASK, bank)


# The vote ----------------------------------------------------------------------------------------------------------


def test_the_vote_and_other_documents_add_up_to_the_weights_of_the_trace(tiny_model, bank, shown):
    found = classify(tiny_model, "the ship", TASK, bank)
    frame = found.trace.to_frame()
    frame = frame[frame.step == found.label_step]
    heads = tiny_model.config.backbone_config.num_attention_heads
    table = retrieved_demonstrations(found.trace, found.label_step, bank, 1, shown)
    for layer in (1, 3):
        weight = table[table.layer == layer].weight.sum()
        assert weight == pytest.approx(frame[frame.layer == layer].weight.sum() / heads)
    votes = vote(table, shown, found.labels)
    others = table[table.demonstration < 0].weight.sum()
    assert votes.sum() + others == pytest.approx(frame.weight.sum() / heads)
    own = frame[frame.document == "shown.csv"]
    assert votes.sum() == pytest.approx(own.weight.sum() / heads)
    assert 0 < others < frame.weight.sum() / heads


def test_a_vote_goes_to_the_label_of_the_demonstration_that_a_chunk_lies_in(tiny_model, bank, shown):
    found = classify(tiny_model, "the ship", TASK, bank)
    frame = found.trace.to_frame()
    frame = frame[(frame.step == found.label_step) & (frame.document == "shown.csv")]
    heads = tiny_model.config.backbone_config.num_attention_heads
    by_character = {"cold": 0.0, "warm": 0.0}
    for row in frame.itertuples():
        for character in range(row.start, row.end):
            by_character[shown.at(character).label] += row.weight / heads / (row.end - row.start)
    table = retrieved_demonstrations(found.trace, found.label_step, bank, 1, shown)
    assert dict(zip(found.labels, vote(table, shown, found.labels), strict=True)) == pytest.approx(by_character)


def test_a_chunk_over_two_demonstrations_is_divided_by_its_characters(shown):
    second = shown.starts[1]
    assert shown.shares(second - 1, second + 3) == [(0, 0.25), (1, 0.75)]
    assert shown.shares(second, second + 4) == [(1, 1.0)]
    assert shown.shares(second, second) == [(1, 1.0)]
    for start, stop in pairwise([0, *shown.starts[3::4], len(shown.document.text)]):
        parts = shown.shares(start, stop)
        assert sum(share for _, share in parts) == pytest.approx(1)
        assert [number for number, _ in parts] == list(range(parts[0][0], parts[-1][0] + 1))


def test_nothing_in_memory_gives_no_vote(tiny_model, shown):
    empty = tiny_model.new_bank()
    found = classify(tiny_model, "the ship", TASK, empty)
    table = retrieved_demonstrations(found.trace, found.label_step, empty, 0, shown)
    assert table.empty
    assert vote(table, shown, found.labels).tolist() == [0.0, 0.0]
