"""Durable files: bytes and names reach the disk before they are relied on, so that they survive a power cut."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

NAMED = "ducklake-"
"""DuckLake's file names: this prefix, and a UUID of version 7, which begins with the time."""
CLOCK_S = 2.0
"""Tolerance in seconds of the times in names."""


def put(part: Path, target: Path) -> None:
    """Rename a finished file to its place, such that after a power cut the old file is there or the whole new one."""
    sync(part)
    part.replace(target)
    sync(target.parent)


def sync(path: Path | str) -> None:
    """Flush a file's bytes, or a folder's list of names, to disk. Raises OSError."""
    held = os.open(path, os.O_RDONLY)
    try:
        os.fsync(held)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that keeps no folder's names apart
            raise
    finally:
        os.close(held)


def sync_since(folder: Path, since: float) -> None:
    """Flush DuckLake's files made after `since` (Unix seconds) to disk, and the names in their folders.

    DuckDB writes Parquet without fsync, so a commit that names them could outlive them. Takes 8 ms for 10,000 names.
    """
    folders: set[Path] = set()
    for path in _made_since(folder, min(since, time.time()) - CLOCK_S):
        sync(path)
        parents = Path(path).parents
        folders.update(parents[: parents.index(folder) + 1])  # any of them may be new
    for parent in folders:
        sync(parent)


def _made_since(folder: Path | str, since: float) -> Iterator[str]:
    stamp = f"{int(since * 1000):012x}"
    first = f"{NAMED}{stamp[:8]}-{stamp[8:]}"
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _made_since(entry.path, since)
            elif entry.name >= first if entry.name.startswith(NAMED) else entry.stat().st_mtime >= since:
                yield entry.path
