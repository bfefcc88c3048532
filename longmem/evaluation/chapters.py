"""Where the chapters of a book begin: headings, told from prose by their form, and the text on both sides of them."""

import re
from collections.abc import Sequence
from typing import NamedTuple

ROMAN = r"(?=[ivxlc])c{0,2}(?:xc|xl|l?x{0,3})(?:ix|iv|v?i{0,3})"
WORDS = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty first second third fourth fifth sixth seventh eighth ninth "
    "tenth eleventh twelfth last"
).replace(" ", "|")
KINDS = r"chapter|chap\.?|book|part|volume|vol\.?|section|letter|canto|act|scene|stave|episode"
NUMBERED = re.compile(rf"(?:the\s+)?(?:{KINDS})\s+(?:the\s+)?(?:{ROMAN}|\d+|(?:{WORDS})(?:-\w+)?)\b", re.IGNORECASE)
# No number alone begins with C: "C. B." are initials.
NUMBER = re.compile(rf"(?!c)(?:{ROMAN}|\d{{1,3}})(?:\s*[.:)]|$)", re.IGNORECASE)
UNNUMBERED = re.compile(r"(?:prologue|epilogue|conclusion|introduction|preface|interlude|appendix)\b", re.IGNORECASE)
ENDING = re.compile(r"(?:\*\s*)+$|(?:the\s+)?end(?:\s+of\s+.{1,60})?\W*$", re.IGNORECASE)
LONGEST_HEADING, LONGEST_CAPITALS = 120, 300  # characters


class Chapter(NamedTuple):
    """Characters of a text at which what came before ends, the heading begins and the prose begins."""

    end_before: int
    heading: int
    body: int


def find_headings(text: str) -> list[int]:
    """Characters at which headings of chapters begin: short blocks between blank lines such as "CHAPTER IV",
    "Chapter 3. The Storm", "XII.", "2. In the Toils", "BOOK THE SECOND" or "EPILOGUE".

    A table of contents is taken together with the first chapter after it (see `chapters_of`).
    """
    found, start = [], 0
    for block in text.split("\n\n"):
        if is_heading(block.strip()):
            found.append(start + len(block) - len(block.lstrip()))
        start += len(block) + 2
    return found


def chapters_of(text: str, offsets: Sequence[int]) -> list[Chapter]:
    """Chapters by the characters of their headings; headings with no prose between belong to one chapter."""
    by_body: dict[int, Chapter] = {}
    for offset in sorted(offsets):
        body = body_of(text, offset)
        by_body.setdefault(body, Chapter(end_before(text, offset), offset, body))
    return [chapter for body, chapter in by_body.items() if body < len(text)]


def is_heading(block: str) -> bool:
    """Whether a block is a numbered heading, with or without its title, or a prologue, preface or the like."""
    for pattern in (NUMBERED, NUMBER, UNNUMBERED):
        if match := pattern.match(block):
            title = block[match.end() :].lstrip(" .:,;-)\n")
            # After "Chapter 3." a sentence may be the title; after "3." it is a line of a list.
            sentence = pattern is NUMBERED and len(title) <= LONGEST_HEADING and not title[:1].islower()
            return not title or sentence or _is_title(title)
    return False


def _is_title(block: str) -> bool:
    """Whether a block may be a title: all in capitals, or short and either "The Great Seal." or without a full stop."""
    if not block[:1] or len(block) > LONGEST_CAPITALS:
        return False
    if block == block.upper():
        return any(map(str.isalpha, block)) and block.count("\n") <= 2
    if len(block) > LONGEST_HEADING or "\n" in block or block[0] in "\"'":
        return False
    long_words = [word for word in re.findall(r"[^\W\d_]+", block) if len(word) > 3]
    capitalised = len(long_words) > 1 and all(word[0].isupper() for word in long_words)
    return capitalised or (block[0].isupper() and block[-1] not in ".!?,;:-\"'")


def body_of(text: str, offset: int) -> int:
    """The character at which the prose of a chapter begins: after its heading's blocks, and at most two of a title."""
    block = block_at(text, offset)
    # A manifest's word is enough for the first block; one as long as a paragraph has its heading in its first line.
    at = offset + (len(block) if len(block) <= LONGEST_CAPITALS else block.find("\n") + 1)
    titles = 0
    while at < len(text):
        at += len(text[at : at + 1000]) - len(text[at : at + 1000].lstrip())
        block = block_at(text, at)
        if is_heading(block):
            titles = 0
        elif _is_title(block) and titles < 2:
            titles += 1
        else:
            break
        at += len(block)
    return at


def end_before(text: str, offset: int) -> int:
    """Where the text before a heading ends: "END OF BOOK I", "BOOK II" and its title belong to the heading."""
    end = at = offset
    for _ in range(4):
        stop = len(text[max(0, at - 1000) : at].rstrip()) + max(0, at - 1000)
        start = text.rfind("\n\n", 0, stop) + 2 if "\n\n" in text[:stop] else 0
        block = text[start:stop].strip()
        if is_heading(block) or ENDING.match(block):
            end = start
        elif not _is_title(block):
            break
        at = start
    return end


def block_at(text: str, start: int) -> str:
    """The block that begins at a character, up to the next blank line."""
    stop = text.find("\n\n", start)
    return text[start : stop if stop >= 0 else len(text)].rstrip()
