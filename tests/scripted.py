"""Scripted models for methods: replies depend on the step; a repeated request is answered from memory."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graft.agents.methods import Drawn, Place, method_of
from graft.schemas.calls import CallRequest, Reply, TokenLogprob
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed, Slot

Scripted = str | dict[str, float] | Exception | Reply
"""A text, alternatives of the first token, something to raise, or a whole reply."""


class Models:
    """Plays every model. `script` maps a step (dots as underscores) to a reply, a list by turn, or a function.

    Like the gateway with its journal it answers a known key from memory, so `count` is what would have been paid.
    """

    def __init__(self, **script: Scripted | list[Any] | Callable[[CallRequest], Scripted]) -> None:
        self.script = {name.replace("_", "."): value for name, value in script.items()}
        self.requests: list[CallRequest] = []
        self.count: Counter[str] = Counter()
        self._known: dict[str, Scripted] = {}

    async def ask(self, request: CallRequest) -> Reply:
        self.requests.append(request)
        await asyncio.sleep(0)
        key = request.key()
        if key not in self._known:
            self._known[key] = self._scripted(request)
            self.count[request.purpose] += 1
        given = self._known[key]
        if isinstance(given, Exception):
            raise given
        if isinstance(given, Reply):
            return given.model_copy(update={"key": key})
        if isinstance(given, str):
            return Reply(key=key, text=given)
        return Reply(key=key, text="", logprobs=(TokenLogprob(token="", logprob=0.0, top=tuple(given.items())),))

    def _scripted(self, request: CallRequest) -> Scripted:
        value: Any = self.script[request.purpose]
        if isinstance(value, list):
            value = value[self.count[request.purpose] % len(value)]
        given: Scripted = value(request) if callable(value) else value
        return given

    def of(self, purpose: str) -> list[CallRequest]:
        """Requests of one step, in order."""
        return [request for request in self.requests if request.purpose == purpose]


def make_slot(
    *, run_id: str, shard: int, round: int, index: int, label: str, pool: Mapping[str, Sequence[Seed]], recipe: Recipe
) -> Slot:
    """The slot at one place of a label's stream, as the recipe's method draws it from the pool's rows."""
    return method_of(recipe).make_slot(Place(run_id, shard, round, index, label), Drawn(recipe, pool))
