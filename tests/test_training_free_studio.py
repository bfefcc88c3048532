"""The studio on a language model as it is: what it can do it does, what it has not it says, and it is never LongMem."""

import io
import json
import zipfile

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from app import architecture, charts, inspection, ui
from app.bundle import load_bundle, write_bundle
from app.downloads import Downloads
from app.experiments import Experiments, Wishes
from app.export_handlers import make_file
from app.exporting import FORMATS, export_trace
from app.handlers import CHARTS, Studio
from app.launching import Launch, open_model, parse
from app.lesson import Lesson
from app.lesson_steps import STEPS
from app.reading import OPENING_SAMPLE, SampleShelf
from app.run_records import RunFileError, from_record, to_record
from app.scored import LOOKED_UP, SCORED
from app.session import SessionStore
from app.settings import Place
from app.source_handlers import SourceHandlers
from longmem.anatomy import dissect, shape_of
from longmem.errors import LongMemError
from longmem.training_free import LABEL, TrainingFreeMemory
from tests.made_runs import run_by_hand
from tests.test_backbone import CONFIGS
from tests.test_lesson import STORY

SETTINGS = {"max_new_tokens": 8, "temperature": 0.8, "top_p": 0.9, "seed": 1}
BY_FAMILY = pytest.mark.parametrize("family", ["llama", "gpt2"])


def memory_in(family: str, tokenizer) -> TrainingFreeMemory:
    torch.manual_seed(0)
    config = CONFIGS[family].__class__(**CONFIGS[family].to_dict() | {"vocab_size": len(tokenizer)})
    options = {"memory_layers": [1, 3], "window": 32, "retrieved_tokens": 16, "memory_size": 4096}
    model = TrainingFreeMemory.from_backbone(AutoModelForCausalLM.from_config(config), **options)
    model.tokenizer = tokenizer
    return model


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def studio(request, tiny_tokenizer, tmp_path_factory) -> Studio:
    """One in which "me" has the story in memory and has generated from it."""
    folder = tmp_path_factory.mktemp("samples")
    (folder / OPENING_SAMPLE).write_text(STORY, encoding="utf-8")
    model = memory_in(request.param, tiny_tokenizer)
    studio = Studio(model, SessionStore(model.new_bank), SampleShelf(model, folder))
    list(studio.open("me"))
    view = list(studio.generate("me", "The keeper wrote", SETTINGS))[-1]
    assert view.notice == ""
    return studio


@pytest.fixture
def run(studio):
    return studio.store.get("me").run


def test_it_generates_with_and_without_memory_and_shows_passages_weights_and_effect(studio, run):
    payload = inspection.describe(run)
    assert (payload["method"], payload["share"]) == (LABEL, "memory's share")
    assert payload["layers"] == [1, 3]
    layers = [layer for step in payload["steps"] for layer in step["layers"]]
    assert all(layer["passages"] for layer in layers)
    assert all(0 < layer["gate"] < 1 for layer in layers)
    assert any(step["effect"] for step in payload["steps"])
    assert SourceHandlers(studio).draw("me")


def test_it_scores_looks_up_and_runs_again_with_something_off(studio):
    assert studio.score("me", SCORED, "The keeper read the ledger again.", None, 8).notice == ""
    studio.choose("me", 0, 1)
    studio.toggle("me", "layers", [1, 3])
    view = list(studio.run_again("me"))[-1]
    assert "layer 1, layer 3" in view.result
    assert studio.store.get("me").run.recipe.method == LABEL
    assert studio.score("me", LOOKED_UP, "the ledger", None, 8).payload["method"] == LABEL
    assert list(studio.score_onward("me", Place(0, 0.9), 30))[-1].notice == ""
    list(studio.generate("me", "The keeper wrote", SETTINGS))


def test_every_chart_is_drawn_says_what_it_is_of_and_speaks_of_no_gate(studio):
    for name in CHARTS:
        figure = studio.chart("me", name)
        assert figure.data, name
        assert LABEL in {note.text for note in figure.layout.annotations}, name
        assert "gate" not in str(figure.to_dict()).lower(), name
    assert LABEL not in str(charts.effect_strip(studio.store.get("me").run.tokens).to_dict())


@pytest.mark.parametrize("format", [*FORMATS, "report", "bundle"])
def test_every_export_says_that_it_is_not_longmem(studio, run, tmp_path, format):
    path = make_file(studio, Downloads(tmp_path), studio.store.get("me"), format, False)
    assert path.name.startswith("training-free-not-longmem-run-")
    data = path.read_bytes()
    if path.suffix in (".zip", ".longmem"):
        with zipfile.ZipFile(io.BytesIO(data)) as files:
            found = {name: files.read(name) for name in files.namelist()}
        if format == "parquet":
            found = {name: pd.read_parquet(io.BytesIO(table)).to_csv().encode() for name, table in found.items()}
        assert any(LABEL.encode() in part for part in found.values())
        tables = [part for name, part in found.items() if name.endswith((".csv", ".parquet"))]
        assert all(LABEL.encode() in part for part in tables)
    else:
        assert LABEL.encode() in data
        assert b"gate %" not in data


def test_a_run_keeps_its_method_in_a_file_and_a_forged_one_is_refused(studio, run, tmp_path, tiny_model):
    record = json.loads(json.dumps(to_record(run)))
    assert from_record(record).recipe.method == LABEL
    record["recipe"]["method"] = "LongMem 2"
    with pytest.raises(RunFileError, match="its method is 'LongMem 2'"):
        from_record(record)
    del record["recipe"]["method"]  # as files of before have it
    assert from_record(record).recipe.method == ""
    session, path = studio.store.get("me"), tmp_path / "a.longmem"
    write_bundle(path, session.bank, run, studio.settings_of(session))
    other = Studio(tiny_model, SessionStore(tiny_model.new_bank), SampleShelf(tiny_model, tmp_path))
    assert list(load_bundle(other, "you", path))[-1].payload["method"] == LABEL


def test_the_api_says_it_in_every_answer(studio):
    answers = [
        list(studio.generate_text("api", "The keeper", SETTINGS, use_memory=True, trace_ranks=1))[-1],
        studio.retrieve("api", "the ledger", trace_ranks=1),
        studio.score_text("api", "The keeper read.", "", trace_ranks=1),
        studio.what_if("api", "The keeper read.", "", {"layers": [1]}),
    ]
    assert [answer["method"] for answer in answers] == [LABEL] * 4
    assert LABEL in studio.model_line()


def test_the_lesson_keeps_what_holds_and_says_what_is_missing(studio, tmp_path):
    lesson = Lesson(studio.model, studio.shelf, tmp_path)
    for number, step in enumerate(STEPS, start=1):
        said = lesson.words(number) + lesson.live(number) + lesson.task(number)
        assert "lm-error" not in said, step.title
        assert ("which LongMem trains" in said) == (step.title in ("The gate", "Fusion", "The SideNet")), step.title
    assert "Show: Gates" not in lesson.task(5)


def test_the_drawing_shows_the_second_pass_and_no_sidenet(studio):
    svg = architecture.drawing(shape_of(studio.model), None)
    assert "Second pass" in svg
    assert "SideNet" not in svg
    assert "gate" not in svg.replace("gated", "").replace("gate-", "")
    assert [word for word in ("layer 1 · share", "layer 3 · share") if word not in svg] == []
    assert "lm-plus" not in svg


def test_the_anatomy_of_a_pass_is_what_the_model_does(studio):
    model, bank = studio.model, studio.store.get("me").bank
    ids = model.tokenizer("The keeper wrote the name", add_special_tokens=False)["input_ids"]
    found = dissect(model, ids, memory=bank)
    assert sorted(found.memory) == [1, 3]
    with torch.no_grad():
        logits = model(torch.tensor([ids]), memory=bank).logits[0]
        torch.testing.assert_close(model.backbone.head(torch.from_numpy(found.side_TE)), logits, atol=1e-4, rtol=1e-4)


def test_recorded_results_stay_and_small_runs_say_why_there_are_none(studio):
    experiments = Experiments(studio)
    assert "another one than is loaded here" in experiments.show("me", "perplexity").said
    view = list(experiments.run("me", "perplexity", Wishes("memory:all", {})))[-1]
    assert "need a SideNet" in view.notice


def test_the_page_says_it_at_the_top_wherever_one_is(studio, tmp_path):
    demo = ui.build(studio.model, samples=tmp_path, read_opening_sample=False)
    (banner,) = [b for b in demo.blocks.values() if getattr(b, "elem_id", None) == "lm-method"]
    assert LABEL in banner.value
    assert demo.title == LABEL
    labels = {getattr(block, "label", None) for block in demo.blocks.values()}
    assert "Shares" in labels
    assert "Gates" not in labels


@BY_FAMILY
def test_it_is_opened_by_an_option_or_a_variable(family, tiny_tokenizer, tmp_path):
    memory_in(family, tiny_tokenizer).backbone.causal_lm.save_pretrained(tmp_path)
    with pytest.raises(LongMemError, match="tokenizer"):
        open_model(Launch(tmp_path, training_free=True))
    tiny_tokenizer.save_pretrained(tmp_path)
    chosen = parse(["--model", str(tmp_path), "--training-free"], {})
    assert chosen == parse([], {"LONGMEM_MODEL": str(tmp_path), "LONGMEM_TRAINING_FREE": "1"})
    model = open_model(chosen)
    assert not model.has_sidenet
    assert model.label == LABEL
    assert not parse([], {"LONGMEM_TRAINING_FREE": "off"}).training_free


def test_a_variable_that_is_neither_yes_nor_no_is_said(capsys):
    with pytest.raises(SystemExit):
        parse([], {"LONGMEM_TRAINING_FREE": "maybe"})
    assert "LONGMEM_TRAINING_FREE is 'maybe'" in " ".join(capsys.readouterr().err.split())


def test_a_longmem_model_needs_no_label(tiny_model, tmp_path):
    demo = ui.build(tiny_model, samples=tmp_path, read_opening_sample=False)
    assert tiny_model.has_sidenet
    assert not [b for b in demo.blocks.values() if getattr(b, "elem_id", None) == "lm-method"]


def test_a_run_of_longmem_is_saved_as_before():
    file = export_trace(run_by_hand(["a"]), "csv")
    assert file.name.startswith("longmem-run-")
    assert b"method" not in file.data
