"""Rows of a version, or rejected candidates of its run, searched, filtered and sorted in the database."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from starlette.background import BackgroundTask
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from graft.dashboard.context import Page, PageContext, context_of, shades_of
from graft.dashboard.figures import Rows
from graft.dashboard.figures import rows as figures
from graft.dashboard.figures.filters import FILTERS, LONGEST, SORTS, Filter, RowQuery, row_query, too_long
from graft.dashboard.figures.rows import Within
from graft.dashboard.meaning import COSINE, Making, meaning_of
from graft.dashboard.tables import as_csv, attachment
from graft.data.fence import SEARCH
from graft.data.rescue import runs_of
from graft.data.versions import version, versions
from graft.schemas.display import cut
from graft.schemas.errors import GraftError, MissingExtra, NotFound
from graft.schemas.sections import HIDDEN
from graft.schemas.tasks.base import Task, Words

if TYPE_CHECKING:
    from graft.schemas.datasets import DatasetVersion

SIZE = 50
FIRST = 12
"""Rows at the top of a version's page."""
SHOWN = 900
"""Characters shown of a row."""
NEAREST = 200
"""Number of nearest rows that a semantic search returns; other filters apply to these."""


@dataclass
class Listed:
    """A list: the number of matching rows, one page of them, and the state of a semantic search."""

    total: int = 0
    rows: Rows = field(default_factory=list)
    cosines: dict[str, float] = field(default_factory=dict)
    waits: str = ""
    making: Making | None = None
    sample: int = 0


def rows(request: Request) -> Response:
    """A version's rows; `?rejected=1` shows its run's rejected candidates. Restricted text is hidden."""
    context, query = context_of(request), request.query_params
    refs = [found.ref for found in reversed(versions(context.lake))]
    wanted, page = row_query(query), _page(query.get("page", "0"))
    if not refs and not (wanted.rejected and wanted.values.get("run")):
        return context.page(request, "empty.html.jinja", "Rows", what="There are no rows yet.")
    found, within = _within(context, wanted, query.get("ref", ""), refs)
    meaning, cluster = query.get("meaning", "").strip(), query.get("cluster", "")
    problems = [*wanted.problems, *_meaning_problem(meaning, wanted)]
    if too_long(meaning):
        meaning = ""
    only = None
    if cluster and found is not None and not wanted.rejected:
        only, problem = _cluster(context, found, cluster)
        problems += problem
    form = query.get("format", "")
    if form and problems:
        raise GraftError(problems[0], where="filter", fix="correct it on the page, then download the file")
    if form == "csv" and query.get("all") == "1" and not (meaning or cluster):
        return _all_as_csv(context, within, wanted)
    listed = _listed(context, found, within, wanted, page, meaning, only)
    if form == "csv":
        return _page_as_csv(within, wanted, listed)
    task = _task(context, found, within)
    _add_views(listed.rows, task)
    kept = _kept(found, wanted, meaning, cluster if only else "")
    return context.page(
        request, "rows.html.jinja", f"Rows of {found.ref}" if found else f"Candidates of {within.run_id}",
        version=found, refs=refs, row_query=wanted, listed=listed, within=within, page=page, meaning=meaning,
        pages=max(1, -(-listed.total // SIZE)), problems=problems, sorts=SORTS, longest=LONGEST,
        filters=[(one, _choices(context, found, within, one)) for one in FILTERS if _offered(one, wanted)],
        shades=shades_of(found.labels if found else {}, (one["view"] for one in listed.rows)),
        chips=_chips(kept), link=_linker(kept), judged=wanted.judged,
    )  # fmt: skip


def first_rows(context: PageContext, found: DatasetVersion, given: QueryParams) -> dict[str, Any]:
    """A version's first rows, filtered by words, label and split, each with the reason why it was accepted."""
    offered = [one for one in FILTERS if one.often and one.on != "rejected"]
    names = {one.name for one in offered}
    wanted = row_query(QueryParams([(name, value) for name, value in given.multi_items() if name in names]))
    within = Within(False, found.dataset, found.version, rows=found.rows)
    total, some = figures.find(context.lake, within, wanted, page=0, size=FIRST)
    whys = figures.reasons(context.lake, within, [row["id"] for row in some])
    task = _task(context, found, within)
    _add_views(some, task)
    for row in some:
        row["why"] = HIDDEN if row["restricted"] else whys.get(row["id"], row["source"])
    first = {
        "total": total,
        "rows": some,
        "filtered": bool(wanted.given),
        "link": _linker(_kept(found, wanted, "", ""))(),
    }
    choices = [(one, _choices(context, found, within, one)) for one in offered]
    return {"first": first, "filters": choices, "row_query": wanted, "problems": wanted.problems, "longest": LONGEST,
            "shades": shades_of(found.labels, (one["view"] for one in some))}  # fmt: skip


def _add_views(found: Rows, task: Task) -> None:
    """Add the task's view to each row that has one."""
    for row in found:
        row["view"] = cut(task.view(Words.of(row)), SHOWN) if task.checked or row["data"] else ()


def _task(context: PageContext, found: DatasetVersion | None, within: Within) -> Task:
    run = context.lake.run(found.run_id if found else within.run_id)
    return run.task if run else Task()


def _kept(found: DatasetVersion | None, wanted: RowQuery, meaning: str, cluster: str) -> dict[str, str]:
    """The parameters that links of this list keep."""
    parameters = {
        "ref": found.ref if found else "", "rejected": "1" if wanted.rejected else "", **wanted.values,
        "meaning": meaning, "cluster": cluster, "sort": wanted.sort if wanted.sort != "id" else "",
    }  # fmt: skip
    return {name: value for name, value in parameters.items() if value}


def _within(context: PageContext, wanted: RowQuery, ref: str, refs: list[str]) -> tuple[DatasetVersion | None, Within]:
    """The version and the scope of the search. A run that published nothing has no version."""
    run_id = wanted.values.get("run", "")
    if wanted.rejected and run_id and not ref:
        run = context.lake.run(run_id)
        if run is None:
            raise NotFound("no such run", where=run_id, fix="choose one from the list of runs")
        ref = f"{run.dataset}@{run.version}" if run.version and f"{run.dataset}@{run.version}" in refs else ""
        if not ref:
            return None, Within(rejected=True, run_id=run_id)
    if not ref and (ids := wanted.given.get("ids")):
        ref = figures.holder(context.lake, ids)
    found = version(context.lake, ref or refs[0])
    if wanted.rejected:
        return found, Within(rejected=True, run_id=run_id or found.run_id)
    return found, Within(False, found.dataset, found.version, rows=found.rows)


def _listed(
    context: PageContext, found: DatasetVersion | None, within: Within, wanted: RowQuery, page: int, meaning: str,
    only: list[str] | None,
) -> Listed:  # fmt: skip
    """The page of rows, by semantic search if requested and possible."""
    listed = Listed()
    if meaning and found is not None and not wanted.rejected:
        helper = meaning_of(context.home)
        vectors = helper.vectors(found, searched=True)
        if vectors is None:
            listed.waits, listed.making = "vectors", helper.making(found)
            return listed
        try:
            with context.lake.fences.of(SEARCH).turn():
                vector = helper.embed(meaning)
        except MissingExtra as error:
            listed.waits, listed.making = "extra", Making(failed=error.what, fix=error.fix)
            return listed
        if vector is None:
            listed.waits = "encoder"
            return listed
        with context.lake.fences.of(SEARCH).turn():
            near = [one for one in vectors.search(vector, 2 * NEAREST) if one.kind == "row"][:NEAREST]
        listed.cosines = {one.id: one.cosine for one in near if only is None or one.id in only}
        listed.sample = 0 if vectors.whole else vectors.rows
        only = list(listed.cosines)
    listed.total, listed.rows = figures.find(context.lake, within, wanted, page=page, size=SIZE, only=only)
    return listed


def _cluster(context: PageContext, found: DatasetVersion, row_id: str) -> tuple[list[str] | None, list[str]]:
    """The rows of this row's cluster of near duplicates."""
    from graft.data.vectors import clusters

    vectors = meaning_of(context.home).vectors(found)
    for one in clusters(vectors, COSINE) if vectors is not None else ():
        if row_id in one.members:
            return list(one.members), []
    return None, ["There is no such cluster of near duplicates; the map lists the clusters."]


def _page_as_csv(within: Within, wanted: RowQuery, listed: Listed) -> Response:
    columns = [*figures.columns(within, wanted), *(["cosine"] if listed.cosines else [])]
    rows = [{**row, "cosine": listed.cosines.get(row["id"])} for row in listed.rows]
    return as_csv(columns, rows, f"rows-{_named(within)}")


def _named(within: Within) -> str:
    return within.run_id if within.rejected else f"{within.dataset}-{within.version}"


def _all_as_csv(context: PageContext, within: Within, wanted: RowQuery) -> Response:
    """All matching rows as CSV, written by DuckDB in a separate process, so that no page waits."""
    handle, name = tempfile.mkstemp(prefix="graft-rows-", suffix=".csv")
    os.close(handle)
    path = Path(name)
    try:
        figures.write_csv(context.lake, within, wanted, path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return FileResponse(
        path, media_type="text/csv", headers=attachment(f"rows-{_named(within)}-all.csv"),
        background=BackgroundTask(path.unlink, missing_ok=True),
    )  # fmt: skip


def _offered(one: Filter, wanted: RowQuery) -> bool:
    """Return True if the form offers this filter here. Only links choose single rows."""
    return one.name != "ids" and one.on != ("rows" if wanted.rejected else "rejected")


def _choices(context: PageContext, found: DatasetVersion | None, within: Within, one: Filter) -> list[str]:
    """The choices of a filter, if it has a list."""
    if one.kind == "yes":
        return ["yes", "no"]
    if one.name in ("label", "intended"):
        return list(found.labels) if found else []
    if one.name == "split":
        return list(found.splits) if found else []
    if one.name == "model":
        return list(found.licences) if found else []
    if one.name == "run":
        return runs_of(context.lake, found) if found else [within.run_id]
    run_id = within.run_id or (found.run_id if found else "")
    if one.name == "gate":
        return figures.stops(context.lake, run_id)
    if one.name == "code":
        return figures.codes(context.lake, run_id, rejected=within.rejected)
    return list(one.choices)


def _chips(kept: dict[str, str]) -> list[tuple[str, str, str]]:
    """Active filters: (title, value, the address without it)."""
    titles = {one.name: one.title for one in FILTERS} | {"meaning": "meaning", "cluster": "near duplicates of"}
    return [
        (title, kept[name], _linker({key: value for key, value in kept.items() if key != name})())
        for name, title in titles.items()
        if name in kept
    ]


def _linker(kept: dict[str, str]) -> Callable[..., str]:
    """Addresses of this list: the current parameters and changes to them."""
    return lambda **more: "/rows?" + urlencode({**kept, **more})


def _meaning_problem(meaning: str, wanted: RowQuery) -> list[str]:
    if meaning and wanted.rejected:
        return ["Rejected candidates are not embedded; search them by words."]
    return [problem] if (problem := too_long(meaning)) else []


def _page(text: str) -> int:
    return min(int(text), 10**7) if text.isascii() and text.isdigit() and len(text) < 9 else 0


PAGES = (Page("/rows", "rows", rows, menu="Rows", plain=("ref", "rejected", "run", "page")),)
