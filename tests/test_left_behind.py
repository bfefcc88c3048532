"""What stays of a visitor on the disk of the server: nothing. And a server with a password lets nobody else in."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file

from app import ui
from app.uploads import Uploads

STORY = "The lighthouse keeper wrote the name of every ship in a long ledger. " * 12


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache").resolve()


@pytest.fixture(scope="module")
def url(tiny_model, tmp_path_factory, cache) -> Iterator[str]:
    """A studio that asks for a user, whose uploads and downloads are in `cache`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(cache))
        patch.setenv("GRADIO_HEARTBEAT_INTERVAL", "0.25")
        demo = ui.build(tiny_model, samples=tmp_path_factory.mktemp("samples"))
        options = ui.launch_options(100_000)
        _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, auth=("ann", "word"), **options)
        yield url
        demo.close()


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def kept(folder: Path) -> list[Path]:
    """Files that hold anything. Gradio leaves empty ones."""
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]


def enter(url: str) -> Client:
    return Client(url, auth=("ann", "word"), verbose=False)


def test_without_the_password_nothing_is_given(url):
    assert httpx.get(f"{url}config").status_code == 401
    called = httpx.post(f"{url}gradio_api/call/memory_summary", json={"data": [""]})
    assert called.status_code == 401
    assert httpx.post(f"{url}gradio_api/upload", files={"files": ("a.txt", b"text")}).status_code == 401
    assert httpx.post(f"{url}login", data={"username": "ann", "password": "wrong"}).status_code in (400, 401)


def test_nothing_of_a_visitor_is_on_disk_once_they_have_gone(url, cache, tmp_path):
    story, reviews = tmp_path / "story.txt", tmp_path / "reviews.csv"
    story.write_text(STORY, encoding="utf-8")
    reviews.write_text("text,label\na warm story,good\na cold story,bad\n", encoding="utf-8")
    client, other = enter(url), enter(url)
    client.predict(files=[handle_file(story)], api_name="/load_documents")
    client.predict(file=handle_file(reviews), api_name="/load_demonstrations")
    client.predict("The keeper", max_new_tokens=3, api_name="/generate")
    client.predict("json", api_name="/export_trace")
    saved = client.predict(api_name="/save_memory")
    other.predict(file=handle_file(saved), api_name="/load_memory")
    other.predict(files=[handle_file(story)], api_name="/load_documents")
    assert len(kept(cache)) >= 5
    client.close()
    wait_until(lambda: "reviews.csv" not in {path.name for path in kept(cache)})
    assert "story.txt" in {path.name for path in kept(cache)}  # the other visitor's too
    other.close()
    wait_until(lambda: not kept(cache))


def test_an_upload_that_is_too_large_is_refused_and_leaves_nothing(url, cache):
    with httpx.Client() as browser:
        browser.post(f"{url}login", data={"username": "ann", "password": "word"})
        answer = browser.post(f"{url}gradio_api/upload", files={"files": ("a.txt", b"x" * 100_001)})
    assert answer.status_code == 413
    assert "a.txt" not in {path.name for path in kept(cache)}


def test_only_uploads_are_deleted(tmp_path):
    root, other = tmp_path / "cache", tmp_path / "other"
    for folder in (root / "hash", other):
        folder.mkdir(parents=True)
        (folder / "a.txt").write_text("text")
    uploads = Uploads(root)
    uploads.claim("me", [str(root / "hash" / "a.txt"), str(other / "a.txt"), str(root / "hash" / ".." / ".." / "a")])
    uploads.free("you")
    assert (root / "hash" / "a.txt").exists()
    uploads.free("me")
    assert not (root / "hash").exists()
    assert (other / "a.txt").exists()
    assert root.exists()
