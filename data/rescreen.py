"""Gating a version again: rows and tools in; what stays, what goes and why, and clusters out. No model is called.

The order is that of cost: what the recipe redacts, the gates that look at one row, exact and near duplicates, held-out
texts by meaning, duplicates by meaning, and what a cross-validated classifier says. Where rows repeat each other the
one with the best decision stays, then the one with the smallest id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from graft.data.gates import Admission, TestText
from graft.data.gates.base import failed
from graft.data.gates.learned import LabelError, label_errors, low_margin, outliers
from graft.data.gates.neighbours import clusters_of, drop, members, near_clusters
from graft.data.versions import Held
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult, Seed

EMBEDDED_CHARS = 4_000
"""Of a text, what is handed to the encoder, which reads 256 tokens."""
BLOCK = 2_048
OWN = 100.0
"""The score of a row that a person gave: above all decisions."""

Embed = Callable[[Sequence[str]], Any]
Finding = tuple[str, GateResult]
"""A row's id, and what was found of it."""


class FoldProbabilities(Protocol):
    """Out-of-fold probabilities over `names` of the rows at these places; see students.folds."""

    @property
    def names(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def rows(self) -> NDArray[np.int64]: ...  # noqa: D102
    @property
    def probabilities(self) -> NDArray[np.float64]: ...  # noqa: D102
    @property
    def notes(self) -> tuple[str, ...]: ...  # noqa: D102


@dataclass(frozen=True)
class Tools:
    """What the gates work with. `tests` are (place, text) of held-out files, to be compared by meaning."""

    recipe: Recipe
    fragments: Sequence[str] = ()
    evaluation: Sequence[TestText] = ()
    seeds: Sequence[Seed] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    toxicity: Callable[[Sequence[str]], list[float]] | None = None
    embed: Embed | None = None
    folds: Callable[[NDArray[np.floating], Sequence[str], int, int], FoldProbabilities] | None = None
    tests: Sequence[tuple[str, str]] = ()
    test_cosine: float = 0.9


@dataclass(frozen=True)
class Cluster:
    """Rows that repeat each other, in words or in meaning, by id."""

    kind: Literal["text", "meaning"]
    rows: tuple[str, ...]


@dataclass
class Gated:
    """What became of a version's rows. `found` are the learned gates' findings that dropped nothing."""

    kept: list[Held] = field(default_factory=list)
    drops: list[Finding] = field(default_factory=list)
    clusters: list[Cluster] = field(default_factory=list)
    errors: list[LabelError] = field(default_factory=list)
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


def gate_again(held: Sequence[Held], tools: Tools, say: Callable[[str], None] = lambda line: None) -> Gated:
    """Every gate over a version's rows. Each row is kept or has one drop; the result does not depend on their order."""
    sieve = _Sieve(held, tools, say)
    sieve.by_text()
    sieve.by_duplicates()
    sieve.by_meaning()
    return sieve.done()


class _Sieve:
    """The rows that are still there, and what was found so far."""

    def __init__(self, held: Sequence[Held], tools: Tools, say: Callable[[str], None]) -> None:
        self._tools, self._say, self._result = tools, say, Gated()
        self._alive = {one[0].id: one for one in sorted(held, key=lambda one: one[0].id)}
        self._vectors: NDArray[np.floating] = np.empty((0, 0), dtype=np.float32)
        here = {row.text for row, *_ in held}
        seeds = [seed for seed in tools.seeds if seed.text not in here]  # those of the version are among its rows
        self._admission = Admission(tools.recipe, seeds, [], tools.fragments, tools.evaluation, tools.toxicity)

    def by_text(self) -> None:
        """Redaction, and the gates that look at one row alone."""
        total = len(self._alive)
        for number, (row_id, (row, run_id, candidate_id)) in enumerate([*self._alive.items()], start=1):
            text, response, cleaned = self._admission.clean(row.text, row.response)
            last = next((result for result in cleaned if not result.passed), None)  # over the length limit
            if last is None and (text, response) != (row.text, row.response):
                self._result.redacted[row_id] = tuple(result.gate for result in cleaned)
                update = {"text": text, "response": response}
                self._alive[row_id] = (row.model_copy(update=update), run_id, candidate_id)
            last = last or self._admission.screen(text, response, row.label)[-1]
            if not last.passed:
                self._drop([(row_id, last)])
            if number % 10_000 == 0:
                self._say(f"gates: {number:,} of {total:,} rows")

    def by_duplicates(self) -> None:
        """Exact and near duplicates among the rows."""
        ordered = sorted(self._alive, key=lambda row_id: (-self._score(row_id), row_id))
        lost: list[Finding] = []
        for number, row_id in enumerate(ordered, start=1):
            row = self._alive[row_id][0]
            last = self._admission.admit(row_id, row.text, row.response, row.label)[-1]
            if not last.passed:
                lost.append((row_id, last))
            if number % 10_000 == 0:
                self._say(f"duplicates: {number:,} of {len(ordered):,} rows")
        if lost:
            texts = [self._alive[row_id][0].text for row_id in ordered]
            self._clusters("text", near_clusters(ordered, texts, self._tools.recipe.gates.near_duplicate))
        self._drop(lost)

    def by_meaning(self) -> None:
        """What needs embeddings: held-out texts, duplicates in meaning, learned gates."""
        gates, tools = self._tools.recipe.gates, self._tools
        learned = gates.learned.action != "off" and tools.folds is not None
        if not self._alive or not (tools.tests or gates.semantic is not None or learned):
            return
        if tools.embed is None:
            self._result.notes.append("nothing was compared by meaning: the sentence encoder is not there")
            return
        self._vectors = self._embedded([row.text for row, *_ in self._alive.values()], "rows")
        if tools.tests:
            self._held_out()
        if gates.semantic is not None:
            self._semantic(gates.semantic)
        if learned:
            self._learned()

    def done(self) -> Gated:
        """The result, its drops and kept rows by id."""
        self._result.kept = list(self._alive.values())
        self._result.drops.sort(key=lambda one: one[0])
        return self._result

    def _score(self, row_id: str) -> float:
        row = self._alive[row_id][0]
        return self._tools.scores.get(row_id, 0.0) if row.source == "synthetic" else OWN

    def _drop(self, findings: Sequence[Finding]) -> None:
        gone = {row_id for row_id, _ in findings}
        if len(self._vectors):
            self._vectors = self._vectors[[row_id not in gone for row_id in self._alive]]
        for row_id in gone:
            del self._alive[row_id]
        self._result.drops.extend(findings)

    def _clusters(self, kind: Literal["text", "meaning"], found: Mapping[str, str]) -> None:
        self._result.clusters.extend(Cluster(kind, tuple(rows)) for rows in members(found).values())

    def _embedded(self, texts: Sequence[str], what: str) -> NDArray[np.floating]:
        """Vectors as float16: half the memory, and the cosines differ by less than 0.001."""
        assert self._tools.embed is not None
        parts = []
        for begin in range(0, len(texts), BLOCK):
            some = [text[:EMBEDDED_CHARS] for text in texts[begin : begin + BLOCK]]
            parts.append(np.asarray(self._tools.embed(some), dtype=np.float16))
            if len(texts) > BLOCK:
                self._say(f"embeddings: {begin + len(some):,} of {len(texts):,} {what}")
        return np.concatenate(parts)

    def _held_out(self) -> None:
        """Rows that say what a held-out text says; the neighbour is its file and row."""
        tests = self._embedded([text for _, text in self._tools.tests], "held-out texts").astype(np.float32)
        lost: list[Finding] = []
        ids = list(self._alive)
        for begin in range(0, len(ids), BLOCK):
            cosines = self._vectors[begin : begin + BLOCK].astype(np.float32) @ tests.T
            nearest = cosines.argmax(axis=1)
            for offset in np.flatnonzero(cosines.max(axis=1) >= self._tools.test_cosine):
                cosine, (place, _) = float(cosines[offset].max()), self._tools.tests[nearest[offset]]
                detail = f"means the same as the held-out {place}: cosine {cosine:.2f}"
                score = round(min(cosine, 1.0), 4)
                result = failed("contamination", "contamination_semantic", detail, score, place)
                lost.append((ids[begin + offset], result))
        self._drop(lost)

    def _semantic(self, max_cosine: float) -> None:
        ids = list(self._alive)
        scores = [self._score(row_id) for row_id in ids]
        hits = drop(ids, self._vectors, scores, max_cosine, say=self._say)
        if hits:
            self._clusters("meaning", clusters_of(ids, self._vectors, max_cosine, say=self._say))
        self._drop(
            [
                (row_id, failed("semantic", "semantic", f"cosine {cosine:.2f}", round(cosine, 4), keeper))
                for row_id, (keeper, cosine) in hits.items()
            ]
        )

    def _learned(self) -> None:
        settings, recipe = self._tools.recipe.gates.learned, self._tools.recipe
        ids, labels = list(self._alive), [row.label for row, *_ in self._alive.values()]
        assert self._tools.folds is not None
        judged = self._tools.folds(self._vectors, labels, settings.folds, recipe.seed)
        self._result.notes.extend(judged.notes)
        some, given = [ids[row] for row in judged.rows], [labels[row] for row in judged.rows]
        found: dict[str, GateResult] = {}
        if some:
            self._result.errors = label_errors(some, given, judged.names, judged.probabilities)
            found = {error.row_id: error.result() for error in self._result.errors}
            margins = low_margin(some, given, judged.names, judged.probabilities, settings.min_margin)
            found = {**dict(margins), **found}
        found = {**dict(outliers(ids, self._vectors, settings.max_outlier)), **found}
        if settings.action == "reject":
            self._drop(sorted(found.items()))
        else:
            self._result.found = sorted(found.items())
