"""Stale-while-revalidate cache: a value is refreshed on a thread, so that no page waits long for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class StaleCache(Generic[T]):
    """The last result of `ask`, refreshed if it is older than `every_s` seconds, by one thread at a time."""

    def __init__(self, ask: Callable[[], T], every_s: float = 10.0) -> None:
        self._ask, self._every_s = ask, every_s
        self._value: T | None = None
        self._at = float("-inf")
        self._asking: threading.Thread | None = None
        self._lock = threading.Lock()

    def get(self, patience_s: float = 0.3) -> T | None:
        """The value, after waiting up to `patience_s` seconds if it is old; None before the first."""
        with self._lock:
            old = time.monotonic() - self._at > self._every_s
            if old and (self._asking is None or not self._asking.is_alive()):
                self._asking = threading.Thread(target=self._run, daemon=True, name="stale_cache")
                self._asking.start()
            asking = self._asking if old else None
        if asking is not None:
            asking.join(patience_s)
        return self._value

    def _run(self) -> None:
        try:
            self._value = self._ask()
        except Exception:  # the next request tries again; a page shows the value as unknown
            self._value = None
        self._at = time.monotonic()
