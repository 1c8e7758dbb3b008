"""Verbs of operation: `up`, `down`, `schedule`, `resume` and `dashboard`.

Heavy libraries are imported inside the functions.
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
    port: Annotated[
        int | None, typer.Option(help="port on 127.0.0.1; if it is busy, the next free port is used")
    ] = None,
) -> None:
    """Start Prefect's server and a worker on this machine, and create the deployments of prefect.yaml.

    Example:  graft up --port 4300
    """
    from graft.flows import serve
    from graft.schemas.home import Home

    print_services(serve.up(Home.find(), port=port, say=_say))


def down() -> None:
    """Stop the server and the worker that `graft up` started for this GRAFT_HOME.

    Example:  graft down
    """
    from graft.flows import serve
    from graft.schemas.home import Home

    serve.down(Home.find(), say=_say)


def schedule(
    recipe: Annotated[str | None, typer.Argument(help="name or file of a recipe; left out: list the schedules")] = None,
    cron: Annotated[
        str | None, typer.Option(help="cron expression: minute hour day month weekday, such as '0 3 * * *'")
    ] = None,
    timezone: Annotated[str, typer.Option(help="IANA time zone of the cron expression")] = "UTC",
    name: Annotated[str | None, typer.Option(help="name of the schedule; default: the recipe's name")] = None,
    override: Annotated[list[str] | None, typer.Option("--set", help="PARAMETER=VALUE of make_dataset")] = None,
    remove: Annotated[str | None, typer.Option(help="delete the schedule with this full name, as listed")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for programs")] = False,
) -> None:
    """Schedule a recipe, list the schedules, or remove a schedule.

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

        raise GraftError(f"no time is given for {recipe}", where="--cron", fix=f"give --cron: {CRON_EXAMPLE}")
    if cron and not recipe:
        raise GraftError("no recipe is named", where="RECIPE", fix=f"graft schedule demo --cron '{cron}'")
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
        _say("no schedules; example: graft schedule demo --cron '0 3 * * *'")


def resume(
    run: Annotated[str, typer.Argument(help="run id, or a unique prefix of it", metavar="RUN")],
    by: ByOption = "",
    note: Annotated[str, typer.Option(help="note about the review")] = "",
) -> None:
    """Resume a run that waits for review; the decisions are applied.

    Example:  graft resume shop-1a2b3c4d5e6f --by Ada
    """
    from graft.flows.pause import resume as resume_run
    from graft.schemas.home import Home

    resume_run(Home.find(), run, by=by or user_name(), note=note)
    _say(f"{run} resumes")


def stop(
    run: Annotated[str, typer.Argument(help="run id, or a unique prefix of it", metavar="RUN")],
) -> None:
    """Stop a run in another terminal, as Ctrl-C there does. Its finished work is committed.

    Example:  graft stop shop-1a2b3c4d5e6f
    """
    from graft.flows.stopping import stop as stop_run
    from graft.schemas.home import Home

    live = stop_run(Home.find(), run)
    _say(f"{live.run_id} stops (process {live.pid}); the same command continues it")


def read_overrides(pairs: list[str]) -> dict[str, Any]:
    """`NAME=VALUE` pairs as plain values (YAML scalars: 50 is a number, true a boolean). Raises GraftError."""
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
    """Print the server, deployments and last flow runs; `graft status` ends with it."""
    _print(status_table(status))


def status_table(status: Status) -> Table:
    """The server, its deployments and the last flow runs, for `graft up` and `graft status`."""
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
        line = f"{one.dataset} until {one.until.astimezone():%Y-%m-%d %H:%M}; then: graft resume {one.run_id}"
        rows.append(("waits for review" if index == 0 else "", line))
    for head, text in rows:
        table.add_row(Text(head, style="bold"), Text(text))
    return table


def schedule_table(found: list[ScheduleInfo]) -> Table:
    """One row for each schedule: name, cron, zone, parameters, next run in that zone."""
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


def dashboard(
    port: Annotated[int, typer.Option(min=0, max=65535, help="port; 0: any free port")] = 4390,
    host: Annotated[
        str, typer.Option(help="address to listen on; a password is required beyond this machine")
    ] = "127.0.0.1",
    name: Annotated[list[str] | None, typer.Option(help="another host name that a proxy uses; may be repeated")] = None,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="open the page in a browser")] = True,
) -> None:
    """Serve the dashboard: live runs, datasets, rows, reviews, students, models, schedules.

    The printed address holds a token that admits one browser once. The key in GRAFT_HOME/dashboard.secret works too.

    Beyond 127.0.0.1 set GRAFT_DASHBOARD_PASSWORD (decisions are recorded under the user name), or
    GRAFT_DASHBOARD_USER_HEADER behind a proxy that authenticates users.

    Example:  graft dashboard --port 4390
    """
    from graft.dashboard.serve import serve
    from graft.schemas.home import Home

    serve(Home.find(), host=host, port=port, names=name or (), open_browser=open_browser)
