"""`graft batches`: list the batches at providers' batch APIs, or cancel one.

Heavy libraries are imported inside the functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from graft.agents.gateway.batch.store import Batch


def batches(
    cancel: Annotated[
        str | None, typer.Option(help="cancel the batch with this id, Graft's or the provider's; a prefix is enough")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for programs")] = False,
) -> None:
    """List the batches at providers' batch APIs with their last known state, or cancel one.

    Example:  graft batches --cancel 3f2a
    """
    from graft.agents.gateway.batch.store import listed_at, path_in
    from graft.schemas.home import Home

    path = path_in(Home.find(create=False).root)
    if cancel is not None:
        _cancel(cancel)
        return
    found = listed_at(path)
    if as_json:
        import orjson

        rows = [_fields(batch, waiting) for batch, waiting in found]
        typer.echo(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
    elif found:
        from rich.console import Console

        Console().print(batch_table(found))
    else:
        typer.echo("no batches; a role with batch: true in its recipe sends its calls in batches")


def _cancel(name: str) -> None:
    import asyncio

    from graft.agents.gateway.batch.desk import cancel_batch
    from graft.agents.gateway.batch.store import path_in
    from graft.schemas.errors import NotFound
    from graft.schemas.home import Home

    path = path_in(Home.find(create=False).root)
    if not path.is_file():
        raise NotFound(f"no batch {name!r}", where="--cancel", fix="no batch was sent yet")
    batch = asyncio.run(cancel_batch(path, name))
    if batch.state == "ended":
        typer.echo(f"{batch.id[:8]} has ended already ({batch.status})")
    else:
        typer.echo(f"{batch.id[:8]} is being cancelled; replies that it has finished are charged and kept")


def batch_table(found: list[tuple[Batch, int]]) -> Table:
    """One row for each batch: its id, the provider's id, model, calls, calls still awaited, state, age."""
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for head in ("id", "provider's id", "model", "calls", "awaited", "state", "age"):
        table.add_column(head, overflow="fold")
    for batch, waiting in found:
        cells = (
            batch.id[:8], batch.remote or "", batch.model, str(batch.size), str(waiting), state_of(batch),
            _age(batch.created),
        )  # fmt: skip
        table.add_row(*(Text(cell) for cell in cells))
    return table


def state_of(batch: Batch) -> str:
    """The state of a batch in words."""
    known = {"intended": "being written", "uploaded": "being submitted"}
    return known.get(batch.state) or batch.status or "unknown"


def _fields(batch: Batch, waiting: int) -> dict[str, Any]:
    return {
        "id": batch.id, "remote": batch.remote, "model": batch.model, "calls": batch.size, "awaited": waiting,
        "state": batch.state, "status": batch.status, "created": batch.created,
    }  # fmt: skip


def _age(created: float) -> str:
    import time

    minutes = max(0, int(time.time() - created)) // 60
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"
