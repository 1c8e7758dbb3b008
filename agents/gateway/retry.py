"""The one retry policy: what can pass is tried again with jittered, growing waits.

That is timeout, connection, 5xx and damaged replies. A rate limit costs a call no try: it slows the whole endpoint
down (limiter.py), and becomes final when the endpoint has refused everything for five minutes. In a batch it costs one.
"""

from __future__ import annotations

import random

RETRYABLE = frozenset({"timeout", "rate_limited", "server_error", "connection", "malformed", "empty", "schema_unmet"})
BASE_WAIT_S, LONGEST_WAIT_S = 0.25, 20.0
BATCH_WAIT_S, LONGEST_BATCH_WAIT_S = 30.0, 600.0

_random = random.Random()


def backoff_s(failures: int) -> float:
    """Seconds before the next try after so many failures: doubling from 0.25 to 20, times 0.5 to 1."""
    return min(LONGEST_WAIT_S, BASE_WAIT_S * 2.0 ** max(0, failures - 1)) * (0.5 + _random.random() / 2)


def batch_wait_s(refusals: int) -> float:
    """Seconds before a call that batches refused so often (429) joins another one: doubling from 30 to 600.

    Not jittered, so that the calls of one batch go into the next one together.
    """
    return min(LONGEST_BATCH_WAIT_S, BATCH_WAIT_S * 2.0 ** max(0, refusals - 1))
