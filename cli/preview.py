"""The verb `preview`: a few rows through the whole pipeline, before a run."""

from __future__ import annotations

from typing import Annotated

import typer

from graft.cli.make import RecipeArg
from graft.cli.options import JsonFlag


def preview(
    recipe: RecipeArg,
    rows: Annotated[
        int,
        typer.Option(
            min=1,
            max=100,
            help="candidates, about as many of each label; besides as many of your texts, if the method labels them",
        ),
    ] = 5,
    prompts: Annotated[bool, typer.Option("--prompts", help="show every prompt and reply")] = False,
    restricted: Annotated[bool, typer.Option("--restricted", help="show the text of restricted rows")] = False,
    json: JsonFlag = False,
) -> None:
    """Make a few rows, show each with its reviews and rejections, and project calls, price and time to the target.

    Nothing is published, and the run that follows does not repeat the calls.

    Example:  graft preview demo --rows 5
    """
    from graft.cli.run import at_work, live
    from graft.cli.show import as_json, console, print_section

    with at_work("finished calls are journaled: run the same command to continue"), live(quiet=json):
        from graft.flows import stopping
        from graft.flows.preview import preview as make

        made = stopping.run(make(recipe, rows, restricted=restricted))
    if json:
        figures = {"calls": made.calls, "tokens": made.tokens, "price_usd": made.price_usd, "minutes": made.minutes}
        as_json({**made.model_dump(mode="json"), "projected": figures})
        return
    from graft.cli.tree import preview_tree

    out = console()
    for row in made.rows:
        out.print(preview_tree(row, prompts))
        out.print()
    if any(row["restricted"] for row in made.rows) and not restricted:
        out.print("restricted rows: their text is hidden; --restricted shows it")
    print_section(made.section())
