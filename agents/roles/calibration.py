"""Label calibration: subtracts the log-probability that a model gives a label regardless of the text.

Small models prefer some labels whatever the text is. On CLINC150's ten domains Gemma-3-270M is at chance without
this (see benchmarks/calibration.py). Batch calibration is from Zhou et al. 2023 (arXiv 2309.17249), content-free
calibration from Zhao et al. 2021 (arXiv 2102.09690).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence

from graft.agents.roles.asking import Ask
from graft.agents.roles.choice import judge_label
from graft.schemas.models import ModelSpec
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed

CONTENT_FREE = ("N/A", "", "[MASK]")


def calibrate(raw: Mapping[str, float], means: Mapping[str, float] | None) -> dict[str, float]:
    """Natural log-probabilities that sum to 1 over the labels: raw minus the label's mean, then log-softmax.

    Without `means` nothing is corrected; a label without a mean, as it was never among the candidates, is corrected by
    the average of the known means. An empty `raw` gives an empty dict.
    """
    if not raw:
        return {}
    means = means or {}
    usual = math.fsum(means.values()) / len(means) if means else 0.0
    shifted = {label: score - means.get(label, usual) for label, score in raw.items()}
    top = max(shifted.values())
    total = top + math.log(math.fsum(math.exp(score - top) for score in shifted.values()))
    return {label: score - total for label, score in shifted.items()}


def batch_means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each label's mean raw log-probability over the judged texts that had it as a choice (batch calibration).

    Labels are in order of first occurrence. No rows: no means.
    """
    scores: dict[str, list[float]] = {}
    for row in rows:
        for label, score in row.items():
            scores.setdefault(label, []).append(score)
    return {label: math.fsum(given) / len(given) for label, given in scores.items()}


async def content_free_means(
    ask: Ask, *, recipe: Recipe, model: ModelSpec, role: str, seeds: Sequence[Seed]
) -> dict[str, float]:
    """Each label's mean raw log-probability over content-free texts ("N/A", "", "[MASK]"): three calls or more.

    Raises CallFailed as `judge_label` does.
    """
    judged = await asyncio.gather(
        *(judge_label(ask, recipe=recipe, model=model, role=role, seeds=seeds, text=text) for text in CONTENT_FREE)
    )
    return batch_means([one.raw for one in judged])
