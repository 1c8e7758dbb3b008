"""The card of a published version, in Markdown. All text from models, seeds and imported files is made inert."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from graft.data.lake_schema import RunDocument
from graft.schemas.datasets import NOT_STATED, Row, Run, SplitName
from graft.schemas.display import plain
from graft.schemas.documents import sources_of
from graft.schemas.models import ModelSpec
from graft.schemas.money import money
from graft.schemas.recipe import Recipe
from graft.schemas.sections import RIGHT, Column, Section, Table
from graft.schemas.tasks.base import Task, Words

if TYPE_CHECKING:
    from graft.data.spending import ModelUse

SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~$@:.=-])")
DOCUMENTS = 20
"""Most documents that a card names."""
SPLIT_ORDER: tuple[SplitName, ...] = get_args(SplitName)


def inert(text: str, limit: int = 300) -> str:
    """The text as one line of Markdown that renders literally: without markup, link, HTML or table cell."""
    line = "".join(c if c.isprintable() else " " for c in text)
    line = " ".join(line.split())
    line = line if len(line) <= limit else line[: limit - 1] + "…"
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return SPECIAL.sub(r"\\\1", line)


def render_card(
    *,
    run: Run,
    recipe: Recipe,
    rows: Sequence[Row],
    seeds: int,
    reasons: Sequence[tuple[str, str, int]],
    generators: Collection[str],
    method: Section | None = None,
    verdict: Section | None = None,
    roles: Sequence[str],
    documents: Sequence[RunDocument] = (),
    uses: Sequence[ModelUse] = (),
) -> str:
    """The card in Markdown. `reasons` are (status, code, rows); `generators` the models whose words are in the rows,
    `roles` the method's, `method` its own figures, `verdict` that of `graft teacher`, `documents` those of the run,
    `uses` its calls by model and role.
    """
    writers = set(generators)
    parts = [
        f"# {inert(recipe.name)}",
        inert(recipe.description, 2_000) or f"A synthetic dataset for {recipe.task.kind}.",
        _made(run, recipe, rows, seeds),
        *([_documents(documents, rows)] if documents else []),
        _counts(rows),
        *_example(recipe.task, rows),
        _funnel(reasons),
        *([section_markdown(method)] if method else []),
        *([section_markdown(verdict)] if verdict else []),
        _cost(run),
        _models(recipe, writers, roles, uses),
        _use(run, recipe, rows),
    ]
    return "\n\n".join(parts) + "\n"


def render_import(
    name: str, *, source: str, sha256: str, licence: str, task: Task, mapped: Mapping[str, str], rows: Sequence[Row],
    notices: Sequence[str],
) -> str:  # fmt: skip
    """The card of an imported version: its content, source, licence and column mapping."""
    facts = [
        f"- {len(rows):,} rows for {task.kind} over {len({row.label for row in rows}):,} labels; "
        "Graft made none of them",
        f"- from: {inert(source)}",
        f"- sha256: {sha256 or 'unknown: the source is an address'}",
        f"- licence: {inert(licence) or 'not stated'}",
        "- columns: " + ", ".join(f"{role} = {inert(column)}" for role, column in mapped.items()),
    ]
    restricted = sum(row.restricted for row in rows)
    if restricted:
        facts.append(f"- {restricted:,} rows are restricted: exports leave them out without --restricted")
    parts = [f"# {inert(name)}", "## Source\n\n" + "\n".join(facts), _counts(rows), *_example(task, rows)]
    if notices:
        parts.append("## Notes\n\n" + "\n".join(f"- {inert(notice)}" for notice in notices))
    limits = "Graft does not know who wrote the texts or how they were labelled: consult their source."
    return "\n\n".join([*parts, f"## Use and limits\n\n{limits}"]) + "\n"


def _made(run: Run, recipe: Recipe, rows: Sequence[Row], seeds: int) -> str:
    licence = inert(recipe.licence) or "not stated"
    lines = [
        "## Contents",
        "",
        f"- {len(rows):,} rows for {recipe.task.kind} over {len({row.label for row in rows})} labels, "
        f"by the method {recipe.method.kind}",
        f"- from {seeds:,} seeds; the seeds' licence: {licence}",
        f"- run {inert(run.id)}, code {inert(run.code_version)}, random seed {recipe.seed}",
    ]
    if run.by:
        lines.append(f"- started by {inert(run.by)}, not by a person")
    if left := run.counts.get("not_chosen"):
        by = recipe.select.by.replace("_", " ") if recipe.select else "selection"
        lines.append(f"- chosen by {by}: {left:,} further rows were made and add less")
    if run.shortfall:
        missing = ", ".join(f"{inert(label)} {count:,}" for label, count in sorted(run.shortfall.items()))
        lines.append(f"- **partial**: stopped by {inert(run.stopped_by)}; rows still missing: {missing}")
    elif run.status == "partial":
        lines.append(f"- **partial**: stopped by {inert(run.stopped_by)}; not all texts were labelled")
    return "\n".join(lines)


def _documents(documents: Sequence[RunDocument], rows: Sequence[Row]) -> str:
    """The documents, those first on which most rows rest."""
    used = Counter(name for row in rows for name in {one["hash"] for one in sources_of(row.data)})
    ordered = sorted(documents, key=lambda one: (-used[one.hash], one.name))
    body = [
        [inert(one.name), one.hash, f"{one.characters:,}", f"{one.passages:,}", f"{used[one.hash]:,}",
         inert(one.licence) or "not stated"]
        for one in ordered[:DOCUMENTS]
    ]  # fmt: skip
    more = len(documents) - DOCUMENTS
    note = f"\n\nAnd {more:,} more: the lake's table `documents` names all of them." if more > 0 else ""
    head = ["document", "hash", "characters", "passages", "rows that rest on it", "licence"]
    return f"## Documents\n\n{_table(head, body)}{note}\n\nAll rows of a document are in one split."


def _counts(rows: Sequence[Row]) -> str:
    count = Counter((row.label, row.split) for row in rows)
    body = [
        [inert(label), *(f"{count[label, split]:,}" for split in SPLIT_ORDER),
         f"{sum(count[label, split] for split in SPLIT_ORDER):,}"]
        for label in sorted({row.label for row in rows})
    ]  # fmt: skip
    totals = [sum(n for (_, of), n in count.items() if of == split) for split in SPLIT_ORDER]
    body.append(["**all**", *(f"{n:,}" for n in totals), f"{len(rows):,}"])
    return "## Rows\n\n" + _table(["label", *SPLIT_ORDER, "all"], body)


def _example(task: Task, rows: Sequence[Row]) -> list[str]:
    """The first open row as its task shows it, if the rows are more than texts with a label."""
    row = next((one for one in sorted(rows, key=lambda one: one.id) if not one.restricted), None)
    if row is None or not (task.checked or row.data):
        return []
    view = task.view(Words(row.text, row.response, row.label, row.data))
    lines = [inert(plain((one,)), 600) for one in view]
    quote = "\n".join(f"> {line}  " for line in lines)
    return [f"## A row\n\nRow {inert(row.id)}, {inert(row.label)}:\n\n{quote}"]


def _funnel(reasons: Sequence[tuple[str, str, int]]) -> str:
    total = sum(count for _, _, count in reasons)
    if not total:
        return "## Accepted and rejected\n\nNo candidate is recorded."
    return f"## Accepted and rejected\n\nOf {total:,} candidates:\n\n{table_markdown(funnel_table(reasons))}"


def funnel_table(reasons: Sequence[tuple[str, str, int]]) -> Table:
    """Candidates by outcome, from (status, reason, rows)."""
    total = sum(count for _, _, count in reasons) or 1
    columns = (
        Column("status", "end"), Column("reason", "reason"), Column("rows", "rows", "number"),
        Column("share", "share", "share", of="total"),
    )  # fmt: skip
    rows = [
        {"status": one, "reason": why, "rows": count, "share": count / total, "total": total}
        for one, why, count in reasons
    ]
    return Table("funnel", "", columns, rows)


def _cost(run: Run) -> str:
    return (
        f"## Cost\n\n- price: {money(run.price_usd, run.local)}\n"
        f"- model calls: {run.calls:,} ({run.calls_cached:,} from the journal)\n"
        f"- tokens: {run.prompt_tokens:,} read, {run.completion_tokens:,} written\n- time: {run.seconds:,.0f} s"
    )


def _models(recipe: Recipe, writers: set[str], roles: Sequence[str], uses: Sequence[ModelUse]) -> str:
    """Each model in each role, with its licence and, if calls are known, its usage."""
    used, rows = {(one.model, one.role): one for one in uses}, list[dict[str, Any]]()
    terms, licences = list[str](), {model.name: model.licence or NOT_STATED for model in recipe.models}
    for model in recipe.models:
        played = dict.fromkeys(role for role in roles if model in recipe.models_for(role))
        played |= dict.fromkeys(role for name, role in used if name == model.name)
        reaches = model.name in writers
        named = {"model": model.name, "id": model.model, "provider": model.provider, "local": model.local,
                "licence": licences[model.name], "reaches": "yes" if reaches else "no"}  # fmt: skip
        none = {"calls": 0, "tokens": 0, "price_usd": 0.0}
        rows += [{**none, **named, "role": role, **_usage(used.get((model.name, role)))} for role in played]
        terms += _terms(model) if reaches and played else []
    columns: tuple[Column, ...] = (
        Column("model", "model"), Column("id", "id"), Column("provider", "provider"), Column("role", "role"),
        Column("licence", "licence"), Column("reaches", "reaches the student"),
    )  # fmt: skip
    if uses:
        columns += (Column("calls", "calls", "number"), Column("tokens", "tokens", "number"),
                    Column("price_usd", "price", "money"))  # fmt: skip
    note = "A model reaches the student if its words are in the rows; a model that only judges does not."
    table = table_markdown(Table("models", "", columns, rows, note=note, empty="No model wrote or judged the rows."))
    return "\n\n".join(["## Models and their terms", table, *(["\n".join(terms)] if terms else [])])


def _usage(use: ModelUse | None) -> dict[str, Any]:
    if use is None:
        return {}
    counted = use.prompt_tokens is not None and use.completion_tokens is not None
    tokens = (use.prompt_tokens or 0) + (use.completion_tokens or 0) if counted else None
    return {"calls": use.calls, "tokens": tokens, "price_usd": use.price_usd, "least_usd": use.least_usd}


def _terms(model: ModelSpec) -> list[str]:
    """What a licence means for a student, where it means more than its name says."""
    name = inert(model.name)
    if "gemma" in f"{model.licence} {model.model}".lower():
        return [f"- {name}: the Gemma Terms of Use count a model trained on its outputs as a derivative of Gemma."]
    if model.licence is None:
        return [f"- {name}: its licence is not stated; check whether its outputs may train a model."]
    return []


def _use(run: Run, recipe: Recipe, rows: Sequence[Row]) -> str:
    restricted = sum(row.restricted for row in rows)
    own = "- the test split {}: measure a student on {}" if any(row.split == "test" for row in rows) else ""
    lines = [
        "## Use and limits",
        "",
        f"- meant for training and checking a small model for {recipe.task.kind} ({recipe.task.language})",
        "- models wrote and judged the texts: they carry those models' errors and biases, "
        "and no person has read each of them",
        own.format("is synthetic too", "rows that people wrote"),
    ]
    given = sum(row.source == "labelled" for row in rows)
    if given:
        who = "models gave all of the labels" if given == len(rows) else "models wrote the others, and gave all labels"
        lines[3:] = [
            f"- {given:,} rows are a person's own texts; {who}: they carry those models' errors",
            own.format("has such labels too", "labels that people gave"),
        ]
    if restricted:
        lines.append(f"- {restricted:,} rows are restricted (harmful): exports leave them out unless requested")
    return "\n".join([*lines[:2], *filter(None, lines[2:])])


def section_markdown(section: Section) -> str:
    """A section in Markdown: heading, text, facts as a list, tables, notes. Tables are complete."""
    parts = [f"## {inert(section.title)}", inert(section.text, 2_000)]
    parts.append("\n".join(f"- {inert(fact.name)}: {inert(fact.text)}" for fact in section.facts))
    parts += [table_markdown(table) for table in section.tables]
    parts += [inert(note, 2_000) for note in section.notes]
    return "\n\n".join(part for part in parts if part)


def table_markdown(table: Table) -> str:
    """A table in Markdown, with its title above and its note below."""
    body = [
        [column.text(row) if column.kind in RIGHT else inert(column.text(row)) for column in table.columns]
        for row in table.rows
    ]
    title = f"{inert(table.title)}:" if table.title else ""
    view = _table([inert(column.title) for column in table.columns], body) if body else ""
    return "\n\n".join(part for part in (title, view, inert(table.note if body else table.empty, 2_000)) if part)


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in body])
