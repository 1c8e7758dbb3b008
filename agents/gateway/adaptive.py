"""Concurrency that a server bears, learned from its refusals: of an address's models together, and of each alone.

A burst of refusals counts once: the calls in flight minus the refused calls, but at least half, are the ceiling, and
the limit becomes 97% of it, or nine tenths if the refusals name a wait; or half, if nothing has succeeded since the
previous burst. Each success then adds a permit, above nine tenths of the ceiling every fourth success, beyond the
ceiling every sixth, and progressively fewer if refusals recur at the same level or name a wait. Once such a probe
holds, the ceiling is dropped.

A refusal counts against its own model at first, while the other models are sent on. If the server refuses one of them
too before it answers any, the limit is common to them: both refusals then count against the address instead. Once an
address has a limit, a refusal at that limit counts against it at once, but at most twice in a row for the same model.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass

KEPT, KEPT_IF_COSTLY = 0.97, 0.9
"""Share of the ceiling that remains the limit after a burst, also if the server's refusals carry Retry-After."""
FIRST_PROBE, RAREST_PROBE = 6.0, 48.0
"""Successes per permit above the refused level: at first, and at most if refusals recur at the same level."""
FIRST_COSTLY, RAREST_COSTLY = 20.0, 2_000.0
"""The same if the server's refusals carry Retry-After."""
SAME_MODEL = 2
"""Refusals of one model in a row that count against the address's limit without a test."""
UNLIMITED = 2**31


class Adaptive:
    """One learned limit. `most`: calls allowed in flight now; `in_a_row`: bursts in a row without a success."""

    def __init__(self) -> None:
        self.most, self.in_a_row = UNLIMITED, 0
        self._allowed = self._ceiling = math.inf
        self._probe, self._burst_at, self._burst_inside = FIRST_PROBE, -math.inf, 0.0

    def replied(self, inside: int) -> bool:
        """Record a reply while `inside` calls are in flight; returns whether the limit grew."""
        self.in_a_row = 0
        if inside < self.most:
            return False
        if self._allowed < KEPT_IF_COSTLY * self._ceiling:
            step = 1.0
        else:
            step = 0.25 if self._allowed < self._ceiling else 1.0 / self._probe
        self._allow(self._allowed + step)
        if self._allowed >= self._ceiling + 1.5:
            self._ceiling = math.inf
        return True

    def refused(self, now: float, sent_at: float, inside: int, *, costly: bool) -> bool:
        """Record a refusal; returns whether it begins a burst.

        Args:
            now: the time.
            sent_at: when the refused request was sent; a request sent before a burst began belongs to that burst.
            inside: calls in flight, with the refused call.
            costly: the refusal carries Retry-After.
        """
        begins = sent_at > self._burst_at
        if begins:
            self._begin_burst(now, min(self._allowed, inside), costly)
        if self.in_a_row <= 1 and self._allowed <= self._ceiling:  # one more refusal of the same burst
            self._ceiling = max(1.0, self._burst_inside / 2, self._ceiling - 1)
            self._allow(max(1.0, (KEPT_IF_COSTLY if costly else KEPT) * self._ceiling))
        return begins

    def _begin_burst(self, now: float, inside: float, costly: bool) -> None:
        self._burst_at = now
        self.in_a_row += 1
        if self.in_a_row > 1:
            self._allow(max(1.0, inside / 2))
            return
        first, rarest = (FIRST_COSTLY, RAREST_COSTLY) if costly else (FIRST_PROBE, RAREST_PROBE)
        same = abs(inside - self._ceiling) <= (0.25 * inside if costly else 1.5)
        self._probe = min(rarest, max(first, (4 if costly else 2) * self._probe)) if same else first
        self._burst_inside = self._ceiling = inside
        self._allow(inside)

    def _allow(self, allowed: float) -> None:
        self._allowed, self.most = allowed, max(1, int(allowed))


class ModelLimit:
    """Calls of one model in flight, and its limits: `limit` is given, `own` learned; `most` applies."""

    def __init__(self) -> None:
        self.inside = self.limit = self.most = 0
        self.own: Adaptive | None = None

    def apply(self) -> None:
        """Compute `most`."""
        self.most = self.limit if self.own is None else min(self.limit, self.own.most)

    def replied(self, most: int) -> bool:
        """Record a reply at an address that allows `most` calls; returns whether the own limit grew."""
        if self.own is None:
            return False
        grown = self.own.replied(self.inside)
        if self.own.most > min(self.limit, most):
            self.own = None
        self.apply()
        return grown


@dataclass(slots=True, eq=False)
class _Test:
    """Refusals until a call sent after the first of them is answered.

    `only`: the single model refused so far, None once there are two; `before`: its own limit before.
    """

    began: float
    only: ModelLimit | None
    before: Adaptive | None
    refusals: int = 0


class AddressLimit:
    """Calls of all models of one address in flight, and their common limit."""

    def __init__(self) -> None:
        self.inside = 0
        self.shared = Adaptive()
        self._test: _Test | None = None
        self._last: ModelLimit | None = None
        self._in_a_row = 0

    def replied(self, model: ModelLimit, latency_s: float) -> bool:
        """Record a model's reply; returns whether a limit grew."""
        if self._test is not None and time.monotonic() - latency_s > self._test.began:
            self._test = None
        grown = self.shared.replied(self.inside)
        return model.replied(self.shared.most) or grown

    def refused(self, model: ModelLimit, now: float, sent_at: float, *, costly: bool) -> int:
        """Record a model's refusal (see Adaptive.refused); returns 0, or at the begin of a burst its `in_a_row`."""
        test = self._test
        if test is None and not self._evidently_shared(model):
            test = self._test = _Test(now, model, copy.copy(model.own))
        if test is not None and test.only is model:
            test.refusals += 1
            model.own = limit = model.own or Adaptive()
            begins = limit.refused(now, sent_at, model.inside, costly=costly)
            model.apply()
        else:
            limit = self.shared
            begins = limit.refused(now, sent_at, self.inside, costly=costly)
            if test is not None and test.only is not None:
                self._move(test, now, sent_at, costly)
        return limit.in_a_row if begins else 0

    def _move(self, test: _Test, now: float, sent_at: float, costly: bool) -> None:
        """Count the refusals of a test's first model against the address, because a second model was refused."""
        first, test.only, self._last = test.only, None, None
        if first is not None:
            first.own = test.before
            first.apply()
        for _ in range(test.refusals):
            self.shared.refused(now, sent_at, self.inside, costly=costly)

    def _evidently_shared(self, model: ModelLimit) -> bool:
        """Return True if the address's limit is reached and the model's own is not, at most twice in a row."""
        if self.inside < self.shared.most or (model.own is not None and model.inside >= model.own.most):
            return False
        self._in_a_row = self._in_a_row + 1 if self._last is model else 1
        self._last = model
        return self._in_a_row <= SAME_MODEL
