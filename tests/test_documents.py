"""Documents: every file format, broken and hostile files, and tokens that know their characters."""

import io
import logging
import random
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from pypdf import PdfReader, PdfWriter
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from longmem import readers
from longmem.documents import Document, clean_text
from longmem.errors import DocumentError

STORY = "The keeper lit the lamp.\n\nAt dawn the “Élodie” came home."
ODD_TEXTS = [
    "plain words",
    "  leading and trailing  \n",
    "🎉",
    "party 🎉🎊 and 👩‍👩‍👧 at 5",
    "e\u0301\u0323 cafe\u0301 \u1100\u1161\u11a8",
    "one\r\ntwo\rthree\n\n\nfour",
    "مرحبا بالعالم ١٢٣",
    "NUL\x00inside\x00",
    "lone \ud800 surrogate \udfff here",
    "halves \ud83d\ude00 meet",
    "字字 ﬁ ½ … “q”\t\ttab\u2028line\x0bfeed\x0c",
    "\ufeffbyte order mark",
    "<|endoftext|> as text <|pad|>",
    " " * 40 + "x" + "\n" * 9,
]


@pytest.fixture(autouse=True)
def readers_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the readers are tested; the process in which they work otherwise is in `test_confined.py`."""
    monkeypatch.setattr("longmem.documents.read_document", readers.read_text)


def make_pdf(*pages: str) -> bytes:
    """A PDF with one line of text a page, written by hand."""
    kids = " ".join(f"{3 + 2 * i} 0 R" for i in range(len(pages)))
    font = "<< /Font << /F << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"
    bodies = ["<< /Type /Catalog /Pages 2 0 R >>", f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>"]
    for i, text in enumerate(pages):
        content = f"BT /F 12 Tf 72 700 Td ({text}) Tj ET"
        box = f"/MediaBox [0 0 612 792] /Contents {4 + 2 * i} 0 R"
        bodies.append(f"<< /Type /Page /Parent 2 0 R {box} /Resources {font} >>")
        bodies.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
    data, offsets = "%PDF-1.4\n", []
    for number, body in enumerate(bodies, start=1):
        offsets.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(bodies) + 1
    trailer = f"trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{len(data)}\n%%EOF"
    return f"{data}xref\n0 {size}\n0000000000 65535 f \n{table}{trailer}".encode("latin-1")


def make_zip(files: dict[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def make_epub(extra: dict[str, str | bytes] | None = None) -> bytes:
    """Two chapters, listed in the manifest in the wrong order, and a cover that is an image."""
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
    )
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf"><manifest>'
        '<item id="two" href="text/b.xhtml" media-type="application/xhtml+xml"/>'
        '<item id="cover" href="cover.png" media-type="image/png"/>'
        '<item id="one" href="text/a%20b.xhtml" media-type="application/xhtml+xml"/></manifest>'
        '<spine><itemref idref="cover"/><itemref idref="one"/><itemref idref="two"/><itemref idref="one"/>'
        "</spine></package>"
    )
    page = '<?xml version="1.0"?><html><head><title>t</title><style/></head><body>{}</body></html>'
    files = {
        "META-INF/container.xml": container,
        "OEBPS/book.opf": package,
        "OEBPS/text/b.xhtml": page.format("<p>Second&nbsp;chapter.</p>"),
        "OEBPS/text/a b.xhtml": page.format("<h1>First</h1><p>It &amp; more.</p>"),
    }
    return make_zip(files | (extra or {}))


def make_docx(body: str, before: str = "") -> bytes:
    namespaces = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" xmlns:mc="urn:mc"'
    return make_zip({"word/document.xml": f"{before}<w:document {namespaces}><w:body>{body}</w:body></w:document>"})


def html_document(markup: str) -> str:
    return Document.from_bytes("page.html", markup.encode()).text


# Text files


@pytest.mark.parametrize("name", ["story.txt", "STORY.TXT", "story.md", "story.markdown"])
def test_text_files_are_read_as_they_are(tmp_path: Path, name: str):
    (tmp_path / name).write_text(STORY, encoding="utf-8")
    document = Document.from_file(tmp_path / name)
    assert document == Document(name, STORY)
    assert Document.from_file(str(tmp_path / name)) == document


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("utf-8-sig", STORY),
        ("utf-16", STORY),
        ("cp1252", "café"),
        ("cp1252", "The keeper walked home along the shore’s edge. " * 50),
        ("cp1252", "Le garçon a mangé une pomme près de la forêt, où il était déjà allé avec sa sœur."),
        ("cp1250", "Zażółć gęślą jaźń, a potem poszedł do domu, gdzie czekała na niego żona i dzieci."),
        ("cp1251", "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему."),
        ("shift_jis", "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"),
    ],
)
def test_other_encodings_are_found_out(encoding: str, text: str):
    assert Document.from_bytes("old.txt", text.encode(encoding)).text == text


def test_bytes_that_are_no_text_are_refused():
    noise = random.Random(0).randbytes(2000)
    with pytest.raises(DocumentError, match=r"noise\.txt is not text in any known encoding: save it as UTF-8"):
        Document.from_bytes("noise.txt", noise)


def test_cleaning_leaves_no_nul_no_surrogate_and_one_kind_of_newline():
    text = Document.from_text("odd", "a\x00b\r\nc\rd\r\r\ne\r\x00\nf \ud800 \ud83d\ude00").text
    assert text == "ab\nc\nd\n\ne\nf  😀"
    assert all(clean_text(clean_text(odd)) == clean_text(odd) for odd in ODD_TEXTS)
    assert Document.from_text("a\r\nb\x00\ud800", "x").name == "a b"


@pytest.mark.parametrize("text", ["", "  \n\t ", "\x00", "\ud800"])
def test_a_text_without_text_is_refused(text: str):
    with pytest.raises(DocumentError, match="nothing holds no text"):
        Document.from_text("nothing", text)


# HTML


def test_html_keeps_paragraphs_and_drops_scripts_styles_and_head():
    markup = """<!doctype html><html><head><title>No</title><style>p { no }</style><noscript>no</noscript></head><body>
    <h1>The  Lamp</h1><script>if (a < b) { no() }</script>
    <p>The keeper
       lit the <b>la</b>mp.</p><p>At dawn<br>it rained &amp; blew.</p><!-- no -->
    <ul><li>one</li><li>two</li></ul><table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>
    <p>&nbsp;</p>end</body></html>"""
    expected = "The Lamp\n\nThe keeper lit the lamp.\n\nAt dawn\nit rained & blew.\n\none\ntwo\n\na\tb\nc\n\nend"
    assert html_document(markup) == expected


def test_html_keeps_white_space_in_pre():
    assert (
        html_document("<p>code</p><pre>\n  if x:\n      y\n</pre><p>after</p>") == "code\n\n  if x:\n      y\n\nafter"
    )


def test_html_may_leave_out_end_tags():
    assert html_document("<head><meta charset=utf-8><title>No</title><p>one<p>two<li>three") == "one\n\ntwo\nthree"


def test_self_closing_tags_of_xhtml_do_not_swallow_what_follows():
    assert html_document('<head><script src="x"/><style/></head><p>a<script/>b<title/>c</p>') == "abc"


def test_html_without_visible_text_is_refused():
    with pytest.raises(DocumentError, match=r"page\.html holds no text"):
        html_document("<head><title>only a title</title></head><script>1</script>")


# PDF


def test_pdf_pages_become_paragraphs(tmp_path: Path):
    (tmp_path / "two.pdf").write_bytes(make_pdf("The first page.", "", "The second page."))
    assert Document.from_file(tmp_path / "two.pdf") == Document("two.pdf", "The first page.\n\nThe second page.")


def test_encrypted_pdf_says_so():
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(make_pdf("secret"))))
    writer.encrypt("password", algorithm="RC4-128")
    buffer = io.BytesIO()
    writer.write(buffer)
    with pytest.raises(DocumentError, match=r"locked\.pdf is encrypted: save a copy without a password"):
        Document.from_bytes("locked.pdf", buffer.getvalue())


def test_pdf_encrypted_with_aes_says_so_even_where_no_aes_is_installed():
    keys = f"/U <{'00' * 48}> /O <{'00' * 48}> /UE <{'00' * 32}> /OE <{'00' * 32}> /Perms <{'00' * 16}>"
    filters = "/CF << /StdCF << /CFM /AESV3 /Length 32 >> >> /StmF /StdCF /StrF /StdCF"
    entry = f"/Encrypt << /Filter /Standard /V 5 /R 6 /Length 256 /P -4 {keys} {filters} >> /Size"
    with pytest.raises(DocumentError, match=r"locked\.pdf is encrypted: save a copy without a password"):
        Document.from_bytes("locked.pdf", make_pdf("secret").replace(b"/Size", entry.encode()))


def test_pdf_of_pictures_points_to_ocr():
    with pytest.raises(DocumentError, match=r"scan\.pdf holds no text.*OCR"):
        Document.from_bytes("scan.pdf", make_pdf(""))


def test_pdf_text_is_capped(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(readers, "MAX_TEXT_CHARACTERS", 20)
    with pytest.raises(DocumentError, match=r"big\.pdf holds more than 20 characters of text"):
        Document.from_bytes("big.pdf", make_pdf("The first page.", "The second page."))


# EPUB


def test_epub_is_read_in_the_order_of_its_spine(tmp_path: Path):
    (tmp_path / "book.epub").write_bytes(make_epub())
    assert Document.from_file(tmp_path / "book.epub").text == "First\n\nIt & more.\n\nSecond chapter."


def encryption(uri: str) -> dict[str, str]:
    reference = f'<CipherReference URI="{uri}" xmlns="http://www.w3.org/2001/04/xmlenc#"/>'
    return {"META-INF/encryption.xml": f"<encryption>{reference}</encryption>"}


def test_epub_with_drm_says_so():
    with pytest.raises(DocumentError, match=r"bought\.epub is protected by DRM"):
        Document.from_bytes("bought.epub", make_epub(encryption("OEBPS/text/a%20b.xhtml")))


def test_epub_with_hidden_fonts_can_be_read():
    assert Document.from_bytes("a.epub", make_epub(encryption("OEBPS/font.otf"))).text.startswith("First")


# DOCX


def test_docx_keeps_paragraphs_tabs_and_line_breaks(tmp_path: Path):
    body = (
        "<w:p><w:r><w:t>Name</w:t><w:tab/><w:t>Age</w:t></w:r></w:p><w:p/>"
        "<w:moveFrom><w:p><w:r><w:t>gone</w:t></w:r></w:p></w:moveFrom>"
        "<w:p><w:pPr><w:tabs><w:tab/></w:tabs></w:pPr><w:r><w:t>two</w:t><w:br/><w:t>lines</w:t></w:r><w:del><w:r><w:delText>gone</w:delText></w:r></w:del></w:p>"
        "<mc:AlternateContent><mc:Choice><w:p><w:r><w:t>box</w:t></w:r></w:p></mc:Choice>"
        "<mc:Fallback><w:p><w:r><w:t>box</w:t></w:r></w:p></mc:Fallback></mc:AlternateContent>"
    )
    (tmp_path / "letter.docx").write_bytes(make_docx(body))
    assert Document.from_file(tmp_path / "letter.docx").text == "Name\tAge\n\ntwo\nlines\n\nbox"


# Broken and hostile files


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("notes.xyz", r"notes\.xyz has the extension '\.xyz', which is not read: allowed are \.docx, \.epub, "),
        ("README", r"README has the extension '', which is not read"),
        ("old.doc", r"old\.doc has the extension '\.doc'"),
    ],
)
def test_unknown_extensions_list_the_known_ones(name: str, message: str):
    with pytest.raises(DocumentError, match=message):
        Document.from_bytes(name, b"text")


@pytest.mark.parametrize("name", ["a.pdf", "a.epub", "a.docx"])
@pytest.mark.parametrize("data", [b"", b"not that", b"PK\x03\x04", b"%PDF-1.4"])
def test_broken_files_say_so(name: str, data: bytes):
    kind = name[2:].upper()
    with pytest.raises(DocumentError, match=rf"a\.{name[2:]} is broken or is not a {kind} file: save it again"):
        Document.from_bytes(name, data)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path):
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(DocumentError, match=f"{path.name} is not a file in .*: check the path"):
            Document.from_file(path)


@pytest.mark.parametrize("name", ["a.pdf", "a.epub", "a.docx", "a.html"])
def test_damaged_files_are_read_or_refused_but_never_crash(name: str, caplog: pytest.LogCaptureFixture):
    whole = {
        "a.pdf": make_pdf("The first page.", "The second page."),
        "a.epub": make_epub(),
        "a.docx": make_docx("<w:p><w:r><w:t>word</w:t></w:r></w:p>"),
        "a.html": b"<p>one<![if x]><!-- -- ><b a=1 a='2>two</b>&#xFFFFFFFF;<![CDATA[ x",
    }[name]
    noise = random.Random(1)
    refusals = []
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(noise.randint(1, 8)):
            data[noise.randrange(len(data))] = noise.randrange(256)
        if noise.random() < 0.3:
            del data[noise.randrange(len(data)) :]
        try:
            text = Document.from_bytes(name, bytes(data)).text
        except DocumentError as error:
            refusals.append(str(error))
        else:
            assert text.strip()
    assert refusals or name == "a.html"
    assert all(refusal.startswith(name) and "\n" not in refusal for refusal in refusals)
    assert not caplog.records


def test_files_that_are_too_large_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(readers, "MAX_FILE_BYTES", 2 * readers.MEGABYTE)
    (tmp_path / "large.txt").write_bytes(b"x" * (2 * readers.MEGABYTE + 1))
    with pytest.raises(DocumentError, match=r"large\.txt is larger than 2 MB, the most that is read"):
        Document.from_file(tmp_path / "large.txt")


def test_zip_with_too_many_entries_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(readers, "MAX_ZIP_ENTRIES", 5)
    with pytest.raises(DocumentError, match=r"many\.epub packs 8 files, and at most 5 are allowed"):
        Document.from_bytes("many.epub", make_epub({f"{i}.png": b"" for i in range(4)}))


def test_zip_bomb_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch):
    bomb = make_epub({"OEBPS/text/b.xhtml": b" " * (40 * readers.MEGABYTE)})
    monkeypatch.setattr(readers, "_read_entry", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(DocumentError, match=r"bomb\.epub would unpack to 40 MB, and at most 2\d MB are allowed"):
        Document.from_bytes("bomb.epub", bomb)


def test_zip_whose_whole_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(readers, "MAX_UNPACKED_BYTES", 3 * readers.MEGABYTE)
    data = make_epub({"cover.png": random.Random(0).randbytes(4 * readers.MEGABYTE)})
    with pytest.raises(DocumentError, match=r"photos\.epub would unpack to 4 MB, and at most 3 MB are allowed"):
        Document.from_bytes("photos.epub", data)


def test_every_read_from_a_zip_is_bounded(monkeypatch: pytest.MonkeyPatch):
    asked = []
    read = zipfile.ZipExtFile.read
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda entry, n=-1: asked.append(n) or read(entry, n))
    monkeypatch.setattr(readers, "MAX_ENTRY_BYTES", readers.MEGABYTE)
    with pytest.raises(DocumentError, match=r"a\.docx packs word/document.xml, which is larger than 1 MB"):
        Document.from_bytes("a.docx", make_docx("x" * readers.MEGABYTE))
    assert asked == [readers.MEGABYTE + 1]


def test_xml_entities_do_not_expand():
    levels = "".join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(8))
    bomb = make_docx("<w:p><w:r><w:t>&e8;</w:t></w:r></w:p>", f'<!DOCTYPE x [<!ENTITY e0 "ha">{levels}]>')
    theft = make_docx(
        "<w:p><w:r><w:t>&f;</w:t></w:r></w:p>", '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/hostname">]>'
    )
    for data in (bomb, theft):
        with pytest.raises(DocumentError, match=r"a\.docx is broken") as caught:
            Document.from_bytes("a.docx", data)
        assert type(caught.value.__cause__).__name__ == "EntitiesForbidden"


def test_xml_nested_without_end_is_refused():
    with pytest.raises(DocumentError, match=r"a\.docx is broken"):
        Document.from_bytes("a.docx", make_docx("<w:p>" * 5000 + "</w:p>" * 5000))


# Tokens and their characters


def train(tokenizer: Tokenizer, special_tokens: list[str]) -> PreTrainedTokenizerFast:
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([STORY, "party and leading words", "plain words"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=special_tokens[0])


@pytest.fixture(scope="module", params=["trimmed offsets", "composed accents", "prefix", "metaspace", "stripped"])
def foreign_tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    """Tokenizers as the hub has them, which do not give every character to a token."""
    if request.param in ("trimmed offsets", "composed accents"):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        if request.param == "trimmed offsets":
            tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
        else:
            tokenizer.normalizer = normalizers.NFC()
        return train(tokenizer, ["<unk>"])
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if request.param == "prefix":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    if request.param == "stripped":
        spaces = normalizers.Replace(Regex(" {2,}"), " ")
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip(), spaces])
    return train(tokenizer, ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))])


def assert_spans_hold(document: Document, tokenizer: PreTrainedTokenizerFast) -> None:
    """Spans as EncodedDocument promises them."""
    encoded = document.encode(tokenizer)
    assert encoded.document is document
    assert encoded.token_ids.dtype == encoded.spans.dtype == torch.int64
    assert encoded.spans.shape == (len(encoded.token_ids), 2)
    spans = encoded.spans.tolist()
    assert document.text[spans[0][0] : spans[-1][1]] == document.text
    assert all(start <= stop for start, stop in spans)
    assert all(following[0] in (span[1], span[1] - 1) for span, following in pairwise(spans))


@pytest.mark.parametrize("text", ODD_TEXTS, ids=ascii)
def test_spans_cover_odd_texts_without_gaps(text: str, tiny_tokenizer: PreTrainedTokenizerFast):
    document = Document.from_text("odd", text)
    assert_spans_hold(document, tiny_tokenizer)
    encoded = document.encode(tiny_tokenizer)
    assert tiny_tokenizer.decode(encoded.token_ids, clean_up_tokenization_spaces=False) == document.text
    for token_id, (start, stop) in zip(encoded.token_ids.tolist(), encoded.spans.tolist(), strict=True):
        token = tiny_tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
        assert "\ufffd" in token or token == document.text[start:stop]


@pytest.mark.parametrize("text", ODD_TEXTS, ids=ascii)
def test_spans_of_foreign_tokenizers_have_no_gaps_either(text: str, foreign_tokenizer: PreTrainedTokenizerFast):
    assert_spans_hold(Document.from_text("odd", text), foreign_tokenizer)


def test_spans_of_random_texts_have_no_gaps(tiny_tokenizer: PreTrainedTokenizerFast):
    dice = random.Random(3)
    alphabet = "ab e\n\t 7.,“é\u0301🎉字م\r\x00\ud800\udc00\u200d"
    for _ in range(300):
        text = "x" + "".join(dice.choices(alphabet, k=dice.randint(1, 60)))
        assert_spans_hold(Document.from_text("random", text), tiny_tokenizer)


def test_tokens_that_cut_an_emoji_span_all_of_it(tiny_tokenizer: PreTrainedTokenizerFast):
    encoded = Document.from_text("party", "a 🎉🎊").encode(tiny_tokenizer)
    spans = [tuple(span) for span in encoded.spans.tolist()]
    assert spans == [(0, 1), (1, 2), *[(2, 3)] * 4, *[(3, 4)] * 4]


def test_trimmed_space_goes_to_the_token_that_follows():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    text = "plain words words\n"
    spans = Document.from_text("two", text).encode(train(tokenizer, ["<unk>"])).spans.tolist()
    assert [text[start:stop] for start, stop in spans] == ["plain", " words", " words", "\n"]


def test_offsets_that_jump_still_give_spans_without_gaps():
    offsets = [(0, 2), (0, 0), (1, 5), (3, 4), (7, 9)]
    stub = lambda text, **_: {"input_ids": list(range(5)), "offset_mapping": offsets}  # noqa: E731
    spans = Document.from_text("jump", "ten letters").encode(stub).spans
    assert spans.tolist() == [[0, 2], [1, 2], [1, 5], [4, 5], [5, 11]]


def test_encoding_adds_no_special_tokens():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast = train(tokenizer, ["<s>"])
    fast.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    assert fast("words")["input_ids"][0] == 0
    assert 0 not in Document.from_text("story", STORY).encode(fast).token_ids


def test_a_text_longer_than_the_window_raises_no_warning(
    tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
):
    warned = []
    logger = logging.getLogger("transformers")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logging.Logger, "handle", lambda _, record: warned.append(record.getMessage()))
    monkeypatch.setattr(tiny_tokenizer, "model_max_length", 16)
    encoded = Document.from_text("long", STORY * 20).encode(tiny_tokenizer)
    assert len(encoded.token_ids) > 16
    assert warned == []


def test_a_text_of_which_the_tokenizer_keeps_nothing_is_refused():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(Regex("[^a-z ]"), "")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    with pytest.raises(DocumentError, match="sum holds no character that the model's tokenizer knows"):
        Document.from_text("sum", "1+1=2").encode(train(tokenizer, ["<unk>"]))
