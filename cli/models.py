"""`graft models`: cost, failures, yield and agreement of each model in each role."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any

import typer

from graft.cli.options import JsonFlag

DAY = "a date such as 2026-11-01 (UTC)"


def models(
    dataset: Annotated[str | None, typer.Option(help="only the runs of this dataset")] = None,
    run: Annotated[str | None, typer.Option(help="only this run")] = None,
    since: Annotated[str | None, typer.Option(help=f"first day: {DAY}", metavar="DAY")] = None,
    until: Annotated[str | None, typer.Option(help=f"last day: {DAY}", metavar="DAY")] = None,
    days: Annotated[int | None, typer.Option(min=1, help="only the last days, today included")] = None,
    json: JsonFlag = False,
) -> None:
    """Compare models by role: calls, tokens, price, failures, yield, agreement. Without options over all time.

    Example:  graft models --dataset demo --since 2026-11-01
    """
    from graft.cli.show import as_json, console, print_table
    from graft.data.lake import Lake
    from graft.data.spending import spent
    from graft.data.spending.scope import Filters, last_days
    from graft.data.spending.view import total_table, use_tables, worth_tables
    from graft.schemas.errors import GraftError
    from graft.schemas.home import Home

    if days and since:
        raise GraftError("two options set the first day", where="--days, --since", fix="give one of them")
    filters: Filters = {
        "dataset": dataset, "run_id": run, "since": last_days(days) if days else _day(since, "--since"),
        "until": _day(until, "--until"),
    }  # fmt: skip
    with Lake.look(Home.find(create=False)) as lake:
        _known(lake, dataset, run)
        found = spent(lake, **filters)
    if json:
        as_json({"total": found.total.model_dump(mode="json"),
                 "models": [one.model_dump(mode="json") for one in found.uses],
                 "worth": [one.model_dump(mode="json") for one in found.worths]})  # fmt: skip
        return
    if not found.uses and not found.worths:
        console().print("no calls match these options. Make some:  graft run demo")
        return
    for table in (total_table(found, filters), *use_tables(found.uses), *worth_tables(found.worths)):
        print_table(table, tight=True)


def _day(text: str | None, where: str) -> date | None:
    from graft.schemas.errors import GraftError

    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise GraftError(f"{text!r} is not a date", where=where, fix="write it as 2026-11-01") from None


def _known(lake: Any, dataset: str | None, run: str | None) -> None:
    """Raise NotFound if the lake has no run of that dataset, or no such run."""
    from graft.schemas.errors import NotFound

    if dataset is not None and not lake.runs(dataset):
        raise NotFound(f"no run of a dataset {dataset!r}", where="--dataset", fix="graft status lists runs")
    if run is not None and lake.run(run) is None:
        raise NotFound(f"no run {run!r}", where="--run", fix="graft status lists runs")
