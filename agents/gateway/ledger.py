"""Money and tokens: reserved before a call, settled after it, so that hundreds in flight cannot overshoot a cap."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from schemas.calls import Usage
from schemas.errors import BudgetExhausted
from schemas.models import ModelSpec, Price

MICRO = 1_000_000
FREE = ("embedded", "encoder")


@dataclass(frozen=True)
class Reservation:
    """What one attempt may take at most. `usd` is None where the model's price is unknown."""

    usd: float | None
    tokens: int
    role: str = ""


def cost_of(price: Price | None, prompt: int | None, completion: int | None, cached: int | None = None) -> float | None:
    """US dollars for so many tokens; None where the price or a count is unknown."""
    if price is None or prompt is None or completion is None:
        return None
    from_cache = min(cached or 0, prompt)
    cached_rate = price.input if price.cached_input is None else price.cached_input
    return ((prompt - from_cache) * price.input + from_cache * cached_rate + completion * price.output) / MICRO


def price_of(model: ModelSpec, prompt: int | None, completion: int | None, cached: int | None = None) -> float | None:
    """US dollars for so many tokens by the recipe's price; 0 on this machine; None where nobody knows."""
    return 0.0 if model.provider in FREE else cost_of(model.price, prompt, completion, cached)


class Ledger:
    """The caps of one run. `spent + reserved` never passes a cap, whatever the interleaving of calls.

    (A call that takes more than was reserved for it is the one exception: what was spent was spent.) `roles` are caps
    in US dollars of single roles, within the whole.
    """

    def __init__(
        self, money_usd: float | None = None, tokens: int | None = None, roles: Mapping[str, float] | None = None
    ) -> None:
        self._money, self._tokens, self._roles = money_usd, tokens, dict(roles or {})
        self.spent_usd, self.spent_tokens = 0.0, 0
        self.reserved_usd, self.reserved_tokens = 0.0, 0
        self.spent_by_role: dict[str, float] = {}
        self.reserved_by_role: dict[str, float] = {}
        self.unknown = False
        self._open = 0
        self._turn = asyncio.Lock()
        self._change: asyncio.Future[None] | None = None

    @property
    def waiting(self) -> bool:
        """Whether a call waits for room that other calls have reserved."""
        return self._turn.locked()

    @property
    def capped(self) -> bool:
        """Whether there is a money cap, so that prices must be known before a call."""
        return self._money is not None or bool(self._roles)

    def reserve(self, reservation: Reservation, where: str = "") -> None:
        """Set the most that a call may take aside, at once. Raises BudgetExhausted where it does not fit now.

        Under a money cap a call of unknown price is refused: nobody could tell whether the cap holds.
        """
        problem = self._problem(reservation)
        if problem:
            raise BudgetExhausted(problem, where=where)
        self.reserved_usd += reservation.usd or 0.0
        self.reserved_tokens += reservation.tokens
        if reservation.role in self._roles:
            before = self.reserved_by_role.get(reservation.role, 0.0)
            self.reserved_by_role[reservation.role] = before + (reservation.usd or 0.0)
        self._open += 1

    async def wait_and_reserve(self, reservation: Reservation, where: str = "") -> None:
        """As `reserve`, but waits, first come first served, while only other calls' reservations are in the way."""
        if not self._turn.locked() and not self._problem(reservation):
            return self.reserve(reservation, where)
        async with self._turn:
            while self._open and self._problem(reservation):
                if self._problem(reservation, alone=True):
                    break
                self._change = asyncio.get_running_loop().create_future()
                await self._change
            self.reserve(reservation, where)

    def release(self, reservation: Reservation) -> None:
        """Give back what a call did not take."""
        self._open -= 1
        self.reserved_usd = self.reserved_usd - (reservation.usd or 0.0) if self._open else 0.0
        self.reserved_tokens -= reservation.tokens
        if not self._open:
            self.reserved_by_role.clear()
        elif reservation.role in self.reserved_by_role:
            self.reserved_by_role[reservation.role] -= reservation.usd or 0.0
        if self._change is not None and not self._change.done():
            self._change.set_result(None)

    def settle(self, reservation: Reservation, usd: float | None, tokens: int | None) -> None:
        """Replace a reservation by what was taken. Unknown money makes the sum unknown; unknown tokens as reserved."""
        if usd is None:
            self.unknown = True
        self.spent_usd += usd or 0.0
        self.spent_by_role[reservation.role] = self.spent_by_role.get(reservation.role, 0.0) + (usd or 0.0)
        self.spent_tokens += reservation.tokens if tokens is None else tokens
        self.release(reservation)

    def _problem(self, wanted: Reservation, *, alone: bool = False) -> str:
        """Why a reservation does not fit; `alone` leaves out what other calls have reserved."""
        reserved_usd, reserved_tokens = (0.0, 0) if alone else (self.reserved_usd, self.reserved_tokens)
        if self._money is not None:
            if wanted.usd is None:
                return "limits.money_usd is set but this model's price is unknown: give it a price"
            if self.spent_usd + reserved_usd + wanted.usd > self._money:
                return f"the money cap of ${self._money:g} leaves no room for another call"
        if self._tokens is not None and self.spent_tokens + reserved_tokens + wanted.tokens > self._tokens:
            return f"the cap of {self._tokens} tokens leaves no room for another call"
        return self._role_problem(wanted, alone) if wanted.role in self._roles else ""

    def _role_problem(self, wanted: Reservation, alone: bool) -> str:
        role, cap = wanted.role, self._roles[wanted.role]
        if wanted.usd is None:
            return f"roles.{role}.money_usd is set but this model's price is unknown: give it a price"
        taken = self.spent_by_role.get(role, 0.0) + (0.0 if alone else self.reserved_by_role.get(role, 0.0))
        if taken + wanted.usd > cap:
            return f"the cap of ${cap:g} of the role {role} leaves no room for another call"
        return ""


class Tab:
    """What one call takes over all its attempts: one reservation at a time, each settled at what the attempt cost."""

    def __init__(self, ledger: Ledger, reservation: Reservation, where: str) -> None:
        self._ledger, self._reservation, self._where = ledger, reservation, where
        self._held = False
        self.usd: float | None = 0.0

    async def open(self) -> None:
        """Reserve for the next attempt. Raises BudgetExhausted."""
        await self._ledger.wait_and_reserve(self._reservation, self._where)
        self._held = True

    def settle(self, usage: Usage | None, usd: float | None) -> None:
        """An attempt was answered. Where its cost cannot be read (`usage` None) it counts as all that was reserved."""
        if usage is None:
            usd = self._reservation.usd if usd is None else usd
        known = usage is not None and usage.completion_tokens is not None
        tokens = (usage.prompt_tokens or 0) + (usage.completion_tokens or 0) if usage is not None and known else None
        self.usd = None if self.usd is None or usd is None else self.usd + usd
        self._held = False
        self._ledger.settle(self._reservation, usd, tokens)

    def open_second(self) -> Reservation | None:
        """Set the same aside once more for a hedge, where it fits now; None where it does not."""
        try:
            self._ledger.reserve(self._reservation, self._where)
        except BudgetExhausted:
            return None
        return self._reservation

    def settle_second(self, second: Reservation) -> None:
        """The slower of two equal requests was given up: it counts as all that was reserved."""
        self.usd = None if self.usd is None or second.usd is None else self.usd + second.usd
        self._ledger.settle(second, second.usd, second.tokens)

    def close(self) -> None:
        """Give back a reservation that is still held."""
        if self._held:
            self._held = False
            self._ledger.release(self._reservation)
