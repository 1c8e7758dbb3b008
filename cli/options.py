"""Options and arguments that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

JsonFlag = Annotated[bool, typer.Option("--json", help="print JSON for programs")]
RefArg = Annotated[str, typer.Argument(help="a dataset, or a version of it: demo, demo@2", metavar="REF")]
ByOption = Annotated[str, typer.Option("--by", help="user to record; default: the system's user name", metavar="NAME")]
RestrictedFlag = Annotated[bool, typer.Option("--restricted", help="show the text of restricted rows")]


def user_name() -> str:
    """The agent's name in a process that `graft mcp` started, else the system's user name, or `unknown`."""
    import getpass

    from graft.schemas import agent

    if by := agent.by():
        return by
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user of a container may have no name
        return "unknown"
