"""Text files of any usual encoding: which one it is, and the file opened with it."""

from __future__ import annotations

import codecs
import gzip
import io
from pathlib import Path
from typing import IO, cast

from data.intake.parts import invalid

CHUNK = 1 << 20
HEAD = 4096
MAX_LINE = 512_000_000


def raw(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked where its name ends in .gz."""
    if path.suffix.lower() == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return path.open("rb")


def find_encoding(path: Path) -> tuple[str, bool, str]:
    """(encoding, whether some lines are not in it, a notice or "").

    A mark at the start decides; else UTF-8 where the whole file is; else UTF-16 where every other byte is NUL; else
    UTF-8 with bad lines where other lines hold sound UTF-8 beyond ASCII; else cp1252, or Latin-1 where that has gaps.
    """
    try:
        with raw(path) as file:
            head = file.read(HEAD)
            if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                return "utf-16", False, ""
            even, odd = head[::2].count(0), head[1::2].count(0)
            if max(even, odd) > 0.4 * len(head) / 2 and min(even, odd) < 0.05 * len(head) / 2:
                return ("utf-16-le" if odd > even else "utf-16-be"), False, "has no byte order mark: read as UTF-16"
        if _is_utf8(path):
            return "utf-8-sig", False, ""
        return _of_lines(path)
    except (OSError, EOFError) as error:
        raise invalid(str(path), f"cannot be read: {error}", "check the file and its rights") from error


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with raw(path) as file:
        try:
            while chunk := file.read(CHUNK):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _of_lines(path: Path) -> tuple[str, bool, str]:
    single = "cp1252"
    with raw(path) as file:
        for line in file:
            if line.isascii():
                continue
            try:
                line.decode("utf-8")
                return "utf-8-sig", True, ""
            except UnicodeDecodeError:
                try:
                    line.decode("cp1252")
                except UnicodeDecodeError:
                    single = "latin-1"
    return single, False, f"is not UTF-8: read as {single}; --encoding names another"


def open_text(path: Path, encoding: str) -> io.TextIOWrapper:
    """The file as text, line ends untouched. Bytes that are not of the encoding become lone surrogates."""
    errors = "strict" if encoding.startswith("utf-16") else "surrogateescape"
    return io.TextIOWrapper(raw(path), encoding=encoding, errors=errors, newline="")


def is_sound(text: str) -> bool:
    """Whether the text holds no byte that could not be decoded."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
