"""Books by number, from a server that is not there: what is asked, what is cut, what is refused."""

import httpx
import pytest

from app.gutenberg import HOST, MOST_BYTES, fetch_book
from longmem.errors import DocumentError

BOOK = (
    "The Project Gutenberg eBook of A Light\n\nTitle: A Light, and <b>Other</b> Tales\n\n"
    "*** START OF THE PROJECT GUTENBERG EBOOK A LIGHT ***\n\nThe lamp was lit.\n\n"
    "*** END OF THE PROJECT GUTENBERG EBOOK A LIGHT ***\nLicence\n"
)


def server(status: int = 200, body: str | bytes = BOOK, asked: list | None = None) -> httpx.MockTransport:
    def answer(request: httpx.Request) -> httpx.Response:
        if asked is not None:
            asked.append(request.url)
        return httpx.Response(status, content=body, headers={"location": "http://127.0.0.1/secret"})

    return httpx.MockTransport(answer)


def test_a_book_is_fetched_from_the_one_host_and_comes_without_its_frame():
    asked = []
    document = fetch_book(84, server(asked=asked))
    assert [(url.host, url.scheme) for url in asked] == [(HOST, "https")]
    assert document.text == "The lamp was lit.\n"
    assert document.name == "A Light, and <b>Other</b> Tales (Gutenberg 84)"


def test_a_text_without_frame_or_title_is_taken_whole():
    document = fetch_book(7, server(body="Only words."))
    assert (document.name, document.text) == ("book 7 (Gutenberg 7)", "Only words.\n")


@pytest.mark.parametrize("number", [0, -3, 1.5, None, "84", 10**7, float("nan")])
def test_what_is_no_number_of_a_book_is_refused_before_anybody_is_asked(number):
    asked = []
    with pytest.raises(DocumentError, match="Book is"):
        fetch_book(number, server(asked=asked))
    assert asked == []


def test_a_missing_book_a_redirect_and_a_huge_one_are_said():
    with pytest.raises(DocumentError, match="answered 404"):
        fetch_book(9, server(404))
    asked = []
    with pytest.raises(DocumentError, match="answered 302"):
        fetch_book(9, server(302, asked=asked))
    assert len(asked) == 1
    with pytest.raises(DocumentError, match="larger than"):
        fetch_book(9, server(body=b"x" * (MOST_BYTES + 1)))


def test_without_a_network_the_way_out_is_said():
    def fail(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no route")

    with pytest.raises(DocumentError, match="cannot be reached from here"):
        fetch_book(9, httpx.MockTransport(fail))
