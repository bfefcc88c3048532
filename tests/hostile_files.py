"""Hostile documents and tables of examples, each as (title, file name, how to write it into a path)."""

import io
import os
import random
import socket
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from tests.test_documents import make_docx, make_epub, make_pdf, make_zip

MB = 2**20
CANARY = "canary-7f3a"
SCRIPT = "<script>document.title='pwned'</script><img src=x onerror=alert(1)>"
Written = tuple[str, str, Callable[[Path], None]]
ENTITIES = "<!DOCTYPE x [<!ENTITY e0 'ha'>{}]>".format(
    "".join(f"<!ENTITY e{i + 1} '{f'&e{i};' * 10}'>" for i in range(9))
)
QUADRATIC = f"<!DOCTYPE x [<!ENTITY big '{'A' * 50_000}'>]>"


def written(title: str, name: str, make: Callable[[], bytes | str]) -> Written:
    def write(path: Path) -> None:
        data = make()
        path.write_bytes(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)

    return title, name, write


def sparse(n_bytes: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(n_bytes)

    return write


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def thieves(folder: Path, port: int) -> dict[str, str]:
    """Document types that ask for what is not in the file."""
    secret = folder / "secret.txt"
    return {
        "a file as an entity": f'<!DOCTYPE x [<!ENTITY f SYSTEM "file://{secret}">]>',
        "an address as an entity": f'<!DOCTYPE x [<!ENTITY f SYSTEM "http://127.0.0.1:{port}/x">]>',
        "a parameter entity": f'<!DOCTYPE x [<!ENTITY % f SYSTEM "file://{secret}"> %f;]>',
        "an external type": f'<!DOCTYPE x SYSTEM "http://127.0.0.1:{port}/x.dtd">',
        "entities in entities": ENTITIES,
        "a large entity many times": QUADRATIC,
    }


def texts() -> list[Written]:
    noise = random.Random(0)
    made = {
        "NUL bytes only": lambda: b"\0" * MB,
        "NUL bytes between words": lambda: b"a\0b\0" * 1000,
        "random bytes": lambda: noise.randbytes(300_000),
        "half a character at the end": lambda: "é".encode()[:1] * 3,
        "UTF-16 without a mark": lambda: ("words " * 2000).encode("utf-16-le"),
        "UTF-16 cut in two": lambda: ("words " * 2000).encode("utf-16")[:-1],
        "UTF-32": lambda: ("words " * 2000).encode("utf-32"),
        "UTF-7": lambda: b"+ADw-script+AD4-alert(1)+ADw-/script+AD4-" * 50,
        "overlong UTF-8": lambda: b"\xc0\xaf\xe0\x80\xaf" * 100,
        "surrogates in UTF-8": lambda: b"\xed\xa0\x80 word \xed\xbf\xbf" * 100,
        "Shift JIS and Cyrillic": lambda: ("日本語" * 99).encode("shift_jis") + ("слово" * 99).encode("cp1251"),
        "10 million newlines": lambda: b"\n" * 10_000_000,
        "10 million newlines and a word": lambda: b"\n" * 10_000_000 + b"word",
        "one word of 20 million letters": lambda: b"x" * 20_000_000,
        "nothing": lambda: b"",
        "white space only": lambda: " \t\u00a0\u2003\n" * 1000,
        "a script": lambda: SCRIPT * 100,
        "a script in cp1252": lambda: (SCRIPT + "café’s").encode("cp1252") * 100,
        "commands of a terminal": lambda: "\x1b]0;pwned\x07\x1b[2J\x1b[31mred" * 100,
        "letters turned around": lambda: "\u202egnp.exe\u202c \u2066x\u2069" * 100,
        "100,000 accents on a letter": lambda: "e" + "\u0301" * 100_000,
        "special tokens as text": lambda: "<|endoftext|><|pad|>" * 1000,
        "templates": lambda: "{{7*7}} ${7*7} {0.__class__} %s%n" * 100,
    }
    found = [written(title, "text.txt", make) for title, make in made.items()]
    found.append(("1 GB without a hole in memory", "text.txt", sparse(2**30)))
    found.append(("1 GB as Markdown", "text.md", sparse(2**30)))
    found.append(("1 GB as a PDF", "text.pdf", sparse(2**30)))
    found.append(("a pipe that nobody writes to", "text.txt", os.mkfifo))
    found.append(("a device without end", "text.txt", lambda path: path.symlink_to("/dev/zero")))
    found.append(("a link to nowhere", "text.txt", lambda path: path.symlink_to("nowhere")))
    found.append(("a link to itself", "text.txt", lambda path: path.symlink_to(path.name)))
    found.append(("a folder", "text.txt", Path.mkdir))
    found.append(("a socket", "text.txt", listening))
    return found


def names() -> list[Written]:
    """Harmless words under names that are not."""
    evil = [
        SCRIPT.replace("/", "") + ".txt",
        "=cmd|' C calc'!A0.txt",
        "\u202etxt.exe.txt",
        "a\nb\rc\x1b[2J.txt",
        "..\\..\\windows\\win.ini.txt",
        "CON.txt",
        "%2e%2e%2fetc%2fpasswd.txt",
        "a" * 240 + ".txt",
        "'; DROP TABLE memory; --.txt",
        "{text}{label}.txt",
        "none.exe",
        ".htaccess",
        "page.php",
        "a.txt.exe",
        "-rf.txt",
    ]
    return [written(f"the name {name[:40]!r}", name, lambda: b"harmless words") for name in evil]


def pages(folder: Path, port: int) -> list[Written]:
    made = {
        "200,000 open tags": lambda: "<div>" * 200_000 + "x",
        "200,000 half tags": lambda: "<a " * 200_000 + "x",
        "200,000 open comments": lambda: "<!--" * 200_000,
        "200,000 declarations": lambda: "<![" * 200_000 + "x",
        "instructions without end": lambda: "<?" * 200_000,
        "half an end tag, often": lambda: "</a" * 200_000,
        "a tag of 5 million attributes' letters": lambda: "<p " + "a='1' " * 800_000 + ">x",
        "an attribute without end": lambda: "<p a='" + "x" * 5_000_000,
        "ampersands": lambda: "&" * 1_000_000 + "x",
        "numbers of no character": lambda: "<p>x&#99999999999999999999;&#xD800;&#0;" * 1000,
        "scripts, styles and frames": lambda: f"<p>x{SCRIPT}<iframe src=file:///etc/passwd></iframe><style>@import 'x'",
        "a script that never ends": lambda: "<p>x<script>" + "y" * 5_000_000,
        "a redirection": lambda: f'<meta http-equiv=refresh content="0;url=http://127.0.0.1:{port}"><p>x',
        "an object and an embed": lambda: f"<object data='file://{folder}/secret.txt'></object><embed src=x><p>x",
        "a page inside a template": lambda: "<template>" + SCRIPT + "<p>x",
        "a file of bytes": lambda: random.Random(1).randbytes(200_000),
        "10 million newlines": lambda: "<pre>x" + "\n" * 10_000_000,
        "includes": lambda: f'<!--#include file="{folder}/secret.txt"--><xi:include href="secret.txt"/><p>x',
    }
    for title, doctype in thieves(folder, port).items():
        made[title] = lambda doctype=doctype: doctype + "<html><body><p>x &f; &e9; " + "&big;" * 1000
    return [written(title, "page.html", make) for title, make in made.items()]


def pdf(objects: dict[int, bytes], trailer: bytes = b"") -> bytes:
    """A PDF of these objects, the first of which is the catalogue."""
    data, offsets = b"%PDF-1.7\n", {}
    for number, body in objects.items():
        offsets[number] = len(data)
        data += b"%d 0 obj\n" % number + body + b"\nendobj\n"
    size = max(objects) + 1
    rows = b"".join(
        b"%010d 00000 n \n" % offsets[i] if i in offsets else b"0000000000 65535 f \n" for i in range(1, size)
    )
    end = b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R %s >>\n" % (size, rows, size, trailer)
    return data + end + b"startxref\n%d\n%%%%EOF" % len(data)


def stream(content: bytes, entries: bytes = b"") -> bytes:
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(content), entries, content)


def one_page(content: bytes, resources: bytes = b"", more: dict[int, bytes] | None = None) -> bytes:
    page = b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R /MediaBox [0 0 9 9] /Resources << %s >> >>" % resources
    tree = {1: b"<< /Type /Catalog /Pages 2 0 R >>", 2: b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>"}
    return pdf(tree | {3: page, 4: content} | (more or {}))


def pdfs() -> list[Written]:
    font = b"/Font << /F 5 0 R >>"
    words = b"BT /F 12 Tf (words) Tj ET "
    typed = b"<< /Type /Font /Subtype /Type0 /BaseFont /A /Encoding /Identity-H /ToUnicode 6 0 R >>"
    plain = {5: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"}
    bomb = zlib.compress(b" " * (100 * MB), 9)
    twice = zlib.compress(zlib.compress(b"0" * (300 * MB), 9), 9)
    form = stream(b"/X Do /X Do", b"/Type /XObject /Subtype /Form /Resources << /XObject << /X 5 0 R >> >>")
    loop = {1: b"<< /Type /Catalog /Pages 2 0 R >>", 2: b"<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 9 >>"}
    parents = loop | {
        2: b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        3: b"<< /Type /Pages /Kids [2 0 R] /Parent 3 0 R >>",
    }
    script = b"<< /Type /Action /S /JavaScript /JS (app.alert\\(1\\)) >>"
    launch = b"<< /Type /Action /S /Launch /F (/bin/sh) >>"
    cmap = b"begincmap 1 beginbfrange <00000000> <FFFFFFFF> <0041> endbfrange endcmap"
    many = b"/Kids [" + b"3 0 R " * 100_000 + b"] /Count 100000"
    kids = {2: b"<< /Type /Pages " + many + b" >>"}
    filters = b"/Filter [" + b"/FlateDecode " * 5000 + b"]"
    made = {
        "cut in two": lambda: make_pdf("one page")[:200],
        "only its first line": lambda: b"%PDF-1.7\n",
        "random bytes": lambda: b"%PDF-1.7\n" + random.Random(2).randbytes(200_000),
        "a tree of pages that holds itself": lambda: pdf(loop),
        "parents in a circle": lambda: pdf(parents),
        "a table that follows itself": lambda: make_pdf("x").replace(b"/Root", b"/Prev 9 /Root"),
        "a table at its own place": lambda: b"%PDF-1.7\nxref\n0 1\ntrailer << /Prev 9 >>\nstartxref\n9\n%%EOF",
        "a start that is not there": lambda: make_pdf("x").replace(b"startxref\n", b"startxref\n99999999"),
        "a billion pages": lambda: make_pdf("x").replace(b"/Count 1", b"/Count 999999999"),
        "100,000 times one page": lambda: one_page(stream(words), font, plain | kids),
        "a stream of 100 MB in 100 kB": lambda: one_page(stream(bomb, b"/Filter /FlateDecode"), font, plain),
        "a stream packed twice": lambda: one_page(stream(twice, b"/Filter [/FlateDecode /FlateDecode]"), font, plain),
        "5,000 filters": lambda: one_page(stream(b"x", filters), font, plain),
        "a packed stream that is broken": lambda: one_page(stream(bomb[:999], b"/Filter /FlateDecode"), font, plain),
        "LZW without end": lambda: one_page(stream(b"\x80\x0b" * 500_000, b"/Filter /LZWDecode"), font, plain),
        "run lengths": lambda: one_page(stream(b"\x81 " * 500_000, b"/Filter /RunLengthDecode"), font, plain),
        "ASCII 85 of noughts": lambda: one_page(stream(b"z" * 3_000_000, b"/Filter /ASCII85Decode"), font, plain),
        "a form that draws itself": lambda: one_page(stream(b"/X Do"), b"/XObject << /X 5 0 R >>", {5: form}),
        "a map of four billion letters": lambda: one_page(stream(words), font, {5: typed, 6: stream(cmap)}),
        "100,000 arrays in arrays": lambda: one_page(stream(b"[" * 100_000), font, plain),
        "100,000 dictionaries": lambda: pdf({1: b"<< /A " * 100_000}),
        "half a million operators": lambda: one_page(stream(words * 20_000), font, plain),
        "half a million saved states": lambda: one_page(stream(b"q " * 500_000 + words), font, plain),
        "a picture without end": lambda: one_page(stream(b"BI /W 1 ID " + b"x" * 500_000), font, plain),
        "a number of a million digits": lambda: one_page(stream(b"9" * 1_000_000 + b" Tc " + words), font, plain),
        "a length of its own place": lambda: one_page(b"<< /Length 4 0 R >>\nstream\nx\nendstream"),
        "a length of 10 GB": lambda: one_page(b"<< /Length 9999999999 >>\nstream\nx\nendstream"),
        "a font that is its own child": lambda: one_page(
            stream(words), font, {5: typed[:-2] + b"/DescendantFonts [5 0 R] >>"}
        ),
        "a script": lambda: make_pdf("words").replace(b"/Type /Catalog", b"/OpenAction " + script + b" /Type /Catalog"),
        "a command": lambda: make_pdf("words").replace(
            b"/Type /Catalog", b"/OpenAction " + launch + b" /Type /Catalog"
        ),
    }
    return [written(title, "paper.pdf", make) for title, make in made.items()]


def changed_zip(data: bytes, change: Callable[[zipfile.ZipInfo], None]) -> bytes:
    """The zip with a directory that says of its entries what `change` makes of it."""
    buffer = io.BytesIO(data)
    with zipfile.ZipFile(buffer, "a") as file:
        for entry in file.filelist:
            change(entry)
        file._didModify = True
    return buffer.getvalue()


def overlapping(n: int) -> bytes:
    """A zip with n entries that are all the same bytes."""
    data = make_epub({"a.bin": b"\0" * (15 * MB)})

    def add(file: zipfile.ZipFile) -> None:
        one = file.getinfo("a.bin")
        for i in range(n):
            copy_of = zipfile.ZipInfo(f"{i}.bin")
            for field in ("compress_type", "CRC", "compress_size", "file_size", "header_offset"):
                setattr(copy_of, field, getattr(one, field))
            file.filelist.append(copy_of)

    buffer = io.BytesIO(data)
    with zipfile.ZipFile(buffer, "a") as file:
        add(file)
        file._didModify = True
    return buffer.getvalue()


def set_to(**fields: object) -> Callable[[zipfile.ZipInfo], None]:
    def change(entry: zipfile.ZipInfo) -> None:
        for name, value in fields.items():
            setattr(entry, name, value)

    return change


def packed(make: Callable[[dict], bytes], page: str) -> dict[str, Callable[[], bytes]]:
    """What EPUB and DOCX have in common: a zip. `make` adds entries to a good file; `page` is one of its own."""
    nested = b"x"
    for _ in range(4):
        nested = make_zip({"a.zip": nested * 50})
    return {
        "no zip": lambda: b"not that" * 1000,
        "a zip cut in two": lambda: make({})[:-40],
        "an empty zip": lambda: make_zip({}),
        "a bomb of 60 MB": lambda: make({page: b" " * (60 * MB)}),
        "a bomb under the limit of its size": lambda: make({page: b"<" * (15 * MB)}),
        "zips in zips": lambda: make({"a.zip": nested}),
        "20,000 entries": lambda: make({f"{i}": b"" for i in range(20_000)}),
        "2,000 entries of the same bytes": lambda: overlapping(2000) if page.endswith("html") else make({"a": b"x"}),
        "a size that is a lie": lambda: changed_zip(make({page: b"y" * 1000}), set_to(file_size=10)),
        "a size of 4 GB": lambda: changed_zip(make({}), set_to(file_size=2**32 - 2)),
        "a sum that is wrong": lambda: changed_zip(make({}), set_to(CRC=1)),
        "a way of packing that nobody knows": lambda: changed_zip(
            make({}), set_to(compress_type=zipfile.ZIP_DEFLATED + 11)
        ),
        "a password": lambda: changed_zip(make({}), set_to(flag_bits=1)),
        "entries that lie nowhere": lambda: changed_zip(make({}), set_to(header_offset=2**31)),
        "names that climb": lambda: make({"../../../tmp/evil": b"x", "/etc/evil": b"x", "C:\\evil": b"x"}),
        "a script behind the zip": lambda: make({}) + SCRIPT.encode(),
    }


def books(folder: Path, port: int) -> list[Written]:
    page, opf, start = "OEBPS/text/b.xhtml", "OEBPS/book.opf", "META-INF/container.xml"
    made = packed(make_epub, page)
    for title, doctype in thieves(folder, port).items():
        made[f"{title}, in its start"] = lambda doctype=doctype: make_epub({start: doctype + "<a>&f;&e9;&big;</a>"})
        made[f"{title}, in a page"] = lambda doctype=doctype: make_epub({page: doctype + "<p>x &f;&e9;&big;"})
    item = '<package><manifest><item id="a" href="{}" media-type="html"/></manifest><spine>{}</spine></package>'
    once = '<itemref idref="a"/>'
    made |= {
        "a start outside of it": lambda: make_epub({start: f'<c><rootfile full-path="{folder}/secret.txt"/></c>'}),
        "a start above it": lambda: make_epub({start: '<c><rootfile full-path="../../secret.txt"/></c>'}),
        "pages above it": lambda: make_epub({opf: item.format("../../../secret.txt", once)}),
        "a page by its address": lambda: make_epub({opf: item.format(f"http://127.0.0.1:{port}/x", once)}),
        "one page 200,000 times": lambda: make_epub({opf: item.format("text/b.xhtml", once * 200_000)}),
        "no start": lambda: make_epub({start: "<c/>"}),
        "elements 100,000 deep": lambda: make_epub({opf: "<a>" * 100_000}),
        "an attribute of 10 MB": lambda: make_epub({opf: f'<a b="{"x" * 10 * MB}"/>'}),
    }
    return [written(title, "book.epub", make) for title, make in made.items()]


def letters(folder: Path, port: int) -> list[Written]:
    page = "word/document.xml"
    good = "<w:p><w:r><w:t>words</w:t></w:r></w:p>"

    def add(entries: dict) -> bytes:
        buffer = io.BytesIO(make_docx(good) if page not in entries else make_zip({}))
        with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as file:
            for name, data in entries.items():
                file.writestr(name, data)
        return buffer.getvalue()

    made = packed(add, page)
    for title, doctype in thieves(folder, port).items():
        text = good.replace("words", "&f;&e9;&big;")
        made[title] = lambda doctype=doctype, text=text: make_docx(text, doctype)
    made |= {
        "elements 100,000 deep": lambda: make_docx("<w:p>" * 100_000),
        "a million elements": lambda: make_docx("<w:p/>" * 1_000_000 + good),
        "a field that asks for a file": lambda: make_docx(
            f"<w:instrText>INCLUDETEXT {folder}/secret.txt</w:instrText>" + good
        ),
        "macros": lambda: add({"word/vbaProject.bin": b"\xd0\xcf\x11\xe0" * 100}),
        "a picture at an address": lambda: add(
            {"word/_rels/document.xml.rels": f'<R Target="http://127.0.0.1:{port}/"/>'}
        ),
    }
    return [written(title, "letter.docx", make) for title, make in made.items()]


def tables() -> list[Written]:
    """Labelled examples."""
    head = "text,label\n"
    made = {
        "formulas.csv": lambda: head + "=cmd|' /C calc'!A0,@SUM(1)\n+1,-1\n\t=1,＝1\n",
        "scripts.csv": lambda: head + f'"{SCRIPT.replace(chr(34), "")}",<b>label</b>\n',
        "fields.csv": lambda: head + "{label}{text.__class__},{text}\n",
        "open.csv": lambda: head + '"' + "x" * 200_000,
        "wide.csv": lambda: ",".join(["c"] * 1_000_000) + "\nx,y\n",
        "long.csv": lambda: head + "a,b\n" * 1_000_000,
        "large.csv": lambda: head + "a,b\n" * 5_000_000,
        "nul.csv": lambda: head + "a\0b,c\n",
        "bytes.csv": lambda: random.Random(3).randbytes(100_000),
        "newlines.csv": lambda: head + "\n" * 10_000_000,
        "other.csv": lambda: "a,b\n1,2\n",
        "twice.csv": lambda: "text,text,label\na,b,c\n",
        "empty.csv": lambda: "",
        "newlines.tsv": lambda: "text\tlabel\n" + "\n" * 10_000_000,
        "deep.jsonl": lambda: "[" * 100_000,
        "deeper.jsonl": lambda: '{"text":' * 100_000,
        "wide.jsonl": lambda: "[" + "[]," * 5_000_000 + "[]]",
        "number.jsonl": lambda: '{"text": "a", "label": ' + "9" * 100_000 + "}",
        "types.jsonl": lambda: '{"text": {"$ref": "x"}, "label": true}\n{"__class__": "os.system"}\n',
        "infinite.jsonl": lambda: '{"text": NaN, "label": Infinity}',
    }
    return [written(name, name, make) for name, make in made.items()]
