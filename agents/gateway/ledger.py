"""Money and tokens: reserved before a call, charged after it, so that hundreds in flight cannot overshoot a cap.

A call has two prices. The *charge* counts against the caps: where nobody knows what a request cost, it is all that was
reserved for it. The *reported* price is what the provider's own counts say; it is None where they say nothing.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from graft.agents.gateway.charges import Charges
from graft.schemas.calls import Usage
from graft.schemas.errors import BudgetExhausted
from graft.schemas.models import ModelSpec, Price

MICRO = 1_000_000
FREE = ("embedded", "encoder")
MONEY, TOKENS = "limits.money_usd", "limits.tokens"
LEASED_CALLS, LEASED_SHARE = 64, 0.01
"""A lease goes beyond what is needed by so many reservations of the call that asks, or that share of the cap, whichever
is less: what a killed process may leave charged too much."""


@dataclass(frozen=True)
class Reservation:
    """What one attempt may take at most. `usd` is None where the model's price is unknown."""

    usd: float | None
    tokens: int
    role: str = ""

    @cached_property
    def amounts(self) -> dict[str, float]:
        """What it takes of each cap, by the cap's field in the recipe."""
        money = {} if self.usd is None else {MONEY: self.usd, role_cap(self.role): self.usd}
        return {TOKENS: self.tokens, **money}


def role_cap(role: str) -> str:
    """The field that holds the money cap of a role."""
    return f"roles.{role}.money_usd"


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


def tokens_of(usage: Usage | None) -> int | None:
    """All tokens of a call; None where a count is unknown."""
    if usage is None or usage.prompt_tokens is None or usage.completion_tokens is None:
        return None
    return usage.prompt_tokens + usage.completion_tokens


class Ledger:
    """The caps of one run. `charged + reserved` never passes a cap, whatever the interleaving of calls.

    (A call that takes more than was reserved for it is the one exception: what was spent was spent.) `roles` are caps
    in US dollars of single roles, within the whole. With `charges` the caps hold over all processes of the run, killed
    ones included; without, over this ledger alone.
    """

    def __init__(
        self, money_usd: float | None = None, tokens: int | None = None, roles: Mapping[str, float] | None = None
    ) -> None:
        given = {MONEY: money_usd, TOKENS: tokens, **{role_cap(role): cap for role, cap in (roles or {}).items()}}
        self._caps: dict[str, float] = {cap: amount for cap, amount in given.items() if amount is not None}
        self.charged: defaultdict[str, float] = defaultdict(float)
        """What counts against each cap of what this ledger's calls took."""
        self.reserved: defaultdict[str, float] = defaultdict(float)
        self.before: dict[str, float] = {}
        """What earlier and other processes of the run were charged when this one began."""
        self.spent_usd, self.unknown = 0.0, False
        """The reported price: a sum of known prices, and whether any was unknown."""
        self.spent_by_role: dict[str, float] = {}
        self._charges: Charges | None = None
        self._limits, self._otherwise = self._caps, float("inf")
        self._open = 0
        self._turn = asyncio.Lock()
        self._change: asyncio.Future[None] | None = None

    def attach(self, charges: Charges) -> None:
        """Keep the caps over all processes of a run."""
        self._charges, self.before = charges, charges.before
        self._limits, self._otherwise = charges.lease, 0.0

    async def close(self) -> None:
        """Write down the exact charge. Raises StorageFull, GraftError."""
        charges, self._charges = self._charges, None
        if charges is not None:
            total = {cap: self.charged[cap] + self.reserved[cap] for cap in {**self.charged, **self.reserved}}
            await asyncio.to_thread(charges.close, total)

    @property
    def waiting(self) -> bool:
        """Whether a call waits for room that other calls have reserved."""
        return self._change is not None and not self._change.done()

    @property
    def capped(self) -> bool:
        """Whether there is a money cap, so that prices must be known before a call."""
        return any(cap != TOKENS for cap in self._caps)

    @property
    def used_before(self) -> str:
        """A sentence on the caps that earlier attempts have used a part of; empty where there is none."""
        return "; ".join(
            f"{amount_of(cap, used)} of the {amount_of(cap, has)} of {cap} was charged by earlier attempts of this run"
            for cap, has in self._caps.items()
            if (used := self.before.get(cap, 0.0)) > 0
        )

    def reserve(self, reservation: Reservation, where: str = "") -> None:
        """Set the most that a call may take aside, at once. Raises BudgetExhausted where it does not fit now.

        Under a money cap a call of unknown price is refused: nobody could tell whether the cap holds.
        """
        problem = self._unpriced(reservation) or self._full(reservation)
        if problem:
            raise BudgetExhausted(self._words(problem), where=where)
        self._take(reservation)

    async def wait_and_reserve(self, reservation: Reservation, where: str = "") -> None:
        """As `reserve`, but waits, first come first served, while only other calls' reservations are in the way."""
        if unpriced := self._unpriced(reservation):
            raise BudgetExhausted(unpriced, where=where)
        if not self._turn.locked() and not self._full(reservation):
            return self._take(reservation)
        async with self._turn:
            while self._full(reservation):
                if await self._extended(reservation):
                    continue
                problem = self._full(reservation)
                if problem and (not self._open or self._full(reservation, alone=True)):
                    raise BudgetExhausted(self._words(problem), where=where)
                if problem:
                    self._change = asyncio.get_running_loop().create_future()
                    await self._change
            self._take(reservation)

    def release(self, reservation: Reservation) -> None:
        """Give back what a call did not take."""
        self._open -= 1
        if self._open:
            for cap, amount in reservation.amounts.items():
                self.reserved[cap] -= amount
        else:
            self.reserved.clear()
        if self._change is not None and not self._change.done():
            self._change.set_result(None)

    def settle(self, reservation: Reservation, usd: float | None, tokens: int | None) -> None:
        """Replace a reservation by what was taken: unknown money and tokens are charged as reserved.

        The reported price becomes unknown where `usd` is None.
        """
        if usd is None:
            self.unknown = True
        else:
            self.spent_usd += usd
            self.spent_by_role[reservation.role] = self.spent_by_role.get(reservation.role, 0.0) + usd
        charge = reservation.usd if usd is None else usd
        if charge is not None:
            self.charged[MONEY] += charge
            self.charged[role_cap(reservation.role)] += charge
        self.charged[TOKENS] += reservation.tokens if tokens is None else tokens
        self.release(reservation)

    def resume(self, reservation: Reservation) -> None:
        """Reserve what an earlier attempt was charged for a request whose answer is still to come: it needs no room."""
        for cap, amount in reservation.amounts.items():
            self.charged[cap] -= amount
        self._take(reservation)

    def _take(self, reservation: Reservation) -> None:
        for cap, amount in reservation.amounts.items():
            self.reserved[cap] += amount
        self._open += 1

    async def _extended(self, wanted: Reservation) -> bool:
        """Whether the run's processes together leave room for what this one has reserved, and for one call more."""
        if self._charges is None:
            return False
        needs = {cap: self.charged[cap] + self.reserved[cap] + amount for cap, amount in wanted.amounts.items()}
        blocks = {
            cap: min(LEASED_CALLS * amount, LEASED_SHARE * self._caps.get(cap, float("inf")))
            for cap, amount in wanted.amounts.items()
        }
        fits = await asyncio.to_thread(self._charges.extend, needs, blocks, self._caps)
        self._limits = self._charges.lease
        return fits

    def _full(self, wanted: Reservation, *, alone: bool = False) -> str:
        """The cap that has no room for a reservation; `alone` leaves out what other calls have reserved."""
        for cap, amount in wanted.amounts.items():
            taken = self.charged[cap] + amount if alone else self.charged[cap] + self.reserved[cap] + amount
            if taken > self._limits.get(cap, self._otherwise):
                return cap
        return ""

    def _unpriced(self, wanted: Reservation) -> str:
        if wanted.usd is None:
            for cap in (MONEY, role_cap(wanted.role)):
                if cap in self._caps:
                    return f"{cap} is set but this model's price is unknown: give it a price"
        return ""

    def _words(self, cap: str) -> str:
        """Why a call is refused, for people."""
        if cap not in self._caps:
            return cap
        has, role = amount_of(cap, self._caps[cap]), cap.split(".")[1]
        name = {MONEY: f"money cap of {has}", TOKENS: f"cap of {has}"}.get(cap, f"cap of {has} of the role {role}")
        used = self.before.get(cap, 0.0)
        earlier = f" ({amount_of(cap, used)} charged by earlier attempts of this run)" if used > 0 else ""
        return f"the {name} leaves no room for another call{earlier}; raise {cap} to continue"


def amount_of(cap: str, amount: float) -> str:
    """An amount of a cap for people: dollars, or tokens."""
    if cap == TOKENS:
        return f"{amount:.0f} tokens"
    return f"${amount:.2f}" if round(amount, 2) == amount or amount >= 1 else f"${amount:.3g}"


class Tab:
    """What one call takes over all its attempts: one reservation at a time, each settled at what the attempt cost.

    `usd` is the call's reported price so far; None where the price of an attempt is unknown. `held` is what is reserved
    for the attempt under way.
    """

    def __init__(self, ledger: Ledger, reservation: Reservation, where: str) -> None:
        self._ledger, self._where = ledger, where
        self._reservation = reservation
        self.held: Reservation | None = None
        self._sent = False
        self.usd: float | None = 0.0

    async def open(self) -> None:
        """Reserve for the next attempt, if nothing is reserved. Raises BudgetExhausted."""
        if self.held is None:
            await self._ledger.wait_and_reserve(self._reservation, self._where)
            self.held = self._reservation

    def joined(self, charged: Reservation) -> None:
        """The request was sent by an earlier attempt of this run, which was charged as much: settle that charge."""
        if self.held is not None:
            self._ledger.release(self.held)
        self._ledger.resume(charged)
        self.held, self._sent = charged, True

    def sent(self) -> None:
        """From now on the provider may bill the attempt."""
        self._sent = True

    def spared(self) -> None:
        """The provider bills nothing for the attempt; its reservation serves the next one."""
        self._sent = False

    def settle(self, usage: Usage | None, usd: float | None) -> None:
        """An attempt was answered. Where its cost cannot be read it is charged as all that was reserved."""
        held, self.held, self._sent = self.held, None, False
        if held is None:
            return
        self._settle(held, usd, tokens_of(usage))

    def lost(self) -> None:
        """An attempt ended without an answer: if it was sent, it is charged as all that was reserved."""
        if self._sent:
            self.settle(None, None)

    def open_second(self) -> Reservation | None:
        """Set the same aside once more for a hedge, where it fits now; None where it does not."""
        try:
            self._ledger.reserve(self._reservation, self._where)
        except BudgetExhausted:
            return None
        return self._reservation

    def settle_second(self, second: Reservation, *, billed: bool) -> None:
        """The slower of two equal requests was given up: it is charged as all that was reserved, if it was billed."""
        if billed:
            self._settle(second, None, None)
        else:
            self._ledger.release(second)

    def close(self) -> None:
        """The call has ended. A reservation that is still held is charged if its request was sent, else given back."""
        self.lost()
        if self.held is not None:
            self._ledger.release(self.held)
            self.held = None

    def _settle(self, held: Reservation, usd: float | None, tokens: int | None) -> None:
        if usd is None and held.usd == 0:
            usd = 0.0  # a model that costs nothing
        self.usd = None if self.usd is None or usd is None else self.usd + usd
        self._ledger.settle(held, usd, tokens)
