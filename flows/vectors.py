"""Embeddings of a run's accepted texts, made in the background while the run waits for models."""

from __future__ import annotations

import contextlib
import hashlib
import queue
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from graft.agents.local import encoder
from graft.agents.local.encoder import Embed
from graft.agents.local.minilm import Vectors

TOGETHER, WAIT_S = 64, 2.0
"""Texts embedded at once in the background, and seconds to wait for so many: one text alone takes twice the CPU."""
WAITS = -1
"""Place of a text that has no vector yet."""
ABANDONED_S = 1.0
"""Seconds to wait for the batch under way when a run is stopped."""


class AcceptedVectors:
    """Vectors by text. `later` hands a text to a background thread, `find` returns the function that embeds.

    The vectors (1.5 kB each) go to a file without a name in `folder`: memory holds 0.2 kB a text.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._shape = 0, 0
        self._places: dict[bytes, int] = {}
        self._thread: threading.Thread | None = None
        self._embed: Embed | None = None
        self._why = ""
        self._abandoned = False

    def later(self, text: str) -> None:
        """Embed a text in the background. The first call starts the thread, which loads the encoder."""
        digest = _digest(text)
        if digest in self._places:
            return
        self._places[digest] = WAITS
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
        """End the background thread without the texts that wait, and drop the vectors."""
        if self._thread is not None:
            self._abandoned = True
            self._queue.put(None)
            self._thread.join(ABANDONED_S)
        if self._file is not None:
            self._file.close()

    def _work(self) -> None:
        with contextlib.suppress(Exception):  # `find` meets the same error and raises it
            self._embed, self._why = encoder.find_embed()
            while (texts := self._waiting()) and self._embed is not None and not self._abandoned:
                self._keep(texts, self._embed(texts))

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

    def _keep(self, texts: Sequence[str], vectors: Vectors) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
        self._file.write(np.ascontiguousarray(vectors, dtype=np.float32).tobytes())
        self._file.flush()
        first, (count, width) = self._shape[0], vectors.shape
        self._shape = first + count, width
        self._places.update((_digest(text), first + place) for place, text in enumerate(texts))

    def _vectors(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors, float32, shape (texts, dimensions)."""
        assert self._embed is not None
        places = np.array([self._places.get(_digest(text), WAITS) for text in texts], dtype=np.int64)
        waiting = np.flatnonzero(places == WAITS)
        order = list(dict.fromkeys(texts[at] for at in waiting.tolist()))
        made = self._embed(order) if order else None
        width = self._shape[1] if made is None else made.shape[1]
        found = np.empty((len(texts), width), dtype=np.float32)
        if self._file is not None:
            stored = np.memmap(self._file, dtype=np.float32, mode="r", shape=self._shape)
            known = np.flatnonzero(places != WAITS)
            found[known] = stored[places[known]]
        if made is not None:
            row_of = {text: row for row, text in enumerate(order)}
            found[waiting] = made[[row_of[texts[at]] for at in waiting.tolist()]]
        return found


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
