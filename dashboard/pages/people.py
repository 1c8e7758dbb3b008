"""People: decisions on a version's rows, agreement, judges measured against people, the next version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from graft.dashboard.charts.shapes import intervals
from graft.dashboard.context import Chart, Form, Page, PageContext, Spec, context_of, posted
from graft.data.versions import version
from graft.schemas.errors import GraftError
from graft.schemas.sections import FEW, Column, Table

if TYPE_CHECKING:
    from graft.data.review import AgainstPeople, Progress, Standing

SHOWN = 200
"""Maximum number of decisions on the page; the CSV has all."""


def people(request: Request) -> Response:
    """A version's review so far. `?csv=decisions` returns every decision as a file, with restricted text hidden."""
    from graft.data.review import agreement, decisions, progress
    from graft.data.review.view import judges_table, people_tables

    context = context_of(request)
    found = version(context.lake, request.path_params["ref"])
    made = context.cache.get(("decisions", found.ref), lambda: decisions(context.lake, found))
    agreed = context.cache.get(("agreement", found.dataset), lambda: agreement(context.lake, found.dataset))
    so_far = context.cache.get(("progress", found.ref), lambda: progress(context.lake, found))
    judges = _measured(context, found.dataset)
    every = request.query_params.get("csv") == "decisions"
    pairs, differ = people_tables(agreed)
    linked = [{**row, "href": f"/review?ref={found.ref}&row={row['row']}"} for row in differ.rows]
    tables = (
        _persons(so_far), pairs, replace(differ, rows=linked), judges_table(judges), _decisions(made, every=every),
    )  # fmt: skip
    return context.page(
        request, "people.html.jinja", f"People's review of {found.ref}", tables=tables, ref=found.ref, found=found,
        progress=so_far, agreement=agreed, decided=len(made), shown_decisions=SHOWN, judged=judges.rows,
    )  # fmt: skip


def _measured(context: PageContext, dataset: str) -> AgainstPeople:
    from graft.data.review import against_people

    return context.cache.get(("against people", dataset), lambda: against_people(context.lake, dataset))


@posted
def publish(request: Request, form: Form) -> Response:
    """Publish the next version with people's decisions (POST) and show it."""
    from graft.data.edits import rebase
    from graft.data.lake import Lake

    context = context_of(request)
    with Lake.open(context.home) as lake:  # a connection of its own: people can decide while a large version is written
        found = version(lake, form.get("ref", ""))
        made = rebase(lake, found)
    if made.version is None:
        raise GraftError(f"{found.ref} has all decisions already", where=found.ref, fix="review some rows first")
    return RedirectResponse(f"/datasets/{made.version}", 303)


@posted
def resume(request: Request, form: Form) -> Response:
    """Resume a run that waits for review (POST)."""
    from graft.flows.pause import resume as resume_run

    context, run_id = context_of(request), form.get("run", "")
    resume_run(context.home, run_id, by=context.door.person(request))
    return RedirectResponse(f"/runs/{quote(run_id)}", 303)


def _persons(so_far: Progress) -> Table:
    columns = (
        Column("by", "person"), Column("decided", "decided", "number"), Column("skipped", "skipped", "number"),
        Column("seconds", "median time", "seconds"),
    )  # fmt: skip
    return Table("persons", "Reviewers", columns, [one.model_dump() for one in so_far.people])


def draw_judges(context: PageContext, given: Mapping[str, str]) -> Spec | None:
    """`of`: the dataset. Agreement of each judge with people's decisions; gates without rejections are left out."""
    from graft.data.review.view import judges_table

    every = judges_table(_measured(context, given.get("of", ""))).rows
    rows = [{**one, "judge": f"{one['name']} ({one['kind']})"} for one in every
            if one["kind"] != "gate" or one["accepted"] < one["rows"]]  # fmt: skip
    rows = [one for one in rows if one["rows"] >= FEW]
    if not rows:
        return None
    return intervals(rows, category="judge", value="share", low="low", high="high", title="agrees with people")


def _decisions(made: tuple[Standing, ...], *, every: bool) -> Table:
    rows = [
        {
            "at": one.edit.at, "by": one.edit.by, "row": one.edit.row_id, "action": one.edit.action,
            "label": one.edit.label if one.edit.label is not None else one.edit.base_label, "held": one.held,
            "note": one.edit.note, "queue": one.edit.queue, "blind": "blind" if one.edit.blind else "",
            "href": f"/rows/{one.edit.row_id}",
        }
        for one in (made if every else made[:SHOWN])
    ]  # fmt: skip
    columns = (
        Column("at", "when", "ago"), Column("by", "who"), Column("row", "row", "code", link="href"),
        Column("action", "decision"), Column("label", "label"), Column("held", "in this version"),
        Column("queue", "queue"), Column("blind", ""), Column("note", "note"),
    )  # fmt: skip
    return Table("decisions", "Decisions", columns, rows)


PAGES = (
    Page("/datasets/{ref}/people", "people", people, tab="People"),
    Page("/review/publish", "publish", publish, posts=True),
    Page("/review/resume", "resume", resume, posts=True),
)
CHARTS = (Chart("judges", "share of people's decisions that each judge agrees with, with its interval", draw_judges),)
