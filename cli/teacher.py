"""The verb `teacher`: look before you spend."""

from __future__ import annotations

from typing import Annotated

import typer

from graft.cli.make import RecipeArg
from graft.cli.options import JsonFlag


def teacher(
    recipe: RecipeArg,
    file: Annotated[
        str | None, typer.Option(help="labelled rows to test on; default: the recipe's test file, else its seeds")
    ] = None,
    texts: Annotated[str | None, typer.Option(help="your own unlabelled texts; default: those of the recipe")] = None,
    rows: Annotated[
        int, typer.Option(min=2, max=10_000, help="known rows at most, on which students are tested without a call")
    ] = 200,
    judged: Annotated[
        int,
        typer.Option(min=2, max=10_000, help="known rows that every model labels, zero-shot and with examples"),
    ] = 40,
    pilot: Annotated[int, typer.Option(min=1, max=1000, help="generated candidates of each label")] = 12,
    json: JsonFlag = False,
) -> None:
    """Advise before a run: generate, label your own texts, both, label by hand, or rethink.

    Every model labels rows whose labels are known, the recipe writes a small pilot, and quick students are compared.
    The run finds the pilot's calls in the journal. Test rows used here are left out of later evaluations.

    Example:  graft teacher demo --pilot 16
    """
    from graft.cli.run import at_work, live
    from graft.cli.show import as_json, print_section

    with at_work("finished calls are journaled: run the same command to continue"), live(quiet=json):
        from graft.flows import stopping
        from graft.flows.verdict import look

        verdict = stopping.run(look(recipe, file=file, texts=texts, rows=rows, judged=judged, pilot=pilot))
    if json:
        as_json({**verdict.model_dump(mode="json", exclude={"used"}), "used_rows": len(verdict.used)})
        return
    from graft.schemas.verdict import section

    print_section(section(verdict))
