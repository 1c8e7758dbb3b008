"""The toxicity gate: a guard student reads each text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field

from graft.data.gates.base import Gate, Needs
from graft.schemas.base import STUDENT_PATTERN, Value
from graft.schemas.errors import GraftError
from graft.schemas.kinds import TASKS
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult, Proposal


class ToxicitySettings(Value):
    """Settings: a guard student reads each text and rejects rows above the threshold."""

    student: str = Field(
        default="", pattern=f"^$|{STUDENT_PATTERN}", description="id of a guard student (st_…); empty: the gate is off"
    )
    label: str = Field(default="", description="its label for harm; empty: every label but `safe`")
    max_probability: float = Field(default=0.5, gt=0, lt=1)


class Settings(Value):
    """Fields under `gates`."""

    toxicity: ToxicitySettings = ToxicitySettings()


class ToxicityGate(Gate):
    """Rule `toxic`; the score is the probability of harm. Text and response are read one after the other.

    A score that is not a number counts as harmful, so that unjudged rows stay out. Raises NotFound if the
    student is not in this home, GraftError if its labels do not tell harm from safety.
    """

    Settings, cost, name = Settings, 10_000, "toxicity"

    def __init__(self, recipe: Recipe, needs: Needs) -> None:
        super().__init__(recipe, needs)
        assert needs.student is not None
        self._settings, self._ask = recipe.gates.of(Settings).toxicity, needs.student
        student, label = self._settings.student, self._settings.label
        labels, _ = self._ask(student, ["ready?"])
        allowed = {side for task in TASKS.all().values() for side in task.sides[1:]}
        self._harmful = [n for n, name in enumerate(labels) if (name == label if label else name not in allowed)]
        if not self._harmful or len(self._harmful) == len(labels):
            fix = f"name one of its labels: {', '.join(labels)}"
            where = "gates.toxicity.label"
            raise GraftError(f"student {student} does not separate harmful from safe", where=where, fix=fix)

    @classmethod
    def enabled(cls, recipe: Recipe) -> bool:
        """If the recipe names a student."""
        return bool(recipe.gates.of(Settings).toxicity.student)

    @classmethod
    def make(cls, recipe: Recipe, needs: Needs) -> Sequence[Gate]:
        """None if no student is available."""
        return (cls(recipe, needs),) if needs.student is not None else ()

    def check(self, proposal: Proposal) -> GateResult:
        """See the class."""
        parts = [proposal.text, proposal.response] if proposal.response else [proposal.text]
        shares = self._ask(self._settings.student, parts)[1]
        scores = [float(sum(each[place] for place in self._harmful)) for each in shares]
        if not all(map(math.isfinite, scores)):
            return self.failed("toxic", "the guard's score is not a number")
        if max(scores) > self._settings.max_probability:
            return self.failed("toxic", f"the guard rates it harmful: {max(scores):.0%}", round(max(scores), 4))
        return self.passed


KIND = ToxicityGate
