"""Students as judges of later rows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from graft.schemas.errors import GraftError
from graft.schemas.gates import ToxicitySettings
from graft.schemas.home import Home
from graft.schemas.kinds import TASKS

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
