"""Exported tables: the numbers of the screen, to the last bit, and cells that no spreadsheet computes."""

import io
import itertools
import json
import math
import re
import zipfile

import numpy as np
import pandas as pd
import pytest

from app import charts, inspection
from app.exporting import FORMATS, export_trace, plain_cell, read_csv, spreadsheet_cell
from app.run_records import TABLES, tables_of
from app.session import Run
from longmem.errors import LongMemError
from tests.made_runs import CELLS, run_by_hand, studio_with_a_run


@pytest.fixture(scope="module")
def run(tiny_model, tmp_path_factory) -> Run:
    return studio_with_a_run(tiny_model, tmp_path_factory.mktemp("samples")).store.get("me").run


def silent(run: Run) -> Run:
    """The run as if nothing had been in memory: tables without rows, some of them without dtypes."""
    parts = (run.trace, run.gates, run.token_weights, run.chunks)
    return Run(run.number, run.recipe, run.tokens, *(part.iloc[:0].astype(object) for part in parts), {})


def unzipped(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {name: file.read(name) for name in file.namelist()}


def read_back(run: Run, format: str) -> dict[str, pd.DataFrame]:
    data = export_trace(run, format).data
    if format == "json":
        tables = json.loads(data)["tables"]
        return {name: pd.DataFrame(tables[name]).astype(dtypes) for name, dtypes in TABLES.items()}
    files = unzipped(data)
    if format == "parquet":
        return {name: pd.read_parquet(io.BytesIO(files[f"{name}.parquet"])) for name in TABLES}
    return {name: read_csv(files[f"{name}.csv"], name) for name in TABLES}


@pytest.mark.parametrize("format", ["parquet", "json"])
def test_tables_come_back_with_their_dtypes_and_every_bit(run, format):
    found = read_back(run, format)
    for name, frame in tables_of(run).items():
        pd.testing.assert_frame_equal(found[name], frame, check_exact=True)
        assert dict(found[name].dtypes.astype(str)) == TABLES[name]


def test_csv_comes_back_to_nine_digits_which_is_every_bit_of_what_was_retrieved(run):
    found = read_back(run, "csv-zip")
    for name in ("trace", "gates", "chunks", "token_weights"):
        pd.testing.assert_frame_equal(found[name], tables_of(run)[name], check_exact=True)
    pd.testing.assert_frame_equal(found["tokens"], tables_of(run)["tokens"], rtol=1e-8, atol=0)


def test_the_single_csv_is_the_trace_and_opens_in_a_spreadsheet(run):
    file = export_trace(run, "csv")
    assert file.data.startswith(b"\xef\xbb\xbfstep,token,layer,head,rank,chunk,score,weight,gate,document")
    pd.testing.assert_frame_equal(read_csv(file.data, "trace"), tables_of(run)["trace"], check_exact=True)


@pytest.mark.parametrize("format", ["csv-zip", "parquet", "json"])
def test_tables_without_rows_keep_columns_and_dtypes(run, format):
    for name, frame in read_back(silent(run), format).items():
        assert dict(frame.dtypes.astype(str)) == TABLES[name]
        assert name == "tokens" or frame.empty


def test_exported_numbers_are_those_of_the_inspector(run):
    tables = read_back(run, "csv-zip")
    shown = inspection.describe(run)["steps"]
    assert [step["token"] for step in shown] == list(tables["tokens"].token)
    assert [step["effect"] for step in shown] == [round(effect, 3) for effect in tables["tokens"].effect]
    assert [step["p"] for step in shown] == [inspection.percent(math.exp(x)) for x in tables["tokens"].logprob]
    heads = tables["trace"].groupby("layer")["head"].nunique()
    means = tables["gates"].groupby(["step", "layer"])["gate"].mean()
    for step in shown:
        for layer in step["layers"]:
            rows = tables["trace"].query("step == @step['step'] and layer == @layer['layer']")
            weights = rows.groupby("chunk")["weight"].sum() / heads[layer["layer"]]
            assert layer["gate"] == pytest.approx(means[step["step"], layer["layer"]], abs=1e-4)
            for passage in layer["passages"]:
                marked = [part[1] for part in passage["parts"] if len(part) == 3]
                assert passage["weight"] == pytest.approx(weights[marked].sum(), abs=1e-5)


def test_exported_numbers_are_those_of_the_charts(run):
    tables = read_back(run, "json")
    effects = charts.effect_strip(run.tokens).data[0]
    assert list(effects.y) == list(tables["tokens"].effect)
    gates = tables["gates"].groupby(["layer", "head"])["gate"].mean()
    bars = [y for bar in charts.gate_bars(run.gates).data for y in bar.y]
    np.testing.assert_allclose(bars, 100 * gates, rtol=1e-6)
    trace = tables["trace"]
    step, layer = int(trace.step.max()), int(trace.layer.max())
    cells = charts.heads_by_chunk(run.trace, run.chunks, step=step, layer=layer)
    drawn = sum(np.nansum(heatmap.z) for heatmap in cells.data)
    rows = trace[(trace.step == step) & (trace.layer == layer)]
    heaviest = rows.groupby("chunk")["weight"].sum().nlargest(charts.MAX_COLUMNS)
    assert drawn == pytest.approx(100 * heaviest.sum(), rel=1e-6)


@pytest.mark.parametrize("text", CELLS)
def test_a_guarded_cell_is_text_and_gives_its_text_back(text):
    cell = spreadsheet_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝"))
    assert not re.search(r'[;|\t\r\n][ "]*[=+@＝-]', cell)  # where it may be parted
    assert plain_cell(cell) == text


def test_every_text_of_few_signs_comes_back_and_no_part_of_it_is_computed():
    for length in range(6):
        for signs in itertools.product("a'=;\t\" ", repeat=length):
            cell = spreadsheet_cell(text := "".join(signs))
            assert plain_cell(cell) == text
            assert not any(part.lstrip(' "').startswith("=") for part in re.split(r"[;\t]", cell)), text


def test_hostile_cells_come_back_and_are_guarded_in_csv_only():
    run = run_by_hand(CELLS, name="=evil()")
    for format in ("csv-zip", "parquet", "json"):
        found = read_back(run, format)
        assert list(found["tokens"].token) == CELLS
        assert list(found["trace"].text) == list(run.trace.text)
        assert set(found["chunks"].document) == {"=evil()-0", "=evil()-1"}
    rows = unzipped(export_trace(run, "csv-zip").data)["chunks.csv"].decode("utf-8-sig").splitlines()
    assert all(",'=evil()" in row for row in rows[1:])
    assert (
        list(pd.read_parquet(io.BytesIO(unzipped(export_trace(run, "parquet").data)["tokens.parquet"])).token) == CELLS
    )


def test_negative_numbers_are_no_text_and_stay_numbers():
    rows = export_trace(run_by_hand(["a", "b"]), "csv-zip").data
    tokens = pd.read_csv(io.BytesIO(unzipped(rows)["tokens.csv"]))
    assert tokens.logprob.dtype == "float64"
    assert (tokens.logprob < 0).all()


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_run_gives_the_same_bytes_under_a_harmless_name(run, format):
    first, second = export_trace(run, format), export_trace(run, format)
    assert first == second
    assert first.name.isascii()
    assert first.name.replace("-", "").replace(".", "").isalnum()


def test_an_unknown_format_is_named(run):
    with pytest.raises(LongMemError, match="format is 'pickle'; it must be one of csv, csv-zip, parquet, json"):
        export_trace(run, "pickle")


def test_the_exported_record_leaves_the_documents_out(run):
    assert "sources" not in json.loads(export_trace(run, "json").data)


def test_a_number_that_is_not_finite_is_said_where_json_cannot_hold_it():
    run = run_by_hand(["a"])
    run.tokens.loc[0, "logprob_empty"] = -np.inf
    with pytest.raises(LongMemError, match="not finite"):
        export_trace(run, "json")
    assert read_back(run, "parquet")["tokens"].logprob_empty[0] == -np.inf
