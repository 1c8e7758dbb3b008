"""`graft clean`: list and free what no version or student needs."""

from __future__ import annotations

from typing import Annotated

import typer

from graft.cli.options import JsonFlag


def clean(
    yes: Annotated[bool, typer.Option("--yes", help="delete what is listed; without, nothing is changed")] = False,
    models: Annotated[
        bool, typer.Option("--models", help="with --yes: also joined models that no recipe of the home names")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """List what can be freed in this home, and why; --yes deletes it.

    Checkpoints of abandoned trainings, ended work of the pages, old logs and caches, unfinished exports. Versions,
    their rows and reviews, students and the journal stay. It refuses while a run is at work.

    Example:  graft clean --yes
    """
    from graft.cli.show import as_json, console, table
    from graft.flows.clean import clean as free
    from graft.flows.clean import usage
    from graft.schemas.home import Home
    from graft.schemas.sections import disk_size

    home = Home.find(create=False)
    done = free(home, yes=yes, models=models)
    if json:
        as_json({**done.model_dump(mode="json"), "usage": [one.model_dump(mode="json") for one in usage(home)]})
        return
    parts = [[one.part, disk_size(one.bytes), one.about] for one in usage(home)]
    table(f"disk usage of {home.root}", ["part", "size", "holds"], parts, right=("size",))
    if not done.found:
        console().print("nothing can be freed")
        return
    rows = [
        [one.part, disk_size(one.bytes), one.path.removeprefix(f"{home.root}/"),
         one.why + (f" ({one.asked})" if one.asked else "")]
        for one in done.found
    ]  # fmt: skip
    table("freed" if yes else "can be freed", ["part", "size", "path", "why"], rows, right=("size",))
    total = sum(one.bytes for one in done.found if not one.asked or models)
    line = f"{disk_size(done.freed)} freed" if yes else f"{disk_size(total)}; delete it:  graft clean --yes"
    console().print(line, markup=False)
