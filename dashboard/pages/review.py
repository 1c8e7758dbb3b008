"""Review: a queue of rows that need review, one at a time, by keyboard or buttons."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from graft.dashboard.context import Form, Page, PageContext, context_of, posted, shades_of
from graft.dashboard.door import clean, remember
from graft.dashboard.queues import Ask
from graft.data.versions import version, versions
from graft.schemas.base import stable_hash
from graft.schemas.errors import GraftError

if TYPE_CHECKING:
    from graft.schemas.datasets import DatasetVersion, Edit, EditAction
    from graft.schemas.display import View
    from graft.schemas.forms import FormField

RULES = {
    "disagreement": "reviewers disagreed most",
    "margin": "another label was nearly as likely",
    "random": "random sample",
    "gate": "rejected by a gate or by judges",
    "query": "rows that match a condition",
}
LONGEST_S = 3600.0
OWN = "data."
"""Begins the name of a form's field for one of the row's further columns."""


def review(request: Request) -> Response:
    """Show the next row, or the row of `?row=`. Without a version, the queue of the newest version."""
    return _page(request, dict(request.query_params))


def _page(request: Request, query: Mapping[str, str], clash: Mapping[str, str] | None = None) -> Response:
    """The queue's page. `clash` is a decision not recorded yet, because another person decided first."""
    from graft.data.review import gates, item, progress, standing
    from graft.data.seen import task_of
    from graft.flows.pause import waiting
    from graft.schemas.tasks.base import Words

    context = context_of(request)
    refs = [found.ref for found in reversed(versions(context.lake))]
    if not refs:
        return context.page(request, "empty.html.jinja", "Review", what="There are no rows to review yet.")
    found = version(context.lake, query.get("ref") or refs[0])
    ask = _ask(query, found, context.door.person(request))
    row_id, left = (query["row"], 0) if query.get("row") else context.queues.next(context.lake, found, ask)
    one, others, task = None, list["Edit"](), task_of(context.lake, found)
    view: View = ()
    fields: tuple[FormField, ...] = ()
    if row_id:
        one = item(context.lake, found, row_id, restricted=query.get("show") == "1", rule=ask.rule)
        others = standing(context.lake, found, row_id, restricted=query.get("show") == "1")
        words = Words(one.text, one.response, one.label, one.data)
        view, fields = task.view(words), task.form(words)
    return context.page(
        request, "review.html.jinja", "Review", found=found, refs=refs, ask=ask, rules=RULES, one=one, left=left,
        others=[] if ask.blind else others, mine=[edit for edit in others if edit.by == ask.by],
        labels=_labels(context, found), gates=gates(context.lake, found) if ask.rule == "gate" else (),
        progress=progress(context.lake, found), query=_query(ask), done=_done(context, query.get("done", "")),
        clash=clash, view=view, shades=shades_of(found.labels, [view]),
        fields=fields, seen=_seen(others, ask), token=secrets.token_hex(12),
        waiting=[run for run in waiting(context.home) if run.dataset == found.ref],
    )  # fmt: skip


@posted
def decide(request: Request, form: Form) -> Response:
    """Record a decision (POST) and show the next row. A repeated submission is recorded once."""
    from graft.data.edits import decide as made_of
    from graft.data.edits import record
    from graft.data.review import standing

    context, action = context_of(request), _action(form.get("action", ""))
    found = version(context.lake, form.get("ref", ""))
    ask, row_id = _ask(form, found, context.door.person(request)), form.get("row", "")
    news = standing(context.lake, found, row_id)
    if not ask.blind and action not in ("note", "skip") and form.get("over") != "1":
        known = set(form.get("seen", "").split())
        fresh = [edit for edit in news if edit.by != ask.by and edit.id not in known]
        if fresh:
            shaped = {name: value for name, value in form.items() if name.startswith(OWN)} if action == "edit" else {}
            wanted = {"action": action, "note": form.get("note", ""), **_changes(action, form), **shaped}
            return _page(request, form, clash={name: value for name, value in wanted.items() if value})
    changes = _changes(action, form)
    edit = made_of(
        context.lake, found, row_id, action, by=ask.by, note=form.get("note", ""),
        queue=_queue_name(ask), blind=ask.blind, seconds=_seconds(form.get("seconds", "")),
        data=_columns(context, found, row_id, action, form), **changes,
    )  # fmt: skip
    named = edit.model_copy(update={"id": "e_" + stable_hash(form.get("token", "") or edit.id, row_id, ask.by, action)})
    context.pen.write(lambda lake: record(lake, [named]))
    if action == "note":
        return _to(ask, row=row_id, done=named.id)
    context.queues.done(ask, named.row_id)
    return _to(ask, done=named.id)


@posted
def undo(request: Request, form: Form) -> Response:
    """Undo one's own decision (POST) and show its row again."""
    from graft.data.edits import undo as take_back

    context = context_of(request)
    found = version(context.lake, form.get("ref", ""))
    ask = _ask(form, found, context.door.person(request))
    made = context.pen.write(lambda lake: take_back(lake, form.get("edit", ""), by=ask.by))
    context.queues.forget(ask.by)
    return _to(ask, row=made.row_id)


@posted
def name(request: Request, form: Form) -> Response:
    """Set the name under which a person decides (POST), stored in a cookie."""
    person = clean(form.get("person", ""))
    if not person:
        raise GraftError("a name is required", where="your name", fix="enter the name to record with your decisions")
    back = form.get("back", "")
    return remember(RedirectResponse(back if back.startswith("/review?") else "/review", 303), person)


def _ask(given: Mapping[str, str], found: DatasetVersion, by: str) -> Ask:
    rule = given.get("rule") or "disagreement"
    if rule not in RULES:
        raise GraftError(f"no queue {rule!r}", where="rule", fix=f"one of: {', '.join(RULES)}")
    where = given.get("where", "").strip() if rule == "query" else ""
    if rule == "query" and not where:
        where = "length(text) > 0"
    gate = given.get("gate", "") if rule == "gate" else ""
    return Ask(found.ref, by, rule, given.get("blind") == "1", gate, where)  # type: ignore[arg-type]


def _query(ask: Ask) -> dict[str, str]:
    """The queue selected by the address."""
    named = {"ref": ask.ref, "rule": ask.rule, "blind": "1" if ask.blind else "", "gate": ask.gate, "where": ask.where}
    return {name: value for name, value in named.items() if value}


def _to(ask: Ask, **more: str) -> Response:
    return RedirectResponse("/review?" + urlencode({**_query(ask), **more}), 303)


def _queue_name(ask: Ask) -> str:
    return f"gate:{ask.gate}" if ask.gate else ask.rule


def _action(action: str) -> EditAction:
    from graft.schemas.datasets import EditAction as Actions

    if action not in get_args(Actions) or action == "undo":
        raise GraftError(f"unknown decision {action[:40]!r}", where="action", fix="accept, reject, relabel, edit, skip")
    return action  # type: ignore[return-value]


def _changes(action: EditAction, form: Mapping[str, str]) -> dict[str, str | None]:
    """The changes of the decision: a chosen label, an edited text."""
    changes: dict[str, str | None] = {}
    if action in ("relabel", "edit") and form.get("label"):
        changes["label"] = form["label"]
    if action == "edit":
        changes |= {name: form[name].replace("\r\n", "\n") for name in ("text", "response") if form.get(name)}
    return changes


def _columns(
    context: PageContext, found: DatasetVersion, row_id: str, action: EditAction, form: Mapping[str, str]
) -> dict[str, Any] | None:
    """The row's columns as an edited form has them; None if no field of them was changed."""
    from graft.data.seen import seen, task_of
    from graft.schemas.tasks.base import Words

    given = {
        name.removeprefix(OWN): value.replace("\r\n", "\n") for name, value in form.items() if name.startswith(OWN)
    }
    if action != "edit" or not given:
        return None
    task, row = task_of(context.lake, found), seen(context.lake, found, row_id)
    words = Words(row.text, row.response, row.label, row.data)
    before = {one.name: one.value.strip() for one in task.form(words)}
    if all(before.get(name) == value.strip() for name, value in given.items()):
        return None
    try:
        text = form.get("text", "").replace("\r\n", "\n") or row.text
        return task.of_form(given, Words(text, row.response, row.label, row.data))
    except ValueError as error:
        raise GraftError(str(error), where=row.id, fix="go back and correct it") from None


def _seconds(text: str) -> float | None:
    try:
        return min(max(float(text), 0.0), LONGEST_S)
    except ValueError:
        return None


def _seen(others: list[Edit], ask: Ask) -> str:
    return " ".join(edit.id for edit in others if edit.by != ask.by)


def _labels(context: PageContext, found: DatasetVersion) -> list[str]:
    from graft.data.seen import labels_of

    return labels_of(context.lake, found)


def _done(context: PageContext, edit_id: str) -> dict[str, Any] | None:
    """The last decision, to show and undo it."""
    query = 'SELECT id, row_id, action, label, "by" FROM lake.edits WHERE id = ?'
    rows = context.lake.query(query, [edit_id]) if edit_id else []
    return rows[0] if rows else None


PAGES = (
    Page("/review", "review", review, menu="Review", plain=("ref", "row", "rule", "blind")),
    Page("/review/decide", "decide", decide, posts=True),
    Page("/review/undo", "undo", undo, posts=True),
    Page("/review/name", "name", name, posts=True),
)
