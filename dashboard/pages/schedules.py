"""Schedules of Prefect: list and pause deployments, start a run with other parameters, cancel a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from graft.dashboard.context import Form, Page, context_of, posted
from graft.schemas.sections import Column, Table

if TYPE_CHECKING:
    from graft.flows.schedules import RunInfo


def schedules(request: Request) -> Response:
    """Show deployments, their next runs, the last flow runs, and runs that wait for a review."""
    from graft.flows.pause import waiting
    from graft.flows.schedules import overview

    context = context_of(request)
    found = overview(context.home)
    page = (found.url or "").removesuffix("/api")
    return context.page(
        request, "schedules.html.jinja", "Schedules", found=found, prefect=page, tables=(_runs(found.runs),),
        waiting=waiting(context.home), started=request.query_params.get("started", ""),
    )  # fmt: skip


def _runs(runs: tuple[RunInfo, ...]) -> Table:
    columns = (
        Column("name", "flow run", link="url"), Column("deployment", "deployment"), Column("state", "state"),
        Column("started", "started", "ago"), Column("seconds", "took", "seconds"),
    )  # fmt: skip
    return Table("runs", "Flow runs", columns, [run.model_dump() for run in runs], empty="There are no flow runs yet.")


@posted
def pause(request: Request, form: Form) -> Response:
    """Pause or resume a deployment (POST)."""
    from graft.flows.schedules import set_paused

    set_paused(context_of(request).home, form.get("deployment", ""), form.get("paused") == "1")
    return RedirectResponse("/schedules", 303)


@posted
def start(request: Request, form: Form) -> Response:
    """Request a run now (POST); fields named `p.NAME` override the deployment's parameters."""
    from graft.flows.parameters import from_form
    from graft.flows.schedules import deployments
    from graft.flows.schedules import start as ask
    from graft.schemas.errors import NotFound

    context, name = context_of(request), form.get("deployment", "")
    known = {one.name: one for one in deployments(context.home)}
    if name not in known:
        raise NotFound(f"no deployment {name[:80]!r}", where="schedules", fix="it was removed: see the list")
    texts = {field[2:]: text for field, text in form.items() if field.startswith("p.")}
    given: dict[str, Any] = from_form(known[name].accepts, texts)
    run = ask(context.home, name, given)
    return RedirectResponse(f"/schedules?started={quote(run.name)}", 303)


@posted
def cancel(request: Request, form: Form) -> Response:
    """Cancel a flow run (POST)."""
    from graft.flows.schedules import cancel as end

    end(context_of(request).home, form.get("run", ""))
    return RedirectResponse("/schedules", 303)


PAGES = (
    Page("/schedules", "schedules", schedules, menu="Schedules", plain=("started",)),
    Page("/schedules/pause", "pause", pause, posts=True),
    Page("/schedules/start", "start", start, posts=True),
    Page("/schedules/cancel", "cancel", cancel, posts=True),
)
