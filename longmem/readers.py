"""File formats -> text: txt, md, html, pdf, epub and docx, told apart by the extension of the file's name.

Every reader takes `(name, data)`, the file's name (for error messages) and its bytes, and returns text that nobody has
cleaned yet. Files come from strangers: XML is parsed by defusedxml, zip archives are weighed before they are opened,
every read is bounded, and whatever a parser raises on a broken file reaches the caller as a `DocumentError`. What a
parser takes in time and memory is bounded by `longmem.confined`, which runs these readers for `Document`.
"""

import io
import logging
import posixpath
import re
import zipfile
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path, PurePath
from urllib.parse import unquote
from xml.etree.ElementTree import Element

import charset_normalizer

from longmem.errors import DocumentError

MEGABYTE = 2**20
MAX_FILE_BYTES = 128 * MEGABYTE
MAX_ZIP_ENTRIES = 10_000
MAX_UNPACKED_BYTES = 512 * MEGABYTE  # an illustrated EPUB is large, but only its text is unpacked
MAX_ENTRY_BYTES = 64 * MEGABYTE
# An honest archive may unpack to 16 MB whatever its size, and beyond that to 100 bytes for each packed one.
FREE_UNPACKED_BYTES = 16 * MEGABYTE
MAX_RATIO = 100
MAX_TEXT_CHARACTERS = 64 * MEGABYTE

# Of all bytes, the share above 0x7F below which a text that is not UTF-8 is taken for Western European (cp1252): there
# are too few of them to tell alphabets apart, and charset-normalizer finds Korean in English with curly apostrophes.
FEW_HIGH_BYTES = 0.03

HEAD_TAGS = frozenset({"html", "head", "base", "link", "meta", "noscript"})
UNREAD_TAGS = frozenset({"script", "style", "template", "title"})
PARAGRAPH_TAGS = re.compile(
    "address|article|aside|blockquote|body|dd|div|dl|fieldset|figcaption|figure|footer|form|h[1-6]|header|hr|main|nav"
    "|ol|p|pre|section|table|ul"
)
LINE_TAGS = frozenset({"caption", "dt", "li", "option", "tr"})
CELL_TAGS = frozenset({"td", "th"})
SPACES = re.compile("[ \t\n\r\f\xa0]+")

# Properties hold tab *stops*, Fallback repeats what Choice says, and moveFrom what moveTo says.
DOCX_UNREAD = frozenset({"pPr", "rPr", "sectPr", "tblPr", "Fallback", "moveFrom"})
DOCX_MARKS = {"tab": "\t", "ptab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a regular file of at most `MAX_FILE_BYTES`; DocumentError for anything else."""
    path = Path(path)
    if not path.is_file():
        raise DocumentError(f"{path.name} is not a file in {path.parent}: check the path.")
    check_size(path.name, path.stat().st_size)  # before a byte of it is in memory
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise DocumentError(f"{path.name} cannot be opened ({error.strerror}): check its permissions.") from error
    return data


def read_text(name: str, data: bytes) -> str:
    """The text of a file; `name` tells its type by extension. Errors: DocumentError, one sentence naming the file."""
    check_file(name, len(data))
    try:
        return check_text(name, READERS[PurePath(name).suffix.lower()](name, data))
    except DocumentError:
        raise
    except Exception as error:  # parsers raise whatever their code meets in a broken file, and none lists it
        raise broken(name) from error


def check_file(name: str, n_bytes: int) -> None:
    """Errors: DocumentError for a file of an unknown type, or too large."""
    extension = PurePath(name).suffix.lower()
    if extension not in READERS:
        allowed = ", ".join(EXTENSIONS)
        raise DocumentError(f"{name} has the extension {extension!r}, which is not read: allowed are {allowed}.")
    check_size(name, n_bytes)


def check_size(name: str, n_bytes: int) -> None:
    """Errors: DocumentError for a file that is too large."""
    if n_bytes > MAX_FILE_BYTES:
        raise DocumentError(f"{name} is larger than {MAX_FILE_BYTES // MEGABYTE} MB, the most that is read: split it.")


def check_text(name: str, text: str) -> str:
    """The text itself. Errors: DocumentError where it is too long."""
    if len(text) > MAX_TEXT_CHARACTERS:
        raise _too_long(name)
    return text


def _too_long(name: str) -> DocumentError:
    return DocumentError(f"{name} holds more than {MAX_TEXT_CHARACTERS:,} characters of text: split it.")


def broken(name: str) -> DocumentError:
    """The error for a file that its parser does not understand."""
    kind = PurePath(name).suffix.lower().removeprefix(".").upper()
    return DocumentError(f"{name} is broken or is not a {kind} file: save it again and retry.")


def decode_text(name: str, data: bytes) -> str:
    """`decode` for a file of any name. Errors: DocumentError where it is too large or no text."""
    check_size(name, len(data))
    return check_text(name, decode(name, data))


def decode(name: str, data: bytes) -> str:
    """Bytes -> text: UTF-8 where valid, else what charset-normalizer finds, Western European where it cannot tell."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    western = _decode_western(data)
    if western is not None and _high_share(data) < FEW_HIGH_BYTES:
        return western
    matches = charset_normalizer.from_bytes(data)
    best = matches.best()
    if best is None:
        raise DocumentError(f"{name} is not text in any known encoding: save it as UTF-8.")
    tied = [match for match in matches if (match.chaos, match.coherence) == (best.chaos, best.coherence)]
    if western is not None and any("cp1252" in match.could_be_from_charset for match in tied):
        return western  # candidates as good as each other are listed by alphabet, so cp1250 would win
    return str(best)


def _decode_western(data: bytes) -> str | None:
    """The text of `data` in cp1252, or None where it is UTF-16 or UTF-32 (zero bytes) or has undefined bytes."""
    try:
        return None if b"\x00" in data else data.decode("cp1252")
    except UnicodeDecodeError:
        return None


def _high_share(data: bytes) -> float:
    """The share of bytes above 0x7F."""
    return len(data.translate(None, bytes(range(0x80)))) / max(1, len(data))


class _HtmlText(HTMLParser):
    """Collects the visible text of HTML: one blank line between paragraphs, a newline between lines and at <br>."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._breaks = 0  # newlines owed before the next text
        self._unread = 0  # open elements whose text nobody sees
        self._in_head = False
        self._pre = 0  # open <pre> elements

    def text(self) -> str:
        """What has been collected so far."""
        return "".join(self._parts).rstrip()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in UNREAD_TAGS:
            self._unread += 1
        elif tag == "head":
            self._in_head = True
        elif tag not in HEAD_TAGS:
            self._in_head = False  # HTML lets authors leave </head> out
        if tag == "br":
            self._breaks = min(2, self._breaks + 1)
        elif tag in CELL_TAGS and self._parts and not self._breaks:
            self._parts.append("\t")
        self._break_at(tag)
        self._pre += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if tag in UNREAD_TAGS:
            self._unread = max(0, self._unread - 1)
        elif tag == "head":
            self._in_head = False
        elif tag == "pre":
            self._pre = max(0, self._pre - 1)
        self._break_at(tag)

    def handle_data(self, data: str) -> None:
        if self._unread or self._in_head:
            return
        line_starts = self._breaks or not self._parts
        if self._pre:
            data = data.removeprefix("\n") if line_starts else data
        else:
            data = SPACES.sub(" ", data)
            if line_starts or self._parts[-1].endswith((" ", "\n", "\t")):
                data = data.lstrip(" ")
        if data:
            self._write(data)

    def _break_at(self, tag: str) -> None:
        """A block's start and end both owe newlines; of several in a row the largest counts."""
        if PARAGRAPH_TAGS.fullmatch(tag):
            self._breaks = 2
        elif tag in LINE_TAGS:
            self._breaks = max(self._breaks, 1)

    def _write(self, data: str) -> None:
        """Pay the newlines that are owed, then append."""
        if self._breaks and self._parts:
            self._parts[-1] = self._parts[-1].rstrip()
            self._parts.append("\n" * self._breaks)
        self._breaks = 0
        self._parts.append(data)


def html_text(markup: str) -> str:
    """The visible text of HTML or XHTML markup, without scripts, styles and head."""
    parser = _HtmlText()
    parser.feed(markup)
    parser.close()
    return parser.text()


def _read_html(name: str, data: bytes) -> str:
    return html_text(decode(name, data))


def _read_pdf(name: str, data: bytes) -> str:
    """The text of a PDF's pages, a blank line between them."""
    # Imported here: it takes a quarter of a second, and most documents are not PDFs.
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, FileNotDecryptedError

    # pypdf logs every oddity it repairs, thousands of lines for some files.
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        return _join(name, (page.extract_text().strip() for page in PdfReader(io.BytesIO(data)).pages))
    except (FileNotDecryptedError, DependencyError) as error:
        raise DocumentError(f"{name} is encrypted: save a copy without a password and load that.") from error


def _join(name: str, texts: Iterable[str]) -> str:
    """Texts with a blank line between them, empty ones left out; stops at the most characters that a file may hold."""
    parts: list[str] = []
    n_characters = 0
    for text in texts:
        n_characters += len(text)
        if n_characters > MAX_TEXT_CHARACTERS:
            raise _too_long(name)
        if text:
            parts.append(text)
    return "\n\n".join(parts)


def _open_zip(name: str, data: bytes) -> zipfile.ZipFile:
    """The archive, once its directory promises few enough entries and bytes."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    entries = archive.infolist()
    if len(entries) > MAX_ZIP_ENTRIES:
        raise DocumentError(f"{name} packs {len(entries):,} files, and at most {MAX_ZIP_ENTRIES:,} are allowed.")
    unpacked = sum(entry.file_size for entry in entries)
    allowed = min(MAX_UNPACKED_BYTES, FREE_UNPACKED_BYTES + MAX_RATIO * len(data))
    if unpacked > allowed:
        megabytes = f"{unpacked / MEGABYTE:,.0f} MB, and at most {allowed / MEGABYTE:,.0f} MB are allowed"
        raise DocumentError(f"{name} would unpack to {megabytes} for a file of its size.")
    return archive


def _read_entry(name: str, archive: zipfile.ZipFile, path: str) -> bytes:
    """One file of the archive, never more than `MAX_ENTRY_BYTES` whatever the directory promised."""
    with archive.open(path) as entry:
        data = entry.read(MAX_ENTRY_BYTES + 1)
    if len(data) > MAX_ENTRY_BYTES:
        raise DocumentError(
            f"{name} packs {path[:100]}, which is larger than {MAX_ENTRY_BYTES // MEGABYTE} MB: split it."
        )
    return data


def _local(element: Element) -> str:
    """An element's name without its namespace: EPUB and DOCX each come in several."""
    return element.tag.rpartition("}")[2]


def fromstring(data: bytes) -> Element:
    """The root of an XML file. defusedxml is imported here, since training and benchmarks do without it."""
    from defusedxml import ElementTree

    return ElementTree.fromstring(data)


def _find_all(root: Element, tag: str) -> Iterator[Element]:
    return (element for element in root.iter() if _local(element) == tag)


def _read_epub(name: str, data: bytes) -> str:
    """The text of an EPUB's spine in reading order, a blank line between its files.

    Source: EPUB 3.3, https://www.w3.org/TR/epub-33/ (container, package document, META-INF/encryption.xml).
    """
    with _open_zip(name, data) as archive:
        paths = _spine_paths(name, archive)
        if not _encrypted_paths(name, archive).isdisjoint(paths):
            raise DocumentError(f"{name} is protected by DRM: load a copy without protection.")
        return _join(name, (_read_html(name, _read_entry(name, archive, path)) for path in paths))


def _spine_paths(name: str, archive: zipfile.ZipFile) -> list[str]:
    """Paths in the archive of the spine's (X)HTML files, each once."""
    container = fromstring(_read_entry(name, archive, "META-INF/container.xml"))
    package_path = next(_find_all(container, "rootfile")).get("full-path", "")
    package = fromstring(_read_entry(name, archive, package_path))
    items = {item.get("id"): item for item in _find_all(package, "item")}
    paths = []
    for reference in _find_all(package, "itemref"):
        item = items[reference.get("idref")]
        if "html" in item.get("media-type", ""):  # the others are images, as comics have them
            path = posixpath.join(posixpath.dirname(package_path), unquote(item.get("href", "")))
            paths.append(posixpath.normpath(path))
    return list(dict.fromkeys(paths))


def _encrypted_paths(name: str, archive: zipfile.ZipFile) -> set[str]:
    """Paths in the archive of the files that are encrypted (fonts often are, in books that can be read)."""
    listing = "META-INF/encryption.xml"
    if listing not in archive.namelist():
        return set()
    root = fromstring(_read_entry(name, archive, listing))
    return {unquote(reference.get("URI", "")) for reference in _find_all(root, "CipherReference")}


def _read_docx(name: str, data: bytes) -> str:
    """The text of a DOCX's body: a blank line between paragraphs, tabs and line breaks kept.

    Source: ECMA-376 part 1, section 17.3 (paragraphs and runs); deleted text (`delText`) is left out.
    """
    with _open_zip(name, data) as archive:
        body = fromstring(_read_entry(name, archive, "word/document.xml"))
    return re.sub("\n{3,}", "\n\n", "".join(_docx_pieces(body))).strip()


def _docx_pieces(element: Element) -> Iterator[str]:
    """The text below an element, in order."""
    for child in element:
        tag = _local(child)
        if tag == "t":
            yield child.text or ""
        elif tag in DOCX_MARKS:
            yield DOCX_MARKS[tag]
        elif tag not in DOCX_UNREAD:
            yield from _docx_pieces(child)
            if tag == "p":
                yield "\n\n"


READERS = {
    ".docx": _read_docx,
    ".epub": _read_epub,
    ".htm": _read_html,
    ".html": _read_html,
    ".markdown": decode,
    ".md": decode,
    ".pdf": _read_pdf,
    ".txt": decode,
    ".xhtml": _read_html,
}
EXTENSIONS = tuple(READERS)
