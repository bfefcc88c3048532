"""`python -m longmem train backbone | sidenet`."""

from typing import Annotated

import typer

from longmem.commands import command

train_app = typer.Typer(help="Train a backbone or a SideNet.", no_args_is_help=True)


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
