"""Gates: checks that a candidate must pass besides its reviews. A failure names its rule, score and neighbour.

Every gate is a file of this folder or of another distribution (`schemas.kinds.GATES`); base.py has the contract.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy
from typing import Any

from graft.data.gates.base import Finding, Gate, Needs, Rows, Sifted, failed, passed
from graft.data.gates.shared.held_out import TestText
from graft.data.gates.shared.spans import counted, redacted
from graft.schemas.kinds import GATES, Kinds
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult, Proposal

__all__ = ["Admission", "Finding", "Gate", "Needs", "Rows", "Sifted", "TestText", "failed", "passed", "reads_reviews",
           "rules", "without"]  # fmt: skip

KINDS: Kinds[type[Gate]] = GATES
LONGEST_FIND = 2_000
"""Characters past the length limit that are searched for a find which begins before it."""


def rules(recipe: Recipe) -> dict[str, int]:
    """Kind to rule version, of the gates that decide a run's rows: a part of the run's id."""
    return {name: kind.version for name, kind in _kinds(recipe) if kind.scope != "version"}


def without(some: Callable[[type[Gate]], bool]) -> dict[str, Any]:
    """Settings of a recipe's block `gates` under which the kinds that `some` is true of reject no row."""
    return {field: value for kind in KINDS.all().values() if some(kind) for field, value in kind.off.items()}


def reads_reviews(recipe: Recipe) -> bool:
    """Return True if a gate of the recipe reads reviews."""
    return any(kind.reviewed for _, kind in _kinds(recipe))


def _kinds(recipe: Recipe) -> list[tuple[str, type[Gate]]]:
    """The kinds that the recipe has on, cheap ones first."""
    on = [(name, kind) for name, kind in KINDS.all().items() if kind.enabled(recipe)]
    return sorted(on, key=lambda one: one[1].cost)


class Admission:
    """The gates of a recipe, one pass over rows. `screen` needs neither reviews nor other candidates; `settle` decides.

    Args:
        recipe: sets the gates
        needs: inputs of the gates; a gate that lacks an input is left out
    """

    def __init__(self, recipe: Recipe, needs: Needs | None = None) -> None:
        self._recipe, self._needs = recipe, needs or Needs()
        self.gates: list[Gate] = [one for _, kind in _kinds(recipe) for one in kind.make(recipe, self._needs)]
        self._sort()

    def load(self) -> None:
        """Load what the gates read. For a thread, while the first calls are in flight."""
        for one in self.gates:
            one.load()

    def fresh(self) -> Admission:
        """The same gates without registered rows of a run: their knowledge of other rows is shared, not rebuilt."""
        again = copy(self)
        kinds = [kind for _, kind in _kinds(self._recipe) if kind.scope == "run"]
        new = [one for kind in kinds for one in kind.make(self._recipe, self._needs)]
        again.gates = [*(one for one in self.gates if one.scope != "run"), *new]
        again._sort()
        return again

    def _sort(self) -> None:
        self._first = [one for one in self.gates if one.scope == "row" and not one.reviewed]
        self._reviewed = [one for one in self.gates if one.scope == "row" and one.reviewed]
        self.among = [one for one in self.gates if one.scope == "run"]
        self._redactors = [one for one in self.gates if one.redacts]
        self._bounds = [one for one in self._first if one.most is not None]
        self._known = set[str]()

    def clean(self, text: str, response: str | None) -> tuple[str, str | None, tuple[GateResult, ...]]:
        """Text and response with what the recipe redacts replaced by `<EMAIL>` and the like; a result for each gate
        that found something, with kinds and numbers. A text without any is returned unchanged.

        If the recipe redacts, a text or response over the length limit is cut to it before the search, and the first
        result is the length gate's failure: the row is rejected, and the cut part is kept nowhere.
        """
        results: list[GateResult] = []
        for bound in self._bounds if self._redactors else ():
            most = bound.most or 0
            if max(len(text), len(response or "")) > most:
                results.append(bound.check(Proposal(text=text, response=response)))
                text, response = self._cut(text, most), response and self._cut(response, most)
        for gate in self._redactors:
            text, count = redacted(text, gate.find)
            if response:
                response, more = redacted(response, gate.find)
                count += more
            if count:
                result = GateResult(
                    gate=gate.name, rule="redacted", passed=True, score=count.total(), detail=counted(count)
                )
                results.append(result)
        return text, response, tuple(results)

    def _cut(self, text: str, most: int) -> str:
        """The text up to `most` characters; a find across the limit is removed whole."""
        seen, end = text[: most + LONGEST_FIND], most
        for span in (span for gate in self._redactors for span in gate.find(seen)):
            if span.start < end < span.end:
                end = span.start
        return text[:end]

    def screen(self, proposal: Proposal) -> tuple[GateResult, ...]:
        """One result per gate that needs only the texts; stops at the first failure, which is then the last result."""
        return _until_failure(self._first, proposal)

    def judge(self, proposal: Proposal) -> tuple[GateResult, ...]:
        """The same for the gates that read reviews; empty if the recipe has none."""
        return _until_failure(self._reviewed, proposal)

    def admit(self, proposal: Proposal) -> tuple[GateResult, ...]:
        """The same for the gates that compare with the run's rows. A row that passes is registered by its id, so the
        order of calls decides: settle it. A registered id passes again.
        """
        if proposal.id in self._known:
            return tuple(one.passed for one in self.among)
        results = _until_failure(self.among, proposal)
        if all(result.passed for result in results):
            self.remember(proposal)
        return results

    def settle(self, proposal: Proposal) -> tuple[GateResult, ...]:
        """`judge`, then `admit`: for a row that its method has accepted."""
        results = self.judge(proposal)
        return results if results and not results[-1].passed else (*results, *self.admit(proposal))

    def remember(self, proposal: Proposal) -> None:
        """Register an accepted row of a resumed shard or of an earlier round; a known id changes nothing."""
        if proposal.id not in self._known:
            self._known.add(proposal.id)
            for gate in self.among:
                gate.remember(proposal)


def _until_failure(gates: Iterable[Gate], proposal: Proposal) -> tuple[GateResult, ...]:
    results: list[GateResult] = []
    for gate in gates:
        result = gate.check(proposal)
        results.append(result)
        if not result.passed:
            break
    return tuple(results)
