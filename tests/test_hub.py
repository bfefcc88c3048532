"""Pushing a model to the hub, against a server on this machine that takes what `huggingface_hub` sends it."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from typer.testing import CliRunner

from longmem.__main__ import app
from longmem.documents import Document
from longmem.errors import LongMemError
from longmem.model import LongMemForCausalLM

# What the hub's own library says of its own upload.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
FILES = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


class Hub(ThreadingHTTPServer):
    """Makes a repository, takes large files by the LFS protocol, and one commit; no more of the hub than that."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.made: list[dict] = []
        self.objects: dict[str, bytes] = {}  # by sha256
        self.files: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()

    def commit(self, lines: list[dict]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[value["path"]] = self.objects[value["oid"]]


class Answers(BaseHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass

    def do_POST(self) -> None:
        hub, body = self.server, self.rfile.read(int(self.headers["content-length"]))
        hub.tokens.add(self.headers["authorization"])
        path = self.path.split("?")[0]
        if path == "/api/repos/create":
            made = json.loads(body)
            hub.made.append(made)
            name = f"{made.get('organization', 'me')}/{made['name']}"
            self._send({"url": f"{hub.url}/{name}", "id": name})
        elif path == "/api/validate-yaml":
            wrong = "not valid" in json.loads(body)["content"]
            self._send({"errors": [{"message": "no"}] * wrong, "warnings": []}, 400 if wrong else 200)
        elif "/preupload/" in path:
            modes = [
                ("lfs" if f["path"].endswith(".safetensors") else "regular", f["path"])
                for f in json.loads(body)["files"]
            ]
            self._send({"files": [{"path": p, "uploadMode": m, "shouldIgnore": False, "oid": None} for m, p in modes]})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for one in objects:
                one["actions"] = {"upload": {"href": f"{hub.url}/lfs/{one['oid']}"}}
            self._send({"transfer": "basic", "objects": objects})
        elif "/commit/" in path:
            hub.commit([json.loads(line) for line in body.splitlines()])
            self._send({"success": True, "commitUrl": f"{hub.url}/me/mine/commit/1", "commitOid": "1"})
        else:
            self._send({"error": f"unknown: {path}"}, 404)

    def do_PUT(self) -> None:
        self.server.objects[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["content-length"]))
        self._send({})

    def _send(self, answer: dict, status: int = 200) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def hub(monkeypatch) -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)  # its storage is no part of the stub
    monkeypatch.setenv("HF_TOKEN", "hf_only_for_this_test")
    yield hub
    hub.shutdown()
    hub.server_close()
    thread.join()


def written(hub: Hub, folder: Path) -> Path:
    folder.mkdir()
    for name, data in hub.files.items():
        (folder / name).write_bytes(data)
    return folder


def test_a_pushed_model_has_all_its_files_and_loads_again(hub, tiny_model, tmp_path):
    address = tiny_model.push_to_hub("me/mine", private=True)
    assert address == f"{hub.url}/me/mine/commit/1"
    assert set(hub.files) == FILES | {"README.md"}
    assert hub.made == [{"name": "mine", "organization": "me", "visibility": "private"}]
    assert hub.tokens == {"Bearer hf_only_for_this_test"}
    loaded = LongMemForCausalLM.from_pretrained(written(hub, tmp_path / "mine"), device="cpu")
    ids = torch.arange(20)[None]
    assert loaded.fingerprint == tiny_model.fingerprint
    assert torch.equal(loaded(ids).logits, tiny_model(ids).logits)
    loaded.remember(Document.from_text("story", "The keeper read the ledger."), memory=loaded.new_bank())


def test_a_card_says_what_the_model_says_of_itself(hub, tiny_model):
    tiny_model.push_to_hub("me/mine")
    card = hub.files["README.md"].decode()
    _, front, text = card.split("---\n", 2)
    assert "library_name: longmem\n" in front
    assert "pipeline_tag: text-generation\n" in front
    assert "base_model" not in front  # nobody knows its name
    n_parameters = sum(parameter.numel() for parameter in tiny_model.sidenet.parameters())
    for fact in (
        "smollm3, 4 layers",
        f"2 layers, {n_parameters:,} parameters",
        "| 1, 3 |",
        "up to 4,096 tokens in chunks",
    ):
        assert fact in text
    assert 'from_pretrained("me/mine")' in text


def test_the_command_pushes_a_folder_with_its_own_card_and_in_its_own_precision(hub, tiny_model, tmp_path):
    half = tiny_model.__class__.from_pretrained
    tiny_model.save_pretrained(tmp_path / "full")
    half(tmp_path / "full", device="cpu", dtype=torch.bfloat16).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("# A card of one's own\n", encoding="utf-8")
    arguments = ["push", "--model", str(tmp_path / "model"), "--repo-id", "me/mine"]
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stdout) == (0, f"{hub.url}/me/mine/commit/1\n")
    assert hub.files["README.md"] == b"# A card of one's own\n"
    assert hub.files["model.safetensors"] == (tmp_path / "model" / "model.safetensors").read_bytes()
    assert "visibility" not in hub.made[0]
    hub.files.clear()
    (tmp_path / "model" / "README.md").write_text("---\nlicense: not valid\n---\n", encoding="utf-8")
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, hub.files) == (2, {})
    assert "The hub does not take this: Invalid metadata in README.md. - no" in result.stderr


def test_what_no_repository_can_be_called_is_said(hub, tiny_model):
    with pytest.raises(LongMemError, match="repo_id is 'a/b/c'; it must be of the form USER/NAME"):
        tiny_model.push_to_hub("a/b/c")
    assert hub.made == []
