"""Students: leaderboards by test, learning curves, and one student in detail: its mistakes, and another beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response

from graft.dashboard.charts.shapes import heat, intervals, lines, reliability
from graft.dashboard.context import Chart, Page, PageContext, Spec, context_of
from graft.schemas.errors import GraftError, NotFound
from graft.schemas.sections import FEW, Column, Table

if TYPE_CHECKING:
    from graft.data.scores import Answers, Paired, SliceScore
    from graft.data.scores.mistakes import Mistake
    from graft.schemas.students import Evaluation, Student

MOST_LABELS = 30
"""Maximum number of labels in a confusion matrix."""
MATRIX_LABELS = 12
"""Maximum number of labels in a matrix whose cells are links; more are drawn as a chart."""
SLICES = 12
WRONG = 8
"""Wrong rows listed for each slice."""
WRONG_TEXTS, MOST_TEXTS = 50, 5_000
"""Mistakes shown with their texts."""


def students(request: Request) -> Response:
    """Show leaderboards by dataset and test file, and learning curves. `?dataset=` narrows both."""
    from graft.data.scores import board_tables, leaderboard, learning_curve
    from graft.data.versions import versions
    from graft.flows.background import progress

    context, chosen = context_of(request), request.query_params.get("dataset", "")
    standings = leaderboard(context.lake, chosen or None)
    names = list(dict.fromkeys(one.dataset for one in context.lake.students()))
    boards = tuple(
        replace(table, rows=[{**row, "href": f"/students/{row['student_id']}?test={row['test_hash']}"}
                             for row in table.rows])
        for table in board_tables(standings)
    )  # fmt: skip
    tests = [tuple(board.rows[0][key] for key in ("dataset", "test_file", "test_hash")) for board in boards]
    loops = {curves[0].improvement: name for name in ([chosen] if chosen else names)
             if (curves := learning_curve(context.lake, name))}  # fmt: skip
    kinds = kind_tables(context, chosen or None)
    work = request.query_params.get("of", "")
    return context.page(
        request, "students.html.jinja", "Students", tables=(*boards, *kinds), names=names, chosen=chosen, tests=tests,
        loops=list(loops.values()), kinds=[table.name for table in kinds],
        refs=[one.ref for one in versions(context.lake)], work=progress(context.home, work) if work else None,
    )  # fmt: skip


def kind_tables(context: PageContext, dataset: str | None, version: int | None = None) -> list[Table]:
    """Students with other kinds of evaluation, linked to their pages."""
    from graft.students.kinds.base import tables_of_kinds

    page = "/students/{student_id}" in {one.path for one in context.pages}
    return [
        replace(table, rows=[
            {**row, "link": f"/students/{quote(row['student_id'], safe='')}" if page else None} for row in table.rows
        ])
        for table in tables_of_kinds(context.lake, dataset, version)
    ]  # fmt: skip


def student(request: Request) -> Response:
    """Show one student on one test (`?test=HASH`); `?with=` compares it with another by a paired test.

    `?true=` and `?predicted=` narrow its mistakes to a cell of the confusion matrix.
    """
    from graft.data.scores import find_student

    return student_page(request, find_student(context_of(request).lake, request.path_params["student_id"]))


def student_page(request: Request, found: Student, tried: dict[str, Any] | None = None) -> Response:
    """A student's page; `tried` holds a text and its answer."""
    from graft.data.scores import against_teacher, answers, row_facts, speed, worst_slices

    context, query = context_of(request), request.query_params
    judged = context.lake.evaluations(found.id)
    if not judged:
        return context.page(
            request, "student.html.jinja", f"Student {found.id}", found=found, judged=(), chosen=None, tables=(),
            others=(), pair=None, kept=False, speed=None, tried=tried, usable=_usable(context, found),
        )  # fmt: skip
    chosen = _chosen(judged, query.get("test", ""))
    found_answers = answers(context.home, found, chosen.test_hash)
    slices = worst_slices(found_answers, row_facts(context.lake, found_answers)) if found_answers else []
    all_slices = len(slices)
    slices = slices if query.get("csv") == "slices" else slices[:SLICES]
    teachers = [one for one in against_teacher(context.lake, found) if one.test_hash == chosen.test_hash]
    pair, why = _pair(context, found, query.get("with", ""), chosen)
    cell = (query.get("true"), query.get("predicted"))
    tables = (
        _classes(chosen), _slices(slices, all_slices), _teachers([one.model_dump() for one in teachers], found),
        pair_table(pair),
    )  # fmt: skip
    wrong, wrong_rows = _mistakes(
        context, found, found_answers, cell, MOST_TEXTS if query.get("every") == "1" else WRONG_TEXTS)  # fmt: skip
    return context.page(
        request, "student.html.jinja", f"Student {found.id}", found=found, judged=judged, chosen=chosen, tables=tables,
        others=_others(context, found, chosen), pair=pair, why=why, other=query.get("with", ""),
        kept=found_answers is not None, speed=speed(context.home, found, chosen.test_hash), tried=tried, cell=cell,
        every=query.get("every") == "1", more=_more(found.id, chosen.test_hash, cell),
        wrong=wrong, wrong_rows=wrong_rows, matrix=_matrix(found, chosen), usable=_usable(context, found),
    )  # fmt: skip


def _usable(context: PageContext, found: Student) -> bool:
    """True if the student's folder holds a student that labels texts."""
    from graft.students.predict import is_student

    return is_student(context.home.student(found.id))


def _mistakes(
    context: PageContext, found: Student, held: Answers | None, cell: tuple[str | None, str | None], most: int
) -> tuple[list[Mistake], int]:
    from graft.data.scores.mistakes import mistakes

    if held is None:
        return [], 0
    return mistakes(context.lake, found, held, label=cell[0], predicted=cell[1], most=most)


def _matrix(found: Student, chosen: Evaluation) -> list[tuple[str, list[dict[str, Any]]]]:
    """The confusion matrix as rows of linked cells; empty for more labels than a table can show."""
    if not chosen.confusion or len(chosen.labels) > MATRIX_LABELS:
        return []
    top = max((cell for row in chosen.confusion for cell in row), default=0) or 1
    return [
        (true, [{"rows": rows, "ink": round(100 * rows / top), "right": true == guess,
                 "href": _cell_address(found.id, chosen.test_hash, true, guess)}
                for guess, rows in zip(chosen.labels, counts, strict=True)])
        for true, counts in zip(chosen.labels, chosen.confusion, strict=True)
    ]  # fmt: skip


def _more(student_id: str, test: str, cell: tuple[str | None, str | None]) -> str:
    """The address of all mistakes of the student or of a cell."""
    given = {"test": test, "true": cell[0], "predicted": cell[1], "every": "1"}
    return f"/students/{student_id}?{urlencode({key: value for key, value in given.items() if value})}#mistakes"


def _cell_address(student_id: str, test: str, true: str, predicted: str) -> str:
    return f"/students/{student_id}?{urlencode({'test': test, 'true': true, 'predicted': predicted})}#mistakes"


def _chosen(judged: list[Evaluation], digest: str) -> Evaluation:
    """The evaluation on that test; by default on the held-out file, else on the largest test."""
    if digest:
        wanted = [one for one in judged if one.test_hash == digest]
        if not wanted:
            raise NotFound(
                "this student was not evaluated on that test", where="test", fix="choose a test from the list"
            )
        return wanted[0]
    return max(
        judged, key=lambda one: (one.test_file != "validation", not one.test_file.endswith("(synthetic)"), one.rows)
    )


def _others(context: PageContext, found: Student, chosen: Evaluation) -> list[dict[str, Any]]:
    query = """
        SELECT s.id, s.dataset, s.version, e.accuracy, e.rows
        FROM lake.evaluations e JOIN lake.students s ON s.id = e.student_id
        WHERE e.test_hash = ? AND s.id <> ? ORDER BY e.accuracy DESC, s.id LIMIT 100"""
    return list(context.lake.query(query, [chosen.test_hash, found.id]))


def _pair(context: PageContext, found: Student, other: str, chosen: Evaluation) -> tuple[Paired | None, str]:
    """The paired test of this student (b) against another (a), or why it is not possible."""
    from graft.data.scores import compare, find_student

    if not other:
        return None, ""
    try:
        return compare(context.home, context.lake, find_student(context.lake, other), found, chosen.test_hash), ""
    except GraftError as error:
        return None, sentence(error)


def sentence(error: GraftError) -> str:
    """An error and its fix in one line."""
    return f"{error.what}: {error.fix}" if error.fix else error.what


def _classes(chosen: Evaluation) -> Table:
    columns = (
        Column("label", "label"), Column("precision", "precision", "share", measured="support"),
        Column("recall", "recall", "share", of="support"),
        Column("f1", "F1", "share", bar=True, measured="support"), Column("support", "rows", "number"),
    )  # fmt: skip
    return Table("classes", "Labels", columns, [one.model_dump() for one in chosen.classes])


def _slices(slices: list[SliceScore], every: int) -> Table:
    rows = [
        {**one.model_dump(), "low": one.interval[0], "high": one.interval[1], "missed": one.rows - one.right,
         "which": ", ".join(str(place) for place in one.wrong[:WRONG]),
         "href": f"/rows?ids={','.join(one.wrong_ids[:50])}" if one.wrong_ids else ""}
        for one in slices
    ]  # fmt: skip
    columns = (
        Column("kind", "by"), Column("name", "slice", link="href"), Column("rows", "rows", "number"),
        Column("accuracy", "right", "share", bar=True, of="rows"), Column("low", "95% from", "share", measured="rows"),
        Column("high", "to", "share", measured="rows"), Column("missed", "wrong", "number"),
        Column("which", "wrong rows of the file, most confident first"),
    )  # fmt: skip
    cut = f"{len(rows)} of {every} slices; the CSV has all; " if len(rows) < every else ""
    note = cut + (
        "slices of five rows or more, the most certainly weak first; texts of a file are not kept, so rows are numbers"
    )
    return Table("slices", "Weak slices", columns, rows, note=note)


def _teachers(rows: list[dict[str, Any]], found: Student) -> Table:
    columns = (
        Column("model", "teacher"), Column("shots", "shots", "number"), Column("rows", "test rows", "number"),
        Column("teacher_accuracy", "teacher", "share", of="rows"),
        Column("student_accuracy", "student", "share", of="rows"),
        Column("gap", "student minus teacher", "share", measured="rows"),
        Column("teacher_p50_s", "teacher, median", "seconds"),
        Column("student_p50_s", "student, median", "seconds"),
        Column("teacher_usd_per_1000", "teacher, 1,000 texts", "money"), Column("student_price", "student"),
    )  # fmt: skip
    return Table(
        "teachers",
        "Compared with the teacher",
        columns,
        rows,
        empty=f"No teacher was evaluated: graft train {found.dataset} --teacher 200",
    )


def pair_table(pair: Paired | None) -> Table:
    """Rows that both, one or neither of two students have right."""
    columns = (Column("who", "right"), Column("rows", "rows", "number"))
    rows = [] if pair is None else [
        {"who": "both", "rows": pair.both}, {"who": f"only {pair.b}", "rows": pair.only_b},
        {"who": f"only {pair.a}", "rows": pair.only_a}, {"who": "neither", "rows": pair.neither},
    ]  # fmt: skip
    return Table("pair", "Row by row", columns, rows)


def draw_board(context: PageContext, given: Mapping[str, str]) -> Spec | None:
    """`dataset`, `test`: accuracy of each student on that test, with its interval."""
    from graft.data.scores import leaderboard

    rows = [
        {"name": f"{one.student_id[:14]} ({one.learned_from})", "accuracy": one.accuracy, "low": one.interval[0],
         "high": one.interval[1]}
        for one in leaderboard(context.lake, given.get("dataset") or None)
        if one.test_hash == given.get("test") and one.interval and one.rows >= FEW
    ][:20]  # fmt: skip
    if len(rows) < 2:
        return None
    return intervals(rows, category="name", value="accuracy", low="low", high="high", title="accuracy", width=320)


def draw_curve(context: PageContext, given: Mapping[str, str]) -> Spec | None:
    """`of`: the dataset. Accuracy over the rounds of its newest loop, by arm and seed."""
    from graft.data.scores import learning_curve

    curves = learning_curve(context.lake, given.get("of", ""))
    rows = [
        {"round": one.round, "accuracy": one.accuracy, "arm": f"{curve.arm}, seed {curve.seed}",
         "low": one.interval[0] if one.interval else one.accuracy,
         "high": one.interval[1] if one.interval else one.accuracy}
        for curve in curves
        if curve.improvement == curves[0].improvement
        for one in curve.points
        if one.accuracy is not None
    ]  # fmt: skip
    if len(rows) < 2:
        return None
    return lines(
        rows,
        x="round",
        y="accuracy",
        part="arm",
        x_title="round",
        y_title="accuracy",
        low="low",
        high="high",
        zero=False,
        y_format="%",
    )


def draw_reliability(context: PageContext, given: Mapping[str, str]) -> Spec | None:
    """`of`: the student, `test`: the test's hash. Confidence against accuracy."""
    from graft.data.scores import answers, find_student
    from graft.data.scores import reliability as bins_of

    found_answers = answers(context.home, find_student(context.lake, given.get("of", "")), given.get("test", ""))
    if found_answers is None or found_answers.rows < FEW:
        return None
    rows = [
        {"confidence": one.confidence, "accuracy": one.accuracy, "rows": one.rows}
        for one in bins_of(found_answers).bins
        if one.rows
    ]
    return reliability(rows)


def draw_confusion(context: PageContext, given: Mapping[str, str]) -> Spec | None:
    """`of`: the student, `test`: the test's hash. Rows by true and predicted label."""
    from graft.data.scores import find_student

    judged = context.lake.evaluations(find_student(context.lake, given.get("of", "")).id)
    chosen = next((one for one in judged if one.test_hash == given.get("test")), None)
    if chosen is None or not chosen.confusion or chosen.rows < FEW:
        return None
    worst = sorted(range(len(chosen.labels)), key=lambda at: -_off(chosen, at))[:MOST_LABELS]
    kept = [at for at in range(len(chosen.labels)) if at in set(worst)]
    rows = [
        {"true": chosen.labels[true], "predicted": chosen.labels[guess], "rows": chosen.confusion[true][guess]}
        for true in kept
        for guess in kept
    ]
    return heat(rows, x="predicted", y="true", value="rows", x_title="predicted", y_title="true")


def _off(chosen: Evaluation, at: int) -> int:
    """Wrong rows with this true or predicted label."""
    return sum(chosen.confusion[at]) + sum(row[at] for row in chosen.confusion) - 2 * chosen.confusion[at][at]


PAGES = (
    Page("/students", "students", students, menu="Students", plain=("dataset", "of")),
    Page("/students/{student_id}", "student", student, plain=("test", "true", "predicted")),
)
CHARTS = (
    Chart("board", "accuracy of each student, with its interval", draw_board),
    Chart("curve", "accuracy over the rounds of a loop", draw_curve),
    Chart("reliability", "confidence against accuracy", draw_reliability),
    Chart("confusion", "true labels by predicted label", draw_confusion),
)
