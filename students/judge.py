"""Students as judges of later rows. Every run imports this module, so it loads nothing until a student is used."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from graft.schemas.home import Home

if TYPE_CHECKING:
    from graft.agents.local.encoder import StudentJudge
    from graft.students.classifier import TextClassifier


def student_judge(home: Home) -> StudentJudge:
    """A function from (student id, texts) to its labels and each text's probabilities.

    It raises NotFound if the home has no such student. Thread-safe; a student stays loaded.
    """
    lock, loaded = threading.Lock(), dict[str, "TextClassifier"]()

    def judge(name: str, texts: Sequence[str]) -> tuple[Sequence[str], Sequence[Sequence[float]]]:
        from graft.students.classifier import TextClassifier

        with lock:
            if name not in loaded:
                loaded[name] = TextClassifier.load(home.student(name))
            return loaded[name].labels, loaded[name].predict(texts)[1]

    return judge
