"""Labels from demonstrations: what stands in window and memory is what was asked for, and labels are scored right."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from longmem import classification
from longmem.demonstrations import SENTIMENT_TEMPLATE, Demonstration, Template
from longmem.errors import DemonstrationError, LongMemError
from longmem.evaluation import in_context_learning as icl
from longmem.evaluation.in_context_learning import IclOptions, Scores, measure_icl, read_sets, table
from longmem.evaluation.results import Items
from longmem.evaluation.systems import Systems
from longmem.model import LongMemForCausalLM
from tests.conftest import tiny_smollm3

WINDOW = 64
TEXTS = "warm funny long cold good empty closed great slow kind dull fine".split()
LABELS = ("cold and long", "negative", "positive")


@pytest.fixture(scope="module")
def model(tiny_tokenizer) -> LongMemForCausalLM:
    """A random LongMem of window 64, whose own banks hold 128 tokens."""
    backbone = tiny_smollm3(len(tiny_tokenizer), WINDOW)
    options = {"window": WINDOW, "retrieved_tokens": 16, "memory_size": 128, "initialization": "paper"}
    model = LongMemForCausalLM.from_backbone(backbone, memory_layers=[1, 3], **options)
    model.tokenizer = tiny_tokenizer
    return model.eval()


@pytest.fixture(scope="module")
def saved_model(model, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def systems(model) -> Systems:
    return Systems(model, ["backbone", "empty_bank", "longmem"])


def files(folder: Path, n_train: int = 40, n_test: int = 8, labels=LABELS) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    for name, n in (("train", n_train), ("test", n_test)):
        rows = [{"text": f"{TEXTS[i % 12]} {i}", "label": labels[i * i % len(labels)]} for i in range(n)]
        rows[0]["label"], rows[-1]["label"] = labels[-1], labels[1]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "train.jsonl", folder / "test.jsonl"


def options(*pairs: tuple[Path, Path], model: str = "", **more: object) -> IclOptions:
    train, test = zip(*pairs, strict=True)
    small = {"in_window": (1, 2), "in_memory": (0, 5, 20), "seeds": 2}
    return IclOptions(model, train=train, test=test, **small | more)


def a_set(folder: Path, **more: object) -> icl.DataSet:
    return read_sets(options(files(folder), **more))[0]


# Scores ------------------------------------------------------------------------------------------------------------


def test_a_text_is_cut_into_tokens_as_in_running_text(tiny_tokenizer, tmp_path):
    data = a_set(tmp_path / "toy")
    _, prefix = icl.fit_window(tiny_tokenizer, data, data.train[:2], 500)
    for template in (SENTIMENT_TEMPLATE, Template("{text}\n{label}\n\n")):
        told = Demonstration("a warm story", "cold and long", 1)
        whole = (template.render(told) + template.render(told)).rstrip()
        first = tiny_tokenizer(template.render(told).rstrip())["input_ids"]
        query = classification.query_tokens(tiny_tokenizer, template, told.text)
        label = classification.label_tokens(tiny_tokenizer, template, told.label)
        after = template.pattern.partition("{label}")[2].rstrip()
        assert first + query + label + tiny_tokenizer(after)["input_ids"] == tiny_tokenizer(whole)["input_ids"]
    assert tiny_tokenizer.decode(prefix).endswith(f"{data.train[1].label}.")


def test_labels_score_all_their_tokens_calibrated_by_a_text_without_content(systems, tmp_path):
    data, tokenizer = a_set(tmp_path / "toy"), systems.model.tokenizer
    memories = icl.fill_memory(systems, data, data.train[10:20])
    found = {}
    for with_memory in (False, True):
        given = memories if with_memory else systems.new_memories()
        found |= icl.measure_setting(systems, data, data.train[:1], given, with_memory)["right"]
    _, prefix = icl.fit_window(tokenizer, data, data.train[:1], WINDOW)
    labels = [classification.label_tokens(tokenizer, data.template, label) for label in LABELS]
    assert len(labels[0]) > 1

    def direct(name: str, text: str) -> tuple[np.ndarray, int]:
        query, scores = classification.query_tokens(tokenizer, data.template, text), []
        for label in labels:
            ids = torch.tensor([prefix + query + label])
            log_p = systems.logits(ids, memories)[name][0].log_softmax(-1)
            first = len(prefix) + len(query) - 1
            scores.append(sum(log_p[first + i, token].item() for i, token in enumerate(label)))
        return np.array(scores), int(log_p[first].argmax())

    for name in systems.names:
        base, _ = direct(name, "N/A")
        expected = dict.fromkeys(icl.METRICS, "")
        for text in data.test:
            scores, top = direct(name, text.text)
            gold = LABELS.index(text.label)
            expected["accuracy"] += str(int((scores - base).argmax() == gold))
            expected["uncalibrated"] += str(int(scores.argmax() == gold))
            expected["whole_vocabulary"] += str(int(top == labels[gold][0]))
        assert found[name] == expected
        assert expected["accuracy"] != expected["uncalibrated"]


def test_scores_do_not_depend_on_what_is_scored_beside_them(systems, tmp_path, monkeypatch):
    data, tokenizer = a_set(tmp_path / "toy"), systems.model.tokenizer
    memories = icl.fill_memory(systems, data, data.train[10:20])
    cache = systems.prefix([5, 6, 7], memories, ["longmem"])["longmem"]
    queries = [
        classification.query_tokens(tokenizer, data.template, text)
        for text in ("cold", "a long and funny story", "N/A")
    ]
    labels = [[9], [9, 8, 7], [9, 4], [3]]
    together = icl.score_labels(systems, "longmem", cache, memories, queries, labels)
    monkeypatch.setattr(classification, "ROWS_AT_ONCE", 1)
    for number, query in enumerate(queries):
        for place, label in enumerate(labels):
            alone = icl.score_labels(systems, "longmem", cache, memories, [query], [label])
            assert together.label_log_p[number, place] == pytest.approx(alone.label_log_p[0, 0], abs=1e-4)
            assert together.top_token[number] == alone.top_token[0]


def test_calibration_decides_the_headline_only_and_ties_are_wrong():
    scores = Scores(
        # two texts that are asked for, and the one without content
        np.log([[0.6, 0.3], [0.5, 0.5], [0.8, 0.1]]),
        np.array([7, 5, 7]),
    )
    assert icl.judge(scores, [1, 0], [[5], [6]]) == {
        "accuracy": "10",  # 0.3 / 0.1 > 0.6 / 0.8, and 0.5 / 0.1 > 0.5 / 0.8
        "uncalibrated": "00",  # 0.3 < 0.6, and a tie
        "whole_vocabulary": "01",
    }


# Demonstrations ----------------------------------------------------------------------------------------------------


def test_window_and_memory_hold_different_demonstrations_and_small_settings_are_parts_of_large_ones(tmp_path):
    data = a_set(tmp_path / "toy")
    small, large = icl.draw_demonstrations(data, 1, 4, 5), icl.draw_demonstrations(data, 1, 4, 20)
    assert small.in_window == large.in_window
    assert small.in_memory == large.in_memory[:5]
    assert not set(large.in_window) & set(large.in_memory)
    assert icl.draw_demonstrations(data, 2, 4, 5) != small
    assert icl.draw_demonstrations(data, 1, 4, 0).in_memory == ()


def test_memory_holds_every_demonstration_whatever_the_models_own_capacity(systems, tmp_path):
    data = a_set(tmp_path / "toy")
    text = "".join(data.template.render(d) for d in data.train)
    memories = icl.fill_memory(systems, data, data.train)
    assert memories.longmem.n_tokens == len(systems.model.tokenizer(text)["input_ids"]) > 128
    assert icl.fill_memory(systems, data, ()).longmem.n_tokens == 0


def test_the_window_holds_the_largest_number_that_fits_beside_the_longest_text(systems, tmp_path, monkeypatch):
    long_label, tokenizer, lengths = "long and cold and empty by the sea", systems.model.tokenizer, []
    [data] = read_sets(options(files(tmp_path / "toy", labels=(long_label, "negative", "positive"))))
    shown = [demonstration for demonstration in data.train if demonstration.label != long_label]
    prefix, continued = Systems.prefix, Systems.continued

    def see_prefix(self, ids, *more):
        lengths.append(len(ids))
        return prefix(self, ids, *more)

    def see_rows(self, caches, rows, memories):
        lengths.append(rows.shape[1])
        return continued(self, caches, rows, memories)

    monkeypatch.setattr(Systems, "prefix", see_prefix)
    monkeypatch.setattr(Systems, "continued", see_rows)
    used = icl.measure_setting(systems, data, shown, systems.new_memories(), False)["in_window_used"]
    longest = max(lengths[1:])
    assert 1 <= used < len(shown)
    assert lengths[0] + longest <= WINDOW
    one_more = "".join(data.template.render(d) for d in shown[: used + 1]).rstrip()
    assert len(tokenizer(one_more)["input_ids"]) + longest > WINDOW
    with pytest.raises(LongMemError, match="not one demonstration of toy fits in the window"):
        icl.fit_window(tokenizer, data, data.train[:2], 5)


def test_result_says_how_many_demonstrations_were_in_the_window(saved_model, tmp_path):
    result = measure_icl(options(files(tmp_path / "toy"), model=saved_model, in_window=(1, 20), in_memory=(0,)))
    one, twenty = result["by_setting"]
    assert (one["in_window"], one["in_window_used"]) == (1, {"toy": [1, 1]})
    least, most = twenty["in_window_used"]["toy"]
    assert 1 < least <= most < 20


# Settings ----------------------------------------------------------------------------------------------------------


def test_systems_without_memory_run_once_for_a_window_and_an_empty_bank_is_not_run_twice(
    saved_model, tmp_path, monkeypatch
):
    asked = []
    prefix = Systems.prefix

    def see(self, ids, memories, names):
        asked.append(list(names))
        return prefix(self, ids, memories, names)

    monkeypatch.setattr(Systems, "prefix", see)
    result = measure_icl(options(files(tmp_path / "toy"), model=saved_model, seeds=1, in_window=(1,)))
    assert asked == [["backbone", "empty_bank"], ["longmem"], ["longmem"]]
    empty, *filled = result["items"]
    assert empty["right"]["longmem"] == empty["right"]["empty_bank"]
    assert [list(item["right"]) for item in filled] == [["longmem"]] * 2
    for part in result["by_setting"]:
        assert part["systems"]["backbone"] == result["systems"]["backbone"]


def test_memory_is_read_once_for_all_windows(saved_model, tmp_path, monkeypatch):
    read, sizes = Systems.read, []

    def see(self, memories, ids, **more):
        sizes.append(len(ids))
        read(self, memories, ids, **more)

    monkeypatch.setattr(Systems, "read", see)
    measure_icl(options(files(tmp_path / "toy"), model=saved_model, seeds=1))
    assert len(sizes) == 2
    assert sizes[0] < sizes[1]


def test_accuracy_is_the_mean_over_sets_of_the_mean_over_seeds_and_texts(saved_model, tmp_path):
    pairs = files(tmp_path / "one"), files(tmp_path / "two", n_test=3)
    result = measure_icl(options(*pairs, model=saved_model, in_memory=(0, 5)))
    settings = [(part["in_window"], part["in_memory"]) for part in result["by_setting"]]
    assert settings == [(w, m) for w in (1, 2) for m in (0, 5)]
    for part in result["by_setting"]:
        for metric in icl.METRICS:
            means = []
            for name in ("one", "two"):
                wanted = (name, part["in_window"], part["in_memory"])
                items = [i for i in result["items"] if (i["set"], i["in_window"], i["in_memory"]) == wanted]
                hits = "".join(item["right"]["longmem"][metric] for item in items)
                assert len(hits) == 2 * (8 if name == "one" else 3)
                means.append(hits.count("1") / len(hits))
                assert part["systems"]["longmem"]["sets"][name][metric] == pytest.approx(means[-1])
            assert part["systems"]["longmem"][metric] == pytest.approx(sum(means) / 2)
    assert result["systems"] == result["by_setting"][-1]["systems"]
    assert result["systems"]["longmem"]["n"] == 11
    gain, control = result["gains"]["better_control"], result["systems"]["empty_bank"]["accuracy"]
    assert gain["control"] == "empty_bank"
    assert gain["difference"] == pytest.approx(result["systems"]["longmem"]["accuracy"] - control)
    assert gain["low"] <= gain["difference"] <= gain["high"]
    assert {len(row) for row in table(result)} == {1 + 4 + 3 + 2}


def test_intervals_draw_texts_and_every_set_counts_the_same():
    right, wrong = np.ones(100), np.zeros(3)
    assert icl.over_sets([right, wrong]) == (0.5, 0.5, 0.5)
    mean, low, high = icl.over_sets([np.array([0.0, 1.0] * 50)])
    assert mean == 0.5
    assert (low, high) == pytest.approx((0.4, 0.6), abs=0.02)


def test_all_seeds_ask_for_the_same_texts_and_as_many_as_were_asked_for(tmp_path):
    pair = files(tmp_path / "toy", n_test=300)
    assert len(read_sets(options(pair))[0].test) == 250
    assert len(read_sets(options(pair, full=True))[0].test) == 300
    few = read_sets(options(pair, max_items=7))[0].test
    assert few == read_sets(options(pair, max_items=7, seeds=4))[0].test
    assert len(few) == 7
    assert few != read_sets(options(pair, full=True))[0].test[:7]  # files may be sorted by label: it is a draw
    assert few != read_sets(options(pair, max_items=7, seed=2))[0].test


def test_a_run_that_was_cut_goes_on_and_gives_the_same_result(saved_model, tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    small = {"model": saved_model, "in_memory": (0, 5), "json": path}
    asked = options(files(tmp_path / "toy"), seeds=1, **small)
    measure_icl(asked)
    saved = path.read_text()
    path.unlink()
    add, measured = Items.add, []

    def cut(self: Items, key: str, item: dict) -> None:
        add(self, key, item)
        measured.append(key)
        if len(measured) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Items, "add", cut)
    with pytest.raises(KeyboardInterrupt):
        measure_icl(asked)
    other = options(files(tmp_path / "toy"), seeds=2, resume=True, **small)
    with pytest.raises(LongMemError, match="other settings"):
        measure_icl(other)
    measure_icl(options(files(tmp_path / "toy"), seeds=1, resume=True, **small))
    assert len(measured) == len(set(measured)) == 4
    assert path.read_text() == saved


# Data sets ---------------------------------------------------------------------------------------------------------


def test_the_papers_template_is_chosen_by_the_labels_and_another_may_be_given(tmp_path):
    assert a_set(tmp_path / "toy").template == SENTIMENT_TEMPLATE
    subjective = files(tmp_path / "subj", labels=("objective", "subjective"))
    assert read_sets(options(subjective))[0].template.pattern == "Input: {text} Type: {label}. "
    assert a_set(tmp_path / "toy", template="{text} = {label}\n").template.pattern == "{text} = {label}\n"


def test_a_set_is_named_after_its_folder_or_its_file_or_as_asked(tmp_path):
    assert icl.set_name(tmp_path / "sst2" / "train.jsonl") == "sst2"
    assert icl.set_name(tmp_path / "reviews.csv") == "reviews"
    assert a_set(tmp_path / "toy", name=("films",)).name == "films"


def test_other_columns_and_formats_are_read(tmp_path):
    (tmp_path / "train.csv").write_text("review,stars\ngood,5\nbad,1\n")
    (tmp_path / "test.tsv").write_text("review\tstars\nfine\t5\n")
    pair = (tmp_path / "train.csv", tmp_path / "test.tsv")
    [data] = read_sets(options(pair, text_column="review", label_column="stars"))
    assert data.labels == ("1", "5")
    assert data.test[0].text == "fine"
    with pytest.raises(DemonstrationError, match=r"no column 'text'.*'review', 'stars'"):
        read_sets(options(pair))


def test_an_empty_label_is_named_by_its_line(tmp_path):
    train, test = files(tmp_path / "toy")
    train.write_text('{"text": "a", "label": "good"}\n{"text": "b", "label": " "}\n')
    with pytest.raises(DemonstrationError, match="line 2: 'label' is empty"):
        read_sets(options((train, test)))


def test_labels_must_be_two_at_least_and_those_of_the_training_file(tmp_path):
    train, test = files(tmp_path / "toy")
    test.write_text('{"text": "a", "label": "negative"}\n{"text": "b", "label": "Negative"}\n')
    with pytest.raises(LongMemError, match=r"line 2 of .* has the label 'Negative'; .* are cold and long, negative"):
        read_sets(options((train, test)))
    train.write_text('{"text": "a", "label": "negative"}\n')
    with pytest.raises(LongMemError, match="has the label 'negative' only"):
        read_sets(options((train, test)))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"test": ()}, "--train names 1 files and --test 0"),
        ({"name": ("a", "b")}, "--name names 2 data sets; there are 1"),
        ({"in_window": (0,)}, "--in-window is 0; it must be 1 at least"),
        ({"in_memory": (-1, 20)}, "--in-memory is -1, 20; it must be 0 at least"),
        ({"in_memory": ()}, "--in-memory is nothing"),
        ({"seeds": 0}, "--seeds is 0"),
        ({"in_memory": (39,)}, "asks for 2 and --in-memory for 39 demonstrations of toy; its training file holds 40"),
        ({"template": "{text}"}, "holds {label} not at all"),
        ({"systems": ("full_attention",)}, "'full_attention'"),
    ],
)
def test_wrong_options_are_named(saved_model, tmp_path, more, message):
    train, test = files(tmp_path / "toy")
    given = {"train": (train,), "test": (test,), "in_window": (1, 2), "in_memory": (0,), "seeds": 1} | more
    with pytest.raises(LongMemError, match=message):
        measure_icl(IclOptions(saved_model, **given))


def test_two_sets_need_two_names(tmp_path):
    pair = files(tmp_path / "toy")
    with pytest.raises(LongMemError, match="two data sets are called 'toy'"):
        read_sets(options(pair, pair))
