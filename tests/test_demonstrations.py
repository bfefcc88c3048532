"""Demonstrations: rows of files, their mistakes by line number, templates, and which character is whose."""

import json
from pathlib import Path

import pytest

from longmem.demonstrations import (
    PAPER_TEMPLATES,
    SENTIMENT_TEMPLATE,
    SUBJECTIVITY_TEMPLATE,
    Demonstration,
    DemonstrationSet,
    Template,
    column_names,
    read_demonstrations,
    sort_rows,
    to_document,
)
from longmem.documents import clean_text
from longmem.errors import DemonstrationError, DocumentError

TWO = [Demonstration("a warm story", "positive", 2), Demonstration('"cold", it is', "negative", 3)]
ODD_TEXTS = ["{label} {0} {text.__class__} {", "}{", "%s %(text)s $text", "é🎉\u0301", "a\r\nb\rc", "\x00x\ud800"]


def jsonl(*rows: object) -> bytes:
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows).encode()


def plain(demonstrations: list[Demonstration]) -> list[tuple[str, str, int]]:
    return [(each.text, each.label, each.line) for each in demonstrations]


# Reading


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("two.csv", 'text,label\na warm story,positive\n"""cold"", it is",negative\n'),
        ("two.csv", '\ufefflabel;id,text,label\r\n1,a warm story,positive\r\n2,"""cold"", it is",negative\r\n'),
        ("two.TSV", 'text\tlabel\na warm story\tpositive\n"cold", it is\tnegative\n'),
        ("two.tsv", 'text\tlabel\n"a warm story"\tpositive\n"""cold"", it is"\tnegative'),
        (
            "two.jsonl",
            '\n{"text": "a warm story ", "label": "positive"}\n{"text": "\\"cold\\", it is", "label": "negative"}',
        ),
    ],
)
def test_every_format_gives_the_same_demonstrations(tmp_path: Path, name: str, content: str):
    (tmp_path / name).write_bytes(content.encode())
    assert read_demonstrations(tmp_path / name) == TWO
    assert read_demonstrations(str(tmp_path / name)) == read_demonstrations((name, content.encode())) == TWO


def test_columns_can_be_named():
    data = jsonl({"review": "fine", "text": "no", "stars": 5, "label": "no"})
    demonstrations = read_demonstrations(("a.jsonl", data), text_column="review", label_column="stars")
    assert demonstrations == [Demonstration("fine", "5", 1)]


def test_rows_of_several_lines_are_counted_from_where_they_start():
    data = b'text,label\n"one\r\ntwo",yes\n\nthree,no\n'
    assert plain(read_demonstrations(("a.csv", data))) == [("one\ntwo", "yes", 2), ("three", "no", 5)]


def test_line_separators_inside_a_text_end_no_row():
    text = "one\u2028two\x0bthree\x85four"
    for name, content in {
        "a.jsonl": json.dumps({"text": text, "label": "x"}, ensure_ascii=False),
        "a.csv": f"text,label\n{text},x\n",
        "a.tsv": f"text\tlabel\n{text}\tx\n",
    }.items():
        assert [each.text for each in read_demonstrations((name, content.encode()))] == [text]


def test_a_spreadsheet_in_an_old_encoding_can_be_read():
    data = "text,label\nLe café était fermé près de la forêt,négatif\nOù est passé le garçon,neutre\n".encode("cp1252")
    assert [each.label for each in read_demonstrations(("a.csv", data))] == ["négatif", "neutre"]


def test_fields_are_cleaned_as_documents_are():
    data = jsonl({"text": "a\r\nb\u0000\ud800 ", "label": "\tx\n"})
    assert plain(read_demonstrations(("a.jsonl", data))) == [("a\nb", "x", 1)]


# Wrong rows


WRONG_ROWS = jsonl(
    {"text": "fine", "label": "good"},
    {"text": "no label"},
    {"text": "  ", "label": "good"},
    {"text": "empty label", "label": ""},
    {"text": 7, "label": "good"},
    {"text": "null label", "label": None},
    {"text": "flag", "label": True},
    "[1, 2]",
    '{"text": "cut',
    "[" * 100_000,
    {"text": "number", "label": 3},
)


def test_wrong_rows_are_listed_with_their_lines():
    with pytest.raises(DemonstrationError) as caught:
        read_demonstrations(("a.jsonl", WRONG_ROWS))
    assert str(caught.value) == (
        "a.jsonl: 9 of 11 rows cannot be used, mend or skip them: line 2: no 'label'; line 3: 'text' is empty; "
        "line 4: 'label' is empty; line 5: 'text' is not text; line 6: 'label' is not text; "
        "line 7: 'label' is not text; line 8: not a JSON object; line 9: not a JSON object; line 10: not a JSON object."
    )


def test_wrong_rows_can_be_skipped():
    demonstrations = read_demonstrations(("a.jsonl", WRONG_ROWS), skip_bad=True)
    assert plain(demonstrations) == [("fine", "good", 1), ("number", "3", 11)]


def test_wrong_rows_of_tables_are_listed_too():
    data = b'text,label\ntoo,many,fields\nfew\n"broken" quotes,x\ngood,x\n"never closed,x\n'
    expected = (
        r"4 of 5 rows .*: line 2: 3 fields where the header names 2; line 3: 1 fields .*; line 4: not CSV .*; line 6"
    )
    with pytest.raises(DemonstrationError, match=expected):
        read_demonstrations(("a.csv", data))
    assert plain(read_demonstrations(("a.csv", data), skip_bad=True)) == [("good", "x", 5)]
    with pytest.raises(DemonstrationError, match=r"1 of 2 rows .*: line 2: 3 fields where the header names 2"):
        read_demonstrations(("a.tsv", b"text\tlabel\na\tb\tc\na\tb"))


def test_only_the_first_ten_wrong_rows_are_listed():
    with pytest.raises(DemonstrationError) as caught:
        read_demonstrations(("a.jsonl", jsonl(*["no"] * 1234)))
    message = str(caught.value)
    assert message.startswith("a.jsonl: 1,234 of 1,234 rows cannot be used")
    assert message.count("line ") == 10
    assert message.endswith("line 10: not a JSON object; and 1,224 more.")


def test_skipping_every_row_is_an_error():
    with pytest.raises(DemonstrationError, match=r"a\.jsonl: 1 of 1 rows cannot be used"):
        read_demonstrations(("a.jsonl", b"no"), skip_bad=True)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"", r"a\.csv has no column 'text': its first line names none\."),
        ("a.csv", b"review,stars\nx,y", r"a\.csv has no column 'text': its first line names 'review', 'stars'\."),
        ("a.tsv", b"text\tstars\nx\ty", r"a\.tsv has no column 'label': its first line names 'text', 'stars'\."),
        ("a.csv", b"text,label\n", r"a\.csv holds no demonstrations"),
        ("a.jsonl", b"\n\n", r"a\.jsonl holds no demonstrations"),
        ("a.xlsx", b"PK", r"a\.xlsx has the extension '\.xlsx': allowed are \.jsonl, \.ndjson, \.csv and \.tsv\."),
        ("a.csv", bytes(range(128, 256)) * 9, r"a\.csv is not text in any known encoding"),
    ],
)
def test_files_without_usable_rows_say_why(name: str, data: bytes, message: str):
    with pytest.raises(DemonstrationError, match=message):
        read_demonstrations((name, data))


def test_a_missing_file_is_a_demonstration_error(tmp_path: Path):
    with pytest.raises(DemonstrationError, match=r"none\.csv is not a file"):
        read_demonstrations(tmp_path / "none.csv")


# Templates


def test_the_templates_of_the_paper():
    demonstration = Demonstration("a warm story", "positive", 1)
    assert SENTIMENT_TEMPLATE.render(demonstration) == "Review: a warm story Sentiment: positive. "
    assert SUBJECTIVITY_TEMPLATE.prompt("a warm story") == "Input: a warm story Type:"
    assert set(PAPER_TEMPLATES) == {"sst2", "sst5", "mr", "mpqa", "subj"}
    assert PAPER_TEMPLATES["subj"] is SUBJECTIVITY_TEMPLATE
    assert PAPER_TEMPLATES["mpqa"] is SENTIMENT_TEMPLATE


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("Review: {text}", r"holds \{label\} not at all: it must hold it once"),
        ("{label}", r"holds \{text\} not at all"),
        ("{text} {text} {label}", r"holds \{text\} 2 times"),
        ("{label}: {text}", r"has \{label\} before \{text\}"),
        ("{ text } {label}", r"'\{ text \} \{label\}' holds \{text\} not at all"),
    ],
)
def test_a_template_needs_both_fields(pattern: str, message: str):
    with pytest.raises(DemonstrationError, match=message):
        Template(pattern)


@pytest.mark.parametrize("odd", ODD_TEXTS, ids=ascii)
def test_nothing_in_a_demonstration_or_template_is_formatted(odd: str):
    template = Template("{0}{text}{x!r}{label}{{}}")
    assert template.render(Demonstration(odd, odd, 1)) == "{0}" + clean_text(odd) + "{x!r}" + clean_text(odd) + "{{}}"
    assert template.prompt(odd) == "{0}" + clean_text(odd) + "{x!r}"


def test_a_rendered_demonstration_begins_with_its_prompt():
    for template in (SENTIMENT_TEMPLATE, Template("{text}\n\n{label}\n"), Template("<{text}>{label}")):
        assert template.render(TWO[0]).startswith(template.prompt(TWO[0].text))


# The document


def test_every_character_knows_its_demonstration():
    demonstrations = [Demonstration(text, f"label {i}", i) for i, text in enumerate(ODD_TEXTS * 3)]
    template = Template("\r\nReview: {text} Sentiment: {label}.\r")
    made = DemonstrationSet.from_demonstrations(demonstrations, template, "reviews")
    assert made.document.text == "".join(template.render(each) for each in demonstrations)
    assert len(made.starts) == len(demonstrations)
    owners = [each for each in demonstrations for _ in template.render(each)]
    assert [made.at(character) for character in range(len(made.document.text))] == owners


def test_characters_outside_the_document_belong_to_nobody():
    made = DemonstrationSet.from_demonstrations(TWO, SENTIMENT_TEMPLATE, "reviews")
    for character in (-1, len(made.document.text)):
        with pytest.raises(DemonstrationError, match=f"Character {character} is not in reviews: 0 to 84 are"):
            made.at(character)


def test_a_document_of_demonstrations_holds_them_one_after_another():
    document = to_document(TWO, SENTIMENT_TEMPLATE, "reviews")
    assert document.name == "reviews"
    assert document.text == 'Review: a warm story Sentiment: positive. Review: "cold", it is Sentiment: negative. '


def test_no_demonstrations_make_no_document():
    with pytest.raises(DemonstrationError, match="reviews holds no demonstrations"):
        to_document([], SENTIMENT_TEMPLATE, "reviews")
    assert not issubclass(DemonstrationError, DocumentError)


def test_wrong_rows_are_told_from_right_ones_without_an_error():
    data = b"text,label\na ship,cold\n,warm\nthe sea\nthe name,warm\n"
    found, wrong = sort_rows(("a.csv", data))
    assert [(d.text, d.line) for d in found] == [("a ship", 2), ("the name", 5)]
    assert [row.line for row in wrong] == [3, 4]
    assert "'text' is empty" in wrong[0].problem
    assert "1 fields where the header names 2" in wrong[1].problem


@pytest.mark.parametrize(
    ("name", "data", "columns"),
    [
        ("a.csv", b'id,"the text",label\n1,2,3\n', ["id", "the text", "label"]),
        ("a.tsv", b"text\tlabel\n", ["text", "label"]),
        ("a.jsonl", b'{"text": "a"}\nnothing\n{"label": 1, "text": "b"}\n', ["text", "label"]),
    ],
)
def test_columns_are_those_of_the_header_or_of_the_first_objects(name: str, data: bytes, columns: list[str]):
    assert column_names((name, data)) == columns
