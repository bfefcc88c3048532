"""Files for visitors: paths that nobody can guess, and nothing left of those who have gone."""

import stat

from app.downloads import KEPT, SECONDS, Downloads
from app.exporting import ExportedFile

FILE = ExportedFile("longmem-run-1-trace.csv", b"step\n")


def test_a_file_lies_in_an_unguessable_private_folder(tmp_path):
    downloads = Downloads(tmp_path / "cache")
    first, second = downloads.offer("a", FILE), downloads.offer("b", FILE)
    assert first.read_bytes() == FILE.data
    assert first.name == second.name == FILE.name
    assert first.parent != second.parent  # equal files of two visitors do not share a place
    assert len(first.parent.name) == 64
    assert stat.S_IMODE(first.parent.stat().st_mode) == 0o700


def test_leaving_deletes_ones_own_files_only(tmp_path):
    downloads = Downloads(tmp_path)
    mine, yours = downloads.offer("me", FILE), downloads.offer("you", FILE)
    downloads.free("me")
    downloads.free("nobody")
    assert not mine.parent.exists()
    assert yours.exists()


def test_a_visitor_keeps_the_latest_files(tmp_path):
    downloads = Downloads(tmp_path)
    other = downloads.offer("you", FILE)
    paths = [downloads.offer("me", FILE) for _ in range(KEPT + 2)]
    assert [path.exists() for path in paths] == [False] * 2 + [True] * KEPT
    assert other.exists()


def test_old_files_go_when_anybody_makes_one(tmp_path):
    now = [0.0]
    downloads = Downloads(tmp_path, clock=lambda: now[0])
    old = downloads.offer("me", FILE)
    now[0] = SECONDS + 1
    new = downloads.offer("you", FILE)
    assert not old.exists()
    assert new.exists()
    assert len(list(tmp_path.iterdir())) == 1
