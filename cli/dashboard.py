"""The verb that opens the pages."""

from __future__ import annotations

from typing import Annotated

import typer


def dashboard(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one")] = 4390,
    host: Annotated[str, typer.Option(help="address; beyond this machine a password is wanted")] = "127.0.0.1",
    name: Annotated[
        list[str] | None, typer.Option(help="another host name that a proxy asks under; may be repeated")
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="open the page in a browser")] = True,
) -> None:
    """Pages over the lake: runs as they go on, datasets, rows, people's reviews, students, models, schedules.

    The printed address has a token that lets one browser in, once; the key in GRAFT_HOME/dashboard.secret does as well.

    Beyond 127.0.0.1 set GRAFT_DASHBOARD_PASSWORD (the user name is whose name decisions carry), or
    GRAFT_DASHBOARD_USER_HEADER behind a proxy that says who asks.

    Example:  graft dashboard --port 4390
    """
    from graft.dashboard.serve import serve
    from graft.schemas.home import Home

    serve(Home.find(), host=host, port=port, names=name or (), open_browser=open_browser)
