"""HTML pieces: everything that a stranger wrote is escaped, and every state says what to do."""

from html.parser import HTMLParser

import pytest

from app import markup
from app.markup import MemoryLine, TokenMark

EVIL = '<img src=x onerror="window.pwn=1"><script>window.pwn=1</script>\'"{{value}}${value}`'


class Tags(HTMLParser):
    """Collects tags and attributes, as a browser would see them."""

    def __init__(self):
        super().__init__()
        self.seen, self.attributes, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data):
        self.text += data


def parsed(html: str) -> Tags:
    tags = Tags()
    tags.feed(html)
    return tags


def hostile_pieces() -> list[str]:
    token = TokenMark(0, EVIL, 0.5, 0.1, 1.6)
    return [
        markup.token_panel(EVIL, [token], panel="with", run=1),
        markup.documents_list([MemoryLine(0, EVIL, 10, 3)]),
        markup.progress(EVIL, 1, 2, 1.0),
        markup.note(EVIL, "error"),
        markup.place_preview(EVIL, EVIL, EVIL, "#123456"),
        markup.model_line(1, [4], EVIL, EVIL),
        markup.memory_gauge([], 10, 0, EVIL),
        markup.empty_panel(EVIL, panel="with"),
    ]


@pytest.mark.parametrize("piece", hostile_pieces(), ids=range(len(hostile_pieces())))
def test_hostile_text_stays_text(piece):
    tags = parsed(piece)
    assert not {"img", "script"} & set(tags.seen)
    assert not [name for name in tags.attributes if name.startswith("on")]
    assert "window.pwn" in tags.text or "window.pwn" in piece


def test_tokens_are_tinted_by_effect_and_say_both_probabilities():
    html = markup.token_panel("p", [TokenMark(3, " lamp", 0.62, 0.08, 2.05)], panel="with", run=1)
    assert 'data-step="3"' in html
    assert "62 % with memory · 8.0 % without · +2.05 nats" in html
    assert "background:rgba(" in html


def test_the_panel_without_memory_has_no_tint():
    assert "background" not in markup.token_panel("p", [TokenMark(0, "a", 0.5, 0.5, 2.0)], panel="plain", run=1)


def test_line_breaks_and_empty_pieces_can_be_seen():
    html = markup.token_panel("", [TokenMark(0, "\n", 0.5, 0.5, 0), TokenMark(1, "", 0.5, 0.5, 0)], panel="with", run=1)
    assert "↵<br>" in html
    assert ">∅<" in html


def test_a_long_prompt_shows_its_end():
    html = markup.token_panel("start " + "x" * 700 + " end", [], panel="plain", run=1)
    assert "start" not in html
    assert " end</span>" in html


def test_progress_says_how_far_how_fast_and_how_long():
    html = markup.progress("Reading a.txt", 2_000, 10_000, 4.0)
    assert "2,000 of 10,000 tokens · 500 tokens/s · 16 s left" in html
    assert "starting" in markup.progress("Reading a.txt", 0, 10_000, 0.0)


def test_durations_read_like_speech():
    assert [markup.duration(seconds) for seconds in (0.4, 59, 125)] == ["0 s", "59 s", "2 min 5 s"]


def test_empty_memory_says_what_to_do():
    assert "Drop a file" in markup.documents_list([])


def test_gauge_gives_each_document_its_stretch_and_tells_when_full():
    lines = [MemoryLine(0, "a", 25, 7), MemoryLine(1, "b", 75, 19)]
    html = markup.memory_gauge(lines, 100, 2**20, "cpu")
    assert "width:25.000%" in html
    assert "width:75.000%" in html
    assert "100 of 100 tokens · full" in html
    assert "full" not in markup.memory_gauge(lines[:1], 100, 0, "cpu")


def test_a_note_without_words_is_nothing():
    assert markup.note("") == ""
