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
    json: JsonFlag = False,
) -> None:
    """Compare models by role: calls, tokens, price, failures, yield, agreement.

    Example:  graft models --dataset demo --since 2026-11-01
    """
    from graft.cli.show import as_json, console, print_table
    from graft.data.lake import Lake
    from graft.data.spending import by_model, worth
    from graft.data.spending.scope import Filters
    from graft.data.spending.view import use_tables, worth_tables
    from graft.schemas.home import Home

    filters: Filters = {
        "dataset": dataset, "run_id": run, "since": _day(since, "--since"), "until": _day(until, "--until")
    }  # fmt: skip
    with Lake.look(Home.find(create=False)) as lake:
        _known(lake, dataset, run)
        uses = by_model(lake, **filters)
        judged = worth(lake, uses, **filters)
    if json:
        as_json({"models": [one.model_dump(mode="json") for one in uses],
                 "worth": [one.model_dump(mode="json") for one in judged]})  # fmt: skip
        return
    if not uses and not judged:
        console().print("no calls match these options. Make some:  graft run demo")
        return
    for table in (*use_tables(uses), *worth_tables(judged)):
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
