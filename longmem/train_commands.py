"""`python -m longmem train backbone | sidenet | memtrm | split | join`.

Where typer is not installed, `python -m longmem.training.pretrain`, `adapt`, `memorize` and `parts` do the same.
"""

from pathlib import Path
from typing import Annotated

import typer

from longmem.commands import command, layer_numbers

train_app = typer.Typer(help="Train a backbone, a SideNet, or the baseline MemTRM.", no_args_is_help=True)

Config = Annotated[str, typer.Option(help="One of the package, such as cpu, or a .toml file.")]
Backbone = Annotated[str | None, typer.Option(help="The frozen model: a folder or hub id.")]
StartFrom = Annotated[str | None, typer.Option(help="A model whose weights training goes on from.")]
Data = Annotated[
    list[str] | None,
    typer.Option("--data", "--documents", help="txt, jsonl or jsonl.xz, or a folder of txt; repeat for more."),
]
Output = Annotated[str | None, typer.Option(help="Folder for checkpoints, metrics and the model.")]
MaxMinutes = Annotated[float | None, typer.Option(help="End this call after so many minutes.")]
TotalMinutes = Annotated[float | None, typer.Option(help="End the run, its schedule included, after so many.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")]


@command(train_app, "backbone")
def train_backbone(
    config: Config = "cpu",
    start_from: StartFrom = None,
    family: Annotated[str | None, typer.Option(help="Of a fresh model, such as qwen3; default: smollm3.")] = None,
    data: Data = None,
    output: Output = None,
    max_minutes: MaxMinutes = None,
    total_minutes: TotalMinutes = None,
    resume: Resume = False,
) -> None:
    """Train a small backbone from nothing: SmolLM3 without positions in its memory layers, or another family."""
    from longmem.training.pretrain import BackboneTraining, pretrain
    from longmem.training.settings import load_settings

    given = {"start_from": start_from, "family": family, "packs": data or None, "output": output}
    given |= {"max_minutes": max_minutes, "total_minutes": total_minutes, "resume": resume or None}
    print(pretrain(load_settings(BackboneTraining, config, "backbone", **given)))


@command(train_app, "sidenet")
def train_sidenet(
    config: Config = "cpu",
    backbone: Backbone = None,
    start_from: StartFrom = None,
    preset: Annotated[
        str | None, typer.Option(help="paper: chunk keys, gate and initialisation of the paper; or measured.")
    ] = None,
    without_memory: Annotated[
        bool, typer.Option("--without-memory", help="Train the baseline that never sees a memory.")
    ] = False,
    memory_layers: Annotated[
        str | None, typer.Option(help="Such as 4,7, counted from 0; `inspect` suggests some.")
    ] = None,
    window: Annotated[int | None, typer.Option(help="Tokens of local context.")] = None,
    sidenet_rank: Annotated[
        int | None,
        typer.Option(min=1, help="Borrow the backbone's weights and train low-rank deltas: for large backbones."),
    ] = None,
    sidenet_alone: Annotated[
        bool, typer.Option("--sidenet-alone", help="Save what was trained alone, and the backbone's name.")
    ] = False,
    total_steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps.")] = None,
    data: Data = None,
    output: Output = None,
    max_minutes: MaxMinutes = None,
    total_minutes: TotalMinutes = None,
    resume: Resume = False,
) -> None:
    """Train a SideNet on a frozen backbone: the bundled one, or anyone's, on anyone's documents."""
    from longmem.training.adapt import SideNetTraining, adapt
    from longmem.training.settings import load_settings

    given = {"backbone": backbone, "start_from": start_from, "packs": data or None, "output": output}
    given |= {
        "preset": preset,
        "without_memory": without_memory or None,
        "memory_layers": layer_numbers(memory_layers),
        "window": window,
        "sidenet_rank": sidenet_rank,
        "sidenet_alone": sidenet_alone or None,
        "total_steps": total_steps,
        "max_minutes": max_minutes,
        "total_minutes": total_minutes,
        "resume": resume or None,
    }
    print(adapt(load_settings(SideNetTraining, config, "sidenet", **given)))


@command(train_app, "memtrm")
def train_memtrm(
    config: Config = "cpu",
    backbone: Backbone = None,
    start_from: StartFrom = None,
    data: Data = None,
    output: Output = None,
    max_minutes: MaxMinutes = None,
    total_minutes: TotalMinutes = None,
    resume: Resume = False,
) -> None:
    """Train the coupled baseline: memory inside the model that is being trained."""
    from longmem.training.memorize import MemorizingTraining, train_memorizing
    from longmem.training.settings import load_settings

    given = {"backbone": backbone, "start_from": start_from, "packs": data or None, "output": output}
    given |= {"max_minutes": max_minutes, "total_minutes": total_minutes, "resume": resume or None}
    print(train_memorizing(load_settings(MemorizingTraining, config, "memorize", **given)))


@command(train_app, "split")
def split_parts(
    path: Annotated[Path, typer.Argument(help="A folder, such as a checkpoint, or a file.")],
    most_megabytes: Annotated[float, typer.Option(help="Of each part.")] = 15.0,
) -> None:
    """Cut a checkpoint into parts small enough to be carried, with their checksums."""
    from longmem.training.parts import split

    print(split(path, most_megabytes))


@command(train_app, "join")
def join_parts(
    folder: Annotated[Path, typer.Argument(help="NAME.parts, as `train split` has written it.")],
    output: Annotated[Path | None, typer.Option(help="Folder to put it into; default: beside the parts.")] = None,
) -> None:
    """Put a checkpoint together again, once every part is what it should be."""
    from longmem.training.parts import join

    print(join(folder, output))
