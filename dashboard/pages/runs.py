"""Runs: all of them, and one as it goes on: targets, funnel, price, latency. The page renews itself while it runs."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from dashboard import figures
from dashboard.charts import line, svg
from dashboard.views import as_csv, desk_of
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
    times = figures.over_time(desk.lake, found.id)
    chart = line(times, x="seconds", y="calls", x_title="seconds since the first call", y_title="calls answered")
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
        chart=Markup(svg(chart, "calls answered over the run's time")) if len(times) > 1 else "",
    )


def _progress(run: Run, rows: figures.Rows) -> list[dict[str, Any]]:
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


def _steps(funnel: figures.Rows) -> list[tuple[str, int]]:
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
