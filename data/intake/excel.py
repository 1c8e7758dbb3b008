"""Rows of an Excel sheet. The archive is checked before openpyxl reads it, because openpyxl trusts its input."""

from __future__ import annotations

import contextlib
import importlib
import warnings
import zlib
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any
from xml.parsers import expat
from zipfile import BadZipFile, ZipFile

from graft.data.intake.limits import Allowance
from graft.data.intake.parts import Part, Problems, Record, invalid, split_of

CHUNK = 1 << 16
MAX_ROWS = 1_048_576
"""Maximum rows of a sheet, as in Excel; a file can number its rows arbitrarily."""
TAG = 33
"""Bytes charged per tag, which allows three tags per byte on disk. A usual sheet has one; readers buffer each tag."""
_BROKEN = (
    BadZipFile,
    KeyError,
    OSError,
    ValueError,
    SyntaxError,
    zlib.error,
    NotImplementedError,
    EOFError,
)
_FIX = "save it as .xlsx, or as CSV"


def excel_parts(path: Path, sheet: str | None) -> list[Part]:
    """Return the named sheet, the only sheet with rows, or one part per split if the sheets are named after splits."""
    _check(path)
    try:
        with _book(path) as book:
            names = list(book.sheetnames)
            full = [name for name in names if any(any(c is not None for c in row) for row in _rows(book[name], 5))]
    except _BROKEN as error:
        raise invalid(str(path), f"is not a readable Excel file: {str(error)[:120]}", _FIX) from error
    if sheet is not None and sheet not in names:
        raise invalid(str(path), f"has no sheet {sheet!r}", f"its sheets: {', '.join(names)}")
    chosen = [sheet] if sheet is not None else full
    splits = {name: split_of(name) for name in chosen}
    if len(chosen) > 1 and not all(splits.values()):
        raise invalid(str(path), f"has {len(chosen)} sheets with rows: {', '.join(chosen)}", "choose one: --sheet NAME")
    return [Part(f"{path}#{name}", _sheet(path, name), splits[name]) for name in chosen]


def _check(path: Path) -> None:
    """Raise InputInvalid if the archive unpacks to too much, or if one of its XML files declares entities."""
    unpacked, elements = Allowance.of(path), Allowance.of(path)
    try:
        with ZipFile(path) as archive:
            for entry in archive.infolist():
                unpacked.charge(entry.file_size)  # zipfile reads no more of an entry than this
            for entry in archive.infolist():
                if _has_dtd(archive, entry):
                    fix = "save it again from a spreadsheet program; Excel never writes one"
                    raise invalid(f"{path}#{entry.filename}", "declares a document type or entities (a DTD)", fix)
                with archive.open(entry) as stream:
                    while chunk := stream.read(CHUNK):
                        elements.charge(TAG * chunk.count(b"<"))
    except (*_BROKEN, RuntimeError) as error:
        raise invalid(str(path), f"is not a readable Excel file: {str(error)[:120]}", _FIX) from error


class _SeenError(Exception):
    """Raised at the first element: a document type can only precede it."""


def _has_dtd(archive: ZipFile, entry: Any) -> bool:
    """Return True if an entry is XML with a document type: entities can expand without limit, and sheets need none."""
    parser, found = expat.ParserCreate(), list[bool]()

    def seen(*_: Any) -> None:
        raise _SeenError

    def declared(*_: Any) -> None:
        found.append(True)
        raise _SeenError

    parser.StartElementHandler, parser.StartDoctypeDeclHandler = seen, declared
    with archive.open(entry) as stream, contextlib.suppress(_SeenError, expat.ExpatError):
        while chunk := stream.read(CHUNK):
            parser.Parse(chunk)
    return bool(found)


@contextlib.contextmanager
def _book(path: Path) -> Iterator[Any]:
    openpyxl: Any = importlib.import_module("openpyxl")  # heavy, and untyped
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about styles and extensions, which contain no rows
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    try:
        yield book
    finally:
        book.close()


def _rows(sheet: Any, most: int) -> Iterator[Any]:
    if hasattr(sheet, "reset_dimensions"):
        sheet.reset_dimensions()  # else openpyxl pads rows to the size that the file declares
    yield from sheet.iter_rows(values_only=True, max_row=most) if hasattr(sheet, "iter_rows") else ()


def _sheet(path: Path, name: str) -> Any:
    def records(problems: Problems, _: tuple[str, ...] | None) -> Iterator[Record]:
        columns: list[str] | None = None
        allowance = Allowance.of(path)
        try:
            with _book(path) as book:
                for number, cells in enumerate(_rows(book[name], MAX_ROWS), start=1):
                    allowance.charge(sum(len(c) for c in cells if isinstance(c, str)) + 8 * len(cells))
                    if all(cell is None for cell in cells):
                        continue
                    if columns is None:
                        columns = ["" if cell is None else str(cell).strip() for cell in cells]
                    else:
                        yield number, {c: v for c, v in zip_longest(columns, cells[: len(columns)]) if c}
        except _BROKEN as error:
            problems.source(str(path), f"cannot be read completely: {str(error)[:120]}", _FIX)

    return records
