"""Judges that agree less than chance: measured on a run's first candidates, which all of its reviewers judge.

The figure is Krippendorff's alpha (interval) of the reviewers' means, as in `graft quality`. Candidates whose reviews
ended early are left out: the first review decides whether a second is made, so that alpha over them is too low however
good the judges are. Independent judges have an alpha around 0 with a standard error of about 1/sqrt(n), so the run
stops only if alpha is below 0 by more than that explains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from graft.schemas.rows import Candidate

CHANCE_Z = 1.645
"""Standard errors below 0 that chance explains (one-sided, 95%)."""
SHOWN = 3


@dataclass
class Agreement:
    """The first `wanted` candidates that two models or more scored; 0 measures nothing."""

    wanted: int
    units: list[tuple[str, dict[str, float]]] = field(default_factory=list)
    """(candidate id, each model's mean score)."""
    alpha: float | None = None

    def note(self, candidate: Candidate) -> None:
        """Count a settled candidate that all reviewers judge."""
        if len(self.units) >= self.wanted:
            return
        given: dict[str, list[float]] = {}
        for review in candidate.reviews:
            if review.role != "adjudicator" and review.mean is not None:
                given.setdefault(review.model, []).append(review.mean)
        if len(given) < 2:
            return
        self.units.append((candidate.id, {model: sum(means) / len(means) for model, means in given.items()}))
        if len(self.units) == self.wanted:
            self.alpha = interval_alpha([list(means.values()) for _, means in self.units])

    @property
    def below_chance(self) -> bool:
        """True once all candidates are judged and agreement is lower than chance explains."""
        return self.alpha is not None and self.alpha < -CHANCE_Z / math.sqrt(len(self.units))

    def disputes(self) -> list[tuple[str, dict[str, float]]]:
        """The candidates with the largest differences between judges."""
        return sorted(self.units, key=lambda unit: min(unit[1].values()) - max(unit[1].values()))[:SHOWN]


def interval_alpha(units: Sequence[Sequence[float]]) -> float | None:
    """Krippendorff's alpha for interval data; None if all values are the same.

    Args:
        units: two values or more of each unit
    """
    values = [value for unit in units for value in unit]
    count = len(values)
    expected = _differences(values) / (count - 1) if count > 1 else 0.0
    if expected <= 1e-12:
        return None
    return 1 - math.fsum(_differences(unit) / (len(unit) - 1) for unit in units) / expected


def _differences(values: Sequence[float]) -> float:
    """Sum of squared differences over all ordered pairs."""
    middle = math.fsum(values) / len(values)
    return 2 * len(values) * math.fsum((value - middle) ** 2 for value in values)
