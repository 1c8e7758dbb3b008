"""`graft mcp`: a server for agents on standard input and output, within caps that its user sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def mcp(
    max_usd: Annotated[
        float, typer.Option(min=0, envvar="GRAFT_MCP_MAX_USD", help="US dollars a day; 0: no hosted model")
    ] = 0.0,
    max_tokens: Annotated[
        int, typer.Option(min=0, envvar="GRAFT_MCP_MAX_TOKENS", help="prompt and completion tokens a day")
    ] = 1_000_000,
    max_rows: Annotated[int, typer.Option(min=0, envvar="GRAFT_MCP_MAX_ROWS", help="accepted rows a day")] = 500,
    root: Annotated[
        list[Path] | None, typer.Option(help="folder whose files recipes may read; default: the present folder")
    ] = None,
    endpoint: Annotated[
        list[str] | None, typer.Option(help="model server that recipes may use, besides those on this machine")
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option(help="environment variable that recipes may send as a key", metavar="NAME")
    ] = None,
) -> None:
    """Serve agents (MCP on standard input and output): validate, estimate, preview, run, rows, review, train and more.

    The caps hold for a day (UTC) over all servers, calls and processes of this home. An agent cannot raise them.

    Example:  graft mcp --max-usd 1 --max-tokens 100000 --max-rows 500
    """
    import os

    from graft.schemas.agent import VARIABLE, Policy
    from graft.schemas.errors import GraftError, MissingExtra
    from graft.schemas.home import Home

    roots = [one.expanduser().resolve() for one in root or [Path.cwd()]]
    for folder in roots:
        if not folder.is_dir():
            raise GraftError("this is not a folder", where=f"--root {folder}", fix="name a folder that exists")
    try:
        from graft.cli.mcp_server import serve
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("mcp"):
            raise
        fix = "pip install 'graft-factory[mcp]'"
        raise MissingExtra("the MCP server needs the extra mcp", where="graft mcp", fix=fix) from None
    os.environ["GRAFT_HOME"] = str(Home.find(create=False).root)
    allowed = Policy(
        usd=max_usd, tokens=max_tokens, rows=max_rows, roots=tuple(map(str, roots)),
        endpoints=tuple(endpoint or ()), keys=tuple(key or ()),
    )  # fmt: skip
    os.chdir(roots[0])
    os.environ[VARIABLE] = allowed.model_dump_json()
    serve()
