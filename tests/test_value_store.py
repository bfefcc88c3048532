"""Values in a file are those in memory, and the file is gone with the bank."""

import copy
import os
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from longmem import chunk_ring
from longmem.errors import LongMemError
from longmem.memory_bank import MemoryBank
from longmem.value_store import ValueStore

LAYERS, G, D, S = (4, 9), 2, 8, 4
MAPS = Path("/proc/self/maps")


def a_bank(**options) -> MemoryBank:
    settings = {"memory_layers": LAYERS, "kv_heads": G, "head_dim": D, "chunk_size": S, "capacity": 600}
    return MemoryBank(**(settings | options))


def mapped(folder: Path) -> int:
    """How many files of a folder this process has mapped; one that was deleted counts until nobody uses it."""
    return sum(str(folder) in line for line in MAPS.read_text().splitlines())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_bank_with_values_in_a_file_returns_what_one_in_memory_returns(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(chunk_ring, "GROWTH_TOKENS", 64)
    monkeypatch.setattr(chunk_ring, "COPIED_TOKENS", 40)
    banks = a_bank(dtype=dtype), a_bank(dtype=dtype, values="mapped", values_folder=tmp_path)
    generator = torch.Generator().manual_seed(0)

    def same() -> None:
        queries = torch.randn(1, 2 * G, 5, D, generator=generator)
        for layer in LAYERS:
            for one, other in zip(
                *(vars(bank.search(layer, queries, n_chunks=3)).values() for bank in banks), strict=True
            ):
                assert torch.equal(one, other)

    for step in range(12):  # grows, fills, wraps around
        keys, values = (torch.randn(len(LAYERS), G, 73, D, generator=generator) for _ in range(2))
        for bank in banks:
            bank.add(bank.begin_document(f"d{step}"), keys, values)
        same()
    for bank in banks:
        bank.remove(8)
        bank.resize(400)
    same()
    banks[1].save(tmp_path / "saved")
    loaded = MemoryBank.load(tmp_path / "saved", values="mapped", values_folder=tmp_path)
    banks = banks[0], loaded
    same()


def test_values_in_a_file_take_no_memory_but_the_keys_do(tmp_path):
    in_memory, in_file = a_bank(), a_bank(values="mapped", values_folder=tmp_path)
    assert in_memory.nbytes_with(600) - in_file.nbytes_with(600) == 600 * len(LAYERS) * G * D * 2
    for bank in (in_memory, in_file):
        bank.reserve(600)
    assert in_memory.nbytes - in_file.nbytes == 600 * len(LAYERS) * G * D * 2


@pytest.mark.skipif(not MAPS.exists(), reason="only Linux says what is mapped")
def test_the_file_has_no_name_and_is_gone_with_the_bank(tmp_path):
    bank = a_bank(values="mapped", values_folder=tmp_path)
    bank.reserve(600)
    assert mapped(tmp_path) == len(LAYERS)
    assert list(tmp_path.iterdir()) == []
    bank.clear()
    assert mapped(tmp_path) == 0
    bank.reserve(600)
    assert mapped(tmp_path) == len(LAYERS)
    del bank
    assert mapped(tmp_path) == 0


def test_a_disk_without_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    bank = a_bank(values="mapped", values_folder=tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: namedtuple("Usage", "free")(2**20 // 100))
    with pytest.raises(LongMemError, match=r"must have room for 0 MiB of values \(it has 0 MiB left\)"):
        bank.reserve(600)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot take room in advance")
def test_a_disk_that_fills_meanwhile_is_said_too(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(LongMemError, match="No space left on device"):
        a_bank(values="mapped", values_folder=tmp_path).reserve(600)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"values": "cloud"}, "values is 'cloud'; it must be one of device, pinned, mapped"),
        ({"values": "pinned"}, "values is 'pinned', but the keys are on cpu"),
        ({"values": "mapped", "values_folder": "/nowhere/at/all"}, "must be a folder that exists"),
        ({"values_folder": "/tmp"}, "goes with values='mapped' only"),
    ],
)
def test_places_that_cannot_be_are_named(options, words):
    with pytest.raises(LongMemError, match=words):
        a_bank(**options)


def test_values_are_with_the_keys_unless_something_else_is_said():
    store = ValueStore()
    assert store.is_in_memory
    assert store.empty((2, 3), torch.float16).dtype == torch.float16


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("place", ["pinned", "mapped"])
def test_a_bank_on_a_gpu_may_keep_its_values_off_it(place):
    banks = a_bank(device="cuda"), a_bank(device="cuda", values=place)
    keys, values = (torch.randn(len(LAYERS), G, 100, D, device="cuda") for _ in range(2))
    queries = torch.randn(1, G, 5, D, device="cuda")
    found = []
    for bank in banks:
        bank.add(bank.begin_document("a"), keys, values)
        found.append(bank.search(4, queries, n_chunks=3))
    assert banks[1]._ring.values[0].device.type == "cpu"
    for one, other in zip(*(vars(each).values() for each in found), strict=True):
        assert torch.equal(one, other)


@pytest.mark.skipif(not MAPS.exists(), reason="/proc tells what is mapped")
def test_a_copy_of_a_bank_has_its_values_where_the_bank_has_them(tmp_path):
    bank = a_bank(values="mapped", values_folder=tmp_path)
    bank.add(bank.begin_document("d"), *torch.randn(2, len(LAYERS), G, 40, D))
    before = mapped(tmp_path)
    copied = copy.deepcopy(bank)
    assert mapped(tmp_path) == 2 * before > 0
    assert copied.nbytes == bank.nbytes
    bank.clear()
    queries = torch.randn(1, G, 3, D)
    assert copied.search(4, queries, n_chunks=2).values_BHTKD.abs().sum() > 0
