"""Books of Project Gutenberg by number: the one address outside of this machine that the studio ever asks."""

import re

import httpx

from longmem.documents import Document
from longmem.errors import DocumentError

HOST = "www.gutenberg.org"
ADDRESS = f"https://{HOST}/cache/epub/{{number}}/pg{{number}}.txt"
MOST_BYTES = 16 * 2**20
SECONDS = 20
START = re.compile(r"\*\*\* ?START OF TH(?:E|IS) PROJECT GUTENBERG EBOOK[^\n]*\*\*\*")
END = re.compile(r"\*\*\* ?END OF TH(?:E|IS) PROJECT GUTENBERG EBOOK")
TITLE = re.compile(r"^Title: *(.+)$", re.MULTILINE)


def fetch_book(number: object, transport: httpx.BaseTransport | None = None) -> Document:
    """The text of a book without the frame that Project Gutenberg puts around it.

    Errors: DocumentError for what is no number, a book that is not there, and where there is no network.
    """
    if not isinstance(number, int | float) or not 1 <= number <= 999_999 or number % 1:
        raise DocumentError(f"Book is {number!r}; it must be the number of a Project Gutenberg book, such as 1342.")
    number = int(number)
    try:
        # Redirects are not followed: nobody else is asked.
        with httpx.Client(transport=transport, timeout=SECONDS, follow_redirects=False) as client:
            data = _limited(client, ADDRESS.format(number=number), number)
    except httpx.HTTPError as error:
        raise DocumentError(
            f"Project Gutenberg cannot be reached from here ({type(error).__name__}): save the book and drop its file."
        ) from error
    return _document(data.decode("utf-8", errors="replace"), number)


def _limited(client: httpx.Client, address: str, number: int) -> bytes:
    """The answer, as far as a book can be long."""
    with client.stream("GET", address) as answer:
        if answer.status_code != 200:
            raise DocumentError(f"Project Gutenberg has no text of book {number} (it answered {answer.status_code}).")
        data = b""
        for piece in answer.iter_bytes():
            data += piece
            if len(data) > MOST_BYTES:
                raise DocumentError(f"Book {number} is larger than {MOST_BYTES // 2**20} MiB.")
    return data


def _document(text: str, number: int) -> Document:
    title = TITLE.search(text)
    start, end = START.search(text), END.search(text)
    body = text[start.end() if start else 0 : end.start() if end else len(text)]
    name = title.group(1).strip()[:80] if title else f"book {number}"
    return Document.from_text(f"{name} (Gutenberg {number})", body.strip() + "\n")
