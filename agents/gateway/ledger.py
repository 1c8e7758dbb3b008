"""Money and tokens: reserved before a call, settled after it, so that hundreds in flight cannot overshoot a cap."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.errors import BudgetExhausted
from schemas.models import ModelSpec

MICRO = 1_000_000
FREE = ("embedded", "encoder")


@dataclass(frozen=True)
class Reservation:
    """What one call may take at most. `usd` is None where the model's price is unknown."""

    usd: float | None
    tokens: int


def price_of(model: ModelSpec, prompt: int | None, completion: int | None, cached: int | None = None) -> float | None:
    """US dollars for so many tokens by the recipe's price; 0 on this machine; None where nobody knows."""
    if model.provider in FREE:
        return 0.0
    if model.price is None or prompt is None or completion is None:
        return None
    price, from_cache = model.price, cached or 0
    cached_rate = price.input if price.cached_input is None else price.cached_input
    return ((prompt - from_cache) * price.input + from_cache * cached_rate + completion * price.output) / MICRO


class Ledger:
    """The caps of one run. `spent + reserved` never passes a cap, whatever the interleaving of calls."""

    def __init__(self, money_usd: float | None = None, tokens: int | None = None) -> None:
        self._money, self._tokens = money_usd, tokens
        self.spent_usd, self.spent_tokens = 0.0, 0
        self.reserved_usd, self.reserved_tokens = 0.0, 0
        self.unknown = False

    def reserve(self, reservation: Reservation, where: str = "") -> None:
        """Set the most that a call may take aside. Raises BudgetExhausted where it does not fit.

        Under a money cap a call of unknown price is refused: nobody could tell whether the cap holds.
        """
        usd = reservation.usd
        if self._money is not None:
            if usd is None:
                raise BudgetExhausted(
                    "limits.money_usd is set but this model's price is unknown: give it a price", where=where
                )
            if self.spent_usd + self.reserved_usd + usd > self._money:
                raise BudgetExhausted(f"the money cap of ${self._money:g} leaves no room for another call", where=where)
        if self._tokens is not None and self.spent_tokens + self.reserved_tokens + reservation.tokens > self._tokens:
            raise BudgetExhausted(f"the cap of {self._tokens} tokens leaves no room for another call", where=where)
        self.reserved_usd += usd or 0.0
        self.reserved_tokens += reservation.tokens

    def release(self, reservation: Reservation) -> None:
        """Give back what a call did not take."""
        self.reserved_usd -= reservation.usd or 0.0
        self.reserved_tokens -= reservation.tokens

    def settle(self, reservation: Reservation, usd: float | None, tokens: int | None) -> None:
        """Replace a reservation by what the call took. Unknown money makes the sum unknown; tokens count as reserved."""
        self.release(reservation)
        if usd is None:
            self.unknown = True
        self.spent_usd += usd or 0.0
        self.spent_tokens += reservation.tokens if tokens is None else tokens
