"""Retry policy: transient failures are retried with jittered exponential backoff.

Transient failures are timeouts, lost connections, 5xx and damaged replies. A rate limit does not count as a retry: it
slows the whole endpoint down (limiter.py) and becomes final once the endpoint has refused everything for five minutes.
In a batch it does count.
"""

from __future__ import annotations

import random

RETRYABLE = frozenset({"timeout", "rate_limited", "server_error", "connection", "malformed", "empty", "schema_unmet"})
BASE_WAIT_S, LONGEST_WAIT_S = 0.25, 20.0
BATCH_WAIT_S, LONGEST_BATCH_WAIT_S = 30.0, 600.0

_random = random.Random()


def backoff_s(failures: int) -> float:
    """Seconds before the next retry after this many failures: doubling from 0.25 to 20, times 0.5 to 1."""
    return min(LONGEST_WAIT_S, BASE_WAIT_S * 2.0 ** max(0, failures - 1)) * (0.5 + _random.random() / 2)


def batch_wait_s(refusals: int) -> float:
    """Seconds before a call that was rate limited this often in batches joins another batch: doubling from 30 to 600.

    There is no jitter, so that the calls of one batch enter the next batch together.
    """
    return min(LONGEST_BATCH_WAIT_S, BATCH_WAIT_S * 2.0 ** max(0, refusals - 1))
