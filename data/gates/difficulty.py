"""The difficulty gate: rows about the concepts of a student's failures have to be right, and hard for it.

After SwS (arXiv 2506.08989), which keeps a problem if several sampled answers agree and the student solves it neither
always nor never.
"""

from __future__ import annotations

import math

from graft.data.gates.base import Gate, Needs
from graft.schemas.errors import NotFound
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult, Proposal, Review

LEAST, MOST = 0.1, 0.9
"""Bounds of the student's probability of the row's label."""


class DifficultyGate(Gate):
    """Rules: voted_down, too_hard, too_easy. It reads rows that were requested about a concept, and passes all others.

    A row is voted down unless more than half of the judges that give label probabilities find its label the likeliest;
    the student itself has no vote, and without other such judges there is none. The score of the other rules is the
    student's probability of the label.
    """

    cost, reviewed, name = 10_000, True, "difficulty"

    def __init__(self, recipe: Recipe, needs: Needs) -> None:
        super().__init__(recipe, needs)
        self._student, self._ask = recipe.steering.learner if recipe.steering else "", needs.student
        self._itself = {model.name for model in recipe.models if model.model == self._student}

    @classmethod
    def enabled(cls, recipe: Recipe) -> bool:
        """If the round is steered by concepts."""
        return bool(recipe.steering and recipe.steering.learner)

    def check(self, proposal: Proposal) -> GateResult:
        """See the class."""
        if not proposal.concept:
            return self.passed
        judges = [review for review in proposal.reviews if review.model not in self._itself]
        votes = [vote for review in judges if (vote := _vote(review))]
        if votes and 2 * votes.count(proposal.label) <= len(votes):
            return self.failed("voted_down", f"{votes.count(proposal.label)} of {len(votes)} judges give its label")
        return self._medium(proposal)

    def _medium(self, proposal: Proposal) -> GateResult:
        if self._ask is None:
            return self.passed
        try:
            labels, shares = self._ask(self._student, ["\n\n".join(proposal.parts)])
        except NotFound:  # a version is gated again in another home
            return self.passed
        share = dict(zip(labels, shares[0], strict=True)).get(proposal.label, math.nan)
        if not math.isfinite(share):
            return self.failed("too_hard", "the student gives its label no probability")
        if share <= LEAST:
            return self.failed("too_hard", f"the student gives its label {share:.0%}", round(share, 4))
        if share >= MOST:
            return self.failed("too_easy", f"the student gives its label {share:.0%} already", round(share, 4))
        return self.passed


def _vote(review: Review) -> str:
    """The likeliest label of a review; empty if it has no probabilities."""
    best = max(review.distribution, key=lambda score: score.calibrated, default=None)
    return best.label if best else ""


KIND = DifficultyGate
