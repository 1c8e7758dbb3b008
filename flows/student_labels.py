"""Soft labels that judges gave a version's rows, and students as judges of later rows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import orjson

from graft.data.lake import Lake
from graft.flows import artifacts
from graft.schemas.datasets import DatasetVersion
from graft.schemas.errors import GraftError
from graft.schemas.gates import ToxicitySettings
from graft.schemas.home import Home
from graft.schemas.kinds import TASKS
from graft.students.rows import distribution

if TYPE_CHECKING:
    from graft.students.classifier import TextClassifier

Said = tuple[Sequence[str], Sequence[Sequence[float]]]


def student_judge(home: Home) -> Callable[[str, Sequence[str]], Said]:
    """What answers for the students of this home: (id, texts) to its labels and each text's probabilities.

    It raises NotFound where no student of that id lies in the home. Thread-safe; a student stays loaded.
    """
    lock, loaded = threading.Lock(), dict[str, "TextClassifier"]()

    def judge(name: str, texts: Sequence[str]) -> Said:
        from graft.students.classifier import TextClassifier

        with lock:
            if name not in loaded:
                loaded[name] = TextClassifier.load(home.student(name))
            return loaded[name].labels, loaded[name].predict(texts)[1]

    return judge


def toxicity_scorer(home: Home, settings: ToxicitySettings) -> Callable[[Sequence[str]], list[float]] | None:
    """Texts to the probability that a guard student calls them harmful; None where the recipe names no student.

    Raises NotFound where the student is not in this home, GraftError where its labels do not tell harm from safety.
    """
    if not settings.student:
        return None
    judge = student_judge(home)
    labels, _ = judge(settings.student, ["ready?"])
    harmful = [index for index, label in enumerate(labels) if label == settings.label or not settings.label]
    if not settings.label:
        allowed = {side for task in TASKS.all().values() for side in task.sides[1:]}
        harmful = [index for index in harmful if labels[index] not in allowed]
    if not harmful or len(harmful) == len(labels):
        fix = f"name one of its labels: {', '.join(labels)}"
        raise GraftError(
            f"student {settings.student} does not tell harm from safety", where="gates.toxicity.label", fix=fix
        )

    def score(texts: Sequence[str]) -> list[float]:
        return [sum(shares[index] for index in harmful) for shares in judge(settings.student, texts)[1]]

    return score


def soft_labels(lake: Lake, found: DatasetVersion, labels: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Row id to what its judges' probabilities say of the labels; what is no distribution is left out, and said."""
    query = """
        SELECT r.id, c.soft_label FROM lake.version_rows r
        JOIN lake.candidates c ON c.run_id = r.run_id AND c.candidate_id = r.candidate_id
        WHERE r.dataset = ? AND r.version = ?"""
    given = lake.sql(query, [found.dataset, found.version]).to_pylist()
    judged = {str(row["id"]): shares for row in given if (shares := orjson.loads(row["soft_label"] or "{}"))}
    soft = {name: each for name, shares in judged.items() if (each := distribution(shares, labels)) is not None}
    if len(soft) < len(judged):
        artifacts.say(f"{len(judged) - len(soft)} rows' soft labels are no distributions over the labels: left out")
    return soft
