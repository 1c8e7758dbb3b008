"""Early warning: figures from the first candidates, and whether a run's caps allow its target.

Pure functions over counts. A false alarm is worse than a late alarm, so figures that can stop a run are taken at the
optimistic end: the yield at the upper end of its interval, the cost of a candidate at the lower end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from graft.schemas.decisions import Cause, codes_of, decision_code
from graft.schemas.money import money
from graft.schemas.sections import share

FIRST_LOOK = 20
"""Settled candidates before the first check of the target."""
LOOK_EVERY = 10
"""Settled candidates from one check to the next."""
OVER = 1.1
"""Factor by which even the optimistic figure must exceed a cap."""
YIELD_Z = 2.0
"""Standard errors to the upper end of the yield's interval; more than 95% need, because a run is checked often."""
LUCK_Z = 1.0
"""Standard deviations of luck granted to future candidates."""
COST_SAMPLE = 50
"""Paid candidates after which their cost is trusted; earlier only if a tenth of the cap is used."""
USED_SHARE = 0.1

STANDS_OUT, STANDS_OUT_REASON, ADVISED_FROM = 0.25, 0.6, 10


@dataclass(frozen=True)
class LabelCounts:
    """One label: missing rows, settled candidates that were written for it, rows accepted with it."""

    label: str
    missing: int
    settled: int
    accepted: int


@dataclass
class Sample:
    """Running mean and variance of candidates' costs. A value of None makes both unknown."""

    count: int = 0
    mean: float = 0.0
    total: float = 0.0
    unknown: bool = False
    _squares: float = 0.0

    def add(self, value: float | None) -> None:
        """Count one candidate."""
        if value is None:
            self.unknown = True
            return
        self.count += 1
        self.total += value
        step = value - self.mean
        self.mean += step / self.count
        self._squares += step * (value - self.mean)

    @property
    def low(self) -> float:
        """The lower end of the mean's interval; 0 while it is not known."""
        if self.unknown or self.count < 2:
            return 0.0
        return max(0.0, self.mean - YIELD_Z * math.sqrt(self._squares / (self.count - 1) / self.count))


@dataclass(frozen=True)
class Room:
    """One cap: its limit and use, and the cost of a further candidate (lower bound and mean)."""

    cap: str
    has: float
    used: float
    least: float
    mean: float
    ahead: int = 0
    """Unsettled candidates whose cost is in `used` already."""
    sampled: int = 0

    def takes(self, candidates: float, each: float) -> float:
        """The cap needed for that many further candidates."""
        return self.used + each * max(0.0, candidates - self.ahead)

    @property
    def believed(self) -> bool:
        """True if there are enough measurements to compare with the cap."""
        return self.sampled >= COST_SAMPLE or self.used >= USED_SHARE * self.has


@dataclass(frozen=True)
class Feasibility:
    """A target out of reach: the binding cap, its limit, and the amount that the target would need."""

    cap: str
    has: float
    takes: float
    at_least: float
    reachable: float = field(default=0.0)
    """Share of the target that the cap should allow, 0 to 1; 0 if no row was accepted yet."""


def upper_yield(accepted: float, settled: float) -> float:
    """The largest plausible yield (Wilson's upper bound); 1 before the first candidate settled."""
    if settled <= 0:
        return 1.0
    share, z2 = min(1.0, accepted / settled), YIELD_Z**2
    half = YIELD_Z * math.sqrt(share * (1 - share) / settled + z2 / (4 * settled**2))
    return min(1.0, (share + z2 / (2 * settled) + half) / (1 + z2 / settled))


def likely_yield(accepted: float, settled: float) -> float:
    """The most likely yield: never 0, never over 1."""
    return min(1.0, (accepted + 1) / (settled + 2))


def tries(missing: float, share: float, luck: float) -> float:
    """Candidates for `missing` rows at a yield, with `luck` standard deviations of good luck."""
    if missing <= 0:
        return 0.0
    spread = luck * math.sqrt(share * (1 - share))
    return max(missing, ((math.sqrt(spread**2 + 4 * share * missing) - spread) / (2 * share)) ** 2)


def candidates_needed(
    labels: Sequence[LabelCounts], share: Callable[[float, float], float], luck: float = 0.0, together: int = 1
) -> float:
    """Candidates still needed for the missing rows of all labels.

    The larger of two figures: label by label, and all of them at their common yield. The latter is the minimum that any
    division of that yield over the labels needs; it matters if many labels have few candidates each.
    `together` candidates share one fate (such as the responses to one message) and count as one.
    """
    lacking = [counts for counts in labels if counts.missing > 0]
    alone = sum(tries(c.missing, share(c.accepted / together, c.settled / together), luck) for c in lacking)
    settled, accepted = sum(c.settled for c in lacking), sum(c.accepted for c in lacking)
    if not settled:
        return alone
    weight = sum(math.sqrt(c.missing * c.settled / settled) for c in lacking) ** 2
    return max(alone, tries(weight, share(accepted / together, settled / together), luck))


def out_of_reach(
    labels: Sequence[LabelCounts], rooms: Sequence[Room], *, wanted: int, together: int = 1
) -> Feasibility | None:
    """The cap that the target exceeds most even in the best case; None while the target may be reached.

    `wanted` is the number of rows of the whole target.
    """
    hopeful = candidates_needed(labels, upper_yield, LUCK_Z, together)
    expected = max(hopeful, candidates_needed(labels, likely_yield))
    if not hopeful:
        return None
    over = [room for room in rooms if room.believed and room.takes(hopeful, room.least) > OVER * room.has]
    if not over:
        return None
    worst = max(over, key=lambda room: room.takes(hopeful, room.least) / max(room.has, 1e-12))
    missing = sum(counts.missing for counts in labels)
    takes = worst.takes(expected, max(worst.mean, worst.least))
    left = max(0.0, worst.has - worst.used) / max(takes - worst.used, 1e-12)
    seen = any(counts.accepted for counts in labels)
    reachable = (wanted - missing + missing * min(1.0, left)) / max(1, wanted) if seen else 0.0
    return Feasibility(worst.cap, worst.has, takes, worst.takes(hopeful, worst.least), min(1.0, max(0.0, reachable)))


def figure(cap: str, value: float) -> str:
    """A cap's value, or the amount needed, as text: dollars, or a count to two digits."""
    if cap == "limits.money_usd":
        return f"${value:.2f}" if value >= 1 else f"${value:.2g}"
    unit = "tokens" if cap == "limits.tokens" else "candidates"
    return f"{rounded(value):,} {unit}"


def rounded(value: float) -> int:
    """A count rounded up to two digits, to avoid false precision."""
    if value < 100:
        return math.ceil(value)
    step = int(10 ** (len(str(int(value))) - 2))
    return math.ceil(value / step) * step


def advice_for(outlook: Feasibility, rows_per_label: int) -> str:
    """The fix, with figures. `rows_per_label` is the recipe's, 0 if it names only single labels."""
    raise_it = f"raise {outlook.cap} to about {figure(outlook.cap, outlook.takes)}"
    rows = math.floor(rows_per_label * outlook.reachable)
    lower = f", or lower target.rows_per_label to about {rows}" if 0 < rows < rows_per_label else ""
    return f"{raise_it}{lower}, or look at the reasons above; set limits.out_of_reach: go_on to use up the caps"


def early_line(settled: int, accepted: int, reasons: Mapping[str, int], price: str) -> str:
    """Yield, unreadable replies, refusals and the price of an accepted row in one line; empty before the first one."""
    if not settled:
        return ""
    unreadable = {code: reasons[code] for code in codes_of("unreadable") if reasons.get(code)}
    kinds = ", ".join(f"{code.removeprefix('failed.')} {count}" for code, count in unreadable.items())
    refused = sum(reasons.get(code, 0) for code in codes_of("refused"))
    parts = [
        f"yield {share(accepted / settled)} of {settled}",
        f"{sum(unreadable.values())} unreadable" + (f" ({kinds})" if kinds else ""),
        f"{refused} refused",
        price,
    ]
    return " · ".join(part for part in parts if part)


def row_price(per_row: float | None, *, unknown: bool, local: bool = False) -> str:
    """The price of an accepted row in words. An unknown price is shown as unknown, never as 0."""
    if unknown or (local and not per_row):
        return f"price {money(None, local)}"
    return "" if per_row is None else f"{money(per_row)} an accepted row"


def standing_out(settled: int, reasons: Mapping[str, int]) -> str:
    """One sentence of advice if one reason ends many of the candidates, else empty."""
    if settled < ADVISED_FROM:
        return ""
    causes: tuple[Cause, ...] = ("unreadable", "refused", "unanswered")
    for cause in causes:
        ended = {code: reasons[code] for code in codes_of(cause) if reasons.get(code)}
        if ended and sum(ended.values()) >= STANDS_OUT * settled:
            advice = decision_code(max(ended, key=lambda code: ended[code])).advice
            count = sum(n for code, n in ended.items() if decision_code(code).advice == advice)
            return f"{count} of {settled} candidates {advice}"
    code, count = max(reasons.items(), key=lambda item: item[1], default=("", 0))
    if count >= STANDS_OUT_REASON * settled:
        if advice := decision_code(code).advice:
            return f"{count} of {settled} candidates {advice}"
        return f"{count} of {settled} ended as {code}: read examples with graft show NAME --rejected"
    return ""
