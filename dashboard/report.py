"""Write a version's report to a file, for `graft report`; the dashboard serves the same bytes."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from graft.schemas.errors import GraftError, MissingExtra

if TYPE_CHECKING:
    from graft.schemas.home import Home


def write_report(home: Home, ref: str, out: Path | None = None) -> Path:
    """Write the report of a version (`demo`, `demo@2`), by default to the working folder, and return its path.

    The file is written completely or not at all.

    Raises:
        NotFound: an unknown version
        MissingExtra: the chart library is not installed
        GraftError: the file cannot be written
    """
    try:
        import altair  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise MissingExtra("the report's charts need altair", fix="pip install 'graft-factory[dashboard]'") from error
    from graft.dashboard.context import PageContext
    from graft.dashboard.door import Door
    from graft.dashboard.pages import CHARTS, PAGES
    from graft.dashboard.pages.report import file_name, render
    from graft.data.versions import version

    with PageContext.open(home, Door(), PAGES, CHARTS) as context:
        found = version(context.lake, ref)
        file = out if out is not None else Path(file_name(found))
        _check(file)
        content = render(context, found)
    _replace(file, content)
    return file


def _check(file: Path) -> None:
    """Check that the file can be written, before a minute of work."""
    if file.is_dir():
        raise GraftError("this is a folder", where=str(file), fix=f"--out {file / 'report.html'}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise _unwritable(file, error) from error


def _replace(file: Path, content: bytes) -> None:
    """Replace the file's content atomically."""
    made = file.with_name(f".{file.name[:200]}.{os.getpid()}")
    try:
        made.write_bytes(content)
        made.replace(file)
    except OSError as error:
        with suppress(OSError):
            made.unlink()
        raise _unwritable(file, error) from error


def _unwritable(file: Path, error: OSError) -> GraftError:
    return GraftError(f"cannot be written: {error.strerror}", where=str(file), fix="another --out FILE")
