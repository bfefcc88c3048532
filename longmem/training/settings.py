"""Settings of a training run: a TOML file, of the package or one's own, with the command line laid over it."""

import argparse
import tomllib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from longmem.config import preset_settings
from longmem.errors import TrainingDataError, one_line

CONFIGS = Path(__file__).parent / "configs"
Settings = TypeVar("Settings")


def load_settings(kind: type[Settings], config: str | Path, prefix: str, **overrides: object) -> Settings:
    """Read a TOML configuration (a path, or the name of one in the package) and lay the given overrides over it.

    A `preset` of `longmem.config.PRESETS`, in the file or among the overrides, gives what neither says.

    Raises:
        TrainingDataError: no such file, or a setting that does not exist.
    """
    path = Path(config) if str(config).endswith(".toml") else CONFIGS / f"{prefix}-{config}.toml"
    if not path.exists():
        names = ", ".join(config_names(prefix))
        raise TrainingDataError(f"config: {config} is neither a .toml file nor one of {names}.")
    values = tomllib.loads(path.read_text()) | {k: v for k, v in overrides.items() if v is not None}
    if "preset" in values and "chunk_size" in kind.__dataclass_fields__:
        given = preset_settings(values.pop("preset")).items()
        values = {k: v for k, v in given if k in kind.__dataclass_fields__} | values
    unknown = sorted(set(values) - set(kind.__dataclass_fields__))
    if unknown:
        raise TrainingDataError(f"config: {path.name} has unknown settings: {', '.join(unknown)}.")
    return kind(**values)


def config_names(prefix: str) -> list[str]:
    """The configurations of the package for one kind of training."""
    return sorted(path.stem.removeprefix(f"{prefix}-") for path in CONFIGS.glob(f"{prefix}-*.toml"))


def run_as_module(
    description: str, kind: type[Settings], prefix: str, train: Callable[[Settings], Path], *options: str
) -> None:
    """What `python -m` does with a training module: what `python -m longmem train` does, without typer.

    options: settings that the command line may name besides, `preset` among them; a setting that is false is a flag.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("config", help=f"a .toml file, or one of the package: {', '.join(config_names(prefix))}")
    parser.add_argument("--data", action="append", dest="packs", help="a pack of documents; repeat for more")
    for option in ("output", *options):
        is_flag = option in kind.__dataclass_fields__ and kind.__dataclass_fields__[option].type is bool
        form = {"action": "store_true", "default": None} if is_flag else {}
        parser.add_argument(f"--{option.replace('_', '-')}", **form)
    parser.add_argument("--max-minutes", type=float, help="end this call after so many minutes")
    parser.add_argument("--total-minutes", type=float, help="end the run, its schedule included, after so many")
    parser.add_argument("--resume", action="store_true", default=None)
    arguments = vars(parser.parse_args())
    with one_line():
        settings = load_settings(kind, arguments.pop("config"), prefix, **arguments)
        print(asdict(settings), flush=True)
        print(train(settings))
