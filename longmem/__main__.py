"""The command line: `python -m longmem info | read | generate | train | evaluate | bench | inspect | retrieve | push`.

Results go to standard output, progress and errors to standard error. Exit code 2 means that something given was wrong.
"""

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longmem.backbone_commands import MemoryLayers, inspect, load_training_free, retrieve
from longmem.bench_commands import add_bench
from longmem.commands import (
    BUNDLED,
    Backend,
    Device,
    Model,
    ValuesFolder,
    command,
    load_model,
    new_bank,
    recall_line,
    remember_files,
    summary_of,
    try_search,
    values_in,
)
from longmem.errors import LongMemError
from longmem.evaluate_commands import evaluate_app
from longmem.train_commands import train_app

if TYPE_CHECKING:
    from longmem.generation import Generation
    from longmem.memory_bank import MemoryBank

app = typer.Typer(help="See how a language model uses a long-term memory.", no_args_is_help=True, add_completion=False)
app.add_typer(train_app, name="train")
app.add_typer(evaluate_app, name="evaluate")
command(app, "inspect")(inspect)
command(app, "retrieve")(retrieve)

Documents = Annotated[list[Path], typer.Option("--document", help="txt, md, html, pdf, epub or docx; repeat for more.")]


def _character(at: str, memory: "MemoryBank", document: int) -> int:
    """The character that --at means: a number of characters, or a share of the text. Errors: LongMemError."""
    length = len(memory.documents[document].text)
    try:
        return int(float(at[:-1]) / 100 * length) if at.endswith("%") else int(at)
    except (ValueError, OverflowError):
        raise LongMemError(f"--at is {at!r}; it must be a character such as 12000, or a share such as 60%.") from None


@command(app, "info")
def info(
    model: Model = str(BUNDLED),
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what a model is, where it runs and why, and what it remembers with."""
    loaded = load_model(model, device)
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
    backend: Backend = None,
    values_folder: ValuesFolder = None,
    model: Model = str(BUNDLED),
    device: Device = "auto",
) -> None:
    """Read documents into a memory bank and save it; `generate --memory` uses it."""
    loaded = load_model(model, device)
    memory = new_bank(loaded, backend, values_folder, capacity)
    numbers = remember_files(loaded, documents, memory)
    memory.save(output)
    if memory.has_index:
        try_search(loaded, memory, numbers[-1])
        print(recall_line(memory), file=sys.stderr)
    print(json.dumps(summary_of(memory)))


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
    training_free: Annotated[
        bool,
        typer.Option("--training-free", help="Not LongMem: --model is any language model, given memory as it is."),
    ] = False,
    memory_layers: MemoryLayers = None,
    trace_ranks: Annotated[int | None, typer.Option(help="Ranks printed per head; default: all.")] = None,
    backend: Backend = None,
    values_folder: ValuesFolder = None,
    model: Model = str(BUNDLED),
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Continue a prompt, or a document, with documents in memory, and show what was retrieved."""
    from longmem.generation import check_options, stream
    from longmem.memory_bank import MemoryBank
    from longmem.scoring import continuation_point
    from longmem.training_free import METHOD

    options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "greedy": greedy}
    check_options(**options)
    _check_generation(prompt, at, documents, trace_ranks)
    if memory_layers is not None and not training_free:
        raise LongMemError("--memory-layers goes with --training-free; a LongMem model has layers of its own.")
    if not as_json:
        # A console of few characters (cp1252, ascii) shows a question mark instead of ending the run.
        sys.stdout.reconfigure(errors="replace")
    loaded = load_training_free(model, device, memory_layers) if training_free else load_model(model, device)
    if memory is None:
        bank = new_bank(loaded, backend, values_folder)
    else:
        chosen = {"backend": backend, "device": loaded.device} | values_in(values_folder)
        bank = MemoryBank.load(memory, fingerprint=loaded.fingerprint, **chosen)
    numbers = remember_files(loaded, documents, bank)
    before = None
    if at is not None:
        prompt, before = continuation_point(loaded, bank, numbers[-1], _character(at, bank, numbers[-1]))
    generation = stream(loaded, prompt, memory=None if no_memory else bank, before=before, seed=seed, **options)
    for token in generation:
        if not as_json:
            print(token.text, end="", flush=True)
    if as_json:
        labelled = {"method": METHOD} if training_free else {}
        print(json.dumps(labelled | _generation_object(generation, bank, trace_ranks), allow_nan=False))
    else:
        print(_passages_table(generation))
        if bank.has_index:
            print(f"\n{recall_line(bank)}")


def _check_generation(prompt: str | None, at: str | None, documents: list[Path], trace_ranks: int | None) -> None:
    """Raises LongMemError for options of `generate` that do not go together, before anything is loaded."""
    if (prompt is None) == (at is None):
        raise LongMemError("Give --prompt or --at, one of the two.")
    if at is not None and not documents:
        raise LongMemError(f"--at is {at!r}, but there is no --document to continue.")
    if trace_ranks is not None and trace_ranks < 0:
        raise LongMemError(f"--trace-ranks is {trace_ranks}; it must be 0 or more.")


def _generation_object(generation: "Generation", memory: "MemoryBank", trace_ranks: int | None) -> dict:
    """What `--json` prints; numbers that JSON does not know (NaN, infinity) become null."""
    trace = generation.trace
    frame = trace.to_frame()
    if trace_ranks is not None:
        frame = frame[frame["rank"] < trace_ranks]
    return {
        "text": generation.text,
        "tokens": trace.tokens,
        "memory": summary_of(memory),
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


@command(app, "push")
def push(
    repo_id: Annotated[str, typer.Option("--repo-id", help="USER/NAME; made where there is none.")],
    model: Model = str(BUNDLED),
    private: Annotated[bool, typer.Option("--private", help="Where it is made, nobody else may see it.")] = False,
) -> None:
    """Put a model with its card on the Hugging Face hub; `hf auth login`, or HF_TOKEN, says who you are."""
    print(load_model(model, "cpu", dtype="auto").push_to_hub(repo_id, private=private or None))


add_bench(app)

if __name__ == "__main__":
    app()
