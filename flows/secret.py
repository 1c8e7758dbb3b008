"""The secret of a home's Prefect servers: made once, readable by its owner alone, never on a command line or in a log.

It reaches servers, workers and flow runs through their environment, which other users cannot read.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import tempfile
from pathlib import Path

from schemas.errors import GraftError
from schemas.home import Home

_PATTERN = re.compile(r"graft:[A-Za-z0-9_-]{43}")


def secret_file(home: Home) -> Path:
    """Where the secret lies: one line, "user:password", which Prefect's page asks for as its password."""
    return home.prefect / "secret"


def secret(home: Home) -> str:
    """The secret of this home's servers; made where there is none, or where somebody else may have read it.

    Raises GraftError where the file can be neither read nor made.
    """
    from filelock import FileLock

    file = secret_file(home)
    try:
        prefect_folder(home)
        with FileLock(file.with_suffix(".lock"), timeout=10):
            return _read(file) or _make(file)
    except OSError as error:
        fix = "give the folder to the user who runs graft, with mode 700"
        raise GraftError(f"Prefect's secret cannot be kept: {error}", where=str(file), fix=fix) from error


def prefect_folder(home: Home) -> Path:
    """GRAFT_HOME/prefect; made for its owner alone where it is absent."""
    home.prefect.mkdir(parents=True, exist_ok=True, mode=0o700)
    return home.prefect


def _read(file: Path) -> str | None:
    """The file's secret; None where it is absent, another user's, open to others, or no secret."""
    try:
        opened = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    with os.fdopen(opened, encoding="ascii", errors="replace") as text:
        found, mine = os.fstat(opened), text.read(200).strip()
    private = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
    return mine if private and _PATTERN.fullmatch(mine) else None


def _make(file: Path) -> str:
    made = f"graft:{secrets.token_urlsafe(32)}"
    opened, beside = tempfile.mkstemp(dir=file.parent, prefix="secret-")  # mode 600
    with os.fdopen(opened, "w", encoding="ascii") as out:
        out.write(made + "\n")
    Path(beside).replace(file)
    return made
