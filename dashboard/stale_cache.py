"""An answer from elsewhere that may be some seconds old: asked for on a thread, so that no page waits long for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class StaleCache(Generic[T]):
    """What `ask` gave last; asked again where that is more than `every_s` seconds old. One asks at a time."""

    def __init__(self, ask: Callable[[], T], every_s: float = 10.0) -> None:
        self._ask, self._every_s = ask, every_s
        self._value: T | None = None
        self._at = float("-inf")
        self._asking: threading.Thread | None = None
        self._lock = threading.Lock()

    def get(self, patience_s: float = 0.3) -> T | None:
        """The answer, after waiting up to `patience_s` where it is old; None while there is none yet."""
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
        except Exception:  # whoever asks next tries again; a page says that it does not know
            self._value = None
        self._at = time.monotonic()
