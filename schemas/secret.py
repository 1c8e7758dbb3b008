"""A random secret in a file of its own that only its owner may read: made once, found again by every later process."""

from __future__ import annotations

import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from schemas.errors import GraftError

BYTES = 32
SHAPE = re.compile(r"[\w-]{43}")
"""How BYTES random bytes look in a URL's alphabet."""


def secret_of(folder: Path, name: str) -> str:
    """The secret in the file `name` of `folder`, made where there is none.

    Of several processes that make it at the same time, one does, and all return its secret.

    Args:
        folder: made if absent.
        name: of the file; its mode is 0600.

    Returns:
        43 characters of a URL's alphabet: 256 random bits.

    Raises:
        GraftError: if the file belongs to or may be read by others, holds something else, or cannot be made.
    """
    path = folder / name
    try:
        if not path.is_symlink() and not path.exists():
            _make(path)
        return _read(path)
    except OSError as error:
        raise GraftError(f"the secret cannot be kept: {error.strerror}", where=str(path), fix=_FIX) from error


_FIX = "delete it: a new one is made; or set GRAFT_HOME to a folder of your own"


def _make(path: Path) -> None:
    """Writes the secret under another name first, so that no reader finds a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(secrets.token_urlsafe(BYTES))
        file.flush()
        os.fsync(file.fileno())
    try:
        with suppress(FileExistsError):  # another process was first: its secret counts
            os.link(fresh, path)
    finally:
        fresh.unlink()


def _read(path: Path) -> str:
    with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))) as file:
        about = os.fstat(file.fileno())
        text = file.read(2 * BYTES)
    if os.name == "posix" and (about.st_uid != os.getuid() or stat.S_IMODE(about.st_mode) & 0o077):
        raise GraftError("others may read or write this secret", where=str(path), fix=_FIX)
    if not stat.S_ISREG(about.st_mode) or not SHAPE.fullmatch(text):
        raise GraftError("this file holds no secret", where=str(path), fix=_FIX)
    return text
