"""What `python app.py` is told: its options, and variables for what a list of processes must not show."""

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from app.session import GIB
from app.settings import MAX_CAPACITY
from app.studio import MAX_FILE_BYTES
from longmem.model import LongMemForCausalLM
from longmem.training_free import TrainingFreeMemory

BUNDLED = Path(__file__).parent.parent / "assets" / "model"
UNITS = {"kb": 2**10, "mb": 2**20, "gb": 2**30, "tb": 2**40}
LEAST_FILE, MOST_FILE = 2**10, 2**33
LEAST_MEMORY, MOST_MEMORY = 2**20, 2**44
LEAST_TOKENS = 64
DESCRIPTION = "The studio in a browser."
EPILOG = """LONGMEM_MODEL, LONGMEM_TRAINING_FREE, LONGMEM_AUTH, LONGMEM_MEMORY_SIZE, LONGMEM_MAX_FILE_SIZE and
LONGMEM_MAX_MEMORY in the environment mean the same as the options, which come first. A password belongs there:
everybody on a machine can see the options of its processes."""
YES, NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True)
class Launch:
    """How to launch: `auth` is (user, password) or None; `memory_size` tokens of a bank, None as the model says; the
    others bytes.
    """

    model: str | Path = BUNDLED
    training_free: bool = False
    mcp: bool = False
    auth: tuple[str, str] | None = None
    max_file_size: int = MAX_FILE_BYTES
    max_memory: int = 4 * GIB
    memory_size: int | None = None


def parse(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> Launch:
    """The command line's options (None: this process's) and the environment's; a wrong one ends with its sentence."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--model", help="a folder or hub id; default: the bundled one")
    parser.add_argument(
        "--training-free",
        action="store_const",
        const=YES[0],
        help="the model is any language model, given memory as it is: not LongMem, and said so everywhere",
    )
    parser.add_argument("--mcp", action="store_true", help="offer the endpoints as MCP tools too")
    parser.add_argument("--auth", metavar="USER:PASSWORD", help="ask visitors for these; default: nobody is asked")
    parser.add_argument("--memory-size", metavar="TOKENS", help="that a visitor's memory holds; default: the model's")
    parser.add_argument("--max-file-size", metavar="SIZE", help="of an upload; default: 64mb")
    parser.add_argument("--max-memory", metavar="SIZE", help="of all visitors' memory banks together; default: 4gb")
    given = parser.parse_args(arguments)

    def chosen(option: str) -> str | None:
        value = getattr(given, option)
        return environment.get(f"LONGMEM_{option.upper()}") or None if value is None else value

    try:
        if given.mcp and find_spec("mcp") is None:
            raise ValueError("--mcp needs the package mcp: install it with pip install 'gradio[mcp]'.")
        file, memory = chosen("max_file_size"), chosen("max_memory")
        return Launch(
            model=chosen("model") or BUNDLED,
            training_free=_is_wanted("LONGMEM_TRAINING_FREE", chosen("training_free")),
            mcp=given.mcp,
            auth=_pair(chosen("auth")),
            max_file_size=Launch.max_file_size
            if file is None
            else _size("--max-file-size", file, LEAST_FILE, MOST_FILE),
            max_memory=Launch.max_memory
            if memory is None
            else _size("--max-memory", memory, LEAST_MEMORY, MOST_MEMORY),
            memory_size=_tokens(chosen("memory_size")),
        )
    except ValueError as error:
        parser.error(str(error))


def open_model(chosen: Launch, device: str | None = None) -> LongMemForCausalLM:
    """The model to be shown, on the best device there is unless one is named. Errors: LongMemError where none loads."""
    if chosen.training_free:
        model = TrainingFreeMemory.from_backbone(chosen.model, device=device)
        model.need_tokenizer()  # without one nothing can be read: better said now
    else:
        model = LongMemForCausalLM.from_pretrained(chosen.model, device=device)
    model.config.memory_size = chosen.memory_size or model.config.memory_size
    return model


def _is_wanted(variable: str, text: str | None) -> bool:
    if text is not None and text.lower() not in YES + NO:
        raise ValueError(f"{variable} is {text[:40]!r}; it must be one of {', '.join(YES + NO)}.")
    return text is not None and text.lower() in YES


def _pair(text: str | None) -> tuple[str, str] | None:
    """User and password; neither stands in the error."""
    if text is None:
        return None
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise ValueError("--auth is not of the form USER:PASSWORD, with a colon between the two and neither empty.")
    return user, password


def _tokens(text: str | None) -> int | None:
    """A number of tokens such as `16384` or `16,384`."""
    if text is None:
        return None
    digits = text.strip().replace(",", "").replace("_", "")
    if not re.fullmatch(r"[0-9]{1,9}", digits) or not LEAST_TOKENS <= int(digits) <= MAX_CAPACITY:
        allowed = f"from {LEAST_TOKENS} to {MAX_CAPACITY:,}"
        raise ValueError(f"--memory-size is {text[:40]!r}; it must be a whole number of tokens {allowed}.")
    return int(digits)


def _size(option: str, text: str, least: int, most: int) -> int:
    """Bytes of a size such as `64mb`."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?) ?([kmgt]b)", text.strip().lower())
    n_bytes = int(float(found[1]) * UNITS[found[2]]) if found else 0
    if not least <= n_bytes <= most:
        allowed = f"from {_words(least)} to {_words(most)}"
        raise ValueError(f"{option} is {text[:40]!r}; it must be a size {allowed}, such as 64mb or 1.5gb.")
    return n_bytes


def _words(n_bytes: int) -> str:
    unit = max((name for name in UNITS if n_bytes >= UNITS[name]), key=UNITS.get)
    return f"{n_bytes // UNITS[unit]}{unit}"
