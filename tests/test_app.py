"""The application over HTTP, as `gradio_client` and strangers see it: endpoints, own sessions, nothing given away."""

import ast
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from app import ui

ROOT = Path(__file__).parent.parent
STORY = "The lighthouse keeper wrote the name of every ship in a long ledger. " * 12
ENDPOINTS = (
    "load_documents load_demonstrations generate retrieve score classify evaluate_demonstrations what_if "
    "save_memory load_memory clear_memory memory_summary export_trace"
).split()
OPTIONS = {"max_new_tokens": 5, "temperature": 0.8, "seed": 3}


@pytest.fixture(scope="module")
def url(tiny_model, tmp_path_factory) -> Iterator[str]:
    """The studio over a tiny model, on a free port, without samples."""
    demo = ui.build(tiny_model, samples=tmp_path_factory.mktemp("samples"))
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **ui.launch_options())
    yield url
    demo.close()


@pytest.fixture
def client(url) -> Client:
    """A client with a session of its own. It is not closed: that would wait a second for its heartbeat every time."""
    return Client(url, verbose=False)


def test_exactly_the_documented_endpoints_are_named(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert set(endpoints) == {f"/{name}" for name in ENDPOINTS}


def test_every_parameter_has_a_type_that_a_schema_allows(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    parameters = [p for endpoint in endpoints.values() for p in endpoint["parameters"]]
    assert len(parameters) > 30
    untyped = [p["parameter_name"] for p in parameters if not p["type"].get("type") and not p["type"].get("anyOf")]
    assert untyped == []  # an MCP tool with such a parameter refuses every call


def test_a_memory_is_known_by_its_id_to_every_client(client, url):
    summary = client.predict(texts=[STORY], memory="new", api_name="/load_documents")
    other = Client(url, verbose=False)
    assert client.predict(api_name="/memory_summary")["tokens"] == 0
    again = other.predict(memory=summary["memory"], api_name="/memory_summary")
    assert again["tokens"] == summary["tokens"] > 0
    with pytest.raises(AppError, match="there is no such memory"):
        other.predict(memory="memory-guess", api_name="/memory_summary")
    with pytest.raises(AppError, match="there is no such memory"):
        other.predict(memory=client.session_hash, api_name="/memory_summary")


def test_scoring_retrieving_and_what_ifs_over_http(client):
    client.predict(texts=[STORY], api_name="/load_documents")
    text = "The lighthouse keeper wrote the name"
    scored = client.predict(text, api_name="/score")
    assert len(scored["effect"]) == len(scored["tokens"]) == len(scored["logprob"])
    found = client.predict(text, trace_ranks=1, api_name="/retrieve")
    assert "".join(found["tokens"]) == text
    assert {row["rank"] for row in found["trace"]} == {0}
    off = client.predict(text, {"layers": [1, 3]}, api_name="/what_if")
    assert off["logprob"] == pytest.approx(scored["logprob"], abs=1e-4)
    assert off["logprob_off"] == pytest.approx(scored["logprob_empty"], abs=1e-4)
    with pytest.raises(AppError, match="kind is 'wings'"):
        client.predict(text, {"wings": [1]}, api_name="/what_if")


def test_a_memory_is_saved_and_loaded_and_a_trace_exported(client, url):
    before = client.predict(texts=[STORY], api_name="/load_documents")
    path = client.predict(api_name="/save_memory")
    other = Client(url, verbose=False)
    after = other.predict(file=handle_file(path), api_name="/load_memory")
    assert [d["tokens"] for d in after["documents"]] == [d["tokens"] for d in before["documents"]]
    with pytest.raises(AppError, match="no run to save"):
        other.predict(api_name="/export_trace")
    client.predict("The lighthouse keeper wrote", api_name="/score")
    trace = Path(client.predict("json", api_name="/export_trace"))
    assert json.loads(trace.read_text(encoding="utf-8"))["recipe"]["kind"] == "scored"
    with pytest.raises(AppError, match="format is 'exe'"):
        client.predict("exe", api_name="/export_trace")


def test_demonstrations_classify_and_are_measured_over_http(client, tmp_path):
    path = tmp_path / "reviews.csv"
    rows = "".join(f"a warm and funny story {i},positive\na long and cold story {i},negative\n" for i in range(12))
    path.write_text("text,label\n" + rows, encoding="utf-8")
    loaded = client.predict(file=handle_file(path), api_name="/load_demonstrations")
    assert (loaded["demonstrations"], sorted(loaded["labels"])) == (24, ["negative", "positive"])
    answer = client.predict("a warm story", 0, api_name="/classify")
    assert sum(answer["with_memory"]["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    result = client.predict(file=handle_file(path), n_texts=3, api_name="/evaluate_demonstrations")
    assert result["texts"] == 3
    assert result["by_size"][0]["n"] == 3
    with pytest.raises(AppError, match="file is missing"):
        client.predict(file=None, api_name="/load_demonstrations")


def test_a_real_file_is_read_generated_from_and_cleared(client, tmp_path):
    path = tmp_path / "story.txt"
    path.write_text(STORY, encoding="utf-8")
    summary = client.predict(files=[handle_file(path)], api_name="/load_documents")
    assert summary["documents"][0]["name"] == "story.txt"
    assert summary["tokens"] == summary["documents"][0]["tokens"] > 50
    result = client.predict("The keeper", **OPTIONS, api_name="/generate")
    assert result["text"] == "".join(result["tokens"])
    assert len(result["effect"]) == len(result["tokens"]) == 5
    assert {row["document"] for row in result["trace"]} == {"story.txt"}
    assert all(STORY[row["start"] : row["end"]] == row["text"] for row in result["trace"])
    assert client.predict(api_name="/clear_memory")["tokens"] == 0
    assert client.predict(api_name="/memory_summary")["documents"] == []


def test_texts_are_read_without_a_file(client):
    summary = client.predict(texts=[STORY, "A ship."], api_name="/load_documents")
    assert [document["name"] for document in summary["documents"]] == ["text-1", "text-2"]


def test_tokens_are_streamed(client):
    job = client.submit("The keeper", **OPTIONS, use_memory=False, api_name="/generate")
    job.result()
    assert [len(output["tokens"]) for output in job.outputs()] == [1, 2, 3, 4, 5, 5]


def test_clients_do_not_see_each_others_memory(url, client):
    client.predict(texts=[STORY], api_name="/load_documents")
    other = Client(url, verbose=False)
    assert other.predict(api_name="/memory_summary")["tokens"] == 0
    assert client.predict(api_name="/memory_summary")["tokens"] > 0


def test_a_cancelled_generation_ends_its_thread(client):
    job = client.submit("The keeper", max_new_tokens=256, api_name="/generate")
    while not job.outputs():
        time.sleep(0.01)
    job.cancel()
    end = time.monotonic() + 20
    while "longmem-generate" in {thread.name for thread in threading.enumerate()}:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert client.predict("The", max_new_tokens=1, api_name="/generate")["tokens"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"prompt": " "}, "prompt is empty"),
        ({"prompt": "a", "max_new_tokens": 100_000}, "Length is 100000"),
        ({"prompt": "a", "top_p": 3}, "Top-p is 3"),
        ({"prompt": "a", "seed": "evil"}, "must all be numbers"),
    ],
)
def test_errors_reach_the_client_in_words(client, arguments, said):
    with pytest.raises(AppError, match=said):
        client.predict(**arguments, api_name="/generate")


def test_an_unreadable_file_is_an_error_in_words(client, tmp_path):
    path = tmp_path / "broken.pdf"
    path.write_bytes(b"%PDF-1.4 nothing")
    with pytest.raises(AppError, match=r"broken\.pdf"):
        client.predict(files=[handle_file(path)], api_name="/load_documents")
    assert client.predict(api_name="/memory_summary")["tokens"] == 0


def test_texts_must_be_a_list_of_strings(client):
    with pytest.raises(AppError, match="list of strings"):
        client.predict(texts={"a": 1}, api_name="/load_documents")


def test_a_path_on_the_server_is_not_read(url, client):
    """A file must have been uploaded: naming one that lies on the server gives nothing."""
    stolen = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    called = httpx.post(f"{url}gradio_api/call/load_documents", json={"data": [[stolen], []]}, timeout=30)
    events = httpx.get(f"{url}gradio_api/call/load_documents/{called.json()['event_id']}", timeout=30).text
    assert "event: error" in events
    assert "root:" not in events


@pytest.mark.parametrize("path", ["/etc/passwd", str(ROOT / "pyproject.toml"), str(ROOT / "app" / "ui.py")])
def test_files_of_the_server_are_not_served(url, path):
    assert httpx.get(f"{url}gradio_api/file={path}").status_code in {403, 404}


def test_the_page_tells_no_path_of_the_server(url):
    assert str(ROOT) not in httpx.get(f"{url}config").text


def test_events_of_the_page_are_private(url):
    dependencies = httpx.get(f"{url}config").json()["dependencies"]
    public = {dependency["api_name"] for dependency in dependencies if dependency["api_visibility"] == "public"}
    assert public == set(ENDPOINTS)


def test_the_server_is_launched_hardened():
    options = ui.launch_options()
    assert options["allowed_paths"] == []
    assert options["show_error"] is options["run_history"] is options["enable_monitoring"] is False
    assert options["blocked_paths"] == [str(ROOT)]
    assert options["max_file_size"] == 64 * 2**20
    assert ui.launch_options(5)["max_file_size"] == 5
    assert "--lm-raised" in options["css"]


def test_the_style_sheet_survives_gradios_splitting_at_commas():
    """Gradio splits selectors at every comma; one inside :is() or :has() would break the rule."""
    css = (ROOT / "assets" / "style.css").read_text(encoding="utf-8")
    rules = re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL)
    assert not re.findall(r":(?:is|has|not|where)\([^()]*,[^{]*\{", rules)


def test_the_entry_point_is_small():
    tree = ast.parse((ROOT / "app.py").read_text(encoding="utf-8"))
    lines = {node.lineno for node in ast.walk(tree) if isinstance(node, ast.stmt)}
    assert len(lines) <= 20


def test_results_are_json(client):
    assert json.dumps(client.predict("The", max_new_tokens=2, api_name="/generate"))
