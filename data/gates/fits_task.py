"""The gate fits_task: the checks that a task makes of its rows, such as spans that must lie within the text."""

from __future__ import annotations

from graft.data.gates.base import Gate, Needs
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult, Proposal
from graft.schemas.tasks.base import Words


class FitsTaskGate(Gate):
    """Rules: those of the task (`Task.faults`), whatever method made the row. On for every task that checks rows.

    A response of None has not been requested yet: such a row is checked once it is whole.
    """

    cost, name = 20, "fits_task"

    def __init__(self, recipe: Recipe, needs: Needs) -> None:
        super().__init__(recipe, needs)
        self._task = recipe.task

    @classmethod
    def enabled(cls, recipe: Recipe) -> bool:
        """Return True if the task checks rows."""
        return recipe.task.checked

    def check(self, proposal: Proposal) -> GateResult:
        """See the class."""
        if proposal.response is None and self._task.needs_response:
            return self.passed
        row = Words(proposal.text, proposal.response, proposal.label, proposal.data)
        faults = self._task.faults(row)
        if not faults:
            return self.passed
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        return self.failed(faults[0].rule, faults[0].detail + more)


KIND = FitsTaskGate
