"""`python -m longmem bench NAME`: ratios of speed, measured in turn in one run on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from longmem.commands import BUNDLED, Backend, Device, Model, command, load_model
from longmem.errors import LongMemError
from longmem.evaluate_commands import JsonFile, Seed, show, typed

SAMPLE = BUNDLED.parent / "samples" / "harbour-log.txt"


def add_bench(app: typer.Typer) -> None:
    """Register `bench`, which takes its benchmark as an argument, beside the other commands."""
    command(app, "bench")(bench)


def bench(
    name: Annotated[
        str,
        typer.Argument(help="read, add, search, index, generate, context, peers, several with commas between, or all."),
    ],
    documents: Annotated[
        list[Path] | None, typer.Option("--document", help="Text to read; default: the sample in the box.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds; medians are compared.")] = 5,
    backend: Backend = None,
    threads: Annotated[int | None, typer.Option(help="Of torch on a CPU; default: as torch has it.")] = None,
    long: Annotated[bool, typer.Option("--long/--no-long", help="Measure a bank of a million tokens too.")] = True,
    model: Model = str(BUNDLED),
    device: Device = "auto",
    seed: Seed = 1,
    json_file: JsonFile = None,
) -> None:
    """Measure how fast this is: ratios of two things measured in turn, with their spread and their goals."""
    import torch

    from longmem.bench.run import chosen, notes, run_bench, table
    from longmem.bench.workbench import BenchOptions

    chosen(name)
    if threads is not None and threads < 1:
        raise LongMemError(f"--threads is {threads}; it must be at least 1.")
    if documents is None and not SAMPLE.is_file():
        raise LongMemError(f"The sample is not in {SAMPLE.parent}; name a text with --document.")
    if threads is not None:
        torch.set_num_threads(threads)
    settings = {"rounds": rounds, "backend": backend, "long": long, "seed": seed, "json": json_file}
    options = BenchOptions(load_model(model, device), tuple(documents or [SAMPLE]), **settings, command=typed())
    result = run_bench(name, options)
    show(table(result))
    print("\n".join(["", *notes(result)]))
