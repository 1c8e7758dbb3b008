"""Students of labels in a loop (`graft improve`): trained on a round's rows, and judged by their probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from graft.agents.local import encoder
from graft.data.lake import Lake
from graft.data.scores.answers import VALIDATION
from graft.data.seeds import load_labelled
from graft.schemas.datasets import DatasetVersion
from graft.schemas.rows import Seed
from graft.schemas.students import StudentSettings
from graft.students.heads import head_of
from graft.students.kinds.base import InRounds, Pupil, Term
from graft.students.rows import Material, TrainRow, as_one_text, read_version, unique
from graft.students.steer.base import LABELS, Judge, SteeringRow
from graft.students.train import Learner, Lesson, learn


class LabelPupil(Pupil):
    """A classifier of one round."""

    def __init__(self, term: Term, learner: Learner) -> None:
        self.student, self._term, self._learner = learner.student, term, learner

    def tested(self, validation: Sequence[TrainRow], ids: Sequence[str]) -> tuple[float, tuple[float, ...]]:
        """See Pupil."""
        judged = self._learner.judged(self._term.test, self._term.test_name)[1]
        self._term.lake.save_evaluation(judged)
        if validation:
            pairs = [row.pair for row in validation]
            self._term.lake.save_evaluation(self._learner.judged(pairs, VALIDATION, ids)[1])
        return judged.accuracy, judged.interval

    async def judged(self, rows: Sequence[TrainRow], judge: Judge) -> list[SteeringRow]:
        """Rows with the student's probabilities and, if known, the teacher's."""
        _, shares = self._learner.ask([row.text for row in rows])
        labels = self._learner.labels
        return [
            SteeringRow(
                row.text, row.label, dict(zip(labels, probabilities, strict=True)),
                dict(zip(labels, row.soft, strict=True)) if row.soft else None,
            )
            for row, probabilities in zip(rows, shares, strict=True)
        ]  # fmt: skip

    async def mined(self, rows: Sequence[TrainRow], judge: Judge) -> Sequence[SteeringRow]:
        """The rows judged out of fold, by a quick student of the others."""
        embed, why = encoder.find_embed()
        if embed is None:
            self._term.say(f"no mistakes are looked for among the training rows: {why}")
            return ()
        from graft.students.folds import out_of_fold

        train, labels = unique(rows), self._term.labels
        vectors, seed = embed([row.text for row in train]), self._term.settings.seed
        found = out_of_fold(vectors, [row.label for row in train], seed=seed)
        return [
            SteeringRow(
                train[at].text, train[at].label,
                dict.fromkeys(labels, 0.0) | dict(zip(found.names, map(float, shares), strict=True)),
            )
            for at, shares in zip(found.rows, found.probabilities, strict=True)
        ]  # fmt: skip


class LabelsInRounds(InRounds):
    """Classifiers of one label a text."""

    steered = LABELS

    def held_out(self, file: Path, settings: StudentSettings, labels: Sequence[str]) -> list[tuple[str, str]]:
        """See InRounds."""
        return load_labelled(file, settings.text_field, settings.label_field, labels)

    def seed_rows(self, seeds: Sequence[Seed]) -> list[TrainRow]:
        """The seeds that have a label."""
        return [TrainRow(as_one_text(seed.text, seed.response), seed.label) for seed in seeds if seed.label]

    def version_rows(
        self, lake: Lake, found: DatasetVersion, labels: Sequence[str], say: Callable[[str], None]
    ) -> Material:
        """See InRounds."""
        return read_version(lake, found, labels, say)

    def learn(
        self, term: Term, dataset: str, version: int | None, rows: Sequence[TrainRow], validation: Sequence[TrainRow]
    ) -> Pupil:
        """See InRounds."""
        head, settings = head_of(term.settings, term.labels), term.settings.model_copy(update={"select": None})
        trained_on = "seeds" if version is None else "version"
        lesson = Lesson(dataset, version, head.training_rows(rows), validation, head, settings, trained_on)
        stored = {student.id: student for student in term.lake.students(dataset)}
        learner = learn(lesson, term.home, stored.get, term.say)
        if learner.student.id not in stored:
            term.lake.save_student(learner.student)
        return LabelPupil(term, learner)
