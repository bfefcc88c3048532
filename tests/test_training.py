"""Training data, and runs that survive being cut off."""

import json
import lzma
import os
import shutil
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from longmem.backbone import FAMILIES, Backbone
from longmem.errors import TrainingDataError, UnknownFamilyError
from longmem.induction import prefix_matching
from longmem.model import LongMemForCausalLM
from longmem.row_memory import RowMemory
from longmem.training import data
from longmem.training.adapt import LaneStep, SideNetTraining, adapt
from longmem.training.data import read_packs, tokenize_packs, train_tokenizer
from longmem.training.facts import HELD_OUT_TEMPLATES, TRAINING_TEMPLATES, make_fact, make_name
from longmem.training.lanes import LaneDocuments, LaneMixture, Lanes
from longmem.training.pretrain import BackboneTraining, build_backbone, pretrain
from longmem.training.rows import IGNORED, BackboneRows, RowMixture
from longmem.training.run import Run
from longmem.training.settings import config_names, load_settings
from longmem.training.tasks import CLASSIFIERS, DemonstrationStreams, word_examples
from tests.conftest import tiny_smollm3

TEXT = "The keeper wrote the name of every ship in a ledger, and in the morning the ship returned to the sea. "


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "pack.jsonl"
    path.write_text("\n".join(json.dumps({"title": str(i), "text": TEXT[i:] * 40}) for i in range(3)))
    return path


@pytest.fixture(scope="module")
def tokenizer(pack):
    return train_tokenizer((text for _, text in read_packs([pack])), 400)


@pytest.fixture(scope="module")
def corpus(pack, tokenizer, tmp_path_factory):
    return tokenize_packs([pack], tokenizer, cache_dir=tmp_path_factory.mktemp("cache"))


def rows(corpus, tokenizer, **mixture: float) -> BackboneRows:
    shares = {"repeated": 0.0, "random_facts": 0.0, "facts": 0.0} | mixture
    options = {"length": 128, "rows": 50, "dense_rows": 50, "later": 0.5, "seed": 1}
    return BackboneRows([corpus], [1.0], tokenizer, mixture=RowMixture(**shares), **options)


def test_the_tokenizer_gives_back_any_text_and_splits_digits(tokenizer):
    text = "In 1866, naïve 🙂\n\n  twice"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert all(sum(c.isdigit() for c in token) <= 1 for token in tokenizer.tokenize("12 345"))


def test_a_tokenised_pack_is_kept_and_read_again(pack, corpus, tokenizer, tmp_path):
    first = tokenize_packs([pack], tokenizer, cache_dir=tmp_path)
    again = tokenize_packs([pack], tokenizer, cache_dir=tmp_path)
    assert np.array_equal(first.ids, again.ids)
    assert tokenizer.decode(again.document(1).tolist()) == TEXT[1:] * 40


def test_a_pack_that_changed_without_changing_its_size_is_tokenised_anew(tokenizer, tmp_path):
    path = tmp_path / "pack.txt"
    found = []
    for text in ("the ship", "the shop"):
        path.write_text(text)
        found.append(tokenizer.decode(tokenize_packs([path], tokenizer, cache_dir=tmp_path).document(0).tolist()))
    assert found == ["the ship", "the shop"]


def test_the_tokens_of_a_pack_do_not_depend_on_how_much_is_tokenised_at_once(
    pack, corpus, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr(data, "BATCH_CHARACTERS", len(TEXT))
    assert [len(batch) for batch in data._batches(["a" * 60, "b" * 60, "c" * 500, "d"])] == [2, 1, 1]
    again = tokenize_packs([pack], tokenizer, cache_dir=tmp_path)
    assert np.array_equal(corpus.ids, again.ids)
    assert np.array_equal(corpus.starts, again.starts)


@pytest.mark.parametrize("name", ["pack.jsonl.xz", "renamed.jsonl"])
def test_a_compressed_pack_holds_what_its_file_holds(pack, corpus, tokenizer, tmp_path, name):
    opener = lzma.open if name.endswith(".xz") else open
    with opener(tmp_path / name, "wt") as file:
        file.write(pack.read_text())
    assert np.array_equal(corpus.ids, tokenize_packs([tmp_path / name], tokenizer, cache_dir=tmp_path / "cache").ids)


def test_a_pack_under_another_name_is_not_tokenised_again(pack, tokenizer, tmp_path, monkeypatch):
    tokenize_packs([pack], tokenizer, cache_dir=tmp_path / "cache")
    renamed = shutil.copy(pack, tmp_path / "renamed.jsonl")
    monkeypatch.setattr(data, "_tokenize_into", None)
    tokenize_packs([renamed], tokenizer, cache_dir=tmp_path / "cache")


def test_rows_made_by_other_processes_are_the_rows_of_this_one(pack, tmp_path):
    """Also where the texts have just been tokenised by the threads of this process."""
    alone, helped = (
        pretrain(backbone_settings(pack, tmp_path / str(n) / "run", workers=n, demonstrations=0.5)) for n in (0, 1)
    )
    assert (alone / "model.safetensors").read_bytes() == (helped / "model.safetensors").read_bytes()


def test_a_worker_does_not_wait_for_the_threads_of_its_parent(monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    data.be_one_worker(0)
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"


@pytest.mark.parametrize("kind", ["repeated", "random_facts", "facts", "demonstrations"])
def test_rows_are_whole_and_what_is_asked_was_said_before(corpus, tokenizer, kind):
    made = rows(corpus, tokenizer, **{kind: 1.0})
    for index in range(20):
        row = made[index]
        assert len(row["input_ids"]) == len(row["labels"]) == len(row["asked"]) == 128
        known = (row["labels"] != IGNORED).nonzero().flatten()
        known = known[known < 127]
        assert torch.equal(row["labels"][known], row["input_ids"][known + 1])
        asked = row["asked"].nonzero().flatten().tolist()
        said = [row["input_ids"][: i + 1].tolist() for i in asked]
        assert all(int(row["labels"][i]) in before for i, before in zip(asked, said, strict=True))
    assert any(made[index]["asked"].any() for index in range(20))


def test_a_row_is_the_same_for_ever(corpus, tokenizer):
    made = rows(corpus, tokenizer, repeated=0.5)
    assert torch.equal(made[7]["input_ids"], made[7]["input_ids"])
    assert not torch.equal(made[7]["input_ids"], made[8]["input_ids"])


def test_names_and_templates_of_measurements_are_never_trained_on():
    trained = {make_name(Random(i)) for i in range(2000)}
    held_out = {make_name(Random(i), held_out=True) for i in range(2000)}
    assert not trained & held_out
    assert not set(TRAINING_TEMPLATES) & set(HELD_OUT_TEMPLATES)
    fact = make_fact(Random(0))
    assert fact.statement == f"{fact.question}{fact.answer}."


def lanes_of(corpus, tokenizer, **mixture: object) -> Lanes:
    settings = {"segments": 6, "memory_segments": 4, "facts": 1.0, "demonstrations": 0.3} | mixture
    documents = LaneDocuments([corpus], [1.0], tokenizer, length=64, mixture=LaneMixture(**settings))
    return Lanes(documents, lanes=3, seed=1)


def test_lanes_read_consecutive_segments_until_a_new_document_starts(corpus, tokenizer):
    batches = iter(lanes_of(corpus, tokenizer))
    before = next(batches)
    assert before["starts"].all()
    restarts = 0
    for _ in range(30):
        now = next(batches)
        for lane in range(3):
            if now["starts"][lane]:
                restarts += 1
            elif before["labels"][lane, -1] != IGNORED:
                assert now["input_ids"][lane, 0] == before["labels"][lane, -1]
        before = now
    assert restarts > 3


def test_questions_come_after_the_window_has_passed(corpus, tokenizer):
    documents = lanes_of(corpus, tokenizer, demonstrations=0.0, segments=20, memory_segments=8).documents
    checked = 0
    for seed in range(8):
        document = documents.make(Random(seed))
        ids = document.ids.tolist()
        for end in np.flatnonzero(np.diff(document.asked.astype(int)) == -1):
            start = end
            while document.asked[start - 1]:
                start -= 1
            question = ids[start - 6 : end + 1]
            places = [i for i in range(start - 6) if ids[i : i + len(question)] == question]
            assert places
            assert min(start - 6 - i for i in places) >= 50
            checked += 1
    assert checked > 5


def test_memory_for_little_more_than_a_window_still_asks_after_the_window(corpus, tokenizer):
    documents = lanes_of(corpus, tokenizer, segments=20, memory_segments=1, demonstrations=0.0).documents
    for place, piece in (placed := documents._facts(Random(1), 64 * 20)):
        if piece.asked_from is not None:
            stated = [p for p, other in placed if other.ids == piece.ids and other.asked_from is None]
            assert place - stated[0] == 64


def test_lanes_are_the_same_for_a_seed_and_unlike_each_other(corpus, tokenizer):
    first, again = (next(iter(lanes_of(corpus, tokenizer))) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["input_ids"][0], first["input_ids"][1])
    assert first["input_ids"].shape == first["labels"].shape == first["asked"].shape == (3, 64)


def test_the_memory_of_a_lane_is_emptied_when_its_document_ends_and_of_no_other_lane(corpus, tokenizer, tiny_model):
    """What a lane retrieves is its own document's past: two lanes read as each would read alone."""
    step = LaneStep(tiny_model, asked_weight=1.0)
    generator = torch.Generator().manual_seed(0)
    segments = torch.randint(2, 300, (5, 2, 33), generator=generator)
    starts = torch.tensor([[True, True], [False, False], [False, True], [False, False], [False, False]])

    def losses(lanes: list[int], begin: int) -> list[float]:
        memory, found = RowMemory([1, 3], capacity=64, chunk_size=4), []
        for ids, start in zip(segments[begin:, lanes], starts[begin:, lanes], strict=True):
            memory.forget_rows(start)
            batch = {"input_ids": ids[:, :-1], "labels": ids[:, 1:], "asked": torch.zeros_like(ids[:, 1:]).bool()}
            found.append(step(batch, memory, True)[0].item())
        return found

    together, first, second = losses([0, 1], 0), losses([0], 0), losses([1], 0)
    assert together == pytest.approx([(a + b) / 2 for a, b in zip(first, second, strict=True)], abs=1e-5)
    assert second[2:] == pytest.approx(losses([1], 2), abs=1e-5)


def backbone_settings(pack, folder, **options: object) -> BackboneTraining:
    small = {"layers": 2, "hidden": 32, "intermediate": 48, "heads": 2, "nope_layers": [1], "window": 64}
    speed = {"batch_rows": 2, "vocab_size": 400, "compile": False, "log_every": 1, "probe_every": 2, "warmup": 2}
    return BackboneTraining(output=str(folder), packs=[str(pack)], total_tokens=64 * 2 * 4, **(small | speed | options))


# Of such a backbone: 2 layers of 32 with 48 inside, a vocabulary of 320 (the pack has no more), rows of 64.
FLOPS = 6 * (2 * (4 * 32 * 32 + 3 * 32 * 48) + 32 * 320) + 6 * 2 * 32 * 65


def test_facts_of_one_form_stand_together_and_their_names_differ(corpus, tokenizer):
    documents = lanes_of(corpus, tokenizer).documents
    placed = documents._facts(Random(3), 64 * 40)
    stated = {tuple(piece.ids) for _, piece in placed if piece.asked_from is None}
    assert len(stated) == sum(piece.asked_from is None for _, piece in placed)
    beginnings = [ids[:5] for ids in stated]
    assert len(set(beginnings)) < len(beginnings)


def test_streams_show_a_label_before_they_ask_for_it(corpus, tokenizer):
    streams = DemonstrationStreams([corpus], [1.0], tokenizer)
    for seed in range(12):
        stream = streams.make(Random(seed), 400)
        assert len(stream.ids) == len(stream.taught) == len(stream.asked) == 400
        assert stream.asked.any()
        assert stream.taught[stream.asked].all()
        text = tokenizer.decode(stream.ids.tolist())
        first = int(np.flatnonzero(stream.asked)[0])
        end = first + int(np.argmin(stream.asked[first:]))
        label = tokenizer.decode(stream.ids[first:end].tolist())
        assert tokenizer.decode(stream.ids[:first].tolist()).count(label) >= 1, text


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        ("speech", '"Come in," he said.', "He came in."),
        ("question", "Is it late?", "It is late."),
        ("number", "There were two of them.", "There were some of them."),
        ("person", "I saw the ship.", "They saw the ship."),
        ("gender", "He saw the ship.", "She saw the ship."),
        ("tense", "The ship was late.", "The ship is late."),
        ("negation", "It was not late.", "It was late."),
        ("mood", "What a lovely day.", "What a dreadful day."),
        ("length", "It was late.", "It was late. " * 10),
    ],
)
def test_what_divides_the_sentences_of_a_made_up_task(kind, first, second):
    assert [CLASSIFIERS[kind](sentence) for sentence in (first, second)] == [0, 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_backbone_of_any_family_has_the_sizes_of_its_settings(family, tokenizer):
    sizes = {"layers": 2, "hidden": 32, "intermediate": 48, "heads": 4, "kv_heads": 2, "nope_layers": [1], "window": 16}
    model = build_backbone(BackboneTraining(family=family, **sizes), tokenizer)
    backbone = Backbone(model, [1])
    q_BHTD, k_BGTD, _ = backbone(torch.arange(8)[None]).qkv[1]
    shares = hasattr(model.config, "num_key_value_heads")
    assert (q_BHTD.shape, k_BGTD.shape) == ((1, 4, 8, 8), (1, 2 if shares else 4, 8, 8))
    inside = backbone.layers[0].get_submodule(backbone.family.mlp_output).weight.shape
    assert set(inside) == {32, 128 if family == "bloom" else 48}
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_family_that_nobody_knows_is_named(tokenizer):
    with pytest.raises(UnknownFamilyError, match=r"family is 'mamba'.*gpt_neox"):
        build_backbone(BackboneTraining(family="mamba"), tokenizer)


def test_a_backbone_trains_further_from_the_weights_of_another(pack, tmp_path):
    first = pretrain(backbone_settings(pack, tmp_path / "first"))
    settings = backbone_settings(pack, tmp_path / "second", start_from=str(first), matrix_lr=0.0, other_lr=0.0)
    further = pretrain(settings)
    assert (first / "model.safetensors").read_bytes() == (further / "model.safetensors").read_bytes()
    assert (first / "tokenizer.json").read_bytes() == (further / "tokenizer.json").read_bytes()


def test_a_backbone_trains_and_an_interrupted_run_ends_as_an_uninterrupted_one(pack, tmp_path, monkeypatch):
    whole = pretrain(backbone_settings(pack, tmp_path / "whole"))
    done = Run.done
    monkeypatch.setattr(Run, "done", lambda run: run.step >= 2 or done(run))
    pretrain(backbone_settings(pack, tmp_path / "cut"))
    monkeypatch.setattr(Run, "done", done)
    (tmp_path / "cut" / "checkpoint.part").mkdir()  # as a kill while writing leaves it
    resumed = pretrain(backbone_settings(pack, tmp_path / "cut", resume=True))
    for name in ("model.safetensors", "tokenizer.json"):
        assert (whole / name).read_bytes() == (resumed / name).read_bytes()
    rows = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if "loss" in r] == [1, 2, 3, 4]
    assert all(r["matrix_share"] > 0 and r["tokens_per_second"] > 0 for r in rows if "loss" in r)
    assert [(r["step"], r["flops_per_token"]) for r in rows if r.get("matrix_rate")] == [(0, FLOPS), (2, FLOPS)]
    scores = [r["prefix_matching"] for r in rows if "prefix_matching" in r]
    assert [len(heads) for layers in scores for heads in layers] == [2, 2, 2, 2]


def a_run(folder) -> Run:
    run = Run(folder, Accelerator(cpu=True), total_steps=9, total_minutes=None, max_minutes=None)
    run.begin()
    return run


def test_a_kill_at_any_moment_of_saving_loses_no_checkpoint(tmp_path, monkeypatch):
    """Also where the same step is saved twice: when a checkpoint falls due with the last step."""
    run = a_run(tmp_path)
    run.advance(1)
    run.save()
    run.save()

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    for step, name in [(1, None), (2, "rename"), (2, "write_text")]:
        run.step = step
        with monkeypatch.context() as patch:
            for method in [name] if name else ["rename", "write_text"]:
                patch.setattr(Path, method, killed)
            try:
                run.save()
            except KeyboardInterrupt:
                assert name
        again = a_run(tmp_path)
        assert again.resume()
        assert again.step == 1


def test_a_kill_while_the_old_checkpoint_is_deleted_keeps_the_new_one(tmp_path, monkeypatch):
    run = a_run(tmp_path)
    for step in (1, 2):
        run.step = step
        with monkeypatch.context() as patch:
            if step == 2:
                patch.setattr("longmem.training.run.shutil.rmtree", lambda *a, ignore_errors=False: None)
            run.save()
    assert len(list(tmp_path.glob("checkpoint-*"))) == 2
    again = a_run(tmp_path)
    assert again.resume()
    assert again.step == 2


def test_metrics_of_steps_that_a_kill_has_undone_are_not_counted_twice(tmp_path):
    run = a_run(tmp_path)
    for _ in range(4):
        run.advance(10)
        run.log(loss=1.0)
        if run.step == 2:
            run.save()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # the kill
    again = a_run(tmp_path)
    again.resume()
    again.advance(10)
    again.log(loss=0.5)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert [line["tokens"] for line in lines] == [10, 20, 30]


def test_a_run_cut_before_its_first_checkpoint_begins_anew(pack, tmp_path, monkeypatch):
    """A kill leaves halves of the tokenizer and of the tokenised pack, and metrics of steps that nobody has."""
    whole = pretrain(backbone_settings(pack, tmp_path / "whole"))
    cut = tmp_path / "cut"
    for folder in (cut / "tokenizer.part", tmp_path / "cache" / "0123456789abcdef.part"):
        folder.mkdir(parents=True)
        (folder / "half").write_text("{")
    (cut / "metrics.jsonl").write_text('{"step": 1, "loss": 9.0}\n{"step": 2, "lo')
    resumed = pretrain(backbone_settings(pack, cut, resume=True))
    assert (whole / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()
    rows = [json.loads(line) for line in (cut / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]


def test_a_run_goes_on_with_the_settings_it_began_with(pack, tmp_path):
    pretrain(backbone_settings(pack, tmp_path))
    with pytest.raises(TrainingDataError, match=r"batch_rows is 1, but .* begun with 2"):
        pretrain(backbone_settings(pack, tmp_path, resume=True, batch_rows=1))
    pretrain(backbone_settings(pack, tmp_path, resume=True, max_minutes=1.0))


@pytest.mark.parametrize(
    ("line", "said"), [("{", "line 2 .* is not JSON"), ('{"title": "a"}', 'line 2 .* has no "text"')]
)
def test_a_wrong_line_of_a_pack_is_named(tmp_path, line, said):
    path = tmp_path / "pack.jsonl"
    path.write_text('{"text": "The ship."}\n' + line)
    with pytest.raises(TrainingDataError, match=said):
        list(read_packs([path]))


def test_too_little_text_for_a_row_is_said(pack, tmp_path):
    with pytest.raises(TrainingDataError, match="needs 9002 at least"):
        pretrain(backbone_settings(pack, tmp_path, window=9000))


def test_a_run_does_not_write_over_another(pack, tmp_path):
    pretrain(backbone_settings(pack, tmp_path))
    with pytest.raises(TrainingDataError, match="--resume"):
        pretrain(backbone_settings(pack, tmp_path))


def test_prefix_matching_finds_a_head_that_looks_where_it_should():
    model = tiny_smollm3()
    scores = prefix_matching(model, length=32)
    assert scores.shape == (4, 4)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert model.config._attn_implementation == "sdpa"


def test_a_sidenet_trains_and_leaves_the_backbone_alone(pack, tmp_path):
    backbone = pretrain(backbone_settings(pack, tmp_path / "backbone", layers=4, nope_layers=[1, 3]))
    options = {"window": 64, "memory_layers": [1, 3], "retrieved_tokens": 16, "lanes": 2, "memory_tokens": 256}
    settings = SideNetTraining(
        backbone=str(backbone), output=str(tmp_path / "side"), packs=[str(pack)], total_steps=7, log_every=1, **options
    )
    trained = LongMemForCausalLM.from_pretrained(adapt(settings), device="cpu")
    fresh = LongMemForCausalLM.from_backbone(backbone, memory_layers=[1, 3], window=64, retrieved_tokens=16)
    assert trained.fingerprint == fresh.fingerprint
    gates = [p for name, p in trained.sidenet.named_parameters() if "bias_H" in name]
    assert all((g - gates[0].new_tensor(-0.9946)).abs().max() > 1e-4 for g in gates)
    metrics = [json.loads(line) for line in (tmp_path / "side" / "metrics.jsonl").read_text().splitlines()]
    assert metrics[1]["gate"] > 0  # the first segment has no memory yet
    assert metrics[5]["empty_text"] > 0  # the sixth is read with an empty one


@pytest.mark.parametrize(("distractors", "kept"), [(False, 64), (True, 256)])
def test_a_lanes_memory_keeps_the_documents_before_only_as_distractors(pack, tmp_path, monkeypatch, distractors, kept):
    held = []
    add = RowMemory.add

    def count(memory, *args):
        add(memory, *args)
        held.append(int(memory.valid_BN.sum(dim=1).max()))

    monkeypatch.setattr(RowMemory, "add", count)
    backbone = pretrain(backbone_settings(pack, tmp_path / "backbone", layers=4, nope_layers=[1, 3]))
    options = {"window": 64, "memory_layers": [1, 3], "retrieved_tokens": 16, "lanes": 2, "memory_tokens": 256}
    options |= {"backbone": str(backbone), "packs": [str(pack)], "segments": 1, "distractors": distractors}
    adapt(SideNetTraining(output=str(tmp_path / "side"), total_steps=5, **options))
    assert held[-1] == kept


def test_a_sidenet_trains_further_on_another_state_of_its_backbone(pack, tmp_path):
    deep = {"layers": 4, "nope_layers": [1, 3]}
    first = pretrain(backbone_settings(pack, tmp_path / "first", **deep))
    second = pretrain(backbone_settings(pack, tmp_path / "second", start_from=str(first), **deep))
    options = {"window": 64, "memory_layers": [1, 3], "retrieved_tokens": 16, "lanes": 2, "memory_tokens": 256}
    options |= {"packs": [str(pack)], "total_steps": 2}
    trained = adapt(SideNetTraining(backbone=str(first), output=str(tmp_path / "a"), **options))
    frozen = options | {"start_from": str(trained), "matrix_lr": 0.0, "other_lr": 0.0}
    further = adapt(SideNetTraining(backbone=str(second), output=str(tmp_path / "b"), **frozen))
    old, new = (LongMemForCausalLM.from_pretrained(folder, device="cpu") for folder in (trained, further))
    assert old.fingerprint != new.fingerprint
    assert all(torch.equal(a, b) for a, b in zip(old.sidenet.parameters(), new.sidenet.parameters(), strict=True))
    with pytest.raises(TrainingDataError, match="start_from is"):
        adapt(SideNetTraining(backbone=str(second), output=str(tmp_path / "c"), **frozen, gate="scalar"))


def test_a_sidenet_run_goes_on_from_its_checkpoint(pack, tmp_path):
    backbone = pretrain(backbone_settings(pack, tmp_path / "backbone", layers=4, nope_layers=[1, 3]))
    options = {"window": 64, "memory_layers": [1, 3], "retrieved_tokens": 16, "lanes": 2, "memory_tokens": 256}
    options |= {"backbone": str(backbone), "packs": [str(pack)], "log_every": 1}
    first = adapt(SideNetTraining(output=str(tmp_path / "side"), total_steps=2, **options))
    weights = (first / "model.safetensors").read_bytes()
    shutil.copytree(tmp_path / "side", tmp_path / "copy")
    ended = adapt(SideNetTraining(output=str(tmp_path / "side"), total_steps=2, resume=True, **options))
    assert (ended / "model.safetensors").read_bytes() == weights
    on = [
        adapt(SideNetTraining(output=str(tmp_path / name), total_steps=4, resume=True, **options))
        for name in ("side", "copy")
    ]
    resumed = [(folder / "model.safetensors").read_bytes() for folder in on]
    assert resumed[0] == resumed[1] != weights
    lines = [json.loads(line) for line in (tmp_path / "copy" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]


def test_a_process_of_its_own_makes_the_lanes_that_this_one_would(pack, tmp_path):
    backbone = pretrain(backbone_settings(pack, tmp_path / "backbone", layers=4, nope_layers=[1, 3]))
    options = {"window": 64, "memory_layers": [1, 3], "retrieved_tokens": 16, "lanes": 2, "memory_tokens": 256}
    options |= {"backbone": str(backbone), "packs": [str(pack)], "total_steps": 3}
    alone, helped = (adapt(SideNetTraining(output=str(tmp_path / str(n)), workers=n, **options)) for n in (0, 1))
    assert (alone / "model.safetensors").read_bytes() == (helped / "model.safetensors").read_bytes()
    with pytest.raises(TrainingDataError, match="workers is 2"):
        adapt(SideNetTraining(output=str(tmp_path / "2"), workers=2, **options))


def test_answers_weigh_nothing_in_segments_without_memory(tiny_model):
    step = LaneStep(tiny_model, asked_weight=5.0)
    ids = torch.randint(2, 300, (1, 32))
    asked = torch.zeros(1, 32, dtype=torch.bool)
    asked[:, 10:] = True
    loss, parts = step({"input_ids": ids, "labels": ids, "asked": asked}, None, True)
    assert loss.item() == pytest.approx((parts[3] / parts[4]).item(), rel=1e-5)


def test_a_configuration_with_an_unknown_setting_is_refused(tmp_path):
    (tmp_path / "run.toml").write_text("wings = 2\n")
    with pytest.raises(TrainingDataError, match="wings"):
        load_settings(BackboneTraining, tmp_path / "run.toml", "backbone")


@pytest.mark.parametrize("kind", ["backbone", "sidenet"])
def test_the_configurations_of_the_package_are_valid(kind):
    for name in config_names(kind):
        load_settings({"backbone": BackboneTraining, "sidenet": SideNetTraining}[kind], name, kind)


def test_a_preset_gives_what_the_file_and_the_command_line_leave_open():
    settings = load_settings(SideNetTraining, "cpu", "sidenet", preset="paper", gate_start=0.4)
    assert (settings.chunk_key, settings.gate, settings.initialization) == ("mean", "scalar", "paper")
    assert settings.gate_start == 0.4
    assert load_settings(SideNetTraining, "cpu", "sidenet", preset="measured").chunk_key == "max"


def test_missing_data_is_named(tmp_path):
    with pytest.raises(TrainingDataError, match=r"nothing\.jsonl"):
        list(read_packs([tmp_path / "nothing.jsonl"]))


def test_made_up_examples_use_the_words_of_their_label_only():
    examples = word_examples(Random(3), 300)
    assert examples == word_examples(Random(3), 300)
    labels = {label for _, label in examples}
    assert len(labels) > 1
    words = {label: {w for text, own in examples if own == label for w in text[:-1].split()} for label in labels}
    shared = set.intersection(*words.values())
    assert all(words[label] - set.union(*(words[o] for o in labels if o != label)) for label in labels)
    assert shared  # words of nobody
