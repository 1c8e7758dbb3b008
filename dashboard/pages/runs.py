"""Runs: the list, a comparison, and one run, whose page reloads itself while the run is live."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from graft.dashboard.charts.shapes import bars, line
from graft.dashboard.context import Chart, Page, PageContext, Spec, context_of
from graft.dashboard.figures import Rows
from graft.dashboard.pages.acting import known, recipe_text, run_of, trouble, work_of
from graft.schemas.datasets import NOT_STATED
from graft.schemas.errors import GraftError
from graft.schemas.live import read_live, so_far
from graft.schemas.money import models_of
from graft.schemas.sections import FEW, Column, Table

if TYPE_CHECKING:
    from graft.data.query_cache import QueryCache
    from graft.data.spending import Stretch
    from graft.schemas.datasets import Run
    from graft.schemas.live import Live

MOST_COMPARED = 12
LATE_S = 2.0
"""Seconds by which the figures of a live run may lag."""


def runs(request: Request) -> Response:
    """List every run, newest first; ticked runs can be compared. `of`: the work that starts a run, until it has one."""
    from graft.flows.background import progress

    context, dataset = context_of(request), request.query_params.get("dataset", "")
    work = progress(context.home, of) if (of := request.query_params.get("of", "")) else None
    if work is not None and (begun := run_of(context, work)):
        return RedirectResponse(f"/runs/{quote(begun)}", 303)
    every = [so_far(context.home, run) for run in context.lake.runs()]
    found = [run for run in every if not dataset or run.dataset == dataset]
    rows = [{**run.model_dump(exclude={"recipe"}), "method": _method(run)} for run in found]
    columns = (
        Column("id", "run"), Column("dataset", "dataset"), Column("method", "method"), Column("status", "status"),
        Column("stopped_by", "stopped by"), Column("calls", "calls"), Column("price_usd", "price"),
        Column("seconds", "seconds"), Column("started_at", "started"),
    )  # fmt: skip
    return context.page(
        request, "runs.html.jinja", "Runs", runs=found, names=sorted({run.dataset for run in every}), chosen=dataset,
        work=work,
        methods={run.id: _method(run) for run in found}, tables=(Table("runs", "Runs", columns, rows),),
    )  # fmt: skip


def compare(request: Request) -> Response:
    """`?run=A&run=B`: runs as the columns of one table."""
    from graft.data.spending import compare_runs

    context, ids = context_of(request), list(dict.fromkeys(request.query_params.getlist("run")))[:MOST_COMPARED]
    if len(ids) < 2:
        raise GraftError("a comparison needs two runs or more", where="runs", fix="tick runs in the list")
    found = [one.model_dump() for one in compare_runs(context.lake, ids)]
    names = [Column(f"r{place}", one["run_id"]) for place, one in enumerate(found)]
    rows = [
        {"figure": title, **{f"r{place}": shown(one) for place, one in enumerate(found)}}
        for title, shown in COMPARED.items()
    ]
    table = Table("compared", "Runs side by side", (Column("figure", "figure"), *names), rows)
    return context.page(request, "compare.html.jinja", "Runs side by side", tables=(table,), runs=found)


def _shown(name: str, kind: str = "text", digits: int = 0) -> Any:
    column = Column(name, name, kind, digits)  # type: ignore[arg-type]
    return column.text


COMPARED: dict[str, Any] = {
    "dataset": _shown("dataset"), "method": _shown("method"), "status": _shown("status"),
    "stopped by": _shown("stopped_by"), "opened": _shown("opened", "number"), "accepted": _shown("accepted", "number"),
    "yield": _shown("share", "share"), "calls": _shown("calls", "number"), "tokens": _shown("tokens", "number"),
    "price": _shown("price_usd", "money"), "an accepted row": _shown("row_price_usd", "money"),
    "took": _shown("seconds", "seconds"), "accepted rows a minute": _shown("rows_per_minute", "number", 1),
    "models": lambda one: "; ".join(f"{role}: {', '.join(names)}" for role, names in one["models"].items()),
    "not accepted by": lambda one: ", ".join(f"{code} {count:,}" for code, count in list(one["codes"].items())[:4]),
}  # fmt: skip
"""The rows of a comparison, with a function from a run to its value."""


def run(request: Request) -> Response:
    """Show one run. The page reloads itself every few seconds while the run is live."""
    from graft.data.spending import by_model, errors

    context = context_of(request)
    found = known(context, request.path_params["run_id"])
    now, work = read_live(context.home, found.id), work_of(context, found)
    funnel = _funnel(context.cache, found)
    uses = _remembered(context, found, "models", lambda: by_model(context.lake, run_id=found.id))
    failed = _remembered(context, found, "errors", lambda: errors(context.lake, found.id))
    tables = (
        _ends(found, funnel), _uses(found, [one.model_dump() for one in uses]),
        _failures([one.model_dump() for one in failed]),
        _endpoints(now),
    )  # fmt: skip
    return context.page(
        request, "run.html.jinja", f"Run {found.id}", run=found, live=found.status == "running", now=now, tables=tables,
        labels=_progress(found, _by_label(context.cache, found)), steps=_steps(found, funnel),
        method=_method(found), prefect=_prefect_page(now), work=work, trouble=trouble(found, work),
        latest=_latest(context.cache, found), recipe=recipe_text(found),
    )  # fmt: skip


def _remembered(context: PageContext, found: Run, what: str, make: Any) -> Any:
    from graft.data.query_cache import run_stamp

    return context.cache.get((what, found.id), make, stamp=run_stamp(found), late_s=LATE_S)


def _method(found: Run) -> str:
    return str(found.recipe.get("method", {}).get("kind", ""))


def _prefect_page(now: Live | None) -> str:
    """The flow run's page in Prefect, if the current server is the server of the run."""
    if now is None or not now.api_url or not now.flow_run_id:
        return ""
    from graft.flows.prefect_api import flow_run_url

    return flow_run_url(now.api_url, now.flow_run_id)


def _progress(run: Run, rows: Rows) -> list[dict[str, Any]]:
    """Accepted and target rows of each label. The recipe is read raw: an older Graft may have written it."""
    target = run.recipe.get("target", {})
    every, single = target.get("rows_per_label"), target.get("labels", {})
    wanted = {name: single.get(name, every) for name in run.task.names if every is not None}
    have = {row["label"]: row["accepted"] for row in rows}
    names = [*wanted, *(name for name in have if name not in wanted)]
    return [
        {"label": name, "accepted": have.get(name, 0), "wanted": wanted.get(name),
         "share": min(1.0, have.get(name, 0) / wanted[name]) if wanted.get(name) else None}
        for name in names
    ]  # fmt: skip


def _steps(found: Run, funnel: Rows) -> list[dict[str, Any]]:
    """Candidates that passed each step, and their share of all opened candidates.

    Gates run before the reviews (cheap checks) and after (similarity to other rows), so their rejections are a
    step of its own, beside reviewed and adjudicated.
    """

    def count(*routes: str) -> int:
        return sum(row["rows"] for row in funnel if row["route"] in routes)

    total = sum(row["rows"] for row in funnel)
    written = total - count("failed", "refusal")
    accepted = sum(row["rows"] for row in funnel if row["status"] == "accepted")
    steps = [
        ("opened", total), ("generated", written), ("reviewed", sum(row["reviewed"] for row in funnel)),
        ("adjudicated", count("adjudicated")), ("rejected by gates", count("gate")), ("accepted", accepted),
        ("published", found.counts.get("published")),
    ]  # fmt: skip
    return [
        {"step": name, "rows": rows, "share": rows / total if total >= FEW else None}
        for name, rows in steps
        if rows is not None and (rows or name not in ("adjudicated", "rejected by gates"))
    ]


def _ends(found: Run, funnel: Rows) -> Table:
    total = sum(row["rows"] for row in funnel) or 1
    rows = [
        {**row, "share": row["rows"] / total, "total": total, "href": _rows_of(found, row)} for row in funnel
    ]  # fmt: skip
    columns = (
        Column("status", "end", "status"), Column("route", "by"), Column("code", "reason", link="href"),
        Column("rows", "candidates", "number"), Column("share", "share", "share", bar=True, of="total"),
    )  # fmt: skip
    return Table("funnel", "Candidates by outcome", columns, rows, empty="No candidate has ended yet.")


def _rows_of(found: Run, row: Mapping[str, Any]) -> str:
    """The address of the rows of a line of the funnel."""
    if row["status"] == "accepted":
        return f"/rows?ref={found.dataset}@{found.version}" if found.version else f"/rows/{quote(row['example'])}"
    return "/rows?" + urlencode({"run": found.id, "rejected": "1", "code": row["code"]})


def _uses(found: Run, uses: list[dict[str, Any]]) -> Table:
    known = {one.get("name"): one for one in models_of(found.recipe)}
    for row in uses:
        spec = known.get(row["model"], {})
        row |= {"provider": spec.get("provider"), "licence": spec.get("licence") or NOT_STATED}
    columns = (
        Column("model", "model"), Column("provider", "provider"), Column("licence", "licence"), Column("role", "role"),
        Column("calls", "calls", "number"),
        Column("failed", "failed", "number"), Column("prompt_tokens", "tokens read", "number"),
        Column("completion_tokens", "written", "number"), Column("price_usd", "price", "money"),
        Column("p50_s", "median", "seconds"), Column("p95_s", "95%", "seconds"),
    )  # fmt: skip
    return Table("models", "Models", columns, uses)


def _failures(failed: list[dict[str, Any]]) -> Table:
    columns = (
        Column("code", "error"), Column("model", "model"), Column("role", "role"), Column("calls", "calls", "number"),
        Column("answered", "answered later", "number"), Column("last", "last", "ago"),
    )  # fmt: skip
    return Table("errors", "Errors", columns, failed)


def _endpoints(now: Live | None) -> Table:
    rows = [one.model_dump() for one in now.endpoints] if now and now.state == "live" else []
    columns = (
        Column("model", "model"), Column("inside", "in flight", "number"), Column("limit", "limit", "number"),
        Column("queued", "queued", "number"), Column("calls", "calls", "number"), Column("p50_s", "median", "seconds"),
        Column("p95_s", "95%", "seconds"), Column("refused", "rate limited", "number"),
        Column("pause_s", "pause", "seconds"),
    )  # fmt: skip
    return Table("endpoints", "Endpoints now", columns, rows)


def _stretches(context: PageContext, given: Mapping[str, str]) -> list[Stretch]:
    from graft.data.spending import over_run

    found = known(context, given.get("of", ""))
    made: list[Stretch] = _remembered(context, found, "stretches", lambda: over_run(context.lake, found.id))
    return made


def _funnel(cache: QueryCache, run: Run) -> Rows:
    """A run's candidates by outcome: status, route, code, rows, number reviewed, an example's id."""
    query = """
        SELECT status, route, code, count(*) AS rows, min(candidate_id) AS example,
               count(*) FILTER (asked > 0 OR labelling IS NOT NULL) AS reviewed
        FROM lake.candidates WHERE run_id = ? GROUP BY ALL ORDER BY rows DESC, status, route, code"""
    return _rows(cache, run, query)


def _latest(cache: QueryCache, run: Run) -> Rows:
    """The candidates that ended last, without restricted texts."""
    query = """
        SELECT candidate_id AS id, status, label, reason, CASE WHEN restricted THEN '' ELSE text END AS text, restricted
        FROM lake.candidates WHERE run_id = ? ORDER BY rowid DESC LIMIT 12"""
    return _rows(cache, run, query)


def _by_label(cache: QueryCache, run: Run) -> Rows:
    """A run's labels: accepted rows and candidates of each."""
    query = """
        SELECT label, count(*) FILTER (status = 'accepted') AS accepted, count(*) AS candidates
        FROM lake.candidates WHERE run_id = ? GROUP BY label ORDER BY label"""
    return _rows(cache, run, query)


def _rows(cache: QueryCache, run: Run, query: str) -> Rows:
    from graft.data.query_cache import run_stamp

    return cache.rows(query, [run.id], stamp=run_stamp(run), late_s=LATE_S)


def draw_calls(context: PageContext, given: Mapping[str, str]) -> Spec | None:
    """`of`: the run. Calls answered over time."""
    some = _stretches(context, given)
    rows = [{"seconds": one.seconds, "calls": one.calls} for one in some]
    if len(rows) < 2 or sum(one.candidates for one in some) < FEW:
        return None
    return line(rows, x="seconds", y="calls", x_title="seconds since the first call", y_title="calls answered")


def draw_yield(context: PageContext, given: Mapping[str, str]) -> Spec | None:
    """`of`: the run. Share of candidates accepted so far, over time."""
    known = [one for one in _stretches(context, given) if one.yield_so_far is not None]
    if sum(one.candidates for one in known) < FEW:
        return None
    rows = [{"seconds": one.seconds, "share": one.yield_so_far} for one in known]
    if len(rows) < 2:
        return None
    return line(rows, x="seconds", y="share", x_title="seconds since the first call", y_title="yield so far",
                y_format="%")  # fmt: skip


def draw_price(context: PageContext, given: Mapping[str, str]) -> Spec | None:
    """`of`: the run. Price of an accepted row so far, if prices are known and not all zero."""
    known = [one for one in _stretches(context, given) if one.row_price_so_far]
    rows = [{"seconds": one.seconds, "usd": one.row_price_so_far} for one in known]
    if len(rows) < 2 or sum(one.candidates for one in known) < FEW:
        return None
    return line(
        rows, x="seconds", y="usd", x_title="seconds since the first call", y_title="US dollars for a row so far"
    )


def draw_funnel(context: PageContext, given: Mapping[str, str]) -> Spec | None:
    """`of`: the run. Candidates that passed each step."""
    found = context.lake.run(given.get("of", ""))
    steps = _steps(found, _funnel(context.cache, found)) if found else []
    return bars(steps, category="step", value="rows", title="candidates") if steps and steps[0]["rows"] >= FEW else None


PAGES = (
    Page("/runs", "runs", runs, menu="Runs", plain=("dataset", "of")),
    Page("/runs/compare", "compare", compare, plain=("run",)),
    Page("/runs/{run_id}", "run", run),
)
CHARTS = (
    Chart("calls", "calls answered over the run's time", draw_calls),
    Chart("yield", "yield so far over the run's time", draw_yield),
    Chart("price", "price of an accepted row so far over the run's time", draw_price),
    Chart("funnel", "candidates that passed each step", draw_funnel),
)
