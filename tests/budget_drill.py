"""A run under caps that is restarted, killed and lied to, against a server that keeps the true bill.

`play` takes a list of `Event`s in any order (hypothesis draws them, the drill may too) and returns what was billed:
it must never exceed a cap, whatever the order.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fake_faults import USAGES
from fake_llm import Serving
from hypothesis import strategies as st

from graft.agents.gateway import Gateway, RoleRules
from graft.schemas.calls import CallRequest, Message, Reply
from graft.schemas.errors import CallFailed
from graft.schemas.models import ModelSpec, Price

PRICE = Price(input=20.0, output=80.0)
"""US dollars for a million tokens; the server's bill and the recipe agree on it."""
TIMEOUT_S = 0.4
TROUBLE: tuple[dict[str, Any], ...] = (
    {}, {}, {"error_rate": 0.5}, {"error_rate": 0.5, "error_status": 504}, {"reset_rate": 0.5}, {"half_rate": 0.5},
    {"hang_rate": 0.3}, {"malformed_rate": 0.5}, {"empty_rate": 0.5}, {"usage": False},
    *({"usage_as": name} for name in USAGES),
)  # fmt: skip
QUIET: dict[str, Any] = {
    "error_rate": 0.0, "error_status": 500, "reset_rate": 0.0, "half_rate": 0.0, "hang_rate": 0.0,
    "malformed_rate": 0.0, "empty_rate": 0.0, "usage": True, "usage_as": "",
}  # fmt: skip


@dataclass(frozen=True)
class Event:
    """Some calls at once and what happens to them: answered, all cancelled on the way, or the process killed or ended.

    `process` is which of the run's two processes makes them.
    """

    calls: int
    trouble: dict[str, Any] = field(default_factory=dict)
    end: str = "answered"
    role: str = "generator"
    process: int = 0


EVENTS = st.builds(
    Event,
    calls=st.integers(1, 12),
    trouble=st.sampled_from(TROUBLE),
    end=st.sampled_from(("answered", "answered", "answered", "cancelled", "killed", "ended")),
    role=st.sampled_from(("generator", "reviewer")),
    process=st.sampled_from((0, 0, 0, 1)),
)


class Run:
    """The run's processes: gateways that share a home and a run id. A killed one never gets to write its charge."""

    def __init__(self, home: Path, serving: Serving, **caps: Any) -> None:
        self._home, self._serving, self._caps = home, serving, caps
        self._open: dict[int, Gateway] = {}
        self._asked = 0

    async def play(self, events: list[Event]) -> float:
        """Every event in turn; returns the bill in US dollars."""
        for event in events:
            self._serving.turn(**{**QUIET, **event.trouble})
            gateway = await self._gateway(event.process)
            tasks = [asyncio.create_task(gateway.call(self._ask(event.role))) for _ in range(event.calls)]
            if event.end == "answered":
                await self._over(tasks)
            else:
                await asyncio.sleep(0.02)
            if event.end in ("killed", "ended"):
                await self._stop(event.process, tasks, killed=event.end == "killed")
            for task in tasks:
                task.cancel()
            await self._over(tasks)
        for process in list(self._open):
            await self._stop(process, [], killed=False)
        return await self.bill()

    async def bill(self) -> float:
        """The true bill, once the server has ended what it was working on (hanging requests are on it already)."""
        self._serving.turn(**QUIET)
        await asyncio.sleep(0.05)
        return float(self._serving.stats()["cost_usd"])

    async def _gateway(self, process: int) -> Gateway:
        if process not in self._open:
            gateway = Gateway(journal=self._home / "journal.sqlite", run="run", retries=1, **self._caps)
            self._open[process] = await gateway.__aenter__()
        return self._open[process]

    async def _stop(self, process: int, tasks: list[asyncio.Task[Reply]], *, killed: bool) -> None:
        gateway = self._open.pop(process)
        if killed:
            gateway.ledger._charges = None  # the lease stays on disk, as a dead process leaves it
        for task in tasks:
            task.cancel()
        await self._over(tasks)
        await gateway.__aexit__(None, None, None)

    @staticmethod
    async def _over(tasks: list[asyncio.Task[Reply]]) -> None:
        for task in tasks:
            with contextlib.suppress(CallFailed, asyncio.CancelledError):
                await task

    def _ask(self, role: Any) -> CallRequest:
        self._asked += 1
        spec = ModelSpec(
            name="m", provider="openai", model="fake", base_url=self._serving.url, price=PRICE, timeout_s=TIMEOUT_S
        )
        message = Message(role="user", content=f"question {self._asked}: {'what is it ' * (self._asked % 7)}")
        return CallRequest(model=spec, role=role, purpose="drill", messages=(message,), max_tokens=48)


def serving() -> Serving:
    """A server that bills whatever it worked on, answered or not."""
    return Serving(bill_lost=True, median_ms=15, sigma=0.5, input_usd=PRICE.input, output_usd=PRICE.output)


def caps(money_usd: float, reviewer_usd: float | None = None, tokens: int | None = None) -> dict[str, Any]:
    """Keyword arguments of a gateway."""
    roles = {} if reviewer_usd is None else {"reviewer": RoleRules(money_usd=reviewer_usd)}
    return {"money_usd": money_usd, "tokens": tokens, "roles": roles}
