"""Runs: all of them, and one as it goes on: targets, funnel, price, latency. The page renews itself while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from dashboard.charts.shapes import line
from dashboard.desk import Desk, desk_of
from dashboard.figures import Rows
from dashboard.figures import runs as figures
from dashboard.pages.page import Chart, Page, Spec
from dashboard.tables import as_csv
from schemas.datasets import Run
from schemas.errors import NotFound


def runs(request: Request) -> Response:
    """Every run, newest first; `?format=csv` gives the table as a file."""
    desk = desk_of(request)
    found = desk.lake.runs()
    if request.query_params.get("format") == "csv":
        columns = ["id", "dataset", "status", "stopped_by", "calls", "price_usd", "seconds", "started_at"]
        return as_csv(columns, [run.model_dump() for run in found], "runs")
    return desk.page(request, "runs.html.jinja", "Runs", runs=found)


def run(request: Request) -> Response:
    """One run. While it goes on the page asks for itself again every few seconds."""
    desk = desk_of(request)
    found = desk.lake.run(request.path_params["run_id"])
    if found is None:
        raise NotFound("no such run", where="runs", fix="choose one from the list of runs")
    funnel = figures.funnel(desk.lake, found.id)
    if request.query_params.get("format") == "csv":
        return as_csv(["status", "route", "code", "rows"], funnel, f"funnel-{found.id}")
    return desk.page(
        request,
        "run.html.jinja",
        f"Run {found.id}",
        run=found,
        live=found.status == "running",
        labels=_progress(found, figures.by_label(desk.lake, found.id)),
        steps=_steps(funnel),
        funnel=funnel,
        models=figures.by_model(desk.lake, found.id),
    )


def draw_calls(desk: Desk, given: Mapping[str, str]) -> Spec | None:
    """`of`: the run. Calls answered over its time."""
    times = figures.over_time(desk.lake, given.get("of", ""))
    if len(times) < 2:
        return None
    return line(times, x="seconds", y="calls", x_title="seconds since the first call", y_title="calls answered")


def _progress(run: Run, rows: Rows) -> list[dict[str, Any]]:
    """Accepted and wanted of each label. The recipe is read as it lies: an older Graft may have written it."""
    task, target = run.recipe.get("task", {}), run.recipe.get("target", {})
    every, single = target.get("rows_per_label"), target.get("labels", {})
    named = [label["name"] for label in task.get("labels", ()) or task.get("domains", ())]
    wanted = {name: single.get(name, every) for name in named if every is not None}
    have = {row["label"]: row["accepted"] for row in rows}
    names = [*wanted, *(name for name in have if name not in wanted)]
    return [
        {"label": name, "accepted": have.get(name, 0), "wanted": wanted.get(name),
         "share": min(1.0, have.get(name, 0) / wanted[name]) if wanted.get(name) else None}
        for name in names
    ]  # fmt: skip


def _steps(funnel: Rows) -> list[tuple[str, int]]:
    """How many candidates came through each step."""
    total = sum(row["rows"] for row in funnel)
    failed = sum(row["rows"] for row in funnel if row["status"] == "failed")
    gated = sum(row["rows"] for row in funnel if row["route"] == "gate")
    accepted = sum(row["rows"] for row in funnel if row["status"] == "accepted")
    return [
        ("opened", total),
        ("written", total - failed),
        ("passed the gates", total - failed - gated),
        ("accepted", accepted),
    ]


PAGES = (
    Page("/runs", "runs", runs, menu="Runs"),
    Page("/runs/{run_id}", "run", run),
)
CHARTS = (Chart("calls", "calls answered over the run's time", draw_calls),)
