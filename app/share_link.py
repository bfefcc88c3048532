"""Prompt, place and settings as the query of a link to the page, and back.

A link is typed by strangers: every value is checked and limited when read. What is bad or missing is said, and stays as
the page has it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from urllib.parse import urlencode

from app.generating import MAX_PROMPT
from app.settings import Settings
from longmem.errors import LongMemError

MAX_LINK = 8_000  # characters of a whole link: servers and messengers cut longer ones
MAX_NAME = 200
MAX_DIGITS = 24
# Keys of the query and the settings that they stand for.
SETTINGS = {"length": "max_new_tokens", "temperature": "temperature", "top_p": "top_p", "seed": "seed"}
WHOLE = {"length", "seed"}
PROMPT, DOCUMENT, SHARE = "prompt", "document", "share"
KEYS = (PROMPT, DOCUMENT, SHARE, *SETTINGS)


@dataclass(frozen=True)
class NamedPlace:
    """A place in a document that is known by its name: after `share` (0..1) of its text."""

    document: str
    share: float


@dataclass(frozen=True)
class SharedRun:
    """What a link asks for: None, or no entry in `settings`, where it says nothing; `problems` are sentences."""

    prompt: str | None = None
    place: NamedPlace | None = None
    settings: dict[str, int | float] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether the link says nothing of ours at all."""
        return self == SharedRun()


def to_query(settings: Settings, prompt: str = "", place: NamedPlace | None = None) -> str:
    """The query of a link, without its question mark; a place stands instead of the prompt."""
    source = {PROMPT: prompt} if place is None else {DOCUMENT: place.document, SHARE: f"{100 * place.share:.6g}"}
    return urlencode(source | {key: str(getattr(settings, name)) for key, name in SETTINGS.items()})


def from_query(query: Mapping[str, str]) -> SharedRun:
    """What the query of a page's address asks for; keys that are not ours are passed over."""
    given = {key: str(query[key]) for key in KEYS if key in query}
    if not given:
        return SharedRun()
    problems: list[str] = []
    place = _place(given, problems)
    prompt = None if place is not None else _prompt(given, problems)
    settings = {}
    for key, name in SETTINGS.items():
        number = _number(key, given.get(key), problems)
        if number is not None and _is_allowed(name, number, problems):
            settings[name] = number
    return SharedRun(prompt, place, settings, tuple(problems))


def _prompt(given: Mapping[str, str], problems: list[str]) -> str | None:
    prompt = given.get(PROMPT)
    if prompt is None:
        problems.append("The link holds no prompt.")
    elif not prompt.strip():
        problems.append("The link's prompt is empty.")
    elif len(prompt) > MAX_PROMPT:
        problems.append(f"The link's prompt has {len(prompt):,} characters; at most {MAX_PROMPT:,} are allowed.")
    else:
        return prompt
    return None


def _place(given: Mapping[str, str], problems: list[str]) -> NamedPlace | None:
    if DOCUMENT not in given:
        return None
    name, share = given[DOCUMENT], _number(SHARE, given.get(SHARE), problems)
    if not name.strip() or len(name) > MAX_NAME:
        problems.append(f"The link's document has a name of {len(name)} characters; it must be 1 to {MAX_NAME}.")
    elif share is not None and not 1 <= share <= 99:
        problems.append(f"The link's share is {share:g}; it must be from 1 to 99 % of the document.")
    elif share is not None:
        return NamedPlace(name, share / 100)
    return None


def _number(key: str, text: str | None, problems: list[str]) -> int | float | None:
    if text is None:
        problems.append(f"The link does not say {key}.")
        return None
    try:
        if len(text) > MAX_DIGITS:
            raise ValueError
        number = int(text) if key in WHOLE else float(text)
        if not isfinite(number):
            raise ValueError
    except ValueError:
        kind = "whole number" if key in WHOLE else "number"
        problems.append(f"The link's {key} is {text[:MAX_DIGITS]!r}; it must be a {kind}.")
        return None
    return number


def _is_allowed(name: str, number: int | float, problems: list[str]) -> bool:
    """Whether a setting may have this value: `Settings` itself says so."""
    try:
        Settings(**{name: number})
    except LongMemError as error:
        problems.append(str(error))
        return False
    return True
