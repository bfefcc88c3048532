"""The command line: `python -m longmem info | read | generate | train | evaluate`.

Results go to standard output, progress and errors to standard error. Exit code 2 means that something given was wrong.
"""

import json
import math
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from tqdm import tqdm

from longmem.errors import LongMemError

if TYPE_CHECKING:
    from longmem.generation import Generation
    from longmem.memory_bank import MemoryBank
    from longmem.model import LongMemForCausalLM

BUNDLED = Path(__file__).parent.parent / "assets" / "model"
DEVICES = ("auto", "cpu", "cuda", "mps")
# How torch words the end of memory on a GPU, on a CPU and on an Apple GPU: there is no exception common to them.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")
DEVICE_ERRORS = ("cuda error", "cuda driver", "mps backend", "accelerator")

app = typer.Typer(help="See how a language model uses a long-term memory.", no_args_is_help=True, add_completion=False)
train_app = typer.Typer(help="Train a backbone or a SideNet.", no_args_is_help=True)
evaluate_app = typer.Typer(help="Measure a model.", no_args_is_help=True)
app.add_typer(train_app, name="train")
app.add_typer(evaluate_app, name="evaluate")

Model = Annotated[str, typer.Option("--model", help="A folder or hub id; default: the bundled model.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
Documents = Annotated[list[Path], typer.Option("--document", help="txt, md, html, pdf, epub or docx; repeat for more.")]
Data = Annotated[list[Path], typer.Option("--documents", help="txt, jsonl or jsonl.xz; repeat for more.")]
Overlap = Annotated[int | None, typer.Option(help="0 or half a window of context in reading; default: the model's.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")]


def command(group: typer.Typer, name: str) -> Callable:
    """Register a command whose errors for people become one line and exit code 2."""

    def register(function: Callable) -> Callable:
        @wraps(function)
        def run(*args: object, **kwargs: object) -> None:
            try:
                function(*args, **kwargs)
            except (LongMemError, OSError, MemoryError, RuntimeError) as error:
                sentence = _sentence(error)
                if sentence is None:
                    raise
                print(sentence, file=sys.stderr)
                raise typer.Exit(2) from error

        return group.command(name)(run)

    return register


def _sentence(error: Exception) -> str | None:
    """One line for a person; None where the program itself is wrong and a traceback is due."""
    if isinstance(error, (LongMemError, OSError)):
        return " ".join(str(error).split())
    said = str(error).strip().lower()
    reason = f" ({str(error).strip().splitlines()[0]})" if said else ""
    if isinstance(error, MemoryError) or any(words in said for words in OUT_OF_MEMORY):
        return f"The device is out of memory; use --device cpu or a smaller bank.{reason}"
    if any(words in said for words in DEVICE_ERRORS):
        return f"The device failed; use --device cpu.{reason}"
    return None


def _load(model: str, device: str) -> "LongMemForCausalLM":
    """Load a model without a word on standard output. Errors: LongMemError where there is none to load."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from safetensors import SafetensorError
    from transformers.utils import logging

    from longmem.model import LongMemForCausalLM

    if device.split(":")[0] not in DEVICES:
        raise LongMemError(f"--device is {device!r}; it must be auto, cpu, cuda, cuda:N or mps.")

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if model == str(BUNDLED) and not (BUNDLED / "config.json").exists():
        raise LongMemError(f"The bundled model is not in {BUNDLED}; name another one with --model.")
    try:
        return LongMemForCausalLM.from_pretrained(model, device=device)
    except LongMemError:
        raise
    except (ValueError, SafetensorError) as error:
        # What transformers and safetensors raise for a model of another kind and for damaged weights.
        reason = str(error).splitlines()[0].rstrip(".")
        raise LongMemError(f"--model is {model!r}; no LongMem model can be loaded from it ({reason}).") from error


def _remember(model: "LongMemForCausalLM", documents: list[Path], memory: "MemoryBank") -> list[int]:
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


def _character(at: str, memory: "MemoryBank", document: int) -> int:
    """The character that --at means: a number of characters, or a share of the text. Errors: LongMemError."""
    length = len(memory.documents[document].text)
    try:
        return int(float(at[:-1]) / 100 * length) if at.endswith("%") else int(at)
    except (ValueError, OverflowError):
        raise LongMemError(f"--at is {at!r}; it must be a character such as 12000, or a share such as 60%.") from None


def _memory_summary(memory: "MemoryBank") -> dict:
    documents = [{"name": d.name, "tokens": d.n_tokens, "chunks": d.n_chunks} for d in memory.documents.values()]
    return {"documents": documents, "tokens": memory.n_tokens, "capacity": memory.capacity}


@command(app, "info")
def info(
    model: Model = str(BUNDLED),
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what a model is, where it runs and why, and what it remembers with."""
    loaded = _load(model, device)
    config = loaded.config
    sizes = {
        name: sum(p.numel() for p in part.parameters())
        for name, part in (("backbone", loaded.backbone), ("sidenet", loaded.sidenet))
    }
    facts = {
        "model": model,
        "family": config.backbone_config.model_type,
        "backbone_parameters": sizes["backbone"],
        "sidenet_parameters": sizes["sidenet"],
        "device": str(loaded.device),
        "reason": loaded.device_reason,
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "layers": config.backbone_config.num_hidden_layers,
        "memory_layers": list(config.memory_layers),
        "window": config.window,
        "chunk_size": config.chunk_size,
        "chunk_key": config.chunk_key,
        "retrieved_tokens": config.retrieved_tokens,
        "memory_size": config.memory_size,
        "fingerprint": loaded.fingerprint,
    }
    if as_json:
        print(json.dumps(facts))
    else:
        for name, value in facts.items():
            print(f"{name.replace('_', ' '):<20} {value}")


@command(app, "read")
def read(
    documents: Annotated[list[Path], typer.Argument(help="txt, md, html, pdf, epub or docx files.")],
    output: Annotated[Path, typer.Option("--output", help="Folder to save the memory bank to.")],
    capacity: Annotated[int | None, typer.Option(min=1, help="Tokens the bank holds; default: the model's.")] = None,
    model: Model = str(BUNDLED),
    device: Device = "auto",
) -> None:
    """Read documents into a memory bank and save it; `generate --memory` uses it."""
    loaded = _load(model, device)
    memory = loaded.new_bank(capacity=capacity)
    _remember(loaded, documents, memory)
    memory.save(output)
    print(json.dumps(_memory_summary(memory)))


@command(app, "generate")
def generate(
    prompt: Annotated[str | None, typer.Option(help="Text to continue.")] = None,
    at: Annotated[
        str | None, typer.Option(help="Continue the last document instead, at this character or share: 12000, 60%.")
    ] = None,
    documents: Documents = [],  # noqa: B006 - typer wants the empty list itself
    memory: Annotated[Path | None, typer.Option("--memory", help="A saved memory bank to start from.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to generate.")] = 64,
    seed: Annotated[int, typer.Option(min=-(2**63), max=2**63 - 1, help="Seed of the sampling noise.")] = 0,
    temperature: Annotated[float, typer.Option(help="Above 0; smaller is bolder.")] = 0.8,
    top_p: Annotated[float, typer.Option(help="Above 0, at most 1.")] = 0.95,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the most probable token.")] = False,
    no_memory: Annotated[bool, typer.Option("--no-memory", help="Read the documents, but retrieve nothing.")] = False,
    trace_ranks: Annotated[int | None, typer.Option(help="Ranks printed per head; default: all.")] = None,
    model: Model = str(BUNDLED),
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Continue a prompt, or a document, with documents in memory, and show what was retrieved."""
    from longmem.generation import check_options, continuation_point, stream
    from longmem.memory_bank import MemoryBank

    options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "greedy": greedy}
    check_options(**options)
    if (prompt is None) == (at is None):
        raise LongMemError("Give --prompt or --at, one of the two.")
    if at is not None and not documents:
        raise LongMemError(f"--at is {at!r}, but there is no --document to continue.")
    if trace_ranks is not None and trace_ranks < 0:
        raise LongMemError(f"--trace-ranks is {trace_ranks}; it must be 0 or more.")
    if not as_json:
        # A console of few characters (cp1252, ascii) shows a question mark instead of ending the run.
        sys.stdout.reconfigure(errors="replace")
    loaded = _load(model, device)
    bank = loaded.new_bank()
    if memory is not None:
        bank = MemoryBank.load(memory, fingerprint=loaded.fingerprint, device=loaded.device)
    numbers = _remember(loaded, documents, bank)
    before = None
    if at is not None:
        prompt, before = continuation_point(loaded, bank, numbers[-1], _character(at, bank, numbers[-1]))
    generation = stream(loaded, prompt, memory=None if no_memory else bank, before=before, seed=seed, **options)
    for token in generation:
        if not as_json:
            print(token.text, end="", flush=True)
    if as_json:
        print(json.dumps(_generation_object(generation, bank, trace_ranks), allow_nan=False))
    else:
        print(_passages_table(generation))


def _generation_object(generation: "Generation", memory: "MemoryBank", trace_ranks: int | None) -> dict:
    """What `--json` prints; numbers that JSON does not know (NaN, infinity) become null."""
    trace = generation.trace
    frame = trace.to_frame()
    if trace_ranks is not None:
        frame = frame[frame["rank"] < trace_ranks]
    return {
        "text": generation.text,
        "tokens": trace.tokens,
        "memory": _memory_summary(memory),
        "effect": [effect if math.isfinite(effect) else None for effect in trace.effects],
        "trace": json.loads(frame.to_json(orient="records")),
    }


def _passages_table(generation: "Generation", rows: int = 8) -> str:
    """The passages with the largest weight, summed over tokens, layers and heads."""
    frame = generation.trace.to_frame()
    if frame.empty:
        return "\n\nNothing was retrieved."
    used = frame.groupby(["document", "start", "end", "text"], as_index=False)["weight"].sum()
    lines = [
        f"{row.weight:8.2f}  {row.document}, character {row.start}: {row.text!r}"
        for row in used.nlargest(rows, "weight").itertuples()
    ]
    return "\n".join(["\n", "  weight  passage (attention times gate, summed over tokens, layers and heads)", *lines])


@command(train_app, "backbone")
def train_backbone(
    config: Annotated[str, typer.Option(help="cpu, gpu, or a .toml file.")] = "cpu",
    data: Annotated[list[str] | None, typer.Option(help="A pack of documents; repeat for more.")] = None,
    output: Annotated[str | None, typer.Option(help="Folder for checkpoints, metrics and the model.")] = None,
    max_minutes: Annotated[float | None, typer.Option(help="End this call after so many minutes.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
) -> None:
    """Train a small SmolLM3 whose memory layers have no position encoding."""
    from longmem.training.pretrain import BackboneTraining, pretrain
    from longmem.training.settings import load_settings

    given = {"packs": data or None, "output": output, "max_minutes": max_minutes, "resume": resume or None}
    print(pretrain(load_settings(BackboneTraining, config, "backbone", **given)))


@command(train_app, "sidenet")
def train_sidenet(
    config: Annotated[str, typer.Option(help="cpu, gpu, or a .toml file.")] = "cpu",
    backbone: Annotated[str | None, typer.Option(help="The frozen model: a folder or hub id.")] = None,
    data: Annotated[list[str] | None, typer.Option(help="A pack of documents; repeat for more.")] = None,
    output: Annotated[str | None, typer.Option(help="Folder for checkpoints, metrics and the model.")] = None,
    max_minutes: Annotated[float | None, typer.Option(help="End this call after so many minutes.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
) -> None:
    """Train a SideNet on a frozen backbone."""
    from longmem.training.adapt import SideNetTraining, adapt
    from longmem.training.settings import load_settings

    given = {
        "backbone": backbone,
        "packs": data or None,
        "output": output,
        "max_minutes": max_minutes,
        "resume": resume or None,
    }
    print(adapt(load_settings(SideNetTraining, config, "sidenet", **given)))


@command(evaluate_app, "perplexity")
def perplexity(
    documents: Data,
    max_tokens: Annotated[int | None, typer.Option(help="Of each document; default: all.")] = None,
    score_every: Annotated[int, typer.Option(min=1, help="Score every n-th window; all are read.")] = 1,
    read_overlap: Overlap = None,
    model: Model = str(BUNDLED),
    json_file: JsonFile = None,
) -> None:
    """Perplexity with the backbone alone, an empty bank, and the bank filled while reading."""
    from longmem.evaluation.perplexity import measure_perplexity

    options = {"max_tokens": max_tokens, "score_every": score_every, "read_overlap": read_overlap}
    measure_perplexity(model, documents, json_path=json_file, **options)


@command(evaluate_app, "needle")
def needle(
    documents: Data,
    lengths: Annotated[str, typer.Option(help="Tokens in memory, separated by commas.")] = "2048,8192,32768,65536",
    facts: Annotated[int, typer.Option(min=1, help="Facts asked for at each length.")] = 48,
    same_form: Annotated[int, typer.Option(min=1, help="Facts of one template in a haystack; 1: none alike.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of names and values.")] = 1,
    read_overlap: Overlap = None,
    model: Model = str(BUNDLED),
    json_file: JsonFile = None,
) -> None:
    """Recall of facts planted in a long text."""
    from longmem.evaluation.needle import measure_needle

    try:
        wanted = [int(n) for n in lengths.split(",")]
    except ValueError:
        raise LongMemError(f"--lengths is {lengths!r}; it must be whole numbers separated by commas.") from None
    if min(wanted) < 1:
        raise LongMemError(f"--lengths is {lengths!r}; each must be at least 1 token.")
    options = {"lengths": wanted, "facts": facts, "same_form": same_form, "seed": seed, "read_overlap": read_overlap}
    measure_needle(model, documents, json_path=json_file, **options)


@command(evaluate_app, "efficiency")
def efficiency(
    document: Annotated[Path, typer.Option(help="A text to read.")],
    read_tokens: Annotated[int, typer.Option(min=1, help="Tokens read in each round.")] = 16_384,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens generated in each round.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are compared.")] = 5,
    backend: Annotated[str, typer.Option(help="torch, torch-coarse, faiss-cpu or faiss-gpu.")] = "torch",
    model: Model = str(BUNDLED),
    json_file: JsonFile = None,
) -> None:
    """Speed of reading and generating, as ratios measured in turn."""
    from longmem.evaluation.efficiency import measure_efficiency

    options = {"read_tokens": read_tokens, "new_tokens": new_tokens, "rounds": rounds, "backend": backend}
    measure_efficiency(model, document, json_path=json_file, **options)


if __name__ == "__main__":
    app()
