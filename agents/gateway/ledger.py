"""Money and tokens: reserved before a call and charged after it, so that calls in flight cannot overshoot a cap.

A call has two prices. The *charge* counts against the caps: a request of unknown cost is charged at its reservation.
The *reported* price follows the provider's own token counts; it is None if there are none.
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
"""A lease exceeds the need by this many reservations of the current call or this share of the cap, whichever is less:
the most that a killed process leaves overcharged."""


@dataclass(frozen=True)
class Reservation:
    """Upper bound of one attempt's cost. `usd` is None if the model's price is unknown."""

    usd: float | None
    tokens: int
    role: str = ""
    own_server: bool = False
    """True for a server of the recipe's own (provider openai), whose price may be unknown."""

    @cached_property
    def amounts(self) -> dict[str, float]:
        """Amount by cap, named by the cap's field in the recipe."""
        money = {} if self.usd is None else {MONEY: self.usd, role_cap(self.role): self.usd}
        return {TOKENS: self.tokens, **money}


def role_cap(role: str) -> str:
    """Field of a role's money cap."""
    return f"roles.{role}.money_usd"


def cost_of(price: Price | None, prompt: int | None, completion: int | None, cached: int | None = None) -> float | None:
    """Cost in US dollars of prompt, completion and cached tokens; None if the price or a count is unknown."""
    if price is None or prompt is None or completion is None:
        return None
    from_cache = min(cached or 0, prompt)
    cached_rate = price.input if price.cached_input is None else price.cached_input
    return ((prompt - from_cache) * price.input + from_cache * cached_rate + completion * price.output) / MICRO


def price_of(model: ModelSpec, prompt: int | None, completion: int | None, cached: int | None = None) -> float | None:
    """Cost in US dollars at the recipe's price; 0 for models on this machine, None if unknown."""
    return 0.0 if model.provider in FREE else cost_of(model.price, prompt, completion, cached)


def tokens_of(usage: Usage | None) -> int | None:
    """Prompt and completion tokens of a call; None if a count is unknown."""
    if usage is None or usage.prompt_tokens is None or usage.completion_tokens is None:
        return None
    return usage.prompt_tokens + usage.completion_tokens


class Ledger:
    """Caps of one run. `charged + reserved` never exceeds a cap, whatever the interleaving of calls.

    The one exception is a call that costs more than its reservation, which is charged in full. With `attach` the caps
    hold over all processes of the run, including killed ones; otherwise over this ledger only.

    Args:
        money_usd: cap of the run in US dollars.
        tokens: cap of the run in tokens.
        roles: caps of single roles in US dollars, within the run's.
        within: caps of an agent, which every call must fit too.
    """

    def __init__(
        self, money_usd: float | None = None, tokens: int | None = None, roles: Mapping[str, float] | None = None,
        within: Ledger | None = None,
    ) -> None:  # fmt: skip
        self.within = within
        given = {MONEY: money_usd, TOKENS: tokens, **{role_cap(role): cap for role, cap in (roles or {}).items()}}
        self._caps: dict[str, float] = {cap: amount for cap, amount in given.items() if amount is not None}
        self.charged: defaultdict[str, float] = defaultdict(float)
        """Charges of this ledger's calls, by cap."""
        self.reserved: defaultdict[str, float] = defaultdict(float)
        self.before: dict[str, float] = {}
        """Charges of the run's other processes at the start of this one, by cap."""
        self.spent_usd, self.unknown = 0.0, False
        """Reported price: the sum of known prices, and whether any price is unknown."""
        self.spent_by_role: dict[str, float] = {}
        self._charges: Charges | None = None
        self._limits, self._otherwise = self._caps, float("inf")
        self._open = 0
        self._turn = asyncio.Lock()
        self._change: asyncio.Future[None] | None = None

    def attach(self, charges: Charges) -> None:
        """Enforce the caps over all processes of a run."""
        self._charges, self.before = charges, charges.before
        self._limits, self._otherwise = charges.lease, 0.0

    async def close(self) -> None:
        """Store the exact charge. Raises StorageFull, GraftError."""
        charges, self._charges = self._charges, None
        if charges is not None:
            total = {cap: self.charged[cap] + self.reserved[cap] for cap in {**self.charged, **self.reserved}}
            await asyncio.to_thread(charges.close, total)
        if self.within is not None:
            await self.within.close()

    @property
    def waiting(self) -> bool:
        """True if a call waits for other calls' reservations."""
        return self._change is not None and not self._change.done()

    @property
    def capped(self) -> bool:
        """True if there is a money cap, so that prices must be known before a call."""
        return any(cap != TOKENS for cap in self._caps) or (self.within is not None and self.within.capped)

    @property
    def used_before(self) -> str:
        """Sentence about the parts of the caps that earlier attempts used; empty if none."""
        return "; ".join(
            f"{amount_of(cap, used)} of the {amount_of(cap, has)} of {cap} was charged by earlier attempts of this run"
            for cap, has in self._caps.items()
            if (used := self.before.get(cap, 0.0)) > 0
        )

    def reserve(self, reservation: Reservation, where: str = "") -> None:
        """Reserve at once. Raises BudgetExhausted if the reservation does not fit now.

        Under a money cap, a call of unknown price is refused, because the cap could not be enforced.
        """
        problem = self._unpriced(reservation) or self._full(reservation)
        if problem:
            raise BudgetExhausted(self._message(problem), where=where)
        if self.within is not None:
            self.within.reserve(reservation, where)
        self._take(reservation)

    async def wait_and_reserve(self, reservation: Reservation, where: str = "") -> None:
        """Like `reserve`, but wait in order of arrival while only other calls' reservations are in the way."""
        if self.within is None:
            return await self._wait_and_reserve(reservation, where)
        await self.within.wait_and_reserve(reservation, where)
        try:
            await self._wait_and_reserve(reservation, where)
        except BaseException:
            self.within.release(reservation)
            raise

    async def _wait_and_reserve(self, reservation: Reservation, where: str) -> None:
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
                    raise BudgetExhausted(self._message(problem), where=where)
                if problem:
                    self._change = asyncio.get_running_loop().create_future()
                    await self._change
            self._take(reservation)

    def release(self, reservation: Reservation) -> None:
        """Return an unused reservation."""
        if self.within is not None:
            self.within.release(reservation)
        self._release(reservation)

    def _release(self, reservation: Reservation) -> None:
        self._open -= 1
        if self._open:
            for cap, amount in reservation.amounts.items():
                self.reserved[cap] -= amount
        else:
            self.reserved.clear()
        if self._change is not None and not self._change.done():
            self._change.set_result(None)

    def settle(self, reservation: Reservation, usd: float | None, tokens: int | None) -> None:
        """Replace a reservation by its charge; unknown money and tokens are charged as reserved.

        The reported price becomes unknown if `usd` is None.
        """
        if self.within is not None:
            self.within.settle(reservation, usd, tokens)
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
        self._release(reservation)

    def resume(self, reservation: Reservation) -> None:
        """Turn an earlier process's charge back into a reservation, for a pending answer; this needs no room."""
        for cap, amount in reservation.amounts.items():
            self.charged[cap] -= amount
        self._take(reservation)
        if self.within is not None:  # an agent's cap counts it again: who paid for it before is unknown
            self.within._take(reservation)

    def _take(self, reservation: Reservation) -> None:
        for cap, amount in reservation.amounts.items():
            self.reserved[cap] += amount
        self._open += 1

    async def _extended(self, reservation: Reservation) -> bool:
        """Extend the lease; returns whether the run's processes leave room for one more call."""
        if self._charges is None:
            return False
        needs = {cap: self.charged[cap] + self.reserved[cap] + amount for cap, amount in reservation.amounts.items()}
        blocks = {
            cap: min(LEASED_CALLS * amount, LEASED_SHARE * self._caps.get(cap, float("inf")))
            for cap, amount in reservation.amounts.items()
        }
        fits = await asyncio.to_thread(self._charges.extend, needs, blocks, self._caps)
        self._limits = self._charges.lease
        return fits

    def _full(self, reservation: Reservation, *, alone: bool = False) -> str:
        """Return the cap that has no room for a reservation; `alone` ignores other calls' reservations."""
        for cap, amount in reservation.amounts.items():
            taken = self.charged[cap] + amount if alone else self.charged[cap] + self.reserved[cap] + amount
            if taken > self._limits.get(cap, self._otherwise):
                return cap
        return ""

    def _unpriced(self, reservation: Reservation) -> str:
        if reservation.usd is None:
            for cap in (MONEY, role_cap(reservation.role)):
                if cap in self._caps:
                    return f"{cap} is set but this model's price is unknown: set the model's price"
        return ""

    def _message(self, cap: str) -> str:
        """Reason for a refusal, for a person."""
        if cap not in self._caps:
            return cap
        has, role = amount_of(cap, self._caps[cap]), cap.split(".")[1]
        name = {MONEY: f"money cap of {has}", TOKENS: f"cap of {has}"}.get(cap, f"cap of {has} of the role {role}")
        used = self.before.get(cap, 0.0)
        earlier = f" ({amount_of(cap, used)} charged by earlier attempts of this run)" if used > 0 else ""
        return f"the {name} leaves no room for another call{earlier}; raise {cap} to continue"


class Allowance(Ledger):
    """Caps that a person set for agents, over all their calls of a day. Of an allowed server only tokens count."""

    def _unpriced(self, reservation: Reservation) -> str:
        if reservation.usd is not None or reservation.own_server:
            return ""
        return "agents may only call models of known price: this one has none"

    def _message(self, cap: str) -> str:
        if cap not in self._caps:
            return cap
        option = "--max-usd" if cap == MONEY else "--max-tokens"
        return (
            f"the {amount_of(cap, self._caps[cap])} a day for agents leave no room for another call; "
            f"only the person who started graft mcp can raise it, with {option}"
        )


def amount_of(cap: str, amount: float) -> str:
    """Format an amount of a cap for a person, in dollars or tokens."""
    if cap == TOKENS:
        return f"{amount:.0f} tokens"
    return f"${amount:.2f}" if round(amount, 2) == amount or amount >= 1 else f"${amount:.3g}"


class Tab:
    """Spending of one call over all its attempts: one reservation at a time, each settled at the attempt's cost.

    `usd` is the call's reported price so far; None if the price of an attempt is unknown. `held` is the reservation of
    the current attempt.
    """

    def __init__(self, ledger: Ledger, reservation: Reservation, where: str) -> None:
        self._ledger, self._where = ledger, where
        self._reservation = reservation
        self.held: Reservation | None = None
        self._sent = False
        self.usd: float | None = 0.0

    async def open(self) -> None:
        """Reserve for the next attempt unless a reservation is held. Raises BudgetExhausted."""
        if self.held is None:
            await self._ledger.wait_and_reserve(self._reservation, self._where)
            self.held = self._reservation

    def joined(self, charged: Reservation) -> None:
        """Take over the charge of an earlier process of this run, which sent the request."""
        if self.held is not None:
            self._ledger.release(self.held)
        self._ledger.resume(charged)
        self.held, self._sent = charged, True

    def sent(self) -> None:
        """Mark the attempt as sent: from now on the provider may bill it."""
        self._sent = True

    def spared(self) -> None:
        """Mark the attempt as free of charge; its reservation serves the next attempt."""
        self._sent = False

    def settle(self, usage: Usage | None, usd: float | None) -> None:
        """Charge an answered attempt; an unknown cost is charged at the reservation."""
        held, self.held, self._sent = self.held, None, False
        if held is None:
            return
        self._settle(held, usd, tokens_of(usage))

    def lost(self) -> None:
        """End an attempt that got no answer; if it was sent, it is charged at its reservation."""
        if self._sent:
            self.settle(None, None)

    def open_second(self) -> Reservation | None:
        """Reserve the same amount again for a hedge; None if it does not fit now."""
        try:
            self._ledger.reserve(self._reservation, self._where)
        except BudgetExhausted:
            return None
        return self._reservation

    def settle_second(self, second: Reservation, *, billed: bool) -> None:
        """End the slower of two identical requests; if it may be billed, it is charged at its reservation."""
        if billed:
            self._settle(second, None, None)
        else:
            self._ledger.release(second)

    def close(self) -> None:
        """End the call. A reservation still held is charged if its request was sent, and returned otherwise."""
        self.lost()
        if self.held is not None:
            self._ledger.release(self.held)
            self.held = None

    def _settle(self, held: Reservation, usd: float | None, tokens: int | None) -> None:
        if usd is None and held.usd == 0:
            usd = 0.0  # a model that costs nothing
        self.usd = None if self.usd is None or usd is None else self.usd + usd
        self._ledger.settle(held, usd, tokens)
