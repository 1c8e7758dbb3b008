"""A model server and an event loop in simulated time: minutes pass in moments, and a busy machine changes nothing.

`simulate` runs a coroutine on a loop whose clock jumps to the next timer. `Server` refuses, fails and answers as its
fields tell; `work` keeps it busy with candidates of one text, two reviews and sometimes an adjudication.
"""

from __future__ import annotations

import asyncio
import math
import random
import selectors
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest import mock

from graft.agents.gateway.ledger import Ledger, Reservation, Tab
from graft.agents.gateway.sending import Sender
from graft.agents.gateway.stats import Counts
from graft.agents.gateway.transport import Damaged, NotBilled, RateLimited
from graft.schemas.calls import CallRequest, Message, Reply, Usage
from graft.schemas.errors import CallFailed
from graft.schemas.models import ModelSpec

T = TypeVar("T")
MODELS = tuple(f"m{number}" for number in range(1, 6))


class _Jump(selectors.SelectSelector):
    """A selector that does not wait: it moves the clock instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if not found:
            assert timeout is not None, "everything waits for nothing"
            self.now += timeout
        return found


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.jump = _Jump()
        super().__init__(self.jump)

    def time(self) -> float:
        return self.jump.now


@contextmanager
def _clock(loop: _Loop) -> Iterator[None]:
    clock = SimpleNamespace(monotonic=loop.time)
    with (
        mock.patch("graft.agents.gateway.limiter.time", clock),
        mock.patch("graft.agents.gateway.adaptive.time", clock),
        mock.patch("graft.agents.gateway.sending.time", clock),
        mock.patch("graft.agents.gateway.limiter._random", random.Random(3)),
    ):
        yield


def simulate(play: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in simulated time."""
    loop = _Loop()
    with _clock(loop), asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(play)


class Server:
    """A transport with a server behind it: at most `bears()` calls at once, and of each model `bears_of` at once.

    Args:
        bears: calls at once over all models, at a time in seconds.
        bears_of: calls at once of a model; none: unlimited.
        minute_of: calls of a model in any 60 seconds; none: unlimited.
        retry_after: sent with each refusal, if any.
    """

    def __init__(
        self, bears: Callable[[float], int] = lambda now: 10_000, *, bears_of: dict[str, int] | None = None,
        minute_of: dict[str, int] | None = None, retry_after: float | None = None, error_rate: float = 0.0,
        malformed_rate: float = 0.0, median_s: float = 0.2, slow: dict[str, float] | None = None, seed: int = 7,
    ) -> None:  # fmt: skip
        self.bears, self.bears_of, self.minute_of, self.retry_after = (
            bears,
            bears_of or {},
            minute_of or {},
            retry_after,
        )
        self.error_rate, self.malformed_rate, self.median_s, self.slow = (
            error_rate,
            malformed_rate,
            median_s,
            slow or {},
        )
        self.rng = random.Random(seed)
        self.inside, self.of = 0, Counter[str]()
        self.sent, self.refused, self.answered = Counter[str](), Counter[str](), Counter[str]()
        self.times = defaultdict[str, deque[float]](deque)
        self.served: list[tuple[str, float, float]] = []
        self.most = 0

    async def send(self, request: CallRequest) -> Reply:
        """One attempt."""
        name, rng, now = request.model.model, self.rng, asyncio.get_running_loop().time
        self.sent[name] += 1
        await asyncio.sleep(0.001 + 0.002 * rng.random())  # the way there
        if self._refuses(name, now()):
            self.refused[name] += 1
            await asyncio.sleep(0.001 + 0.002 * rng.random())
            raise RateLimited("too many", retry_after=self.retry_after)
        seconds, began = self.median_s * self.slow.get(name, 1.0) * math.exp(0.5 * rng.gauss(0, 1)), now()
        self.inside, self.of[name] = self.inside + 1, self.of[name] + 1
        self.most = max(self.most, self.inside)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.inside, self.of[name] = self.inside - 1, self.of[name] - 1
        self.served.append((name, began, now()))
        await asyncio.sleep(0.001 + 0.002 * rng.random())  # and back
        draw = rng.random()
        if draw < self.error_rate:
            raise NotBilled("server_error", "the server failed (HTTP 500)")
        if draw < self.error_rate + self.malformed_rate:
            raise Damaged("malformed", "not JSON")
        self.answered[name] += 1
        return Reply.model_construct(
            key="", text="yes", finish_reason="stop", logprobs=(), parsed=None, usage=Usage(), price_usd=0.0,
            latency_s=now() - began, attempts=1, cached=False, served_model=None,
        )  # fmt: skip

    async def close(self) -> None:
        """Nothing to close."""

    def _refuses(self, name: str, now: float) -> bool:
        if self.inside >= self.bears(now) or self.of[name] >= self.bears_of.get(name, 10_000):
            return True
        minute = self.minute_of.get(name)
        if minute is None:
            return False
        times = self.times[name]
        while times and times[0] <= now - 60:
            times.popleft()
        if len(times) >= minute:
            return True
        times.append(now)
        return False

    def used(self, since: float, until: float) -> float:
        """Mean number of calls that the server worked on between two times."""
        return sum(self.of_mean(name, since, until) for name in MODELS)

    def of_mean(self, model: str, since: float, until: float) -> float:
        """The same of one model."""
        times = [(began, end) for name, began, end in self.served if name == model]
        return sum(max(0.0, min(end, until) - max(began, since)) for began, end in times) / (until - since)


def model_of(name: str, **more: Any) -> ModelSpec:
    return ModelSpec(**{
        "name": name, "provider": "openai", "model": name, "base_url": "http://127.0.0.1:1/v1", "max_concurrency": 64,
        **more,
    })  # fmt: skip


class Client:
    """A gateway's sender against a simulated server."""

    def __init__(self, server: Server, concurrency: int = 64, retries: int = 4, **models: Any) -> None:
        self.server, self.counts = server, Counts()
        self.models = {name: model_of(name, **models.get(name, {})) for name in MODELS}
        self.sender = Sender(counts=self.counts, endpoints={}, concurrency=concurrency, retries=retries, hedge=False)
        self.ledger = Ledger(None, None, {})
        self.calls, self.failed, self.most = 0, 0, 0
        self.spans: list[tuple[str, float, float]] = []

    async def call(self, name: str) -> None:
        """One call with its retries."""
        self.calls += 1
        began = asyncio.get_running_loop().time()
        message = Message(role="user", content=f"{self.calls}")
        request = CallRequest(
            model=self.models[name], messages=(message,), role="generator", purpose="test", max_tokens=32, seed=1
        )
        tab = Tab(self.ledger, Reservation(0.0, 1, "generator"), name)
        await tab.open()
        try:
            await self.sender.send(request, self.server, tab, self._keep, 1)
        except CallFailed:
            self.failed += 1
        finally:
            tab.close()
            self.spans.append((name, began, asyncio.get_running_loop().time()))

    async def _keep(self, reply: Reply) -> Reply:
        self.most = max(self.most, self.sender.tenant.inside)
        return reply

    async def candidate(self, number: int) -> None:
        """A text, two of three reviews at the same time, and an adjudication in three of ten cases."""
        rng = random.Random(number)
        await self.call("m1")
        await asyncio.gather(*(self.call(name) for name in rng.sample(["m2", "m3", "m4"], 2)))
        if rng.random() < 0.3:
            await self.call("m5")

    async def work(self, candidates: int, width: int = 80) -> float:
        """So many candidates, `width` at once; returns the seconds."""
        numbers, loop = iter(range(candidates)), asyncio.get_running_loop()
        began = loop.time()

        async def one_by_one() -> None:
            for number in numbers:
                await self.candidate(number)

        await asyncio.gather(*(one_by_one() for _ in range(width)))
        return loop.time() - began
