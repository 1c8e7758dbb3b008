"""Exact and near duplicates of registered rows, as two gates. `where` names the rows' source for people."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

from graft.data.gates.base import Gate, Needs
from graft.data.gates.shared.folding import normalise
from graft.data.gates.shared.near import NearIndex
from graft.data.gates.shared.neighbours import near_clusters
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult, Proposal

Where = Literal["seed", "published", "run"]


class _Repeats(Gate):
    """Rows by text; the source of the rows decides name and scope."""

    rule: ClassVar[str]

    def __init__(self, recipe: Recipe, needs: Needs, where: Where) -> None:
        self.name = f"{self.rule}_{where}"
        self.scope = "run" if where == "run" else "row"
        super().__init__(recipe, needs)
        self._where, self._threshold = where, float(recipe.gates.near_duplicate)


class ExactRepeats(_Repeats):
    """Rule `exact_duplicate`: only case, punctuation, spacing or Unicode forms differ.

    Texts are known by a hash: about 100 bytes a row, whatever a text's length.
    """

    rule = "exact"

    def __init__(self, recipe: Recipe, needs: Needs, where: Where) -> None:
        super().__init__(recipe, needs, where)
        self._ids: dict[bytes, str] = {}

    def remember(self, proposal: Proposal) -> None:
        """Registers a row; the first one with a text stays its owner."""
        self._ids.setdefault(_digest(proposal.text), proposal.id)

    def check(self, proposal: Proposal) -> GateResult:
        """See the class."""
        neighbour = self._ids.get(_digest(proposal.text), "")
        if not neighbour:
            return self.passed
        return self.failed("exact_duplicate", f"repeats {neighbour} ({self._where})", 1.0, neighbour)


class NearRepeats(_Repeats):
    """Rule `near_duplicate`: the Jaccard similarity of shingles is at or above `gates.near_duplicate`."""

    rule = "near"

    def __init__(self, recipe: Recipe, needs: Needs, where: Where) -> None:
        super().__init__(recipe, needs, where)
        self._index = NearIndex(self._threshold)

    def remember(self, proposal: Proposal) -> None:
        """Registers a row."""
        self._index.add(proposal.id, proposal.text)

    def check(self, proposal: Proposal) -> GateResult:
        """See the class."""
        neighbour, score = self._index.find(proposal.text)
        if not neighbour:
            return self.passed
        detail = f"nearly repeats {neighbour} ({self._where}): Jaccard {score:.2f}"
        return self.failed("near_duplicate", detail, round(score, 4), neighbour)

    def clusters(self, ids: Sequence[str], texts: Sequence[str]) -> Mapping[str, str]:
        """Rows with equal or nearly equal texts."""
        return near_clusters(ids, texts, self._threshold)


def repeats(
    recipe: Recipe, needs: Needs, where: Where, rows: Iterable[tuple[str, str]] = ()
) -> tuple[ExactRepeats, NearRepeats]:
    """Both gates, with the rows (id, text) registered, each id once."""
    made = ExactRepeats(recipe, needs, where), NearRepeats(recipe, needs, where)
    known = set[str]()
    for row_id, text in rows:
        if row_id not in known:
            known.add(row_id)
            for gate in made:
                gate.remember(Proposal(text=text, id=row_id))
    return made


def _digest(text: str) -> bytes:
    return hashlib.blake2b(normalise(text).encode("utf-8", "surrogatepass"), digest_size=16).digest()
