"""Imports go one way, and some libraries are used in one place only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import longmem
from longmem.evaluation.__main__ import MODULES

ROOT = Path(__file__).parent.parent
LIBRARY = (
    "errors options config readers confined documents demonstrations backbone search value_store chunk_ring "
    "kept_index bank_files bank_checks retrieval memory_bank memory_archive row_memory trace fusion low_rank sidenet "
    "cache reading hub model_files model anatomy generation scoring induction training_free classification memorizing "
    "training records bench evaluation commands train_commands evaluate_commands bench_commands backbone_commands "
    "__main__"
).split()
HOMES = {
    "faiss": {"longmem/search.py"},
    "typer": {
        f"longmem/{name}.py"
        for name in "__main__ backbone_commands bench_commands commands evaluate_commands train_commands".split()
    },
}


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", sources("longmem"), ids=lambda p: str(p.relative_to(ROOT)))
def test_each_library_file_imports_only_what_stands_before_it(path):
    place = path.relative_to(ROOT / "longmem").parts[0].removesuffix(".py")
    if place == "__init__":
        return
    used = {name.split(".")[1] for name in imports_of(path) if name.startswith("longmem.")}
    later = {name for name in used & set(LIBRARY) if LIBRARY.index(name) > LIBRARY.index(place)}
    assert not later


@pytest.mark.parametrize("path", sources("longmem"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_library_knows_nothing_of_the_application(path):
    roots = {name.split(".")[0] for name in imports_of(path)}
    assert not roots & {"gradio", "plotly", "app"}


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_used_where_it_belongs(library):
    users = {
        str(path.relative_to(ROOT))
        for folder in ("longmem", "app")
        for path in sources(folder)
        if library in {name.split(".")[0] for name in imports_of(path)}
    }
    assert users == HOMES[library]


def test_plotly_is_used_by_charts_and_the_theme_only():
    users = {path.name for path in sources("app") if "plotly" in {name.split(".")[0] for name in imports_of(path)}}
    assert all(name in ("theme.py", "figure_tables.py") or name.endswith("charts.py") for name in users)


def test_gradio_is_used_by_panels_tabs_and_the_page_only():
    users = {path.name for path in sources("app") if "gradio" in {name.split(".")[0] for name in imports_of(path)}}
    assert all(name in ("ui.py", "api.py") or name.endswith(("_tab.py", "_panel.py")) for name in users)


def test_charts_know_neither_torch_nor_the_model():
    for path in (ROOT / "app").glob("*charts.py"):
        assert not {name.split(".")[0] for name in imports_of(path)} & {"torch", "longmem", "gradio"}, path


def test_public_names_are_sorted_and_there():
    names = (
        "Chunk Demonstration DemonstrationSet Document EncodedDocument Generation LongMemConfig LongMemError "
        "LongMemForCausalLM MemoryBank Retrieval RetrievalTrace Template choose_device continuation_point "
        "look_up read_demonstrations score score_pages stream to_document"
    ).split()
    assert longmem.__all__ == sorted(longmem.__all__) == names
    assert all(hasattr(longmem, name) for name in names)


@pytest.mark.parametrize("folder", ["longmem", "app"])
def test_imports_are_absolute_so_that_the_rules_here_see_them(folder):
    for path in sources(folder):
        nodes = ast.walk(ast.parse(path.read_text()))
        assert not [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level], path


def test_training_evaluations_and_benchmarks_start_without_the_application_faiss_and_typer():
    starts = [["training.pretrain"], ["training.adapt"], ["training.memorize"], ["training.parts", "split"]]
    starts += [["evaluation", name] for name in MODULES]
    code = f"""if True:
        import runpy, sys
        absent = ["faiss", "gradio", "plotly", "typer", "defusedxml", "pypdf", "app"]
        sys.modules |= dict.fromkeys(absent)  # None: cannot be imported
        for module, *words in {starts!r}:
            sys.argv[1:] = [*words, "--help"]
            sys.modules.pop(f"longmem.{{module}}", None)  # as a new process would find it
            try:
                runpy.run_module(f"longmem.{{module}}", run_name="__main__", alter_sys=True)
            except SystemExit as ended:
                assert not ended.code
        import longmem.bench.run
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.count("usage: ") == len(starts)


def test_the_top_level_holds_what_it_should():
    allowed = "app.py app longmem assets tests requirements.txt README.md LICENSE pyproject.toml .ci .gitignore".split()
    ignored = {
        ".git",
        ".venv",
        "runs",
        ".pytest_cache",
        ".ruff_cache",
        "__pycache__",
        ".coverage",
        ".hypothesis",
        ".gradio",
        "htmlcov",
    }
    assert {path.name for path in ROOT.iterdir()} - ignored == set(allowed)


def test_help_does_not_wait_for_torch():
    code = "import sys, longmem, longmem.__main__; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
