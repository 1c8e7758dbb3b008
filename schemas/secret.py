"""A random secret in a file that only its owner may read: made once, then reused by every process."""

from __future__ import annotations

import os
import re
import secrets
import stat
import tempfile
from pathlib import Path

from graft.schemas.errors import GraftError

BYTES = 32
SHAPE = re.compile(r"[\w-]{43}", re.ASCII)
"""Characters of BYTES random bytes in a URL's alphabet."""


def secret_in(file: Path, prefix: str = "") -> str:
    """The secret in a file; made if there is none, or if others may have read it.

    Of several processes that make it at the same time, one does, and all return its secret.

    Args:
        file: its mode is 0600; its folder is made if absent.
        prefix: beginning of the line, such as a user's name.

    Returns:
        The prefix, and 43 characters of a URL's alphabet: 256 random bits.

    Raises:
        GraftError: if the file can be neither read nor made.
    """
    from filelock import FileLock

    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(file.with_name(f".{file.name}.lock"), timeout=10):
            return _read(file, prefix) or _make(file, prefix)
    except OSError as error:
        fix = "give its folder to the user who runs graft, with mode 700"
        raise GraftError(f"the secret cannot be stored: {error}", where=str(file), fix=fix) from error


def _read(file: Path, prefix: str) -> str | None:
    """The file's secret; None if it is absent, another user's, open to others, or no secret."""
    try:
        opened = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    with os.fdopen(opened, encoding="ascii", errors="replace") as text:
        found, mine = os.fstat(opened), text.read(200).strip()
    private = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
    return mine if private and mine.startswith(prefix) and SHAPE.fullmatch(mine[len(prefix) :]) else None


def _make(file: Path, prefix: str) -> str:
    made = prefix + secrets.token_urlsafe(BYTES)
    opened, beside = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")  # mode 0600
    with os.fdopen(opened, "w", encoding="ascii") as out:
        out.write(made + "\n")
    Path(beside).replace(file)
    return made
