"""Comparison of students: the leaderboard, learning curves of loops, and cost against the teacher."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING

from pydantic import Field

from graft.data.scores.answers import VALIDATION, speed
from graft.schemas.base import Value
from graft.schemas.intervals import of_accuracy
from graft.schemas.money import LOCAL, local_models
from graft.schemas.sections import Column, Table
from graft.schemas.steering import Arm, Improvement, RoundResult
from graft.schemas.students import Student

if TYPE_CHECKING:
    from graft.data.lake import Lake

BRIEF = ("rank", "student_id", "from", "accuracy", "low", "high", "gain", "macro_f1", "ece", "teacher_gap")


class Standing(Value):
    """A student's rank among those of its dataset that were evaluated on the same rows.

    `gain` is its accuracy minus that of the seeds-only student (the one with equal settings, else the newest), whose
    id is `baseline`; None for a baseline, or without one. `teacher_gap` is its accuracy minus the best teacher's on
    the rows that the teacher labelled; None without a teacher. Shares are 0 to 1; `seconds` is the training time.
    """

    dataset: str
    test_file: str
    test_hash: str
    synthetic: bool
    rank: int
    student_id: str
    version: int | None
    trained_on: str
    encoder: str
    rows: int
    accuracy: float
    interval: tuple[float, ...]
    macro_f1: float
    micro_f1: float | None
    ece: float | None
    auprc: float | None
    train_rows: int
    seconds: float
    device: str
    created_at: datetime
    gain: float | None
    baseline: str | None = Field(exclude=True)
    teacher: str | None
    teacher_gap: float | None

    @property
    def learned_from(self) -> str:
        """Display text: its version, or the seeds."""
        return "seeds" if self.version is None else f"version {self.version}"


class CurvePoint(Value):
    """One student of a loop.

    `policy` is the selection of its rows: seeds alone, no steering, or the policies by name.
    """

    round: int
    policy: str
    student_id: str
    dataset: str
    version: int | None
    rows: int
    candidates: int
    price_usd: float | None
    steering: float | None
    accuracy: float
    interval: tuple[float, ...]
    said: tuple[str, ...]


class Curve(Value):
    """The rounds of one arm of a loop for one random seed, in order; accuracies are on the held-out file."""

    improvement: str
    dataset: str
    test_file: str
    arm: Arm
    seed: int
    created_at: datetime
    stopped_by: str
    points: tuple[CurvePoint, ...]


class AgainstTeacher(Value):
    """A student compared with a teacher: accuracies on the same rows, seconds per text, dollars per thousand texts.

    None means unknown: the teacher's seconds if all its replies came from the journal, its price if the model has none,
    the student's speed if it was not measured.
    """

    test_file: str
    test_hash: str
    model: str
    shots: int
    rows: int
    answered: int
    teacher_accuracy: float
    teacher_interval: tuple[float, ...]
    student_accuracy: float
    gap: float
    teacher_p50_s: float | None
    teacher_p95_s: float | None
    teacher_usd_per_1000: float | None
    local: bool = Field(default=False, description="whether the teacher runs on this machine and nobody charges for it")
    student_p50_s: float | None
    student_p95_s: float | None
    student_texts_per_second: float | None
    student_device: str
    student_price: str = Field(default=LOCAL, description="its predictions run on this machine: no call is paid")


def leaderboard(lake: Lake, dataset: str | None = None, *, validation: bool = False) -> list[Standing]:
    """Return every evaluated classifier, best first within each dataset and test.

    Held-out files come before synthetic splits. `validation` adds the versions' own validation rows, which are seldom
    the same for two students.
    """
    query = """
        WITH judged AS (
            SELECT s.dataset, e.test_file, e.test_hash, ends_with(e.test_file, '(synthetic)') AS synthetic,
                   s.id AS student_id, s.version, s.trained_on, s.settings,
                   coalesce(json_extract_string(s.settings, '$.encoder'), '') AS encoder, e.rows, e.accuracy,
                   e."interval", e.macro_f1, e.micro_f1, e.ece, e.auprc, s.train_rows, s.seconds, s.device,
                   s.created_at, e.teachers
            FROM lake.evaluations e JOIN lake.students s ON s.id = e.student_id
            WHERE ($1::VARCHAR IS NULL OR s.dataset = $1) AND ($2 OR e.test_file <> $3)),
        base AS (
            SELECT o.student_id, o.test_hash,
                   max_by({'id': b.student_id, 'accuracy': b.accuracy},
                          {'same': b.settings = o.settings, 'at': b.created_at}) AS alone
            FROM judged o JOIN judged b ON b.dataset = o.dataset AND b.test_hash = o.test_hash
            WHERE b.trained_on = 'seeds' AND o.trained_on <> 'seeds' GROUP BY ALL),
        compared AS (SELECT student_id, test_hash, unnest(teachers) AS one FROM judged),
        taught AS (
            SELECT student_id, test_hash, max_by(one.model, {'right': one.accuracy, 'name': one.model}) AS teacher,
                   max_by(one.student_accuracy - one.accuracy, {'right': one.accuracy, 'name': one.model}) AS gap
            FROM compared GROUP BY ALL)
        SELECT j.* EXCLUDE (settings, teachers), j.accuracy - b.alone.accuracy AS gain, b.alone.id AS baseline,
               t.teacher, t.gap AS teacher_gap,
               rank() OVER (PARTITION BY j.dataset, j.test_hash ORDER BY j.accuracy DESC, j.macro_f1 DESC) AS rank
        FROM judged j
        LEFT JOIN base b ON b.student_id = j.student_id AND b.test_hash = j.test_hash
        LEFT JOIN taught t ON t.student_id = j.student_id AND t.test_hash = j.test_hash
        ORDER BY j.dataset, j.synthetic, max(j.test_file) OVER (PARTITION BY j.dataset, j.test_hash), j.test_hash,
                 rank, j.created_at DESC, j.student_id"""
    found = lake.query(query, [dataset, validation, VALIDATION])
    standings = [Standing.model_validate(row) for row in found]
    return [one.model_copy(update={"interval": of_accuracy(one.interval, one.accuracy, one.rows)}) for one in standings]


def board_tables(standings: Sequence[Standing]) -> list[Table]:
    """A table for each test, best student first. A page adds each row's `href`; `BRIEF` names the columns that fit a
    terminal.
    """
    columns = (
        Column("rank", "#", "number"), Column("student_id", "student", "code", link="href"),
        Column("from", "from"), Column("accuracy", "accuracy", "share", of="rows"),
        Column("low", "95% from", "share", measured="rows"), Column("high", "to", "share", measured="rows"),
        Column("gain", "over seeds", "share", measured="rows"), Column("macro_f1", "F1", "share", measured="rows"),
        Column("ece", "ECE", "share", measured="rows"), Column("auprc", "AUPRC", "share", measured="rows"),
        Column("teacher_gap", "over teacher", "share", measured="rows"),
        Column("train_rows", "rows", "number"), Column("seconds", "training time", "seconds"),
        Column("created_at", "made", "ago"),
    )  # fmt: skip
    tables: list[Table] = []
    for (dataset, _), some in groupby(standings, key=lambda one: (one.dataset, one.test_hash)):
        rows = [
            {**one.model_dump(), "from": one.learned_from, "low": (one.interval or (None,))[0],
             "high": (one.interval or (None,))[-1]}
            for one in some
        ]  # fmt: skip
        title, note = f"{dataset} on {rows[0]['test_file']}", f"{rows[0]['rows']:,} test rows"
        tables.append(Table(f"board{len(tables)}", title, columns, rows, note=note))
    return tables


def learning_curve(lake: Lake, dataset: str) -> list[Curve]:
    """Return the loops of a dataset, newest first; it is the recipe's dataset, or a dataset that a loop publishes."""
    curves = []
    for loop in lake.improvements():
        if dataset != loop.dataset and dataset not in {one.dataset for one in loop.rounds}:
            continue
        arms = defaultdict[tuple[int, Arm], list[RoundResult]](list)
        for one in loop.rounds:
            arms[one.seed, one.arm].append(one)
        curves += [
            Curve(
                improvement=loop.id, dataset=loop.dataset, test_file=loop.test_file, arm=arm, seed=seed,
                created_at=loop.created_at, stopped_by=loop.stopped_by,
                points=tuple(_point(loop, one) for one in sorted(some, key=lambda one: one.round)),
            )
            for (seed, arm), some in arms.items()
        ]  # fmt: skip
    return curves


def _point(loop: Improvement, one: RoundResult) -> CurvePoint:
    policy = "seeds alone" if one.round == 0 else "not steered"
    if one.arm == "steered" and one.round > 1:
        policy = ", ".join(loop.settings.policies)
    return CurvePoint(
        round=one.round, policy=policy, student_id=one.student_id, dataset=one.dataset, version=one.version,
        rows=one.rows, candidates=one.candidates, price_usd=one.price_usd, steering=one.steering, accuracy=one.test,
        interval=one.interval, said=one.said,
    )  # fmt: skip


def against_teacher(lake: Lake, student: Student) -> list[AgainstTeacher]:
    """Compare a student with every teacher that labelled its test rows, the best teacher of each test first."""
    found = []
    local = {name for run in lake.runs(student.dataset) for name in local_models(run.recipe)}
    for judged in lake.evaluations(student.id):
        quick = speed(lake.home, student, judged.test_hash) if judged.teachers else None
        found += [
            AgainstTeacher(
                test_file=judged.test_file, test_hash=judged.test_hash, model=one.model, shots=one.shots,
                rows=one.rows, answered=one.answered, teacher_accuracy=one.accuracy, teacher_interval=one.between,
                student_accuracy=one.student_accuracy, gap=one.student_accuracy - one.accuracy,
                teacher_p50_s=one.p50_s or None, teacher_p95_s=one.p95_s or None,
                teacher_usd_per_1000=None if one.price_usd is None else 1000 * one.price_usd / one.rows,
                local=one.model in local,
                student_p50_s=quick.p50_s if quick else None, student_p95_s=quick.p95_s if quick else None,
                student_texts_per_second=quick.texts_per_second if quick else None,
                student_device=quick.device if quick else "",
            )
            for one in sorted(judged.teachers, key=lambda one: (-one.accuracy, one.model, one.shots))
        ]  # fmt: skip
    return found
