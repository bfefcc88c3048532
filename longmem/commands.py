"""What the parts of the command line share: options, and errors that become one line and exit code 2."""

import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from tqdm import tqdm

from longmem.errors import LongMemError, one_line

if TYPE_CHECKING:
    from longmem.memory_bank import MemoryBank
    from longmem.model import LongMemForCausalLM

BUNDLED = Path(__file__).parent.parent / "assets" / "model"
DEVICES = ("auto", "cpu", "cuda", "mps")

Model = Annotated[str, typer.Option("--model", help="A folder or hub id; default: the bundled model.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
Backend = Annotated[
    str | None,
    typer.Option(
        "--backend",
        help="How memory is searched: torch, torch-coarse, faiss-cpu or faiss-gpu; for millions of tokens, with an "
        "index: faiss-ivf, faiss-hnsw, faiss-sq8 or faiss-shards. Default: torch; in `bench search` all.",
    ),
]
ValuesFolder = Annotated[
    Path | None,
    typer.Option("--values-folder", help="Keep the values in a file there while memory is filled and searched."),
]


def command(group: typer.Typer, name: str) -> Callable:
    """Register a command whose errors for people become one line and exit code 2."""

    def register(function: Callable) -> Callable:
        @wraps(function)
        def run(*args: object, **kwargs: object) -> None:
            with one_line():
                function(*args, **kwargs)

        return group.command(name)(run)

    return register


def quietly(device: str) -> None:
    """Let nothing that is loaded write to standard output. Errors: LongMemError for a device that does not exist."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from transformers.utils import logging

    if device.split(":")[0] not in DEVICES:
        raise LongMemError(f"--device is {device!r}; it must be auto, cpu, cuda, cuda:N or mps.")

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load_model(model: str, device: str, dtype: str | None = None) -> "LongMemForCausalLM":
    """Load a model without a word on standard output. Errors: LongMemError where there is none to load.

    dtype: "auto" for that of its files; None for the device's own.
    """
    quietly(device)
    from safetensors import SafetensorError

    from longmem.model import LongMemForCausalLM

    if model == str(BUNDLED) and not (BUNDLED / "config.json").exists():
        raise LongMemError(f"The bundled model is not in {BUNDLED}; name another one with --model.")
    try:
        return LongMemForCausalLM.from_pretrained(model, device=device, dtype=dtype)
    except LongMemError:
        raise
    except (ValueError, SafetensorError) as error:
        # What transformers and safetensors raise for a model of another kind and for damaged weights.
        reason = str(error).splitlines()[0].rstrip(".")
        raise LongMemError(f"--model is {model!r}; no LongMem model can be loaded from it ({reason}).") from error


def remember_files(model: "LongMemForCausalLM", documents: list[Path], memory: "MemoryBank") -> list[int]:
    """Read files into a bank, with a bar of tokens on standard error. Returns the documents' ids in the bank."""
    from longmem.documents import Document

    numbers = []
    for document in [Document.from_file(path) for path in documents]:
        with tqdm(desc=document.name, unit="tok", file=sys.stderr) as bar:

            def show(done: int, total: int, bar: tqdm = bar) -> None:
                bar.total = total
                bar.update(done - bar.n)

            numbers.append(model.remember(document, memory=memory, progress=show))
    return numbers


def new_bank(
    model: "LongMemForCausalLM", backend: str | None, values_folder: Path | None, capacity: int | None = None
) -> "MemoryBank":
    """An empty bank for these options, of numbers that the backend can search."""
    from longmem.bench.contenders import bank_dtype
    from longmem.search import check_backend

    backend = backend or "torch"
    dtype = bank_dtype(backend, model.dtype)
    check_backend(backend, dtype, model.device)
    return model.new_bank(capacity=capacity, dtype=dtype, backend=backend, **values_in(values_folder))


def values_in(folder: Path | None) -> dict:
    """What a bank is told of --values-folder."""
    return {} if folder is None else {"values": "mapped", "values_folder": folder}


def summary_of(memory: "MemoryBank") -> dict:
    """What is in a bank, as the commands print it; of one with an index, its recall against exact search too."""
    documents = [{"name": d.name, "tokens": d.n_tokens, "chunks": d.n_chunks} for d in memory.documents.values()]
    summary = {"documents": documents, "tokens": memory.n_tokens, "capacity": memory.capacity}
    if not memory.has_index:
        return summary
    recall = memory.recall
    measured = {"recall": None, "queries": 0} if recall is None else {"recall": recall.share, "queries": recall.queries}
    return summary | {"search": {"backend": memory.backend} | measured}


def try_search(model: "LongMemForCausalLM", memory: "MemoryBank", document: int) -> None:
    """Search with the queries of a document's end in what stands before it, so that there is a recall to show."""
    import torch

    from longmem.scoring import continuation_point

    text, before = continuation_point(model, memory, document, len(memory.documents[document].text))
    ids = model.need_tokenizer()(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        model(torch.tensor([ids], device=model.device), memory=memory, before=before)


def recall_line(memory: "MemoryBank") -> str | None:
    """What the searches of a bank with an index found, in words; None where search is exact anyway."""
    if not memory.has_index:
        return None
    if memory.recall is None:
        return f"{memory.backend}: every search was exact, since there are few tokens in memory or none was needed."
    share, queries = memory.recall
    return f"{memory.backend}: {share:.1%} of what an exact search finds was found (recall, over {queries} queries)."


def layer_numbers(given: str | None) -> list[int] | None:
    """Layers separated by commas. Errors: LongMemError."""
    if given is None:
        return None
    try:
        return [int(part) for part in given.split(",")]
    except ValueError:
        raise LongMemError(
            f"--memory-layers is {given!r}; it must be layers separated by commas, such as 4,7."
        ) from None
