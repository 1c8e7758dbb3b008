"""Screens a version again: kept rows, drops with their rules, and clusters. No model is called.

The order is by cost: redaction, gates for one row, gates that compare rows, gates for the whole version. Of rows that
repeat each other the one with the best decision stays, then the one with the smallest id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from graft.data.gates import Admission, Finding, Gate, Needs, Rows
from graft.data.gates.shared.neighbours import members
from graft.data.gates.shared.semantic import embedded
from graft.data.versions import Held
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Candidate, Proposal
from graft.schemas.sections import Table

OWN = 100.0
"""The score of a person's row: above all decisions."""


@dataclass(frozen=True)
class Cluster:
    """Rows that repeat each other, in words or in meaning, by id."""

    kind: Literal["text", "meaning"]
    rows: tuple[str, ...]


@dataclass
class Gated:
    """Outcome of a version's rows. `found` are findings that dropped nothing, `tables` further figures of the gates."""

    kept: list[Held] = field(default_factory=list)
    drops: list[Finding] = field(default_factory=list)
    clusters: list[Cluster] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    found: list[Finding] = field(default_factory=list)
    redacted: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def tally(self) -> list[tuple[str, str, int, str]]:
        """(gate, rule, rows dropped, id of the first), most rows first."""
        counts = Counter((result.gate, result.rule) for _, result in self.drops)
        first: dict[tuple[str, str], str] = {}
        for row_id, result in sorted(self.drops, key=lambda one: one[0]):
            first.setdefault((result.gate, result.rule), row_id)
        return [
            (*rule, count, first[rule]) for rule, count in sorted(counts.items(), key=lambda one: (-one[1], one[0]))
        ]


def gate_again(
    held: Sequence[Held],
    recipe: Recipe,
    needs: Needs | None = None,
    *,
    scores: Mapping[str, float] | None = None,
    made: Mapping[str, Candidate] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Gated:
    """Run every gate over a version's rows. Each row is kept or has one drop; the result does not depend on their
    order.

    Args:
        held: the rows
        recipe: sets the gates
        needs: inputs of the gates
        scores: row id to the mean of its decision
        made: row id to its candidate, for gates that read reviews
        say: reports progress
    """
    sieve = _Sieve(held, recipe, needs or Needs(), scores or {}, made or {}, say)
    sieve.by_row()
    sieve.among_rows()
    sieve.by_version()
    return sieve.done()


class _Sieve:
    """The rows that are left, and the findings so far."""

    def __init__(
        self, held: Sequence[Held], recipe: Recipe, needs: Needs, scores: Mapping[str, float],
        made: Mapping[str, Candidate], say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._scores, self._made, self._say, self._result, self._needs = scores, made, say, Gated(), needs
        self._alive = {one[0].id: one for one in sorted(held, key=lambda one: one[0].id)}
        self._vectors: NDArray[np.floating] = np.empty((0, 0), dtype=np.float16)
        here = {row.text for row, *_ in held}
        seeds = [seed for seed in needs.seeds if seed.text not in here]  # those of the version are among its rows
        self._admission = Admission(recipe, replace(needs, seeds=seeds, published=()))

    def by_row(self) -> None:
        """Redaction, and the gates that check one row alone."""
        total = len(self._alive)
        for number, (row_id, (row, run_id, candidate_id)) in enumerate([*self._alive.items()], start=1):
            text, response, cleaned = self._admission.clean(row.text, row.response)
            last = next((result for result in cleaned if not result.passed), None)  # over the length limit
            if last is None and (text, response) != (row.text, row.response):
                self._result.redacted[row_id] = tuple(result.gate for result in cleaned)
                update = {"text": text, "response": response}
                self._alive[row_id] = (row.model_copy(update=update), run_id, candidate_id)
            proposal = self._proposal(row_id)
            last = last or self._admission.screen(proposal)[-1]
            if last.passed and row_id in self._made:
                last = (last, *self._admission.judge(proposal))[-1]
            if not last.passed:
                self._drop([(row_id, last)])
            if number % 10_000 == 0:
                self._say(f"gates: {number:,} of {total:,} rows")

    def among_rows(self) -> None:
        """The gates that compare rows, as they do in a run."""
        ordered = sorted(self._alive, key=lambda row_id: (-self._score(row_id), row_id))
        lost: list[Finding] = []
        for number, row_id in enumerate(ordered, start=1):
            failed = next((one for one in self._admission.admit(self._proposal(row_id)) if not one.passed), None)
            if failed is not None:
                lost.append((row_id, failed))
            if number % 10_000 == 0:
                self._say(f"duplicates: {number:,} of {len(ordered):,} rows")
        if lost:
            texts = [self._alive[row_id][0].text for row_id in ordered]
            for gate in self._admission.among:
                self._clusters("text", gate.clusters(ordered, texts))
        self._drop(lost)

    def by_version(self) -> None:
        """The gates that check all rows at once, with vectors if one needs them."""
        gates = [gate for gate in self._admission.gates if gate.scope == "version"]
        embeds = bool(self._alive) and any(gate.embeds for gate in gates)
        embed, why = self._needs.embed() if embeds else (None, "")
        if embed is not None:
            self._vectors = embedded(embed, [row.text for row, *_ in self._alive.values()], "rows", self._say)
        elif embeds:
            self._result.notes.append(f"no comparison by meaning: {why}")
        for gate in gates:
            if self._alive and not (gate.embeds and embed is None):
                ids = [*self._alive]
                rows = Rows([*map(self._proposal, ids)], [*map(self._score, ids)], self._vectors, embed, self._say)
                self._sift(gate, rows)

    def _sift(self, gate: Gate, rows: Rows) -> None:
        sifted = gate.sift(rows)
        self._clusters("meaning" if gate.embeds else "text", sifted.clusters)
        self._result.tables.extend(sifted.tables)
        self._result.found.extend(sifted.found)
        self._result.notes.extend(sifted.notes)
        self._drop(sifted.drops)

    def done(self) -> Gated:
        """The result, its drops and kept rows by id."""
        self._result.kept = list(self._alive.values())
        self._result.drops.sort(key=lambda one: one[0])
        return self._result

    def _proposal(self, row_id: str) -> Proposal:
        row, made = self._alive[row_id][0], self._made.get(row_id)
        if made is None:
            return Proposal(text=row.text, response=row.response, label=row.label, id=row_id, data=row.data)
        return replace(made.proposal(), text=row.text, response=row.response, label=row.label, id=row_id, data=row.data)

    def _score(self, row_id: str) -> float:
        row = self._alive[row_id][0]
        return self._scores.get(row_id, 0.0) if row.source == "synthetic" else OWN

    def _drop(self, findings: Sequence[Finding]) -> None:
        gone = {row_id for row_id, _ in findings}
        if len(self._vectors):
            self._vectors = self._vectors[[row_id not in gone for row_id in self._alive]]
        for row_id in gone:
            del self._alive[row_id]
        self._result.drops.extend(findings)

    def _clusters(self, kind: Literal["text", "meaning"], found: Mapping[str, str]) -> None:
        self._result.clusters.extend(Cluster(kind, tuple(rows)) for rows in members(found).values())
