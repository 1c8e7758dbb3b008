"""Text of one file: plain text and Markdown as they are, HTML by lxml, PDF by pypdf, office formats by docling."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

import orjson

from graft.data.documents import scans
from graft.data.intake.decode import find_encoding, open_text
from graft.data.intake.parts import invalid
from graft.schemas.base import stable_hash
from graft.schemas.errors import InputInvalid, MissingExtra, Problem

FIELD = "seeds.documents"
VERSION = 1
"""Raise it if the text of a file changes: cached texts are read anew."""
MAX_TEXT = 20_000_000
"""Most characters of one document."""
HEAD = 8_192
OFFICE = frozenset({".docx", ".pptx", ".xlsx", ".odt", ".odp", ".ods"})
"""Suffixes that docling reads."""
OTHER = frozenset({".doc", ".ppt", ".xls", ".rtf", ".epub", ".pages", ".mobi"})
"""Suffixes of documents that nothing here reads."""
TABLES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow"})
HTML = frozenset({".html", ".htm", ".xhtml"})
_HIDDEN = ("script", "style", "noscript", "template", "svg", "nav", "form", "button", "head")
_BLOCKS = frozenset({
    "address", "article", "aside", "blockquote", "body", "br", "caption", "dd", "details", "div", "dl", "dt",
    "figcaption", "figure", "footer", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "ol", "p",
    "pre", "section", "summary", "table", "tbody", "td", "th", "thead", "tr", "ul",
})  # fmt: skip
_PARAGRAPHS = _BLOCKS - {"br", "li", "dd", "dt", "td", "th", "tr"}
_WRAPPED = re.compile(r"(?<=[^\W\d_])[-\u00ad]\n(?=[a-zà-ÿ])")
_CONTROLS = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\ud800-\udfff\ufeff\ufffe\uffff]")
_SPACES = re.compile(r"(?<![ \t\u00a0])[ \t\u00a0]{9,}")
_LINES = re.compile(r"(?<!\n)\n{3,}")
_BLANKS = re.compile(r"(?<!\n)\n{4,}")


_LEFT_OUT = {
    "binary": ("is binary, not text", "name text, Markdown, HTML or PDF"),
    "empty": ("holds no words", "name a file with text"),
    "tables": ("is a table, not a document", "name it in seeds.path"),
}
"""Why a file is no document, and what to do if it was named itself."""


class LeftOut(Exception):
    """A file that is no document: in a folder it is counted, by name it is an error."""

    def __init__(self, kind: str) -> None:
        self.kind, self.problem = kind, _LEFT_OUT[kind]
        super().__init__(kind)


def kept_text(path: Path, encoding: str | None, notices: list[str], cache: Path | None) -> str:
    """`text_of`, from the folder `cache` if the same bytes were read before: PDF and office files take long."""
    if cache is None or path.suffix.lower() not in {".pdf", *OFFICE}:
        return text_of(path, encoding, notices)
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    kept = cache / f"{stable_hash(content, VERSION, _readers(), length=32)}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = orjson.loads(kept.read_bytes())
        text, said = str(found["text"]), list(map(str, found["notices"]))
        notices += said
        return text
    said = []
    text = text_of(path, encoding, said)
    notices += said
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        beside = kept.with_suffix(f".{os.getpid()}")
        beside.write_bytes(orjson.dumps({"text": text, "notices": said}))
        beside.replace(kept)
    return text


def _readers() -> list[str]:
    """The versions of the libraries that read, as far as they are installed."""
    found = []
    for name in ("pypdf", "docling-slim", "rapidocr"):
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return found


def text_of(path: Path, encoding: str | None, notices: list[str]) -> str:
    """A document's text, with `\\n` as line end and without control characters.

    Args:
        path: the file
        encoding: of a text file; None: detected
        notices: gets a clause about the file if something was guessed or left out

    Raises:
        LeftOut: it is no document.
        InputInvalid: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
        suffix = path.suffix.lower()
        if head.lstrip().startswith(b"%PDF-"):
            text = _pdf(path, notices)
        elif suffix in OFFICE:
            text = _docling(path)
        elif suffix in OTHER:
            raise wrong(path, f"cannot be read: {suffix} files are not supported", "save it as .docx, .pdf or .txt")
        elif suffix in TABLES:
            raise LeftOut("tables")
        elif suffix in HTML:
            text = _html(path, encoding)
        else:
            text = _plain(path, head, encoding, notices)
    except OSError as error:
        raise wrong(path, f"cannot be read: {error.strerror or error}", "check the file and its permissions") from None
    if len(text) > MAX_TEXT:
        fix = f"split the file, or leave it out by {FIELD}.glob"
        raise wrong(path, f"has {len(text):,} characters, at most {MAX_TEXT:,} are read", fix)
    return tidy(text).strip()


def tidy(text: str) -> str:
    """The text with one kind of line end, no control characters, and no long runs of spaces or blank lines."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n\n").replace("\v", "\n")
    return _BLANKS.sub("\n\n\n", _SPACES.sub(" " * 8, _CONTROLS.sub("", text)))


def wrong(path: Path, what: str, fix: str) -> InputInvalid:
    """An unusable file."""
    return invalid(str(path), what, fix, FIELD)


def _plain(path: Path, head: bytes, encoding: str | None, notices: list[str]) -> str:
    name, notice = encoding, ""
    if name:
        _known(path, name)
    else:
        name, _, notice = find_encoding(path)
    if not name.startswith("utf-16") and (b"\0" in head or _is_noise(head)):
        raise LeftOut("binary")
    try:
        with open_text(path, name) as file:
            text = file.read(MAX_TEXT + 1)
    except UnicodeError as error:
        raise wrong(path, f"is not {name}: {error}", f"save it as UTF-8, or set {FIELD}.encoding") from None
    bad = next((place for place, char in enumerate(text) if "\ud800" <= char <= "\udfff"), None)
    if bad is not None:
        line = text.count("\n", 0, bad) + 1
        what = f"is {name.removesuffix('-sig')} with a byte that is not, at line {line}"
        raise InputInvalid([Problem(str(path), line, FIELD, what, f"save it as UTF-8, or set {FIELD}.encoding")])
    if notice:
        notices.append(notice.replace("--encoding", f"{FIELD}.encoding"))
    return text


def _known(path: Path, encoding: str) -> None:
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise wrong(path, f"unknown encoding {encoding!r}", "such as utf-8, cp1252, latin-1, utf-16") from None


def _is_noise(head: bytes) -> bool:
    """Return True if more than a few of the bytes (2%) are control characters that no text has."""
    return sum(byte < 32 and byte not in b"\t\n\r\f\v\x1b" for byte in head) > max(3, len(head) / 50)


def _html(path: Path, encoding: str | None) -> str:
    try:
        from lxml import etree, html
    except ImportError:
        _missing(path, "HTML", "lxml", "documents")
    data = path.read_bytes()
    if encoding:
        _known(path, encoding)
    else:
        try:
            data.decode("utf-8")
            encoding = "utf-8"
        except UnicodeDecodeError:
            encoding = None  # lxml reads the page's own statement
    try:
        parser = html.HTMLParser(encoding=encoding, remove_comments=True, remove_pis=True)
        page = html.document_fromstring(data, parser=parser)
    except (etree.LxmlError, ValueError):
        raise LeftOut("empty") from None
    etree.strip_elements(page, *_HIDDEN, with_tail=False)
    parts = list[str]()
    for event, element in etree.iterwalk(page, events=("start", "end")):
        begins = event == "start" and element.tag in _BLOCKS
        gap = "\n\n" if element.tag in _PARAGRAPHS else "\n" if begins else ""
        parts += [gap, (element.text if event == "start" else element.tail) or ""]
    lines = (" ".join(line.split()) for line in _unwrapped(parts).split("\n"))
    return _LINES.sub("\n\n", "\n".join(lines)).strip()


def _unwrapped(parts: list[str]) -> str:
    """Join pieces of a page; line ends within a piece are spaces, as in a browser."""
    return "".join(part if part in ("\n", "\n\n") else part.replace("\n", " ").replace("\r", " ") for part in parts)


def _pdf(path: Path, notices: list[str]) -> str:
    try:
        from pypdf import PdfReader
        from pypdf.errors import DependencyError
    except ImportError:
        _missing(path, "PDF", "pypdf", "documents")
    logging.getLogger("pypdf").setLevel(logging.ERROR)
    try:
        reader = PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            fix = "save a copy without a password, such as: qpdf --password=… --decrypt IN OUT"
            raise wrong(path, "is encrypted: it opens with a password only", fix)
        pages, size = list[str](), 0
        for page in reader.pages:
            pages.append(page.extract_text().strip())
            size += len(pages[-1])
            if size > MAX_TEXT:
                break
    except (InputInvalid, OSError):
        raise
    except DependencyError as error:
        raise wrong(path, f"is encrypted: {error}", "pip install 'cryptography>=3.1'") from None
    except Exception as error:  # pypdf raises KeyError, RecursionError and others for damaged files
        what = f"cannot be read as PDF: {type(error).__name__}: {str(error)[:120]}"
        raise wrong(path, what, "open and save it again, or leave it out") from None
    empty = sum(not any(map(str.isalnum, page)) for page in pages)
    if empty == len(pages):
        return _WRAPPED.sub("", _scanned(path, len(pages), notices))
    if empty:
        notices.append(f"has {empty:,} of {len(pages):,} pages without text")
    return _WRAPPED.sub("", "\n\n".join(pages))


def _scanned(path: Path, pages: int, notices: list[str]) -> str:
    """The text of scanned pages, by character recognition if the extra `ocr` is installed."""
    count = f"{pages:,} page{'s' * (pages != 1)}"
    if not scans.can_recognise():
        fix = f"pip install 'graft-factory[ocr]' reads scans; or leave it out by {FIELD}.glob"
        raise wrong(path, f"has no text on its {count}: it may be a scan", fix)
    text = scans.recognised(path, MAX_TEXT)
    if not any(map(str.isalnum, text)):
        what = f"has no text on its {count}, and character recognition finds none"
        raise wrong(path, what, f"leave it out by {FIELD}.glob")
    notices.append(f"is a scan: {count} read by character recognition")
    return text


def _docling(path: Path) -> str:
    """The file as Markdown, by docling."""
    try:
        from docling.document_converter import DocumentConverter
    except ImportError:
        _missing(path, path.suffix.lower(), "docling", "docling")
    convert: Callable[[Any], Any] = DocumentConverter().convert
    try:
        return str(convert(path).document.export_to_markdown())
    except Exception as error:
        what = f"cannot be read by docling: {type(error).__name__}: {str(error)[:120]}"
        raise wrong(path, what, "open and save it again, or leave it out") from None


def _missing(path: Path, kind: str, library: str, extra: str) -> NoReturn:
    fix = f"pip install 'graft-factory[{extra}]', or leave the file out by {FIELD}.glob"
    raise MissingExtra(f"{kind} files are read by {library}, which is not installed", where=str(path), fix=fix)
