"""Use students: label a text on a student's page, compare two on the same texts, train and export."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from graft.dashboard.context import Form, Page, PageContext, context_of, posted
from graft.dashboard.pages.students import pair_table, sentence, student_page
from graft.dashboard.tryout import MOST_TEXTS, answers_of, texts_of
from graft.schemas.errors import GraftError, NotFound
from graft.schemas.sections import Column, Table

if TYPE_CHECKING:
    from graft.schemas.students import Student


@posted
def try_it(request: Request, form: Form) -> Response:
    """Show the probabilities of the labels for one text (POST, so that no address or log holds the text)."""
    from graft.data.scores import find_student

    context, text = context_of(request), form.get("text", "")
    found = find_student(context.lake, request.path_params["student_id"])
    tried: dict[str, Any] = {"text": text, "why": ""}
    started = time.perf_counter()
    try:
        labels, (answer,) = answers_of(context.home, context.lake, found, texts_of(text, lines=False))
    except GraftError as error:
        tried["why"] = sentence(error)
    else:
        ranked = sorted(zip(labels, answer.probabilities, strict=True), key=lambda one: -one[1])
        tried |= {"label": answer.label, "probability": answer.probability, "seconds": time.perf_counter() - started}
        columns = (Column("label", "label"), Column("probability", "probability", "share", bar=True))
        rows = [{"label": label, "probability": share} for label, share in ranked]
        tried["table"] = Table("tried", "Probabilities", columns, rows)
    return student_page(request, found, tried)


def compare(request: Request) -> Response:
    """Show two students beside each other: the paired test of a shared evaluation, and a form for texts."""
    query = request.query_params
    return _compared(request, query.get("a", ""), query.get("b", ""), "")


@posted
def compare_texts(request: Request, form: Form) -> Response:
    """Show both students' predictions for the texts of the form, one per line (POST)."""
    return _compared(request, form.get("a", ""), form.get("b", ""), form.get("texts", ""), ask=True)


def _compared(request: Request, a: str, b: str, texts: str, *, ask: bool = False) -> Response:
    from graft.data.scores import compare as paired_test
    from graft.data.scores import find_student

    context = context_of(request)
    everyone = context.lake.students()
    pair, why, unpaired, predictions = None, "", "", _side_by_side((), (), ())
    if a and b:
        first, second = find_student(context.lake, a), find_student(context.lake, b)
        try:
            pair = paired_test(context.home, context.lake, first, second)
        except GraftError as error:
            unpaired = sentence(error)
        if ask:
            try:
                predictions = _predicted(context, first, second, texts)
            except GraftError as error:
                why = sentence(error)
    elif ask:
        why = "Choose two students."
    return context.page(
        request, "students_compare.html.jinja", "Compare students", everyone=everyone, a=a, b=b, texts=texts,
        pair=pair, why=why, unpaired=unpaired, most=MOST_TEXTS, predictions=predictions, tables=(pair_table(pair),),
    )  # fmt: skip


def _predicted(context: PageContext, first: Student, second: Student, texts: str) -> Table:
    asked = texts_of(texts, lines=True)
    (_, left), (_, right) = (answers_of(context.home, context.lake, one, asked) for one in (first, second))
    return _side_by_side(asked, left, right)


def _side_by_side(texts: Any, left: Any, right: Any) -> Table:
    columns = (
        Column("text", "text"), Column("a", "A"), Column("a_share", "probability", "share"), Column("b", "B"),
        Column("b_share", "probability", "share"), Column("agree", "agree"),
    )  # fmt: skip
    rows = [
        {"text": text, "a": one.label, "a_share": one.probability, "b": other.label, "b_share": other.probability,
         "agree": "yes" if one.label == other.label else "no"}
        for text, one, other in zip(texts, left, right, strict=True)
    ]  # fmt: skip
    return Table("predictions", "Predictions", columns, rows)


@posted
def train(request: Request, form: Form) -> Response:
    """Start `graft train` on a version (POST)."""
    from graft.data.versions import version
    from graft.flows.background import begin

    context = context_of(request)
    found = version(context.lake, form.get("ref", ""))
    work = begin(context.home, "train", (found.ref,), context.door.person(request))
    return RedirectResponse(f"/students?of={work.id}", 303)


@posted
def export(request: Request, form: Form) -> Response:
    """Start `graft export-student`, which replaces an earlier export in the home (POST)."""
    from graft.data.scores import find_student
    from graft.flows.background import begin

    context = context_of(request)
    found = find_student(context.lake, request.path_params["student_id"])
    work = begin(context.home, "export-student", (found.id, "--overwrite"), context.door.person(request))
    return RedirectResponse(f"/students?of={work.id}", 303)


@posted
def stop(request: Request, form: Form) -> Response:
    """Stop a training or an export (POST): a long training resumes from its checkpoint."""
    from graft.flows.background import end, progress

    context, name = context_of(request), form.get("of", "")
    if progress(context.home, name).work.verb not in ("train", "export-student"):
        raise NotFound(f"no training {name!r}", where="students", fix="see the list")
    end(context.home, name, context.door.person(request))
    return RedirectResponse(f"/students?of={name}", 303)


PAGES = (
    Page("/students/compare", "students-compare", compare, plain=("a", "b")),
    Page("/students/compare/texts", "students-compare-texts", compare_texts, posts=True),
    Page("/students/train", "students-train", train, posts=True),
    Page("/students/stop", "students-stop", stop, posts=True),
    Page("/students/{student_id}/try", "student-try", try_it, posts=True),
    Page("/students/{student_id}/export", "student-export", export, posts=True),
)
