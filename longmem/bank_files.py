"""A memory bank on disk: a folder with `memory.safetensors` (tensors) and `memory.json` (all else).

The two belong together, so the whole folder is written beside the old one and takes its place by renaming. A process
killed at any moment leaves one whole state: under its own name or, between the two renames, as `<folder>.old`, where
`read` finds it. Nothing is ever unpickled, and nothing read is believed before it has been checked.

Shapes: L memory layers, G key-value heads, N token slots, D head dimension, C chunks, S token slots per chunk.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from longmem.chunk_ring import CHUNK_FIELDS
from longmem.errors import BankFileError
from longmem.search import BACKENDS

TENSORS, SETTINGS = "memory.safetensors", "memory.json"
FORMAT = "longmem memory bank 1"
MOST_LAYERS = 1024
MOST_BRACKETS = 2_000_000  # in texts too; an empty list is 3 bytes in a file and 64 in memory
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class BankState:
    """All that a bank is made of. Chunks, and the token slots of keys and values, stand oldest first.

    `settings` are MemoryBank's arguments, its dtype by name and without a device. `documents` maps an id to name, text
    and the number of tokens read. `rows_C6` holds CHUNK_FIELDS as int64. `keys` and `values` are L x [G, N, D].
    """

    settings: dict
    documents: dict[int, tuple[str, str, int]]
    next_document: int
    next_chunk: int
    rows_C6: np.ndarray
    keys: list[torch.Tensor]
    values: list[torch.Tensor]


def write(folder: str | Path, state: BankState) -> None:
    """Save the state as `folder`; BankFileError where this cannot be done, and then what was there is still there."""
    folder = Path(folder)
    fresh, old = _beside(folder, ".new"), _beside(folder, ".old")
    for path in (folder, fresh, old):
        _refuse_foreign(path)
    try:
        _discard(fresh)
        fresh.mkdir(parents=True)
        save_file(_named_tensors(state), fresh / TENSORS)
        (fresh / SETTINGS).write_text(json.dumps(_description(state, fresh / TENSORS)), encoding="utf-8")
        if folder.exists():  # else a former kill may have left `old` as the only whole state
            _discard(old)
            folder.rename(old)
        fresh.rename(folder)
        _discard(old)
    except (OSError, SafetensorError) as error:
        raise BankFileError(f"The memory bank could not be saved as {folder}: {error}.") from error


def read(folder: str | Path) -> BankState:
    """The state saved as `folder`; BankFileError where it is missing, damaged or forged."""
    folder = Path(folder)
    if not folder.exists() and (old := _beside(folder, ".old")).exists():
        folder = old
    description = _read_description(folder)
    try:
        state = _read_state(folder, description)
        _check_chunks(state)
    except KeyError as error:
        raise _damaged(folder, f"{error} is missing") from error
    except (TypeError, ValueError, OverflowError, SafetensorError) as error:
        raise _damaged(folder, error) from error
    except OSError as error:
        raise _damaged(folder, error.strerror or error) from error
    return state


def _beside(folder: Path, suffix: str) -> Path:
    folder = folder.absolute()
    return folder.with_name(folder.name + suffix)


def _damaged(folder: Path, reason: object) -> BankFileError:
    return BankFileError(f"The memory bank in {folder} cannot be loaded: {str(reason).rstrip('.')}.")


def _refuse_foreign(folder: Path) -> None:
    """A folder is replaced only if it holds nothing but a bank."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise BankFileError(f"{folder} is no folder; a memory bank is saved as a folder of its own.")
    if folder.exists() and (others := {path.name for path in folder.iterdir()} - {TENSORS, SETTINGS}):
        raise BankFileError(f"{folder} also holds {min(others)}; a memory bank is saved as a folder of its own.")


def _discard(folder: Path) -> None:
    if folder.exists():
        for name in (TENSORS, SETTINGS):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def _named_tensors(state: BankState) -> dict[str, torch.Tensor]:
    tensors = {"chunks": torch.from_numpy(state.rows_C6)}
    for layer, keys_GND, values_GND in zip(state.settings["memory_layers"], state.keys, state.values, strict=True):
        tensors |= {f"keys.{layer}": keys_GND, f"values.{layer}": values_GND}
    return tensors


def _description(state: BankState, tensors: Path) -> dict:
    return {
        "format": FORMAT,
        "settings": state.settings,
        "next_document": state.next_document,
        "next_chunk": state.next_chunk,
        "n_chunks": len(state.rows_C6),
        "documents": [
            {"id": id, "name": name, "text": text, "tokens_read": tokens}
            for id, (name, text, tokens) in state.documents.items()
        ],
        "tensors": {"bytes": tensors.stat().st_size, "sha256": _digest(tensors)},
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_json(data: bytes) -> object:
    """JSON of which not so much is lists and objects that they would take many times its size in memory.

    Errors: ValueError, RecursionError.
    """
    if data.count(b"[") + data.count(b"{") > MOST_BRACKETS:
        raise ValueError(f"it holds more than {MOST_BRACKETS:,} lists and objects")
    return json.loads(data)


def _read_description(folder: Path) -> dict:
    try:
        description = parse_json((folder / SETTINGS).read_bytes())
    except FileNotFoundError as error:
        raise _damaged(folder, f"there is no {SETTINGS}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(folder, f"{SETTINGS} cannot be read") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise _damaged(folder, f"{SETTINGS} is not of the format {FORMAT!r}")
    return description


def _whole(number: object, name: str, least: int = 0) -> int:
    """A whole number of no more than 31 bits (so that products of two are safe), not less than `least`."""
    if type(number) is not int or not least <= number < 2**31:
        raise ValueError(f"{name} is {str(number)[:40]!r}, not a whole number from {least}")
    return number


def _string(text: object, name: str) -> str:
    if not isinstance(text, str):
        raise TypeError(f"{name} is not a text")
    return text


def _read_state(folder: Path, description: dict) -> BankState:
    settings = _read_settings(description["settings"])
    n_chunks = _whole(description["n_chunks"], "n_chunks")
    if n_chunks * settings["chunk_size"] > settings["capacity"]:
        raise ValueError(f"{n_chunks} chunks are more than its capacity of {settings['capacity']} tokens")
    path = folder / TENSORS
    if not path.is_file():
        raise ValueError(f"there is no {TENSORS}")
    expected = description["tensors"]
    if path.stat().st_size != expected["bytes"] or _digest(path) != expected["sha256"]:
        raise ValueError(f"{TENSORS} is not the file that was saved")
    tensors = _read_tensors(path, settings, n_chunks)
    return BankState(
        settings=settings,
        documents=_read_documents(description["documents"]),
        next_document=_whole(description["next_document"], "next_document"),
        next_chunk=_whole(description["next_chunk"], "next_chunk"),
        rows_C6=tensors["chunks"].numpy(),
        keys=[tensors[f"keys.{layer}"] for layer in settings["memory_layers"]],
        values=[tensors[f"values.{layer}"] for layer in settings["memory_layers"]],
    )


def _read_settings(settings: dict) -> dict:
    """Settings of the right types; whether they make sense is for MemoryBank to say."""
    numbers = {name: _whole(settings[name], name, 1) for name in ("kv_heads", "head_dim", "chunk_size", "capacity")}
    strings = {name: _string(settings[name], name) for name in ("fingerprint", "chunk_key", "dtype", "backend")}
    if strings["dtype"] not in DTYPES:
        raise ValueError(f"dtype is {strings['dtype'][:40]!r}, not one of {', '.join(DTYPES)}")
    if strings["backend"] not in BACKENDS:
        raise ValueError(f"backend is {strings['backend'][:40]!r}, not one of {', '.join(BACKENDS)}")
    layers = [_whole(layer, "a memory layer") for layer in list(settings["memory_layers"])[: MOST_LAYERS + 1]]
    if len(layers) > MOST_LAYERS:
        raise ValueError(f"it names more than {MOST_LAYERS:,} memory layers")
    return {"memory_layers": layers} | numbers | strings


def _read_documents(listed: list) -> dict[int, tuple[str, str, int]]:
    documents = {}
    for entry in listed:
        name, text = _string(entry["name"], "a document's name"), _string(entry["text"], "a document's text")
        documents[_whole(entry["id"], "a document's id")] = (name, text, _whole(entry["tokens_read"], "tokens_read"))
    if len(documents) != len(listed):
        raise ValueError("two documents have one id")
    return documents


def _read_tensors(path: Path, settings: dict, n_chunks: int) -> dict[str, torch.Tensor]:
    """The tensors, of exactly the names, shapes and dtypes that the settings call for, and finite."""
    shape = (settings["kv_heads"], n_chunks * settings["chunk_size"], settings["head_dim"])
    names = [f"{kind}.{layer}" for layer in settings["memory_layers"] for kind in ("keys", "values")]
    expected = dict.fromkeys(names, (shape, DTYPES[settings["dtype"]]))
    expected["chunks"] = ((n_chunks, len(CHUNK_FIELDS)), torch.int64)
    tensors = {}
    with safe_open(path, framework="pt", device="cpu") as file:
        if set(file.keys()) != set(expected):
            raise ValueError(f"{TENSORS} holds other tensors than the memory layers call for")
        for name, (shape, dtype) in expected.items():
            if tuple(file.get_slice(name).get_shape()) != shape:
                raise ValueError(f"{name} is not of shape {list(shape)}")
            tensors[name] = file.get_tensor(name)
            if tensors[name].dtype != dtype:
                raise ValueError(f"{name} is not of {dtype}")
            if not tensors[name].isfinite().all():
                raise ValueError(f"{name} holds numbers that are not finite")
    return tensors


def _check_chunks(state: BankState) -> None:
    """Spans, ids and order of the chunks must be such as adding documents makes them."""
    ids, owners, token_starts, token_stops, starts, stops = state.rows_C6.T
    size = state.settings["chunk_size"]
    unknown = [id for id in np.unique(owners).tolist() if id not in state.documents]
    if unknown or any(id >= state.next_document for id in state.documents):
        raise ValueError("a chunk belongs to no document, or a document's id is not yet given")
    if (np.diff(ids) <= 0).any() or (ids < 0).any() or (ids >= state.next_chunk).any():
        raise ValueError("the ids of its chunks are not in order")
    if (token_starts < 0).any() or (token_stops <= token_starts).any():
        raise ValueError("a chunk has no tokens")
    if (token_starts // size != (token_stops - 1) // size).any():
        raise ValueError(f"a chunk crosses a multiple of {size} tokens")
    by_owner = np.argsort(owners, kind="stable")
    if ((np.diff(owners[by_owner]) == 0) & (token_starts[by_owner][1:] < token_stops[by_owner][:-1])).any():
        raise ValueError("two chunks of a document overlap")
    read_C = np.array([state.documents[id][2] for id in owners.tolist()], dtype=np.int64)
    # A document added without its text has spans all the same, into a text that only its owner knows.
    length_C = np.array([len(state.documents[id][1]) or 2**62 for id in owners.tolist()], dtype=np.int64)
    if (token_stops > read_C).any() or (starts < 0).any() or (stops < starts).any() or (stops > length_C).any():
        raise ValueError("a chunk lies outside of its document")
