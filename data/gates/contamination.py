"""Contamination: a row must not repeat a text of a file that students are evaluated on.

The texts themselves are not kept (`shared.held_out`). The sketches of all of them lie in one sorted array, so a look-up
is exact for short texts and misses none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from graft.data.gates.base import Finding, Gate, Needs, Rows, Sifted
from graft.data.gates.shared.folding import normalise
from graft.data.gates.shared.held_out import GRAM_WORDS, grams_of, text_hash
from graft.data.gates.shared.near import jaccard_of, sketch_of
from graft.data.gates.shared.semantic import EMBED_BLOCK, embedded
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult, Proposal

CONTAINED = 0.5
"""Share of a text's runs in another text from which it counts as repeated."""
LOOKED_AT = 16
"""Held-out texts with the largest shared sketch whose similarity is computed."""

Hashes = NDArray[np.int64]


class ContaminationGate(Gate):
    """Rejects rows that repeat a held-out text: rules `contamination_exact` and `contamination_near`.

    Near is a Jaccard similarity of shingles at or above `gates.near_duplicate`, or, if one of the two has GRAM_WORDS
    words or more, half of its runs of that many words in the other. The neighbour is a file and row, never a text.
    """

    cost, name = 30, "contamination"

    def __init__(self, recipe: Recipe, needs: Needs) -> None:
        super().__init__(recipe, needs)
        texts = needs.evaluation
        self._texts, self._threshold = texts, float(recipe.gates.near_duplicate)
        self._exact = {text.text_hash: index for index, text in reversed(list(enumerate(texts)))}
        self._sketches = _Postings([text.sketch for text in texts])
        self._grams = _Postings([text.grams for text in texts])

    @classmethod
    def make(cls, recipe: Recipe, needs: Needs) -> Sequence[Gate]:
        """By words if held-out texts are registered, by meaning if their files are available."""
        made: list[Gate] = [cls(recipe, needs)] if needs.evaluation else []
        return [*made, *([_ByMeaning(recipe, needs)] if needs.tests else [])]

    def check(self, proposal: Proposal) -> GateResult:
        """Checks the text and the response, if there is one."""
        for part in proposal.words:
            hit = self._hit(part)
            if hit is not None:
                return hit
        return self.passed

    def _hit(self, text: str) -> GateResult | None:
        index = self._exact.get(text_hash(text)) if normalise(text) else None
        if index is not None:
            place = self._texts[index].place
            return self.failed("contamination_exact", f"repeats the held-out {place}", 1.0, place)
        for score, index, how in (self._similar(text), self._contained(text)):
            if index is not None:
                place = self._texts[index].place
                detail = f"nearly repeats the held-out {place}: {how} {score:.2f}"
                return self.failed("contamination_near", detail, round(score, 4), place)
        return None

    def _similar(self, text: str) -> tuple[float, int | None, str]:
        mine = sketch_of(text)
        shared = self._sketches.shared(mine)
        best, found = 0.0, None
        for index in np.argsort(-shared, kind="stable")[:LOOKED_AT]:
            if shared[index]:
                score = jaccard_of(mine, np.array(self._texts[index].sketch, dtype=np.uint32))
                if score > best:
                    best, found = score, int(index)
        return best, found if best >= self._threshold - 1e-9 else None, "Jaccard"

    def _contained(self, text: str) -> tuple[float, int | None, str]:
        how = f"share of runs of {GRAM_WORDS} words"
        mine = grams_of(text)
        shared = self._grams.shared(mine)
        if not shared.any():
            return 0.0, None, how
        shares = shared / np.maximum(np.minimum(self._grams.sizes, len(mine)), 1)
        best = int(np.argmax(shares))
        return float(shares[best]), best if shares[best] >= CONTAINED else None, how


KIND = ContaminationGate


class _ByMeaning(Gate):
    """Rows with the meaning of a held-out text: rule `contamination_semantic`; the neighbour is its file and row."""

    cost, scope, embeds, name = ContaminationGate.cost, "version", True, "contamination"

    def __init__(self, recipe: Recipe, needs: Needs) -> None:
        super().__init__(recipe, needs)
        self._tests, self._cosine = needs.tests, needs.test_cosine

    def sift(self, rows: Rows) -> Sifted:
        """See the class."""
        assert rows.embed is not None
        texts = [text for _, text in self._tests]
        tests = embedded(rows.embed, texts, "held-out texts", rows.say).astype(np.float32)
        lost, ids = list[Finding](), rows.ids
        for begin in range(0, len(ids), EMBED_BLOCK):
            cosines = rows.vectors[begin : begin + EMBED_BLOCK].astype(np.float32) @ tests.T
            nearest = cosines.argmax(axis=1)
            for offset in np.flatnonzero(cosines.max(axis=1) >= self._cosine):
                cosine, (place, _) = float(cosines[offset].max()), self._tests[nearest[offset]]
                detail = f"has the meaning of the held-out {place}: cosine {cosine:.2f}"
                result = self.failed("contamination_semantic", detail, round(min(cosine, 1.0), 4), place)
                lost.append((ids[begin + offset], result))
        return Sifted(drops=lost)


class _Postings:
    """The given sets that contain each hash, for all hashes at once."""

    def __init__(self, sets: Sequence[Sequence[int]]) -> None:
        self.sizes: Hashes = np.array([len(one) for one in sets], dtype=np.int64)
        hashes = np.array([each for one in sets for each in one], dtype=np.int64)
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._owners = hashes[order], np.repeat(np.arange(len(sets)), self.sizes)[order]

    def shared(self, hashes: Sequence[int] | NDArray[np.uint32]) -> Hashes:
        """Number of these hashes in each set."""
        wanted = np.asarray(hashes, dtype=np.int64)
        starts = np.searchsorted(self._hashes, wanted, side="left")
        ends = np.searchsorted(self._hashes, wanted, side="right")
        owners = [self._owners[start:end] for start, end in zip(starts, ends, strict=True) if end > start]
        if not owners:
            return np.zeros(len(self.sizes), dtype=np.int64)
        return np.bincount(np.concatenate(owners), minlength=len(self.sizes)).astype(np.int64)
