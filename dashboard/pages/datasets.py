"""Datasets: the list, a version's overview, its quality, and downloads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from graft.dashboard.charts import SPLITS
from graft.dashboard.charts.shapes import dense, histogram, sparkline, stacked
from graft.dashboard.context import Chart, Page, PageContext, Spec, context_of, shown
from graft.dashboard.figures import datasets as figures
from graft.dashboard.pages.rows import first_rows
from graft.dashboard.pages.students import kind_tables
from graft.dashboard.tables import Part, attachment
from graft.data.scores import gain_of
from graft.data.tags import tags
from graft.data.versions import version, versions
from graft.schemas.datasets import NOT_STATED, DatasetVersion, Run
from graft.schemas.errors import GraftError
from graft.schemas.money import is_local, models_of
from graft.schemas.sections import FEW, Column, Table, number

QUICK = 20_000
"""Rows up to which a quality report takes about a second."""
VARIETY = ("wording", "duplicates")
"""Sections of the quality report whose figures the overview shows."""


def datasets(request: Request) -> Response:
    """List every dataset with its latest version."""
    context = context_of(request)
    rows = [
        {
            **row,
            "ref": f"{row['dataset']}@{row['version']}",
            "labels": len(_read(row["labels"])),
            "splits": ", ".join(f"{name} {count:,}" for name, count in _read(row["splits"]).items()),
            "state": "partial" if row["partial"] else "whole",
            "tags": ", ".join(f"{one['tag']} = @{one['version']}" for one in row["tags"] or ()),
            "link": f"/datasets/{row['dataset']}@{row['version']}",
            "spark": Markup(sparkline(row["history"])),
        }
        for row in figures.datasets(context.lake)
    ]
    columns = (
        Column("ref", "dataset", link="link"), Column("rows", "rows", "number"), Column("history", "rows by version"),
        Column("versions", "versions", "number"), Column("labels", "labels", "number"), Column("splits", "splits"),
        Column("origin", "made by"), Column("tags", "tags"), Column("state", "state"),
        Column("created_at", "published", "ago"),
    )  # fmt: skip
    table = Table("datasets", "Datasets", columns, rows)
    return context.page(request, "datasets.html.jinja", "Datasets", tables=(table,))


def dataset(request: Request) -> Response:
    """Show one version (`demo`, `demo@2`)."""
    context = context_of(request)
    found = version(context.lake, request.path_params["ref"])
    part = overview(context, found)
    verdict = _verdict(context, found, part.values["run"], part.values["report"])
    return context.page(
        request, "dataset.html.jinja", found.ref, tables=part.tables, ref=found.ref, linked=True, **part.values,
        **first_rows(context, found, request.query_params), verdict=verdict,
    )  # fmt: skip


def _verdict(context: PageContext, found: DatasetVersion, run: Run | None, report: Any) -> list[tuple[str, bool]]:
    """The sentences beside the title, each with True if it is good news: the student's gain, the judges' agreement,
    missing rows.
    """
    from graft.data.quality.view import ALPHA_DIGITS, LEAST_ALPHA

    lines = [line] if (line := gain_of(context.home, context.lake, found)) else []
    if report is not None and report.reviews and report.reviews.candidates < FEW:
        lines.append((f"{report.reviews.candidates} candidates reviewed", True))
    elif report is not None and report.reviews and report.reviews.alpha is not None:
        alpha = report.reviews.alpha
        agree = alpha >= LEAST_ALPHA
        lines.append((f"reviewers {'agree' if agree else 'disagree'}: alpha {number(alpha, ALPHA_DIGITS)}", agree))
    if found.partial and run is not None:
        short = ", ".join(f"{label} {count:,}" for label, count in list(run.shortfall.items())[:5])
        lines.append((f"short of the target{f': {short}' if short else ''} (stopped by {run.stopped_by})", False))
    return lines


def overview(context: PageContext, found: DatasetVersion, patience_s: float | None = None) -> Part:
    """A version's contents and origin. The page waits for the quality report of a small version only."""
    from graft.data.quality import sections

    counted = _counts(context, found)
    of_runs = context.reports.kept(("runs", found.ref), lambda: figures.runs(context.lake, found))
    noun, ends = _noun(context, found), _ends(context, found, of_runs)
    _lengths(context, found, "text")  # fast queries run before the report uses every core
    patience_s = (0.8 if found.rows <= QUICK else 0.0) if patience_s is None else patience_s
    report = context.reports.of(found, patience_s)
    by_name = {section.name: section for section in sections(report)} if report else {}
    balance = figures.balance(found, counted)
    kinds = kind_tables(context, found.dataset, found.version)
    return Part(
        tables=(
            _balance_table(found, balance, noun),
            ends,
            _runs_table(context, of_runs),
            Table("drops", "Left out of its parent", _DROPS, figures.drops(context.lake, found)),
            _versions_table(context, found),
            _students_table(context, found),
            *kinds,
            _models_table(found, context.lake.run(found.run_id), report),
        ),
        values={
            "version": found,
            "noun": noun,
            "restricted": sum(row["rows"] for row in counted if row["restricted"]),
            "sources": _by_source(counted),
            "tags": [one.tag for one in tags(context.lake, found.dataset) if one.version == found.version],
            "few": len(figures.shown_labels(balance)) < len(balance),
            "run": context.lake.run(found.run_id),
            "report": report,
            "sections": by_name,
            "variety": [fact for name in VARIETY if name in by_name for fact in by_name[name].facts],
            "candidates": sum(row["rows"] for row in ends.rows),
            "kinds": [table.name for table in kinds],
        },
        ready=report is not None,
    )


def quality(request: Request) -> Response:
    """A version's quality report, as printed by `graft quality`; `?format=html` and `json` return a file.

    Only the command line computes embeddings: no page waits for a model.
    """
    from graft.data.quality import page, sections

    context = context_of(request)
    found = version(context.lake, request.path_params["ref"])
    form = request.query_params.get("format", "")
    report = context.reports.of(found, patience_s=120.0 if form else 1.0)
    if form and report is None:
        raise GraftError("the figures are still being computed", where=found.ref, fix="reload in a minute")
    if report is not None and form in ("html", "json"):
        body, kind = (page(report), "text/html") if form == "html" else (report.model_dump_json(), "application/json")
        return as_file(body, kind, f"quality-{found.dataset}-{found.version}.{form}")
    groups = sections(report) if report is not None else ()
    return context.page(
        request, "quality.html.jinja", f"Quality of {found.ref}", ref=found.ref, version=found, groups=groups,
        report=report, tables=tuple(table for group in groups for table in group.tables),
    )  # fmt: skip


def as_file(body: str | bytes, kind: str, name: str) -> Response:
    """A response that the browser saves as a file."""
    return Response(body, media_type=kind, headers=attachment(name))


def draw_balance(context: PageContext, given: Mapping[str, str]) -> Spec | None:
    """`of`: the version. Rows of each label, by split; of more than 100 labels the largest and the smallest."""
    found = version(context.lake, given.get("of", ""))
    chosen = figures.shown_labels(figures.balance(found, _counts(context, found)))
    rows = [
        {"label": shown(row["label"]), "split": split, "rows": row[split]}
        for row in chosen for split in found.splits if row[split]
    ]  # fmt: skip
    if found.rows < FEW or not rows:
        return None
    return dense(stacked(rows, category="label", value="rows", part="split", title="rows"), len(chosen))


def draw_lengths(context: PageContext, given: Mapping[str, str]) -> Spec | None:
    """`of`: the version; `field`: text or response. Rows by length in characters, by split."""
    found = version(context.lake, given.get("of", ""))
    field: figures.TextField = "response" if given.get("field") == "response" else "text"
    rows = _lengths(context, found, field)
    if found.rows < FEW or not rows:
        return None
    return histogram(rows, part="split", title=f"characters of a {field}", colours=SPLITS)


def _counts(context: PageContext, found: DatasetVersion) -> list[dict[str, Any]]:
    return context.reports.kept(("counts", found.ref), lambda: figures.counts(context.lake, found))


def _lengths(context: PageContext, found: DatasetVersion, field: figures.TextField) -> list[dict[str, Any]]:
    return context.reports.kept(("lengths", found.ref, field), lambda: figures.lengths(context.lake, found, field))


def _by_source(counted: list[dict[str, Any]]) -> dict[str, int]:
    """Rows by source: synthetic, labelled, seed, imported."""
    names = dict.fromkeys(row["source"] for row in counted)
    return {name: sum(row["rows"] for row in counted if row["source"] == name) for name in names}


def _read(value: Any) -> dict[str, int]:
    """Counts by name, from the lake's JSON."""
    return json.loads(value) if isinstance(value, str) else dict(value)


def _noun(context: PageContext, found: DatasetVersion) -> str:
    """The noun for the rows' labels."""
    run = context.lake.run(found.run_id)
    return run.task.label_noun if run else "label"


def _balance_table(found: DatasetVersion, balance: list[dict[str, Any]], noun: str) -> Table:
    rows = [{**row, "link": rows_link(found, label=row["label"])} for row in balance]
    splits = tuple(Column(name, name, "number") for name in found.splits)
    columns = (
        Column("label", noun, link="link"), Column("rows", "rows", "number"),
        *((Column("share", "share", "share", bar=True),) if found.rows >= FEW else ()), *splits,
    )  # fmt: skip
    return Table("balance", "Balance", columns, rows)


def rows_link(found: DatasetVersion, **given: str) -> str:
    """The address of a version's rows with these filters."""
    return "/rows?" + urlencode({"ref": found.ref, **given})


def _ends(context: PageContext, found: DatasetVersion, of_runs: list[str]) -> Table:
    """Candidates of its runs by outcome; a reason links to its rows."""
    rows = figures.ends(context.lake, of_runs)
    total = sum(row["rows"] for row in rows)
    for row in rows:
        kept = row["status"] == "accepted"
        row["share"], row["total"] = row["rows"] / total, total
        row["link"] = None if kept else rows_link(found, rejected="1", code=row["code"])
    columns = (
        Column("status", "end", "status"), Column("route", "by"), Column("code", "reason", "code", link="link"),
        Column("rows", "candidates", "number"), Column("share", "share", "share", bar=True, of="total"),
    )  # fmt: skip
    more = f"of the {len(of_runs)} runs that made its rows; links open rows of the last run" if len(of_runs) > 1 else ""
    empty = "The lake has no candidates of it: its rows were imported, or the candidates are in another lake."
    return Table("ends", "Candidates by outcome", columns, rows, empty=empty, note=more)


def _runs_table(context: PageContext, of_runs: list[str]) -> Table:
    rows = figures.by_run(context.lake, of_runs) if len(of_runs) > 1 else []
    for row in rows:
        row["link"] = f"/runs/{quote(row['run_id'], safe='')}"
        row["local"] = (run := context.lake.run(row["run_id"])) is not None and run.local
    columns = (
        Column("run_id", "run", link="link"), Column("candidates", "candidates", "number"),
        Column("accepted", "accepted", "number"), Column("share", "yield", "share", of="candidates"),
        Column("price_usd", "price", "money"), Column("started_at", "started", "ago"),
    )  # fmt: skip
    return Table("runs", "Runs that made its rows", columns, rows)


_DROPS = (Column("gate", "gate"), Column("rule", "rule"), Column("rows", "rows", "number"))


def _versions_table(context: PageContext, found: DatasetVersion) -> Table:
    every = versions(context.lake, found.dataset)
    named: dict[int, list[str]] = {}
    for one in tags(context.lake, found.dataset):
        named.setdefault(one.version, []).append(one.tag)
    rows = [
        {
            "ref": one.ref, "link": None if one.version == found.version else f"/datasets/{one.ref}",
            "rows": one.rows, "change": f"{one.rows - before.rows:+,}" if before else "–",
            "origin": one.origin, "parent": f"{one.dataset}@{one.parent}" if one.parent else "–",
            "state": "partial" if one.partial else "whole", "note": one.note,
            "tags": ", ".join(named.get(one.version, ())),
            "content": one.content_hash[:12], "created_at": one.created_at,
        }
        for before, one in zip([None, *every], every, strict=False)
    ]  # fmt: skip
    columns = (
        Column("ref", "version", link="link"), Column("rows", "rows", "number"), Column("change", "change"),
        Column("origin", "made by"), Column("parent", "from"), Column("tags", "tags"), Column("state", "state"),
        Column("content", "content", "code"), Column("created_at", "published", "ago"), Column("note", "note"),
    )  # fmt: skip
    return Table("versions", "Versions", columns, rows[::-1])


def _students_table(context: PageContext, found: DatasetVersion) -> Table:
    """Students trained on the version and evaluated on held-out rows, best first."""
    from graft.data.scores import leaderboard

    page = "/students/{student_id}" in {one.path for one in context.pages}
    judged = [one.model_dump() for one in leaderboard(context.lake, found.dataset) if one.version == found.version]
    for row in judged:
        row["between"] = "–".join(f"{end:.1%}" for end in row["interval"]) if row["rows"] >= FEW else "–"
        row["link"] = f"/students/{quote(row['student_id'], safe='')}" if page else None
    columns = (
        Column("student_id", "student", "code", link="link"), Column("test_file", "evaluated on"),
        Column("rows", "rows", "number"), Column("accuracy", "accuracy", "share", of="rows"),
        Column("between", "95% interval"),
        Column("macro_f1", "macro F1", "share", measured="rows"),
        Column("gain", "over seeds only", "share", measured="rows"),
        Column("encoder", "encoder"), Column("train_rows", "training rows", "number"),
        Column("seconds", "training", "seconds"), Column("created_at", "trained", "ago"),
    )  # fmt: skip
    return Table("students", "Students", columns, judged)


def _models_table(found: DatasetVersion, run: Run | None, report: Any) -> Table:
    """The models that wrote or judged its rows: provider, licence and, if calls are known, their usage."""
    spent = report.yields.spending if report is not None and report.yields else ()
    known = {str(one.get("name")): one for one in models_of(run.recipe)} if run else {}
    rows = [{**one.model_dump(), **_described(found, known, one.model)} for one in spent]
    nothing = {"role": None, "calls": 0, "failed": 0, "tokens": 0, "price_usd": 0.0}
    seen = {row["model"] for row in rows}
    rows += [
        {**nothing, "local": is_local(known.get(name, {})), **_described(found, known, name)}
        for name in found.licences if name not in seen
    ]  # fmt: skip
    columns: tuple[Column, ...] = (
        Column("model", "model"), Column("id", "id"), Column("provider", "provider"), Column("licence", "licence")
    )  # fmt: skip
    if spent:
        columns += (
            Column("role", "role"), Column("calls", "calls", "number"), Column("failed", "failed", "number"),
            Column("tokens", "tokens", "number"), Column("price_usd", "price", "money"),
        )  # fmt: skip
    return Table("models", "Models and licences", columns, rows, empty="No model wrote or judged its rows.")


def _described(found: DatasetVersion, known: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Any]:
    """A model by its name: its id and provider in the recipe, and its licence."""
    spec = known.get(name, {})
    licence = found.licences.get(name) or spec.get("licence") or NOT_STATED
    return {"model": name, "id": spec.get("model"), "provider": spec.get("provider"), "licence": licence}


PAGES = (
    Page("/datasets", "datasets", datasets, menu="Datasets"),
    Page("/datasets/{ref}", "dataset", dataset, tab="Overview"),
    Page("/datasets/{ref}/quality", "quality", quality, tab="Quality"),
)
CHARTS = (
    Chart("balance", "rows of each label, by split", draw_balance),
    Chart("lengths", "rows by their length, by split", draw_lengths),
)
