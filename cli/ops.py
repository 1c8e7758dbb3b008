"""`graft up`, `down`, `schedule` and `resume`: Prefect's server, a worker, what runs when, what waits for people.

Plain functions for Typer (`app.command()(up)`); what is heavy is imported inside them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from graft.cli.options import ByOption, user_name

if TYPE_CHECKING:
    from rich.table import Table

    from graft.flows.schedules import ScheduleInfo
    from graft.flows.serve import Status


def up(
    port: Annotated[int | None, typer.Option(help="port on 127.0.0.1; a busy one gives way to the next")] = None,
) -> None:
    """Start Prefect's server and a worker on this machine, and deploy what prefect.yaml names.

    Example:  graft up --port 4300
    """
    from graft.flows import serve
    from graft.schemas.home import Home

    print_services(serve.up(Home.find(), port=port, say=_say))


def down() -> None:
    """Stop the server and the worker that `graft up` started here, and nothing else.

    Example:  graft down
    """
    from graft.flows import serve
    from graft.schemas.home import Home

    serve.down(Home.find(), say=_say)


def schedule(
    recipe: Annotated[
        str | None, typer.Argument(help="a recipe's name or file; left out: list what is scheduled")
    ] = None,
    cron: Annotated[str | None, typer.Option(help="minute hour day month weekday, such as '0 3 * * *'")] = None,
    timezone: Annotated[str, typer.Option(help="IANA name of the zone that the cron is read in")] = "UTC",
    name: Annotated[str | None, typer.Option(help="name of the schedule; by default the recipe's")] = None,
    override: Annotated[list[str] | None, typer.Option("--set", help="PARAMETER=VALUE of make_dataset")] = None,
    remove: Annotated[str | None, typer.Option(help="delete a schedule by its full name, as listed")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for programs")] = False,
) -> None:
    """Make a recipe run at fixed times, list what is scheduled, or remove a schedule.

    Example:  graft schedule demo --cron '0 3 * * *' --timezone Europe/Berlin --set rows_per_label=50
    """
    from graft.flows import schedules
    from graft.schemas.errors import GraftError
    from graft.schemas.home import Home

    home = Home.find()
    if remove:
        schedules.unschedule(home, remove)
        _say(f"removed {remove}")
        return
    if recipe and not cron:
        from graft.flows.deploy import CRON_EXAMPLE

        raise GraftError(f"when should {recipe} run?", where="--cron", fix=f"give --cron: {CRON_EXAMPLE}")
    if cron and not recipe:
        raise GraftError("which recipe should run then?", where="RECIPE", fix=f"graft schedule demo --cron '{cron}'")
    if recipe and cron:
        found = [schedules.schedule(home, recipe, cron, name, read_overrides(override or []), timezone)]
    else:
        found = schedules.schedules(home)
    if as_json:
        import orjson

        typer.echo(orjson.dumps([info.model_dump(mode="json") for info in found], option=orjson.OPT_INDENT_2).decode())
    elif found:
        _print(schedule_table(found))
    else:
        _say("nothing is scheduled; example: graft schedule demo --cron '0 3 * * *'")


def resume(
    run: Annotated[str, typer.Argument(help="the run's id, or a beginning that only it has", metavar="RUN")],
    by: ByOption = "",
    note: Annotated[str, typer.Option(help="what there is to say about the review")] = "",
) -> None:
    """Resume a run that waits for review, with what people decided.

    Example:  graft resume shop-1a2b3c4d5e6f --by Ada
    """
    from graft.flows.pause import resume as resume_run
    from graft.schemas.home import Home

    resume_run(Home.find(), run, by=by or user_name(), note=note)
    _say(f"{run} resumes")


def read_overrides(pairs: list[str]) -> dict[str, Any]:
    """`NAME=VALUE` pairs as plain values (YAML scalars: 50 is a number, true a truth). Raises GraftError."""
    import yaml

    from graft.schemas.errors import GraftError
    from graft.schemas.plain_yaml import plain

    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        try:
            value = plain(text)
        except yaml.YAMLError:
            value = text
        if not equals or not name.strip() or isinstance(value, dict | list):
            raise GraftError(f"{pair!r} is not NAME=VALUE", where="--set", fix="such as --set rows_per_label=50")
        values[name.strip()] = value
    return values


def print_services(status: Status) -> None:
    """Print what is up, deployed and lately run; `graft status` ends with it."""
    _print(status_table(status))


def status_table(status: Status) -> Table:
    """What is up, what is deployed and the last flow runs, for `graft up` and `graft status`."""
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False)
    page = status.url.removesuffix("/api") if status.url else "down (start it: graft up)"
    worker = f"online (process {status.worker_pid})" if status.worker_online else "no worker is online"
    rows = [("server", page), ("worker", worker if status.url else "down")]
    rows += [("deployed" if index == 0 else "", name) for index, name in enumerate(status.deployments)]
    for index, run in enumerate(status.runs):
        when = run.started.astimezone().strftime("%Y-%m-%d %H:%M") if run.started else "not started"
        rows.append(("last runs" if index == 0 else "", f"{when}  {run.state}  {run.seconds:.0f} s  {run.deployment}"))
    for index, one in enumerate(status.waiting):
        told = f"{one.dataset} until {one.until.astimezone():%Y-%m-%d %H:%M}; then: graft resume {one.run_id}"
        rows.append(("waits for review" if index == 0 else "", told))
    for head, text in rows:
        table.add_row(Text(head, style="bold"), Text(text))
    return table


def schedule_table(found: list[ScheduleInfo]) -> Table:
    """One line a schedule: name, cron, zone, parameters, next firing in that zone."""
    from zoneinfo import ZoneInfo

    from rich.table import Table
    from rich.text import Text

    table = Table()
    for head in ("name", "cron", "zone", "next", "parameters"):
        table.add_column(head, overflow="fold")
    for info in found:
        moment = info.next_runs[0].astimezone(ZoneInfo(info.timezone)) if info.next_runs else None
        following = "paused" if info.paused else f"{moment:%Y-%m-%d %H:%M}" if moment else "being planned"
        given = ", ".join(f"{key}={value}" for key, value in info.parameters.items())
        table.add_row(*(Text(cell) for cell in (info.deployment, info.schedule, info.timezone, following, given)))
    return table


def _say(text: str) -> None:
    typer.echo(text)


def _print(table: Table) -> None:
    from rich.console import Console

    Console().print(table)
