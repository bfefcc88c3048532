"""The benchmarks on a tiny random model: what is compared and how, never how fast it is."""

import json
import statistics
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from typer.testing import CliRunner

from longmem import kept_index
from longmem.__main__ import app
from longmem.bench import peers
from longmem.bench.bank_speed import adding, product, recall, searching
from longmem.bench.run import BENCHMARKS, chosen, notes, run_bench, table
from longmem.bench.timing import Goal, Timed, compared, in_turn
from longmem.bench.workbench import BenchOptions, Sizes, Workbench
from longmem.errors import LongMemError, SearchBackendError
from longmem.evaluation.report import filled
from longmem.search import BACKENDS

ROOT = Path(__file__).parent.parent
TEXT = "The keeper wrote the name of every ship in a ledger, and in the morning the ship returned. " * 30
SMALL = Sizes(full=256, small=64, long=512, read=128, new=3, context=128, context_new=3, queries=48)
RATIO = {"ratio", "low", "high", "goal", "is_met", "a", "a_seconds", "b", "b_seconds", "rounds"}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def small(tiny_model, text):
    def options(**settings: object) -> BenchOptions:
        return BenchOptions(tiny_model, (text,), **{"rounds": 2, "sizes": SMALL} | settings)

    return options


# Timing -------------------------------------------------------------------------------------------------------------


def test_things_are_measured_in_turn_and_the_first_round_does_not_count():
    said = []
    a = Timed(lambda: said.append("a"), prepare=lambda: said.append("prepare"), times=2)
    seconds = in_turn(2, CPU, a=a, b=Timed(lambda: said.append("b")))
    assert said == ["prepare", "a", "a", "b"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_a_ratio_is_of_medians_and_its_spread_of_the_rounds():
    seconds = {"a": [4.0, 6.0, 5.0], "b": [2.0, 2.0, 4.0]}
    found = compared(seconds, "a", "b", Goal(most=2.4), tokens=7)
    assert found == {
        "ratio": 2.5,
        "low": 1.25,
        "high": 3.0,
        "goal": "at most 2.4",
        "is_met": False,
        "a": "a",
        "a_seconds": 5.0,
        "b": "b",
        "b_seconds": 2.0,
        "rounds": 3,
        "tokens": 7,
    }


def test_the_ratio_of_medians_lies_within_the_spread_of_the_rounds():
    generator = torch.Generator().manual_seed(0)
    for rounds in range(1, 9):
        a, b = (torch.rand(2, rounds, generator=generator) + 0.1).tolist()
        found = compared({"a": a, "b": b}, "a", "b", Goal(least=1))
        assert found["low"] <= found["ratio"] <= found["high"]
        assert found["ratio"] == statistics.median(a) / statistics.median(b)


@pytest.mark.parametrize(
    ("goal", "words", "met"), [(Goal(least=0.95), "at least 0.95", [1.0]), (Goal(most=1.5), "at most 1.5", [1.0, 0.5])]
)
def test_a_goal_knows_its_words_and_what_meets_it(goal, words, met):
    assert str(goal) == words
    assert [ratio for ratio in (1.0, 0.5, 2.0) if goal.is_met_by(ratio)] == met + ([2.0] if goal.least else [])


# Each benchmark -----------------------------------------------------------------------------------------------------

EXPECTED = {
    "read": {"read_to_bare_decoder"},
    "add": {"add_full_to_small", "add_long_to_full"},
    "search": {f"search_{n}_{backend}" for n in ("one", "many") for backend in ("torch", "torch_coarse")},
    "index": {f"index_{name}" for name in ("faiss_ivf", "faiss_hnsw", "faiss_sq8", "faiss_shards")},
    "generate": {"generate_full_to_empty", "generate_long_to_full"},
    "context": {"context", "context_reading", "context_writing"},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_benchmark_gives_ratios_of_the_seconds_it_measured(small, name, tmp_path):
    path = tmp_path / "result.json"
    result = run_bench(name, small(json=path, command=f"python -m longmem bench {name}"))
    assert EXPECTED[name] <= set(result["ratios"])
    for row in result["ratios"].values():
        assert set(row) >= RATIO
        assert row["ratio"] == row["a_seconds"] / row["b_seconds"]
        assert row["low"] <= row["ratio"] <= row["high"]
        assert row["rounds"] == 2
        assert row["goal"].startswith(("at least ", "at most "))
    written = json.loads(path.read_text())
    assert written["ratios"].keys() == result["ratios"].keys()
    assert written["command"] == f"python -m longmem bench {name}"
    assert {len(row) for row in table(result)} == {6}


def test_a_result_says_where_and_with_what_it_was_measured(small, tiny_model):
    result = run_bench("read", small())
    settings = result["settings"]
    assert settings["threads"] == torch.get_num_threads()
    assert (settings["device"], settings["dtype"], settings["rounds"]) == ("cpu", "float32", 2)
    assert settings["machine"]
    assert settings["tokens"]["full"] == 256
    assert settings["documents"] == ["text.txt"]
    assert result["model"]["fingerprint"] == tiny_model.fingerprint
    assert any(line.startswith("machine") for line in notes(result))


def test_a_long_bank_is_left_out_where_nobody_asks_for_it(small):
    assert set(run_bench("add", small(long=False))["ratios"]) == {"add_full_to_small"}
    assert set(run_bench("generate", small(long=False))["ratios"]) == {"generate_full_to_empty"}


def test_banks_are_full_of_what_was_read_and_stay_full(small):
    bench = Workbench(small())
    bank = bench.bank(64)
    assert bank.n_tokens == bank.capacity == 64
    adding(bench, bank)()
    assert bank.n_tokens == 64
    assert bench.long_bank.n_tokens == 512
    assert bench.full_bank("torch") is bench.full_bank("torch")
    keys_LGTD = bench.keys_values_LGTD[0]
    assert keys_LGTD.shape == (2, 2, 256, 8)
    found = searching(bench, bench.full_bank("torch"), bench.queries_1HTD(5))()
    assert found.chunks_BHTC.shape == (1, 4, 5, 4)
    assert bool(found.mask_BHTK.all())


def test_the_matrix_product_has_the_shape_of_the_search(small):
    bench = Workbench(small())
    assert bench.queries_1HTD(48).shape == (1, 4, 48, 8)
    product(bench.queries_1HTD(48), bench.keys_values_LGTD[0][0])()


def test_recall_is_the_share_of_exact_chunks_that_was_found():
    exact = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert recall(exact.flip(-1), exact) == 1
    assert recall(torch.tensor([[1, 2, 9, 10], [5, 6, 7, 8]]), exact) == 0.75


def test_what_may_be_approximate_has_its_recall_beside_it(small):
    ratios = run_bench("search", small())["ratios"]
    assert "recall" not in ratios["search_one_torch"]
    assert ratios["search_one_torch_coarse"]["recall"] > 0.9


def test_one_backend_is_searched_where_one_is_named(small):
    ratios = run_bench("search", small(backend="torch-coarse"))["ratios"]
    assert set(ratios) == {"search_one_torch_coarse", "search_many_torch_coarse"}


def test_an_index_is_compared_with_the_exact_search_of_the_same_text(small, monkeypatch):
    monkeypatch.setattr(kept_index, "LEAST_TOKENS", 256)
    result = run_bench("index", small(backend="faiss-sq8"))
    assert set(result["ratios"]) == {"index_faiss_sq8"}
    row = result["ratios"]["index_faiss_sq8"]
    assert (row["a"], row["b"], row["tokens"]) == ("exact", "faiss-sq8", 512)
    assert row["recall"] > 0.9
    assert row["index_bytes"] == 512 * 2 * 8  # a byte for each number of each key-value head
    assert f"(recall {row['recall']:.3f})" in table(result)[1][1]
    with pytest.raises(LongMemError, match="index needs faiss, and --backend must be one of faiss-ivf"):
        run_bench("index", small(backend="torch-coarse"))


def test_backends_that_cannot_run_are_passed_over(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert Workbench(small()).backends(BACKENDS) == [name for name in BACKENDS if not name.startswith("faiss")]


# The peer -----------------------------------------------------------------------------------------------------------


class ExactPeer:
    """What `KNNMemory` does, with an exact search: add [G, T, 2, D], search [G, Q, D]."""

    def __init__(self, dim: int, max_memories: int, num_indices: int, memmap_filename: str, multiprocessing: bool):
        self.memories = torch.zeros(num_indices, 0, 2, dim)
        self.most = max_memories

    def add(self, memories: torch.Tensor) -> None:
        self.memories = torch.cat([self.memories, memories], dim=1)
        assert self.memories.shape[1] <= self.most

    def search(self, queries: torch.Tensor, topk: int) -> tuple[torch.Tensor, torch.Tensor]:
        best = (queries @ self.memories[:, :, 0].mT).topk(topk).indices
        rows = torch.arange(len(queries))[:, None, None]
        return self.memories[rows, best], torch.ones_like(best, dtype=torch.bool)


@pytest.fixture
def peer(monkeypatch):
    module = ModuleType("memorizing_transformers_pytorch")
    module.KNNMemory = ExactPeer
    monkeypatch.setitem(sys.modules, "memorizing_transformers_pytorch", module)


def test_the_peer_gets_the_same_keys_and_room_for_what_is_added(small, peer):
    ratios = run_bench("peers", small())["ratios"]
    assert set(ratios) == {"peers_add", "peers_search_one", "peers_search_many"}
    assert ratios["peers_search_one"]["peer_recall"] == 1
    assert all(row["ratio"] == row["a_seconds"] / row["b_seconds"] for row in ratios.values())


def test_recall_of_tokens_counts_what_is_missing_and_what_is_masked(small):
    keys_GND, queries_GQD = torch.eye(4)[None], torch.tensor([[[4.0, 3.0, 2.0, 1.0]]])
    found = torch.stack([keys_GND, keys_GND], dim=2)[:, None, [0, 3]]
    mask = torch.tensor([[[True, True]]])
    assert peers.recall_of_tokens((found, mask), queries_GQD, keys_GND, 2) == 0.5
    assert peers.recall_of_tokens((found, mask & False), queries_GQD, keys_GND, 2) == 0


def test_a_missing_peer_says_how_to_install_it_and_is_skipped_by_all(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "memorizing_transformers_pytorch", None)
    with pytest.raises(LongMemError, match="pip install memorizing-transformers-pytorch"):
        run_bench("peers", small())
    monkeypatch.setattr("longmem.bench.run.BENCHMARKS", {name: BENCHMARKS[name] for name in ("read", "peers")})
    result = run_bench("all", small())
    assert set(result["ratios"]) == EXPECTED["read"]
    assert "pip install" in result["skipped"]["peers"]
    assert any(row[:2] == ["peers", "not measured"] for row in table(result))
    assert any(line.startswith("peers was not measured") for line in notes(result))


# Wrong input, the command line, the report ---------------------------------------------------------------------------


def test_wrong_input_is_named_before_anything_is_measured(small, tmp_path):
    assert chosen("add,read") == ["add", "read"]
    with pytest.raises(LongMemError, match=r"NAME is 'speed'; it must be one of read, add, search, .*all"):
        run_bench("speed", small())
    with pytest.raises(LongMemError, match="--rounds is 0; it must be at least 1"):
        small(rounds=0)
    with pytest.raises(LongMemError, match="--backend is 'annoy'; it must be one of torch, "):
        small(backend="annoy")
    with pytest.raises(SearchBackendError, match="faiss-gpu searches keys on a GPU"):
        small(backend="faiss-gpu")
    with pytest.raises(LongMemError, match=r"--json is .*; it must be a file in a folder that exists"):
        small(json=tmp_path / "nowhere" / "result.json")


def test_full_attention_over_too_long_a_context_is_refused(small):
    with pytest.raises(LongMemError, match="context needs full attention over 20,000 tokens: on a CPU"):
        run_bench("context", small(sizes=Sizes(context=20_000)))


@pytest.fixture(scope="module")
def folder(tiny_model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_model.save_pretrained(folder)
    return folder


def test_the_command_prints_a_table_and_its_settings_and_writes_json(folder, text, tmp_path):
    path = tmp_path / "result.json"
    given = ["bench", "read", "--model", folder, "--document", text, "--rounds", 1, "--device", "cpu", "--json", path]
    threads = torch.get_num_threads()
    done = CliRunner().invoke(app, [str(word) for word in [*given, "--threads", threads]])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[1].startswith("read_to_bare_decoder")
    assert f"threads        {threads}" in done.stdout
    assert json.loads(path.read_text())["settings"]["threads"] == threads


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["speed"], "NAME is 'speed'"),
        (["read", "--threads", "0"], "--threads is 0; it must be at least 1"),
        (["read", "--rounds", "0"], "--rounds is 0"),
        (["read", "--device", "abacus"], "--device is 'abacus'"),
        (["read", "--backend", "annoy"], "--backend is 'annoy'"),
    ],
)
def test_wrong_words_end_with_one_line_and_exit_code_2(folder, words, said):
    done = CliRunner().invoke(app, ["bench", *words, "--model", str(folder)])
    assert done.exit_code == 2
    assert said in done.output
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_recorded_run_becomes_a_table_with_ratio_spread_goal_and_machine(small, tmp_path):
    run_bench("add", small(json=tmp_path / "bench-cpu.json", command="python -m longmem bench add"))
    row = json.loads((tmp_path / "bench-cpu.json").read_text())["ratios"]["add_full_to_small"]
    text = filled("<!-- measured: bench-cpu -->\n<!-- end -->", tmp_path, tmp_path)
    spread = f"{row['ratio']:.2f} | {row['low']:.2f} to {row['high']:.2f} | at most 1.1"
    assert f"| add full to small | full / small | {spread} |" in text
    assert "| machine |" in text
    assert "`python -m longmem bench add`" in text
