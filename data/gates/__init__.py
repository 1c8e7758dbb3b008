"""Gates: what a candidate must pass besides its reviews. A failure names its rule, its score and the row it hit."""

from __future__ import annotations

from collections.abc import Sequence

from data.gates.base import Gate, failed, passed
from data.gates.contamination import ContaminationGate, TestText
from data.gates.exact import ExactIndex
from data.gates.format import FormatGate
from data.gates.leak import LabelLeakGate, PromptLeakGate
from data.gates.length import LengthGate
from data.gates.near import NearIndex
from data.gates.schema import SchemaGate
from schemas.recipe import Recipe
from schemas.rows import GateResult, Seed

__all__ = ["Admission", "Gate", "TestText"]


class Duplicates:
    """Exact and near duplicates of registered rows. `where` tells people what the rows are: seed, published or run."""

    def __init__(self, where: str, threshold: float) -> None:
        self._where, self._exact, self._near = where, ExactIndex(), NearIndex(threshold)
        self._known: set[str] = set()
        self._passed = (passed(f"exact_{where}"), passed(f"near_{where}"))

    def add(self, row_id: str, text: str) -> None:
        """Register a row; registering it again changes nothing."""
        if row_id not in self._known:
            self._known.add(row_id)
            self._exact.add(row_id, text)
            self._near.add(row_id, text)

    def knows(self, row_id: str) -> bool:
        """Whether a row with this id is registered."""
        return row_id in self._known

    def check(self, text: str) -> tuple[GateResult, ...]:
        """Two passes, or a pass and a failure, or a failure."""
        neighbour = self._exact.find(text)
        if neighbour:
            detail = f"says the same as {neighbour} ({self._where})"
            return (failed(self._passed[0].gate, "exact_duplicate", detail, 1.0, neighbour),)
        neighbour, score = self._near.find(text)
        if neighbour:
            detail = f"nearly says the same as {neighbour} ({self._where}): Jaccard {score:.2f}"
            result = failed(self._passed[1].gate, "near_duplicate", detail, round(score, 4), neighbour)
            return (self._passed[0], result)
        return self._passed


class Admission:
    """The gates of one run. `screen` needs no other candidate; `admit` decides duplicates within the run.

    `published` holds (id, text, label) of earlier versions; `prompt_fragments` the fixed sentences of the prompts;
    `evaluation` what is known of the texts that students are judged on (`Lake.test_texts`): no row may repeat one.
    """

    def __init__(
        self,
        recipe: Recipe,
        seeds: Sequence[Seed],
        published: Sequence[tuple[str, str, str]],
        prompt_fragments: Sequence[str] = (),
        evaluation: Sequence[TestText] = (),
    ) -> None:
        settings = recipe.gates
        self._gates: list[Gate] = [SchemaGate(recipe), LengthGate(recipe), FormatGate(recipe)]
        if settings.label_leak:
            self._gates.append(LabelLeakGate(recipe))
        if settings.prompt_leak:
            self._gates.append(PromptLeakGate(prompt_fragments))
        if evaluation:
            self._gates.append(ContaminationGate(evaluation, settings.near_duplicate))
        self._others: list[Duplicates] = []
        if settings.against_seeds:
            self._others.append(_filled("seed", settings.near_duplicate, [(seed.id, seed.text) for seed in seeds]))
        if settings.against_published:
            rows = [(row_id, text) for row_id, text, _ in published]
            self._others.append(_filled("published", settings.near_duplicate, rows))
        self._run = Duplicates("run", settings.near_duplicate)

    def screen(self, text: str, response: str | None, label: str) -> tuple[GateResult, ...]:
        """One result a gate, cheap ones first; stops at the first failure, which is then the last result."""
        results: list[GateResult] = []
        for gate in self._gates:
            results.append(gate.check(text, response, label))
            if not results[-1].passed:
                return tuple(results)
        for other in self._others:
            results.extend(other.check(text))
            if not results[-1].passed:
                break
        return tuple(results)

    def admit(self, candidate_id: str, text: str, response: str | None, label: str) -> tuple[GateResult, ...]:
        """Duplicates within the run. A text that passes is registered, so the order of calls decides: settle it.

        Asking again for a registered id passes.
        """
        if self._run.knows(candidate_id):
            return (passed("exact_run"), passed("near_run"))
        results = self._run.check(text)
        if results[-1].passed:
            self._run.add(candidate_id, text)
        return results

    def remember(self, candidate_id: str, text: str, label: str) -> None:
        """Register an accepted row of a resumed shard or of an earlier round."""
        self._run.add(candidate_id, text)


def _filled(where: str, threshold: float, rows: Sequence[tuple[str, str]]) -> Duplicates:
    index = Duplicates(where, threshold)
    for row_id, text in rows:
        index.add(row_id, text)
    return index
