"""Early warning: what the first candidates say about a run, and whether its target is within reach of its caps.

Pure functions over counts. A false alarm is worse than a late one, so every figure that can stop a run is taken at the
end that favours going on: the yield at the upper end of its interval, the cost of a candidate at the lower end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from graft.schemas.decisions import Cause, codes_of, decision_code

FIRST_LOOK = 20
"""Settled candidates before which nothing is said about the target."""
LOOK_EVERY = 10
"""Settled candidates from one look to the next."""
OVER = 1.1
"""How far even the hopeful figure must be over a cap."""
YIELD_Z = 2.0
"""Standard errors to the upper end of the yield's interval; more than 95% need, because a run is looked at often."""
LUCK_Z = 1.0
"""Standard deviations of luck that are granted to the candidates still to come."""
COST_SAMPLE = 50
"""Paid candidates after which their cost is believed; earlier only where a tenth of the cap is used."""
USED_SHARE = 0.1

STANDS_OUT, STANDS_OUT_REASON, ADVISED_FROM = 0.25, 0.6, 10


@dataclass(frozen=True)
class LabelCounts:
    """One label: rows still missing, candidates settled that were written for it, rows accepted with it."""

    label: str
    missing: int
    settled: int
    accepted: int


@dataclass
class Sample:
    """Mean and spread of what candidates took, one value at a time. A value of None makes all of it unknown."""

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
        """The lower end of the mean's interval; 0 while nothing can be told."""
        if self.unknown or self.count < 2:
            return 0.0
        return max(0.0, self.mean - YIELD_Z * math.sqrt(self._squares / (self.count - 1) / self.count))


@dataclass(frozen=True)
class Room:
    """One cap: what there is and what was used, and what a further candidate takes (at the least, and by the mean)."""

    cap: str
    has: float
    used: float
    least: float
    mean: float
    ahead: int = 0
    """Candidates not settled yet whose cost is in `used` already."""
    sampled: int = 0

    def takes(self, candidates: float, each: float) -> float:
        """All that the cap would have to allow for so many candidates more."""
        return self.used + each * max(0.0, candidates - self.ahead)

    @property
    def believed(self) -> bool:
        """Whether enough was measured to compare with the cap."""
        return self.sampled >= COST_SAMPLE or self.used >= USED_SHARE * self.has


@dataclass(frozen=True)
class Feasibility:
    """A target out of reach: the cap in the way, what it has, and what the target would take of it."""

    cap: str
    has: float
    takes: float
    at_least: float
    reachable: float = field(default=0.0)
    """Share of the whole target that the cap should allow, 0 to 1; 0 too where no row was accepted yet."""


def upper_yield(accepted: float, settled: float) -> float:
    """The largest yield that the counts still speak for (Wilson's upper bound); 1 before anything settled."""
    if settled <= 0:
        return 1.0
    share, z2 = min(1.0, accepted / settled), YIELD_Z**2
    half = YIELD_Z * math.sqrt(share * (1 - share) / settled + z2 / (4 * settled**2))
    return min(1.0, (share + z2 / (2 * settled) + half) / (1 + z2 / settled))


def likely_yield(accepted: float, settled: float) -> float:
    """The yield as it most likely is: never 0, never over 1."""
    return min(1.0, (accepted + 1) / (settled + 2))


def tries(missing: float, share: float, luck: float) -> float:
    """Candidates for `missing` rows at a yield, where luck may go `luck` standard deviations their way."""
    if missing <= 0:
        return 0.0
    spread = luck * math.sqrt(share * (1 - share))
    return max(missing, ((math.sqrt(spread**2 + 4 * share * missing) - spread) / (2 * share)) ** 2)


def candidates_needed(
    labels: Sequence[LabelCounts], share: Callable[[float, float], float], luck: float = 0.0, together: int = 1
) -> float:
    """Candidates still needed by the labels that lack rows.

    The larger of two figures: label by label, and all of them at their common yield. The latter is the least that any
    division of that yield over the labels would take; it tells where many labels have few candidates each.
    `together` candidates share one fate (such as the responses to one message), so that they count as one.
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
    """The cap that the target passes furthest even where all goes well; None while it may be reached.

    `wanted` is the rows of the whole target.
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
    """A cap's value or a need of it for people: dollars, or a count to two digits."""
    if cap == "limits.money_usd":
        return f"${value:.2f}" if value >= 1 else f"${value:.2g}"
    unit = "tokens" if cap == "limits.tokens" else "candidates"
    return f"{rounded(value):,} {unit}"


def rounded(value: float) -> int:
    """A count to two digits, upwards, so that it does not look more exact than it is."""
    if value < 100:
        return math.ceil(value)
    step = int(10 ** (len(str(int(value))) - 2))
    return math.ceil(value / step) * step


def advice_for(outlook: Feasibility, rows_per_label: int) -> str:
    """What to do about it, with figures. `rows_per_label` is the recipe's, 0 where it names single labels only."""
    raise_it = f"raise {outlook.cap} to about {figure(outlook.cap, outlook.takes)}"
    rows = math.floor(rows_per_label * outlook.reachable)
    lower = f", or lower target.rows_per_label to about {rows}" if 0 < rows < rows_per_label else ""
    return f"{raise_it}{lower}, or look at the reasons above; limits.out_of_reach: go_on uses the caps up instead"


def early_line(settled: int, accepted: int, reasons: Mapping[str, int], price: str) -> str:
    """Yield, unreadable replies, refusals and the price of an accepted row in one line; empty before the first one."""
    if not settled:
        return ""
    unreadable = {code: reasons[code] for code in codes_of("unreadable") if reasons.get(code)}
    kinds = ", ".join(f"{code.removeprefix('failed.')} {count}" for code, count in unreadable.items())
    refused = sum(reasons.get(code, 0) for code in codes_of("refused"))
    parts = [
        f"yield {accepted / settled:.0%} of {settled}",
        f"{sum(unreadable.values())} unreadable" + (f" ({kinds})" if kinds else ""),
        f"{refused} refused",
        price,
    ]
    return " · ".join(part for part in parts if part)


def row_price(per_row: float | None, *, unknown: bool) -> str:
    """The price of an accepted row in words. An unknown one is said to be unknown, never shown as nothing."""
    if unknown:
        return "price unknown"
    if per_row is None:
        return ""
    return f"${per_row:.2g} an accepted row" if per_row else "$0 an accepted row"


def standing_out(settled: int, reasons: Mapping[str, int]) -> str:
    """One sentence of advice where one reason takes many of the candidates; empty where none does."""
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
        return f"{count} of {settled} ended as {code}: read some with graft show NAME --rejected"
    return ""
