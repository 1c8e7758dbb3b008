"""The fluency gate: a causal model reads each text; a text that surprises it far more than real ones is rejected."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import lru_cache
from threading import Lock

from pydantic import Field

from graft.data.gates.base import Gate, Needs
from graft.schemas.base import Value
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult, Proposal

REFERENCES = 64
"""Real texts, at most, that set the bound: seeds, then a person's texts without labels."""
SEEN_CHARS = 1_000


class FluencySettings(Value):
    """Settings: a causal model's perplexity of a text, bounded by that of real texts."""

    model: str = Field(
        default="",
        description="smollm2-135m-instruct, a folder or a hub id of a causal model; empty: the gate is off",
    )
    share: float = Field(
        default=0.95, gt=0.5, lt=1, description="share of texts like the seeds that the bound lets through"
    )
    margin: float = Field(default=1.5, ge=1, description="factor on the bound")


class Settings(Value):
    """Fields under `gates`."""

    fluency: FluencySettings = FluencySettings()


class FluencyGate(Gate):
    """Rule `not_fluent`; the score is the perplexity, which a row that passes has too.

    The bound is `margin` times the upper end of the one-sided prediction interval (Student's t) of log-perplexities of
    real texts: of few texts it lies far above them all, of many at their quantile `share`. A text that a person gave
    has no label when it is read, and is not checked; nor is a response. Fewer than two real texts set no bound.
    """

    Settings, cost, name = Settings, 200_000, "fluency"
    people = False

    def __init__(self, recipe: Recipe, needs: Needs) -> None:
        super().__init__(recipe, needs)
        assert needs.perplexity is not None
        self._settings, self._lock = recipe.gates.of(Settings).fluency, Lock()
        self._perplexity = lru_cache(10_000)(needs.perplexity(self._settings.model))
        real = dict.fromkeys([*(seed.text for seed in needs.seeds), *needs.texts])
        self._real, self._most = list(real)[:REFERENCES], math.nan

    @classmethod
    def enabled(cls, recipe: Recipe) -> bool:
        """If the recipe names a model."""
        return bool(recipe.gates.of(Settings).fluency.model)

    @classmethod
    def make(cls, recipe: Recipe, needs: Needs) -> Sequence[Gate]:
        """None if nothing computes perplexities. Raises GraftError if the model cannot be used."""
        return (cls(recipe, needs),) if needs.perplexity is not None else ()

    def load(self) -> None:
        """The model, and the bound."""
        with self._lock:
            if math.isnan(self._most):
                logs = [math.log(self._perplexity(text[:SEEN_CHARS])) for text in self._real]
                self._most = self._settings.margin * math.exp(upper(logs, self._settings.share))

    def check(self, proposal: Proposal) -> GateResult:
        """See the class."""
        if not proposal.label or not proposal.text.strip():
            return self.passed
        self.load()
        score = round(self._perplexity(proposal.text[:SEEN_CHARS]), 1)
        if score <= self._most:
            return self.passed.model_copy(update={"score": score})
        detail = f"perplexity {score:,.0f} under {self._settings.model}; real texts have up to {self._most:,.0f}"
        return self.failed("not_fluent", detail, score)


def upper(values: Sequence[float], share: float) -> float:
    """Upper end of the one-sided prediction interval of a further value, if normal; infinite for fewer than two."""
    if len(values) < 2:
        return math.inf
    from scipy.special import stdtrit

    spread = statistics.stdev(values) * math.sqrt(1 + 1 / len(values))
    return statistics.fmean(values) + float(stdtrit(len(values) - 1, share)) * spread


KIND = FluencyGate
