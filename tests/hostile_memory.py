"""Forged memory files: what a good one becomes, each as (title, how to forge it from the good file's path)."""

import hashlib
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load, save

from longmem.memory_archive import DESCRIPTION

SETTINGS, TENSORS = "bank/memory.json", "bank/memory.safetensors"
Forgery = tuple[str, Callable[[Path], None]]


class Runs:
    """Pickled, it makes a folder when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def rewrite(path: Path, change: Callable[[dict[str, bytes]], None], states: int = zipfile.ZIP_STORED) -> None:
    """Change the entries; `states` says how the file then packs keys and values."""
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w") as file:
        for name, data in entries.items():
            file.writestr(name, data, states if name in (SETTINGS, TENSORS) else zipfile.ZIP_DEFLATED)


def in_json(entry: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    def forge(path: Path) -> None:
        def change_entry(entries: dict[str, bytes]) -> None:
            found = json.loads(entries[entry])
            change(found)
            entries[entry] = json.dumps(found).encode()

        rewrite(path, change_entry)

    return forge


def in_tensors(change: Callable[[dict[str, torch.Tensor]], None], *, signed: bool = True) -> Callable[[Path], None]:
    """Change the tensors; `signed` has the description agree with them."""

    def forge(path: Path) -> None:
        def change_entry(entries: dict[str, bytes]) -> None:
            tensors = load(entries[TENSORS])
            change(tensors)
            data = entries[TENSORS] = save(tensors)
            found = json.loads(entries[SETTINGS])
            if signed:
                found["tensors"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            entries[SETTINGS] = json.dumps(found).encode()

        rewrite(path, change_entry)

    return forge


def in_header(data: bytes) -> Callable[[Path], None]:
    """These bytes as tensors, and a description that agrees with them."""

    def change_entry(entries: dict[str, bytes]) -> None:
        found = json.loads(entries[SETTINGS])
        found["tensors"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        entries |= {TENSORS: data, SETTINGS: json.dumps(found).encode()}

    return lambda path: rewrite(path, change_entry)


def whole(make: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(make(path.read_bytes())) and None


def with_entry(name: str, data: bytes, states: int = zipfile.ZIP_STORED) -> Callable[[Path], None]:
    return lambda path: rewrite(path, lambda entries: entries.update({name: data}), states)


def settings(**values: object) -> Callable[[Path], None]:
    return in_json(SETTINGS, lambda found: found["settings"].update(values))


def described(**values: object) -> Callable[[Path], None]:
    return in_json(DESCRIPTION, lambda found: found.update(values))


def run(change: Callable[[dict], object]) -> Callable[[Path], None]:
    return in_json(DESCRIPTION, lambda found: change(found["extra"]["run"]))


def first(found: dict[str, torch.Tensor]) -> str:
    return next(name for name in found if name.startswith("keys"))


def moved(column: int, value: int) -> Callable[[Path], None]:
    """One number in the table of chunks."""
    return in_tensors(lambda found: found["chunks"][1].__setitem__(column, value))


def forgeries(marker: Path) -> list[Forgery]:
    text = {"name": "a", "text": "b", "tokens": 1}
    huge = b"[" + b"[]," * 20_000_000 + b"[]]"
    header = (2**40).to_bytes(8, "little") + b"{}"
    found = {
        "no zip": whole(lambda data: b"not that" * 100),
        "half of it": whole(lambda data: data[: len(data) // 2]),
        "its last byte is gone": whole(lambda data: data[:-1]),
        "a flipped byte in the middle": whole(lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]),
        "only its directory": whole(lambda data: data[-300:]),
        "a pickle": whole(lambda data: pickle.dumps(Runs(marker))),
        "a pickle as its description": with_entry(DESCRIPTION, pickle.dumps(Runs(marker))),
        "a pickle as its tensors": with_entry(TENSORS, pickle.dumps(Runs(marker))),
        "a pickle beside them": with_entry("bank/data.pkl", pickle.dumps(Runs(marker))),
        "an entry that climbs": with_entry("../../evil.py", b"x"),
        "an entry from the root": with_entry("/tmp/evil.py", b"x"),
        "an entry of a drive": with_entry("C:\\evil.py", b"x"),
        "a second description": with_entry("memory.json/", b"{}"),
        "60 MB of empty lists": with_entry(DESCRIPTION, huge),
        "80 MB of blanks": with_entry(DESCRIPTION, b" " * (80 * 2**20)),
        "lists in lists": with_entry(DESCRIPTION, b"[" * 100_000),
        "a number of 100,000 digits": with_entry(DESCRIPTION, b"9" * 100_000),
        "no description": lambda path: rewrite(path, lambda entries: entries.pop(DESCRIPTION) and None),
        "states packed": lambda path: rewrite(path, lambda entries: None, zipfile.ZIP_DEFLATED),
        "states that unpack to 100 MB": with_entry(TENSORS, b"\0" * (100 * 2**20), zipfile.ZIP_DEFLATED),
        "a header of a terabyte": in_header(header),
        "another format": described(format="longmem memory 99"),
        "a name that is a number": described(documents=[text | {"name": 7}]),
        "a text that is a list": described(documents=[text | {"text": ["b"]}]),
        "documents that are none": described(documents={"a": 1}),
        "fewer than no tokens": described(documents=[text | {"tokens": -1}]),
        "a capacity of 2 ** 60": described(capacity=2**60),
        "a chunk size of noughts": described(chunk_size=0),
        "another fingerprint in its states only": settings(fingerprint="another"),
        "a capacity that is too small": settings(capacity=4),
        "a capacity of half a token": settings(capacity=0.5),
        "a dimension too many": settings(head_dim=9),
        "heads that are not there": settings(kv_heads=64),
        "a layer of another model": settings(memory_layers=[0, 2]),
        "the same layer twice": settings(memory_layers=[1, 1]),
        "a million layers": settings(memory_layers=list(range(1_000_000))),
        "a dtype of objects": settings(dtype="object"),
        "a dtype that is a path": settings(dtype="../../etc/passwd"),
        "a backend that is a module": settings(backend="os.system"),
        "a chunk key that nobody knows": settings(chunk_key="eval"),
        "more chunks than tensors": in_json(SETTINGS, lambda found: found.update(n_chunks=found["n_chunks"] + 1)),
        "a count that is true": in_json(SETTINGS, lambda found: found.update(n_chunks=True)),
        "an id given twice": in_json(SETTINGS, lambda found: found["documents"].append(found["documents"][0])),
        "a document that is gone": in_json(SETTINGS, lambda found: found["documents"].clear()),
        "ids that go backwards": in_json(SETTINGS, lambda found: found.update(next_chunk=1)),
        "other tensors than described": in_tensors(lambda found: found[first(found)].zero_(), signed=False),
        "a tensor is missing": in_tensors(lambda found: found.pop(first(found))),
        "a tensor too many": in_tensors(lambda found: found.update(more=torch.zeros(1))),
        "a tensor of another shape": in_tensors(lambda found: found.update({first(found): torch.zeros(1, 2, 3)})),
        "a tensor of another dtype": in_tensors(
            lambda found: found.update({first(found): found[first(found)].double()})
        ),
        "a tensor that is not finite": in_tensors(lambda found: found[first(found)].fill_(float("nan"))),
        "a chunk of no document": moved(1, 77),
        "a chunk before the text": moved(4, -5),
        "a chunk behind the text": moved(5, 10**6),
        "a chunk of a million tokens": moved(3, 10**6),
        "a chunk twice": moved(0, 0),
        "a run without a table": run(lambda record: record["tables"].pop("trace")),
        "a run of text for numbers": run(lambda record: record["tables"]["tokens"].update(step=["1"])),
        "a run with a probability of ten": run(
            lambda record: record["tables"]["tokens"]["logprob"].__setitem__(0, 10.0)
        ),
        "a run of a layer of a billion": run(lambda record: record["tables"]["gates"]["layer"].__setitem__(0, 10**9)),
    }
    return list(found.items())
