"""Verbs that only read: status, datasets, show, explain, doctor, plugins.

Their queries are small: with a second thread DuckDB takes twice the CPU, and longer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graft.cli.options import JsonFlag, RefArg
from graft.schemas.sections import HIDDEN

if TYPE_CHECKING:
    from graft.schemas.live import Live
    from graft.schemas.tasks.base import Task

SHOWN_RUNS = 20
PART = 600
"""Characters shown of each part of a row."""


def status(json: JsonFlag = False) -> None:
    """List runs, newest first, and the state of Prefect's server, worker and schedules.

    Example:  graft status --json
    """
    from graft.cli.show import as_json, console, table, without_seeds
    from graft.data.lake import Lake
    from graft.flows.serve import status as services
    from graft.schemas.home import Home
    from graft.schemas.live import read_live, so_far
    from graft.schemas.money import money

    home = Home.find(create=False)
    with Lake.look(home, threads=1) as lake:
        runs = lake.runs(limit=SHOWN_RUNS)
    service = services(home)
    noted = [found for run in runs if (found := read_live(home, run.id)) and found.state != "ended"]
    if json:
        dumped = [{**run.model_dump(mode="json"), "recipe": without_seeds(run.recipe)} for run in runs]
        as_json(
            {
                "home": str(home.root),
                "runs": dumped,
                "live": [one.model_dump(mode="json") for one in noted],
                "services": service,
            }
        )
        return
    if not runs:
        console().print(f"no runs yet in {home.root}. Start one:  graft run demo --train", soft_wrap=True)
    else:
        rows = [
            [run.id, f"{run.status}: {run.stopped_by}" if run.stopped_by else run.status,
             f"{run.counts.get('accepted', 0):,} of {run.counts.get('opened', 0):,}", f"{run.calls:,}",
             money(run.price_usd, run.local), f"{run.started_at:%m-%d %H:%M}"]
            for run in (so_far(home, run) for run in runs)
        ]  # fmt: skip
        columns = ["run", "status", "accepted", "calls", "price", "UTC"]
        table(f"runs in {home.root}", columns, rows, right=("accepted", "calls", "price"), tight=True)
    for one in noted:
        console().print(_live_line(one), markup=False, highlight=False)
    from graft.cli.ops import print_services

    print_services(service)
    console().print(f"home: {home.root} ({home.why})", markup=False, highlight=False, soft_wrap=True)


def _live_line(one: Live) -> str:
    """The current activity of a run in one line; for a silent run, the time of its last sign."""
    done = f"{one.total_accepted}/{sum(one.wanted.values())} accepted"
    if one.state == "silent":
        return f"{one.run_id}: silent since {one.at:%Y-%m-%d %H:%M:%S} (UTC), {done}; run the same command to continue"
    parts = [one.stage, done, f"{one.settled} candidates"]
    if one.per_minute is not None:
        parts.append(f"{one.per_minute:.0f} rows a minute")
    if one.eta_s is not None:
        parts.append(f"ETA {int(one.eta_s) // 60}:{int(one.eta_s) % 60:02d}")
    if one.waiting:
        parts.append(f"limited by {one.waiting}")
    return f"{one.run_id}: " + " · ".join(part for part in parts if part)


def datasets(json: JsonFlag = False) -> None:
    """List every published version.

    Example:  graft datasets
    """
    from graft.cli.show import as_json, console, table
    from graft.data.lake import Lake
    from graft.data.versions import versions
    from graft.schemas.home import Home

    home = Home.find(create=False)
    with Lake.look(home, threads=1) as lake:
        found = versions(lake)
    if json:
        as_json([version.model_dump(mode="json", exclude={"card"}) for version in found])
        return
    if not found:
        console().print(f"no versions yet in {home.root}. Make one:  graft run demo", soft_wrap=True)
        return
    rows = [
        [v.ref, v.rows, " ".join(f"{name} {count}" for name, count in v.splits.items()), len(v.labels),
         "partial" if v.partial else "whole", v.content_hash[:12], f"{v.created_at:%Y-%m-%d %H:%M}"]
        for v in found
    ]  # fmt: skip
    table(
        "versions",
        ["version", "rows", "splits", "labels", "state", "content", "published (UTC)"],
        rows,
        right=("rows",),
    )


def show(
    ref: RefArg,
    rows: Annotated[int, typer.Option(min=0, help="rows to show of each label")] = 3,
    rejected: Annotated[
        bool, typer.Option("--rejected", help="show rejected candidates and the reasons instead")
    ] = False,
    restricted: Annotated[bool, typer.Option("--restricted", help="show the text of restricted rows")] = False,
    json: JsonFlag = False,
) -> None:
    """Show a version's card and some of its rows, or its rejected candidates.

    Example:  graft show demo --rejected
    """
    from graft.cli.show import as_json, console, table
    from graft.data.arrow import plain_rows
    from graft.data.lake import Lake
    from graft.data.lake_schema import VersionRowRecord
    from graft.data.seen import task_of
    from graft.data.versions import first_rows, version
    from graft.data.versions import plain_rows as version_rows
    from graft.schemas.home import Home

    with Lake.look(Home.find(create=False), threads=1) as lake:
        found = version(lake, ref)
        if rejected:
            records = _rejected(lake, found.run_id, restricted)
            some = _candidates(lake, found.run_id, rows, restricted)
        else:
            some = version_rows(lake, found) if json else first_rows(lake, found, rows)
            records = [_shown(row, restricted) for row in plain_rows(VersionRowRecord, some)]
        task = task_of(lake, found)
        own = _by_method(lake, found.run_id) if json else {}
    if json:
        own |= {"candidates": some} if rejected else {}
        as_json({"version": found.model_dump(mode="json"), "rows": records, **own})
        return
    if rejected:
        view = [[r["code"], r["rows"], r["example"]] for r in records]
        table(f"{found.ref}: not accepted", ["reason", "rows", "an example"], view, right=("rows",))
        view = [[r["id"], r["code"], "" if r["score"] is None else f"{r['score']:.2f}", r["reason"]] for r in some]
        table(f"{rows} of each reason", ["row", "reason", "score", "in words"], view, right=("score",))
        console().print("a row's history:  graft explain ROW")
        return
    from rich.markdown import Markdown

    console().print(Markdown(found.card))
    picked = [row for label in found.labels for row in records if row["label"] == label]
    view = [[row["id"], row["label"], row["split"], _words(task, row)] for row in picked]
    table(f"{found.ref}: {rows} rows of each label", ["row", "label", "split", "text"], view)
    console().print("a row's history:  graft explain ROW")


def _by_method(lake: Any, run_id: str) -> dict[str, Any]:
    """The report of the run's method under its name, if it has one."""
    from graft.agents.methods import report_of

    run = lake.run(run_id)
    report = report_of(run, lake.query) if run else None
    return {report.name: report.as_data()} if report else {}


def _shown(row: dict[str, Any], restricted: bool) -> dict[str, Any]:
    if restricted or not row["restricted"]:
        return row
    return {**row, **{name: HIDDEN for name in ("text", "response") if row[name] is not None}, "data": {}}


def _words(task: Task, row: dict[str, Any]) -> Any:
    """The row as its task shows it, or the bare text of a task without a shape of its own."""
    from graft.cli.show import view_text
    from graft.schemas.tasks.base import Words

    return view_text(task.view(Words.of(row)), PART) if task.checked or row["data"] else row["text"]


def _rejected(lake: Any, run_id: str, restricted: bool) -> list[dict[str, Any]]:
    """The funnel without accepted candidates, with an example of each reason if one may be shown."""
    query = """
        SELECT status, route, code, count(*) AS rows, min_by(text, candidate_id) FILTER (? OR NOT restricted) AS example
        FROM lake.candidates WHERE run_id = ? AND status <> 'accepted'
        GROUP BY ALL ORDER BY rows DESC, status, route, code"""
    found = lake.query(query, [restricted, run_id])
    return [{**row, "example": HIDDEN if row["example"] is None else row["example"]} for row in found]


def _candidates(lake: Any, run_id: str, each: int, restricted: bool) -> list[dict[str, Any]]:
    """The first candidates of each reason; `score` is the judges' mean (0 to 10), else the refusing gate's."""
    query = """
        SELECT candidate_id AS id, code, label, coalesce(mean, list_filter(gates, lambda g: NOT g.passed)[1].score)
               AS score, text, response, reason, restricted
        FROM lake.candidates WHERE run_id = ? AND status <> 'accepted'
        QUALIFY row_number() OVER (PARTITION BY code ORDER BY candidate_id) <= ? ORDER BY code, candidate_id"""
    found, hidden = lake.query(query, [run_id, each]), dict.fromkeys(("text", "response", "reason"), HIDDEN)
    return [{**row, **hidden} if row["restricted"] and not restricted else row for row in found]


def explain(row: Annotated[str, typer.Argument(help="a row's id, or its first letters", metavar="ROW")],
            restricted: Annotated[bool, typer.Option("--restricted", help="show the text of restricted rows")] = False,
            format: Annotated[str, typer.Option("--format", help="tree, json or prov (W3C PROV-JSON)")] = "tree",
            prov: Annotated[Path | None, typer.Option(help="write PROV-JSON to this file")] = None,
            json: JsonFlag = False) -> None:  # fmt: skip
    """Print a row's history: seeds, prompts, models, scores, gates, decision, price, people, versions, students.

    Example:  graft explain c_1f9a02 --prov row.prov.json
    """
    from graft.cli.provenance import written
    from graft.cli.show import as_json, console, dumps
    from graft.cli.tree import history_tree
    from graft.data.explain import explain as history_of
    from graft.data.lake import Lake
    from graft.schemas.errors import GraftError
    from graft.schemas.home import Home

    if format not in ("tree", "json", "prov"):
        raise GraftError(f"unknown format {format!r}", where="--format", fix="tree, json or prov")
    with Lake.look(Home.find(create=False), threads=1) as lake:
        history = history_of(lake, row, restricted=restricted)
    if prov is not None or format == "prov":
        from graft.data.provenance import prov as as_prov
    if prov is not None:
        written(prov, dumps(as_prov(history)) + "\n")
        console(stderr=json or format != "tree").print(f"wrote {prov}", markup=False, soft_wrap=True)
    if json or format != "tree":
        as_json(as_prov(history) if format == "prov" else history)
        return
    console().print(history_tree(history))
    if history["restricted"] and not restricted:
        console().print("a restricted row: its text is hidden; --restricted shows it")


def doctor(
    recipe: Annotated[
        str | None, typer.Argument(help="also check the endpoints of this recipe", metavar="[RECIPE]")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Check installed packages, versions, device, disk and endpoints.

    Example:  graft doctor demo
    """
    from graft.cli.doctor import findings
    from graft.cli.show import as_json, table

    found = findings(recipe)
    if json:
        as_json(found)
    else:
        table("doctor", ["what", "state", "detail"], [[f["what"], f["state"], f["detail"]] for f in found])
    if any(f["state"] == "problem" for f in found):
        raise typer.Exit(1)


def plugins(json: JsonFlag = False) -> None:
    """Methods, gates, export formats and other kinds that installed distributions add, and what is wrong with any.

    Example:  graft plugins --json
    """
    from dataclasses import asdict

    from graft.cli.show import as_json, console, table
    from graft.schemas.gates import GateSettings
    from graft.schemas.kinds import FAMILIES

    GateSettings()  # gates are compared with each other: two cannot share a field
    found = [plugin for family in FAMILIES for plugin in family.plugins.values()]
    if json:
        as_json([{**asdict(one), "status": "problem" if one.problem else "ok"} for one in found])
        return
    if not found:
        console().print("no plugin is installed. How to write one: docs/extend.md")
        return
    rows = [[one.family, one.name, one.distribution, one.version, one.problem or "ok"] for one in found]
    table("plugins", ["family", "name", "distribution", "version", "status"], rows)
