"""Embeddings of a run's accepted texts, made in the background while the run waits for models."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Sequence

import numpy as np

from graft.agents.local import encoder
from graft.agents.local.encoder import Embed
from graft.agents.local.minilm import Vectors

TOGETHER, WAIT_S = 64, 2.0
"""Texts embedded at once in the background, and seconds to wait for so many: one text alone takes twice the CPU."""
KEPT = 50_000
"""Texts whose vectors are kept (77 MB); those of later texts are made when they are needed."""
ABANDONED_S = 1.0
"""Seconds to wait for the batch under way when a run is stopped."""


class AcceptedVectors:
    """Vectors by text. `later` hands a text to a background thread, `find` returns the function that embeds."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._known: dict[str, Vectors] = {}
        self._queued = set[str]()
        self._thread: threading.Thread | None = None
        self._embed: Embed | None = None
        self._why = ""
        self._abandoned = False

    def later(self, text: str) -> None:
        """Embed a text in the background. The first call starts the thread, which loads the encoder."""
        if text in self._queued or len(self._queued) >= KEPT:
            return
        self._queued.add(text)
        self._queue.put(text)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="graft-embed", daemon=True)
            self._thread.start()

    def find(self) -> tuple[Embed | None, str]:
        """Wait for the background thread; returns a function that embeds, or None and why nothing can.

        Blocks: call it in a thread. It embeds texts that the background thread did not.
        """
        self.close()
        if self._embed is None and not self._why:
            self._embed, self._why = encoder.find_embed()
        return (None, self._why) if self._embed is None else (self._vectors, "")

    def close(self) -> None:
        """End the background thread after the texts that wait."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def abandon(self) -> None:
        """End the background thread without the texts that wait."""
        if self._thread is not None:
            self._abandoned = True
            self._queue.put(None)
            self._thread.join(ABANDONED_S)

    def _work(self) -> None:
        with contextlib.suppress(Exception):  # `find` meets the same error and raises it
            self._embed, self._why = encoder.find_embed()
            while (texts := self._waiting()) and self._embed is not None and not self._abandoned:
                self._known.update(zip(texts, self._embed(texts), strict=True))

    def _waiting(self) -> list[str]:
        """The next texts; empty at the end."""
        first = self._queue.get()
        if first is None:
            return []
        found, until = [first], time.monotonic() + WAIT_S
        with contextlib.suppress(queue.Empty):
            while len(found) < TOGETHER:
                text = self._queue.get(timeout=max(0.0, until - time.monotonic()))
                if text is None:
                    self._queue.put(None)
                    break
                found.append(text)
        return found

    def _vectors(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors, float32, shape (texts, dimensions)."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._known]
        made = dict(zip(missing, self._embed(missing), strict=True)) if missing and self._embed is not None else {}
        return np.stack([self._known[text] if text in self._known else made[text] for text in texts])
