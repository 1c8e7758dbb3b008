"""The verb that writes all of a version into one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graft.cli.options import JsonFlag, RefArg


def report(
    ref: RefArg,
    out: Annotated[Path | None, typer.Option(help="default: report-NAME-NUMBER.html", metavar="FILE")] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="open it in a browser")] = False,
    json: JsonFlag = False,
) -> None:
    """One HTML file of a version: card, quality, reviews, changes, students, models. No script, nothing from elsewhere.

    Example:  graft report demo --out demo.html
    """
    from graft.cli.show import as_json, console
    from graft.dashboard.report import write_report
    from graft.schemas.home import Home

    file = write_report(Home.find(), ref, out)
    if json:
        as_json({"file": str(file), "bytes": file.stat().st_size})
    else:
        console().print(f"wrote {file}", markup=False, soft_wrap=True)
    if open_browser:
        import webbrowser

        webbrowser.open(file.resolve().as_uri())
