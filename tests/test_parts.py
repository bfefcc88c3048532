"""Checkpoints cut into parts, carried, and joined again."""

import json
import os
import subprocess
import sys
import tarfile

import pytest
from typer.testing import CliRunner

from longmem.__main__ import app
from longmem.errors import LongMemError
from longmem.training.parts import join, split

SIZE = 2_500


@pytest.fixture
def run(tmp_path):
    """A run's folder: a checkpoint in a folder of its own, and a log beside it."""
    folder = tmp_path / "run"
    (folder / "checkpoint-00000004").mkdir(parents=True)
    (folder / "checkpoint-00000004" / "optimizer.bin").write_bytes(bytes(range(250)) * 200)
    (folder / "checkpoint-00000004" / "empty.bin").write_bytes(b"")
    (folder / "metrics.jsonl").write_text('{"step": 4}\n')
    (folder / "nothing").mkdir()
    return folder


def contents(folder) -> dict:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def cut(run):
    return split(run, SIZE / 1_000_000)


def test_what_is_split_and_joined_is_what_it_was(run):
    before, parts = contents(run), cut(run)
    sizes = [path.stat().st_size for path in sorted(parts.glob("part-*"))]
    assert len(sizes) > 20
    assert set(sizes[:-1]) == {SIZE}
    assert sizes[-1] <= SIZE
    run.rename(run.with_name("original"))
    assert join(parts) == run
    assert contents(run) == before
    assert sorted(path.name for path in run.parent.iterdir()) == ["original", "run", "run.parts"]


def test_a_single_file_is_split_too_and_joined_elsewhere(tmp_path):
    path = tmp_path / "pack.jsonl.xz"
    path.write_bytes(os.urandom(9_000))
    joined = join(cut(path), tmp_path / "other" / "place")
    assert joined == tmp_path / "other" / "place" / "pack.jsonl.xz"
    assert joined.read_bytes() == path.read_bytes()


def test_the_parts_one_after_the_other_are_a_tar_archive(run, tmp_path):
    whole = tmp_path / "whole.tar"
    whole.write_bytes(b"".join(path.read_bytes() for path in sorted(cut(run).glob("part-*"))))
    with tarfile.open(whole) as tar:
        assert tar.extractfile("run/metrics.jsonl").read() == b'{"step": 4}\n'


def test_wrong_and_missing_parts_are_all_named_and_nothing_is_joined(run):
    parts = cut(run)
    run.rename(run.with_name("original"))
    data = bytearray((parts / "part-0003").read_bytes())
    data[7] ^= 1
    (parts / "part-0003").write_bytes(data)
    (parts / "part-0005").write_bytes(b"short")
    (parts / "part-0008").unlink()
    with pytest.raises(LongMemError, match=r"part-0003 is wrong .*part-0005 is wrong \(5 .*part-0008 is missing"):
        join(parts)
    assert not run.exists()


def test_parts_in_another_order_than_they_were_made_are_refused(run):
    parts = cut(run)
    run.rename(run.with_name("original"))
    manifest = json.loads((parts / "manifest.json").read_text())
    manifest["parts"].reverse()
    (parts / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(LongMemError, match="not the whole"):
        join(parts)


def test_joining_writes_over_nothing(run):
    parts = cut(run)
    with pytest.raises(LongMemError, match="is there already"):
        join(parts)


def test_a_kill_while_joining_leaves_no_half_checkpoint_and_the_next_call_mends_it(run, monkeypatch):
    parts, before = cut(run), contents(run)
    run.rename(run.with_name("original"))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("longmem.training.parts.shutil.copyfileobj", killed)
        with pytest.raises(KeyboardInterrupt):
            join(parts)
    assert not run.exists()
    assert contents(join(parts)) == before


def test_splitting_again_replaces_the_parts_and_a_foreign_folder_is_left_alone(run):
    first = cut(run)
    (run / "metrics.jsonl").write_text("another\n")
    again = cut(run)
    assert again == first
    (again / "manifest.json").unlink()
    with pytest.raises(LongMemError, match=r"holds no manifest\.json"):
        cut(run)


@pytest.mark.parametrize("name", ["../outside", "/outside", "run/../../outside"])
def test_parts_cannot_write_outside_of_where_they_are_joined(run, tmp_path, monkeypatch, name):
    def renamed(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.name = name if member.name.endswith("metrics.jsonl") else member.name
        return member

    with monkeypatch.context() as patch:
        patch.setattr("longmem.training.parts._file_or_folder", renamed)
        parts = cut(run)
    with pytest.raises(LongMemError, match="outside"):
        join(parts, tmp_path / "place")
    assert not list(tmp_path.rglob("outside"))


@pytest.mark.parametrize("name", ["..", "a/b", ""])
def test_a_manifest_cannot_name_a_place_elsewhere(run, name):
    parts = cut(run)
    manifest = json.loads((parts / "manifest.json").read_text()) | {"name": name}
    (parts / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(LongMemError, match="damaged"):
        join(parts)


def test_what_is_neither_file_nor_folder_is_refused(run):
    os.mkfifo(run / "pipe")
    with pytest.raises(LongMemError, match=r"run/pipe is neither"):
        cut(run)


def test_the_command_line_splits_and_joins_with_typer_and_without(run):
    invoked = CliRunner().invoke(app, ["train", "split", str(run), "--most-megabytes", "0.01"])
    assert invoked.exit_code == 0, invoked.output
    parts = invoked.stdout.strip()
    command = [sys.executable, "-m", "longmem.training.parts", "join", parts]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    run.rename(run.with_name("original"))
    joined = subprocess.run(command, capture_output=True, text=True, check=True)
    assert joined.stdout.strip() == str(run)
    assert CliRunner().invoke(app, ["train", "join", parts]).exit_code == 2
