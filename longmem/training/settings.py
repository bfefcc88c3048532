"""Settings of a training run: a TOML file, of the package or one's own, with the command line laid over it."""

import argparse
import tomllib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from longmem.config import preset_settings
from longmem.errors import TrainingDataError

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
    """What `python -m` does with a training module; `options` are settings that the command line may name besides."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("config", help=f"a .toml file, or one of the package: {', '.join(config_names(prefix))}")
    parser.add_argument("--data", action="append", dest="packs", help="a pack of documents; repeat for more")
    for option in ("output", *options):
        parser.add_argument(f"--{option.replace('_', '-')}")
    parser.add_argument("--max-minutes", type=float)
    parser.add_argument("--resume", action="store_true", default=None)
    arguments = vars(parser.parse_args())
    settings = load_settings(kind, arguments.pop("config"), prefix, **arguments)
    print(asdict(settings))
    print(train(settings))
