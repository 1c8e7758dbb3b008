"""Approximate sizes of calls that several methods estimate with, in tokens of four characters."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from graft.agents.methods.base import Calls
from graft.agents.methods.steps.bounds import Sureness, Trial, known_seeds
from graft.agents.methods.steps.calibrate import Judging, judges
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed

CHARS_PER_TOKEN = 4
PROMPT_OVERHEAD = 120
"""Tokens of a prompt's fixed sentences, approximately."""
DISPUTES = 0.2
"""Assumed share of candidates that go to the adjudicator."""
ASSUMED_DISPUTES = f"{DISPUTES:.0%} of candidates go to the adjudicator"


def sizes(seeds: Sequence[Seed]) -> tuple[int, int]:
    """Tokens of all seeds together, and of one text."""
    shots = sum(len(seed.text) for seed in seeds) // CHARS_PER_TOKEN
    return shots, max(12, shots // max(1, len(seeds)))


def panel_calls(recipe: Recipe, reviewers: int, candidates: int, prompt: int, panels: int = 1) -> tuple[Calls, Calls]:
    """Calls for this many reviewers' judgements of (text, label) rows, and for the adjudications of disputes."""
    written = 1 if recipe.role("reviewer").answer == "logprobs" else 120
    total, disputed = candidates * reviewers, math.ceil(candidates * DISPUTES)
    return (
        Calls(purpose="review", role="reviewer", calls=panels * total, prompt_tokens=prompt, completion_tokens=written),
        Calls(
            purpose="adjudicate", role="adjudicator", calls=panels * disputed, prompt_tokens=prompt,
            completion_tokens=written,
        ),
    )  # fmt: skip


def bounds_calls(
    recipe: Recipe, settings: Sureness, trial: Trial, seeds: Sequence[Seed], prompt: int
) -> tuple[Calls, ...]:
    """Calls that judge the seeds for bounds that are `auto`."""
    calls = len(known_seeds(recipe, seeds)) * min(trial.size, len(trial.models(recipe))) * settings.calibrated
    made = Calls(purpose="calibrate", role=trial.role, calls=calls, prompt_tokens=prompt, completion_tokens=1)
    return (made,) if calls else ()


def calibration_calls(recipe: Recipe, judging: Judging, texts: int, prompt: int) -> tuple[Calls, ...]:
    """Calls for trying the judges: `texts` calls of each by batch calibration, one of any other."""
    calls: Counter[str] = Counter()
    for judge in judges(recipe, judging).values():
        calls[judge.role] += texts if judge.calibration == "batch" else 1
    return tuple(
        Calls(purpose="calibrate", role=role, calls=count, prompt_tokens=prompt, completion_tokens=1)
        for role, count in calls.items() if count
    )  # fmt: skip
