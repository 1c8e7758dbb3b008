"""Models that advise a loop's policies between two rounds; their gateway is opened on first use, calls are recorded."""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

from graft.agents.methods import Ask, method_of
from graft.agents.methods.steps.draw import pool_of
from graft.agents.roles.calibration import batch_means, calibrate
from graft.agents.roles.generator import name_concepts
from graft.agents.roles.labeler import is_vote, label_text
from graft.agents.roles.reviewer import review_response
from graft.data.lake import Lake
from graft.flows.run_context import CallRecorder, open_gateway
from graft.flows.teacher import teachers
from graft.schemas.base import stable_hash
from graft.schemas.errors import BudgetExhausted, CallFailed
from graft.schemas.home import Home
from graft.schemas.models import ModelSpec
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed, Slot
from graft.students.steer.base import Teach

Shares = Mapping[str, float]


class SteerModels:
    """The recipe's generator and labelers. After the block, `spent` is (calls, tokens, price in dollars).

    The price is None if any is unknown. Calls are recorded with `run_id`, the round's run; the recipe's caps hold for
    all calls of `capped_as`, the loop, because a round that ended at its cap has nothing left for them.
    """

    def __init__(
        self, recipe: Recipe, home: Home, lake: Lake, seeds: Sequence[Seed], say: Callable[[str], None], run_id: str,
        seed: int, capped_as: str, scored: MutableMapping[tuple[str, str], float | None],
    ) -> None:  # fmt: skip
        self._recipe, self._home, self._lake, self._say = recipe, home, lake, say
        self._seeds, self._run_id, self._seed, self._capped_as = seeds, run_id, seed, capped_as
        self._opening = asyncio.Lock()
        self._opened: Any = None
        self._scored = scored
        self._recorder: CallRecorder | None = None
        self.spent: tuple[int, int, float | None] = (0, 0, 0.0)

    async def __aenter__(self) -> SteerModels:
        return self

    async def name(self, label: str, texts: Sequence[str]) -> tuple[str, ...]:
        """The subjects of the texts; empty if no reply is usable or a limit is reached."""
        recipe = self._recipe
        model: ModelSpec = pool_of(recipe, next(role for role in recipe.roles if recipe.writes(role)))[0]
        try:
            return await name_concepts(await self._ask(), recipe, model, label, texts, seed=self._seed)
        except (CallFailed, BudgetExhausted) as failure:
            self._say(f"no concept for {label}: {failure.what}")
            return ()

    def with_memory(self, known: MutableMapping[str, Shares | None]) -> Teach:
        """`teach`, which judges no text twice: its answers go into `known`."""

        async def teach(texts: Sequence[str]) -> list[Shares | None]:
            new = list(dict.fromkeys(text for text in texts if text not in known))
            known.update(zip(new, await self.teach(new), strict=True))
            return [known[text] for text in texts]

        return teach

    async def teach(self, texts: Sequence[str]) -> list[Shares | None]:
        """The labelers' mean probabilities of the labels for each text, calibrated over these texts.

        None for a text that no labeler judged, such as when a limit is reached.
        """
        if not texts:
            return []
        models = _labelers(self._recipe)
        self._say(f"{len(models)} labelers judge {len(texts)} rows that steer")
        try:
            judged = [await self._judged(model, texts) for model in models]
        except (CallFailed, BudgetExhausted) as failure:
            self._say(f"the rows that steer have no teacher: {failure.what}")
            return [None] * len(texts)
        return [_mean([shares for shares in row if shares]) for row in zip(*judged, strict=True)]

    async def score(self, instruction: str, response: str) -> float | None:
        """The reviewers' mean score of a response, 0 to 10; None if none gave one, such as when a limit is reached.

        No response is scored twice: the scores are kept in `scored`.
        """
        if (instruction, response) not in self._scored:
            self._scored[instruction, response] = await self._mean_score(instruction, response)
        return self._scored[instruction, response]

    async def _mean_score(self, instruction: str, response: str) -> float | None:
        ask, recipe = await self._ask(), self._recipe
        slot = Slot(id="", run_id=self._run_id, shard=0, round=0, index=0, label="", seed=recipe.seed)
        given: dict[str, Any] = {"recipe": recipe, "slot": slot, "instruction": instruction, "response": response}
        try:
            reviews = await asyncio.gather(*(review_response(ask, model=model, **given) for model in _judges(recipe)))
        except BudgetExhausted as failure:
            self._say(f"no score of a response: {failure.what}")
            return None
        means = [review.mean for review in reviews if review.mean is not None]
        return statistics.fmean(means) if means else None

    async def _judged(self, model: ModelSpec, texts: Sequence[str]) -> list[Shares]:
        """One labeler's probabilities for each text; empty where it gave none. Raises BudgetExhausted."""
        ask, recipe = await self._ask(), self._recipe
        given: dict[str, Any] = {
            "recipe": recipe, "model": model, "role": "labeler", "seeds": [one for one in self._seeds if one.label],
            "labels": recipe.task.names, "means": None, "seed": self._seed,
        }  # fmt: skip
        first = await label_text(ask, text=texts[0], by_name=False, **given)
        named = first.failure.startswith("no_logprobs")
        others = [label_text(ask, text=text, by_name=named, **given) for text in (texts if named else texts[1:])]
        reviews = [] if named else [first]
        for reply in await asyncio.gather(*others, return_exceptions=True):
            if isinstance(reply, BaseException):
                raise reply
            reviews.append(reply)
        raws = [{score.label: score.raw for score in review.distribution} for review in reviews]
        votes = [is_vote(review) for review in reviews]
        means = batch_means([raw for raw, vote in zip(raws, votes, strict=True) if raw and not vote])
        return [
            {label: math.exp(score) for label, score in calibrate(raw, {} if vote else means).items()}
            for raw, vote in zip(raws, votes, strict=True)
        ]

    async def _ask(self) -> Ask:
        async with self._opening:
            if self._recorder is None:
                self._opened = open_gateway(self._recipe, self._home, self._say, run_id=self._capped_as)
                self._recorder = CallRecorder((await self._opened.__aenter__()).call, self._run_id, "")
        return self._recorder.ask

    async def __aexit__(self, *error: Any) -> None:
        if self._recorder is None:
            return
        await self._opened.__aexit__(*error)
        calls = self._recorder.calls
        tokens = sum((call.prompt_tokens or 0) + (call.completion_tokens or 0) for call in calls)
        prices = [call.price_usd for call in calls if call.failure is None]
        known = [price for price in prices if price is not None]
        self.spent = len(calls), tokens, sum(known) if len(known) == len(prices) else None
        if calls:
            batch = f"steer.{stable_hash(sorted(call.key for call in calls))}"
            self._lake.commit(self._run_id, batch, [], calls)


def _labelers(recipe: Recipe) -> Sequence[ModelSpec]:
    """The judges, else the recipe's teachers."""
    return _judges(recipe) or teachers(recipe)


def _judges(recipe: Recipe) -> Sequence[ModelSpec]:
    """The models in the method's judging roles, without encoders."""
    judging = [role for role in method_of(recipe).roles_of(recipe) if not recipe.writes(role)]
    found = {model.name: model for role in judging for model in recipe.models_for(role) if model.provider != "encoder"}
    return tuple(found.values())


def _mean(given: Sequence[Shares]) -> Shares | None:
    """The mean of distributions; None without one."""
    return {label: sum(one[label] for one in given) / len(given) for label in given[0]} if given else None
