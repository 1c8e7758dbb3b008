"""Limits on decompressed size, counted while a file is read, so that a small file cannot exhaust memory."""

from __future__ import annotations

import gzip
import io
import os
import re
import zlib
from pathlib import Path
from typing import IO

from graft.data.intake.parts import invalid

SETTING = "GRAFT_MAX_UNPACKED"
"""Environment variable that raises the limit for every file, whatever its size, such as 20GB."""
CAP, FLOOR, RATIO = 4_000_000_000, 500_000_000, 100
"""Limits in bytes: the maximum of any file, the minimum granted to every file, and, between them, times its size."""
MAX_LINE = 10_000_000
"""Maximum characters of a line and of a CSV field."""
VALUE = 64
"""Approximate bytes of memory of a small JSON or XML value, excluding its text."""
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class Allowance:
    """Budget of unpacked bytes for one file.

    Args:
        file: The file's name, for error messages.
        packed: Its size on disk in bytes, None if unknown.
    """

    def __init__(self, file: str, packed: int | None) -> None:
        self._file, self._packed, self._spent = file, packed, 0
        self.limit = _set() or (CAP if packed is None else min(CAP, max(FLOOR, RATIO * packed)))

    @classmethod
    def of(cls, path: Path) -> Allowance:
        """Return the file's allowance. Raises InputInvalid if the environment variable cannot be parsed."""
        return cls(str(path), path.stat().st_size)

    def charge(self, size: int) -> None:
        """Count bytes. Raises InputInvalid once the limit is exceeded."""
        self._spent += size
        if self._spent > self.limit:
            on_disk = "" if self._packed is None else f" ({readable(self._packed)} on disk)"
            raise invalid(
                self._file, f"unpacks to more than {readable(self.limit)}{on_disk}",
                f"check its origin; if it is valid, raise the limit in the environment: {SETTING}=20GB",
            )  # fmt: skip


def _set() -> int | None:
    text = os.environ.get(SETTING, "").strip()
    if not text:
        return None
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?) ?([KMGT]B)?|(\d{1,18})", text.upper())
    if found is None or not (size := int(float(found[1] or found[3]) * _UNITS[found[2] or ""])):
        raise invalid(SETTING, f"cannot read {text[:40]!r}", "a number of bytes, such as 20GB or 500MB")
    return size


def readable(size: int) -> str:
    """Format a number of bytes with a suitable unit, such as 4 GB."""
    for unit, scale in reversed(_UNITS.items()):
        if size >= scale and unit:
            return f"{size / scale:.3g} {unit}"
    return f"{size} bytes"


def weight(text: str | bytes) -> int:
    """Estimate the bytes of memory of a JSON text once parsed: brackets and commas bound the number of values."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return len(data) + VALUE * sum(data.count(mark) for mark in (b",", b"[", b"{"))


def unpacked(path: Path) -> IO[bytes]:
    """Open the file's bytes, unpacked and counted if its name ends in .gz. Reading raises InputInvalid, OSError."""
    if path.suffix.lower() != ".gz":
        return path.open("rb")
    return io.BufferedReader(_Counted(path), 1 << 17)


class _Counted(io.RawIOBase):
    """A gzip file that counts its unpacked bytes."""

    def __init__(self, path: Path) -> None:
        self._path, self._allowance = path, Allowance.of(path)
        self._inner = gzip.GzipFile(path, "rb")

    def readable(self) -> bool:
        """Always true."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer. Raises InputInvalid if the file is damaged or unpacks to too much."""
        try:
            data = self._inner.read(len(buffer))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise invalid(str(self._path), f"cannot be unpacked: {error}", "download or copy the file again") from None
        self._allowance.charge(len(data))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the underlying file too."""
        self._inner.close()
        super().close()
