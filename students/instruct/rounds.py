"""Instruction students in a loop (`graft improve`): their responses are scored beside the teacher's by reviewers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from graft.data.lake import Lake
from graft.data.seeds import load_labelled
from graft.data.versions import rows as rows_in
from graft.schemas.datasets import DatasetVersion
from graft.schemas.rows import Seed
from graft.schemas.students import InstructEvaluation, Student, StudentSettings
from graft.students.instruct.base import find_base, load_tokenizer
from graft.students.instruct.data import Turn
from graft.students.instruct.train import Held, load_student, train_instruct_student
from graft.students.kinds.base import InRounds, Pupil, Term
from graft.students.rows import Material, TrainRow
from graft.students.steer.base import RESPONSES, AnsweredRow, Judge, SteeringRow

MOST_JUDGED = 200
"""Most training rows of one round whose responses are compared."""
MOST_TOKENS = 256
"""Most tokens of a student's response."""


class RespondingPupil(Pupil):
    """An instruction student of one round. It answers an instruction once."""

    def __init__(self, term: Term, student: Student, judged: InstructEvaluation) -> None:
        self.student, self._term, self._judged = student, term, judged
        self._answers: dict[str, str] = {}

    def tested(self, validation: Sequence[TrainRow], ids: Sequence[str]) -> tuple[float, tuple[float, ...]]:
        """The geometric mean of its probabilities of the held-out responses' tokens: no model reads these."""
        return math.exp(-self._judged.loss), ()

    async def judged(self, rows: Sequence[TrainRow], judge: Judge) -> list[SteeringRow]:
        """Rows with the scores of both responses; those that no reviewer scored are left out."""
        unanswered = list(dict.fromkeys(row.text for row in rows if row.text not in self._answers))
        if unanswered:
            self._answers.update(zip(unanswered, await asyncio.to_thread(self._respond, unanswered), strict=True))
        scores = await asyncio.gather(
            *(judge(row.text, row.response) for row in rows),
            *(self._score(row.text, judge) for row in rows),
        )
        taught, given = scores[: len(rows)], scores[len(rows) :]
        return [
            AnsweredRow(row.text, row.label, {}, None, row.response, theirs, ours)
            for row, theirs, ours in zip(rows, taught, given, strict=True)
            if theirs is not None and ours is not None
        ]

    async def mined(self, rows: Sequence[TrainRow], judge: Judge) -> Sequence[SteeringRow]:
        """The rows as they are, at most MOST_JUDGED: the student falls behind on what it has learned from, too."""
        own = sorted(rows, key=lambda row: row.order)
        step = max(1.0, len(own) / MOST_JUDGED)
        return await self.judged([own[int(place * step)] for place in range(min(len(own), MOST_JUDGED))], judge)

    async def _score(self, text: str, judge: Judge) -> float | None:
        """Of its own response; an empty one gets 0 without a reviewer."""
        return await judge(text, self._answers[text]) if self._answers[text] else 0.0

    def _respond(self, texts: Sequence[str]) -> list[str]:
        from graft.students.device import pick_device
        from graft.students.instruct.evaluate import respond

        settings = self._term.settings.instruct
        self._term.say(f"the student responds to {len(texts)} instructions")
        base = find_base(settings.base, self._term.home.models, self._term.say)
        model = load_student(base, self._term.home.student(self.student.id)).to(pick_device())
        return respond(model, load_tokenizer(base), texts, min(MOST_TOKENS, settings.max_length))


class ResponsesInRounds(InRounds):
    """Causal models that respond to instructions."""

    steered = RESPONSES

    def held_out(self, file: Path, settings: StudentSettings, labels: Sequence[str]) -> list[tuple[str, str]]:
        """Instructions with their responses."""
        return load_labelled(file, settings.text_field, "response", None)

    def seed_rows(self, seeds: Sequence[Seed]) -> list[TrainRow]:
        """The seeds that have a response."""
        return [TrainRow(seed.text, seed.label, response=seed.response) for seed in seeds if seed.response]

    def version_rows(
        self, lake: Lake, found: DatasetVersion, labels: Sequence[str], say: Callable[[str], None]
    ) -> Material:
        """See InRounds."""
        material = Material()
        for row in rows_in(lake, found).to_pylist():
            if row["response"]:
                material.rows[row["split"]].append(TrainRow(row["text"], row["label"], response=row["response"]))
                material.ids[row["split"]].append(row["id"])
        return material

    def learn(
        self, term: Term, dataset: str, version: int | None, rows: Sequence[TrainRow], validation: Sequence[TrainRow]
    ) -> Pupil:
        """Supervised on rows with a response; evaluated on the held-out file."""
        held = Held([Turn(text, response) for text, response in term.test])
        stored = {student.id: student for student in term.lake.students(dataset)}
        report = train_instruct_student(
            [Turn(row.text, row.response) for row in rows], [], held, settings=term.settings, home=term.home,
            dataset=dataset, version=version, say=term.say, known=stored.get,
        )  # fmt: skip
        if report.student.id not in stored:
            term.lake.save_student(report.student)
        term.lake.save_instruct_evaluation(report.evaluations[0])
        return RespondingPupil(term, report.student, report.evaluations[0])
