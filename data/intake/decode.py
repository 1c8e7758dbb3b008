"""Detection of a text file's encoding, and reading with it."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from pathlib import Path

from graft.data.intake.limits import MAX_LINE, unpacked
from graft.data.intake.parts import invalid

CHUNK = 1 << 20
HEAD = 4096


def find_encoding(path: Path) -> tuple[str, bool, str]:
    """Return (encoding, whether some lines violate it, a notice or "").

    A byte order mark decides; else UTF-8 if the whole file is valid; else UTF-16 if every other byte is NUL; else UTF-8
    with bad lines if some line is valid non-ASCII UTF-8; else cp1252, or Latin-1 if cp1252 does not define a byte.
    """
    try:
        with unpacked(path) as file:
            head = file.read(HEAD)
            if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                return "utf-16", False, ""
            even, odd = head[::2].count(0), head[1::2].count(0)
            if max(even, odd) > 0.4 * len(head) / 2 and min(even, odd) < 0.05 * len(head) / 2:
                return ("utf-16-le" if odd > even else "utf-16-be"), False, "has no byte order mark: read as UTF-16"
        if _is_utf8(path):
            return "utf-8-sig", False, ""
        return _of_lines(path)
    except OSError as error:
        raise invalid(str(path), f"cannot be read: {error}", "check the file and its permissions") from error


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with unpacked(path) as file:
        try:
            while chunk := file.read(CHUNK):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _of_lines(path: Path) -> tuple[str, bool, str]:
    single = "cp1252"
    with unpacked(path) as file:
        for line in iter(lambda: file.readline(CHUNK), b""):
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
    """Open the file as text, without newline translation. Undecodable bytes become lone surrogates."""
    errors = "strict" if encoding.startswith("utf-16") else "surrogateescape"
    return io.TextIOWrapper(unpacked(path), encoding=encoding, errors=errors, newline="")


def lines(file: io.TextIOWrapper, name: str) -> Iterator[str]:
    """Yield each line with its line end. Raises InputInvalid for a line of more than MAX_LINE characters."""
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            what = f"this line has more than {MAX_LINE:,} characters"
            raise invalid(
                f"{name}:{number}", what, "check that it is a text file with one row per line, or leave the row out"
            )
        yield line


def is_sound(text: str) -> bool:
    """Return True if every byte of the text could be decoded."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
