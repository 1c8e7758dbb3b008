"""`graft improve`: rows in rounds, steered by what the student gets wrong."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer


def improve(
    recipe: Annotated[str, typer.Argument(help="a recipe's file or bare name")],
    rounds: Annotated[int | None, typer.Option(min=1, help="rounds at most; overrides improve.rounds")] = None,
    rows_per_round: Annotated[int | None, typer.Option(min=1, help="accepted rows of a round, all labels")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="loops with other random seeds, for the spread")] = None,
    test: Annotated[str | None, typer.Option(help="held-out file that steering never sees")] = None,
    steer_on: Annotated[str | None, typer.Option(help="labelled file that steers; else validation rows")] = None,
    compare: Annotated[
        bool | None, typer.Option("--compare/--no-compare", help="spend the same candidates at once too")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON for programs")] = False,
) -> None:
    """Make rows in rounds: each asks for what the last student still gets wrong, until that stops helping.

    Example:  graft improve demo --rounds 3 --rows-per-round 60
    """
    from graft.cli.run import live, quiet_console
    from graft.cli.show import as_json, console
    from graft.flows.run_server import start_prefect
    from graft.schemas.errors import Interrupted
    from graft.schemas.home import Home

    quiet_console()
    given: dict[str, Any] = {
        "rounds": rounds, "rows_per_round": rows_per_round, "seeds": seeds, "test": test, "steer_on": steer_on,
        "compare": compare,
    }  # fmt: skip
    if not json:
        console().print("[dim]starting Prefect (the first flow of a process takes 10 to 20 s)[/dim]")
    with live(quiet=json):
        try:
            start_prefect(Home.find())
            from graft.flows.improve import improve as flow

            report = asyncio.run(flow(recipe, **given))
        except KeyboardInterrupt:
            fix = "finished rounds are kept: the same command goes on from there"
            raise Interrupted("stopped", fix=fix) from None
    if json:
        as_json(report)
    else:
        console().print(report["text"], markup=False, soft_wrap=True)
