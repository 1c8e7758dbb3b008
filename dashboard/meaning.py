"""Embeddings for the pages: made in the background for a version that has none, and the words of a search embedded.

The encoder is loaded once for as long as we serve, on a thread of its own; no page waits for it longer than a moment.
"""

from __future__ import annotations

import atexit
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.schemas.errors import GraftError, MissingExtra

if TYPE_CHECKING:
    from graft.data.vectors import Cluster, Vectors
    from graft.flows.dedup import Embed
    from graft.schemas.datasets import DatasetVersion
    from graft.schemas.home import Home

COSINE = 0.9
"""Rows at or above it are near duplicates, as `graft map` has it."""
MOST_KEPT = 8
"""Versions whose clusters and pairs are remembered."""


@dataclass(frozen=True)
class Making:
    """How far the embedding of a version is. `total` is 0 while the encoder is loaded; `failed` says why it ended."""

    done: int = 0
    total: int = 0
    failed: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Alike:
    """What a version's embeddings say of its rows: near duplicates, and pairs near to each other of other labels."""

    clusters: list[Cluster]
    pairs: list[tuple[str, str, float]]


class Meaning:
    """One a home. One job is done at a time; what waits is forgotten when the server ends."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._making: dict[str, Making] = {}
        self._alike: dict[tuple[str, int], Future[Alike]] = {}
        self._encoder: Future[Embed] | None = None
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._worker: threading.Thread | None = None
        self._ending = threading.Event()
        atexit.register(self.close)

    def vectors(self, found: DatasetVersion, *, searched: bool = False) -> Vectors | None:
        """What is on disk of a version; None where nothing is. What is `searched` has to come from our own encoder."""
        from graft.data.vectors import ENCODER, find

        return find(self._home, found, ENCODER if searched else None)

    def making(self, found: DatasetVersion) -> Making | None:
        """How far a version is that is being embedded here, or that could not be; None where nobody asked for it."""
        with self._lock:
            return self._making.get(found.ref)

    def make(self, found: DatasetVersion) -> None:
        """Begin to embed a version, unless that goes on already. A large one by a sample, as `graft map` does it."""
        with self._lock:
            if (going := self._making.get(found.ref)) is not None and not going.failed:
                return
            self._making[found.ref] = Making()
        self._do(lambda: self._make(found))

    def embed(self, words: str, patience_s: float = 1.0) -> Any | None:
        """The vector of a search, or None while the encoder is being loaded. Raises MissingExtra."""
        with self._lock:
            if self._encoder is None:
                self._encoder = Future()
                threading.Thread(target=_load, args=(self._encoder,), daemon=True, name="encoder").start()
            encoder = self._encoder
        try:
            embed = encoder.result(timeout=patience_s)
        except TimeoutError:
            return None
        except Exception:
            with self._lock:
                self._encoder = None  # it may be installed meanwhile
            raise
        return embed([words])[0]

    def alike(self, found: DatasetVersion, vectors: Vectors, patience_s: float = 0.5) -> Alike | None:
        """Clusters and suspicious pairs, or None while they are looked for. Raises what looking for them raised."""
        key = (str(vectors.path), vectors.path.stat().st_mtime_ns if vectors.path.exists() else 0)
        with self._lock:
            future = self._alike.get(key)
            fresh = future is None
            if future is None:
                for old in list(self._alike)[: max(0, len(self._alike) - MOST_KEPT + 1)]:
                    del self._alike[old]
                future = self._alike[key] = Future()
        if fresh:
            self._do(lambda: _settle(future, lambda: self._look(found, vectors)))
        try:
            return future.result(timeout=patience_s)
        except TimeoutError:
            return None
        except Exception:
            with self._lock:
                self._alike.pop(key, None)
            raise

    def close(self) -> None:
        """End what goes on at its next step. A half-made file is left out of use, and deleted the next time."""
        self._ending.set()
        if self._worker is not None:
            self._worker.join(timeout=2.0)

    def _do(self, job: Callable[[], None]) -> None:
        """Put a job into the line. The worker is a daemon: a server that is to end does not wait minutes for it."""
        with self._lock:
            self._jobs.put(job)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, daemon=True, name="meaning")
                self._worker.start()

    def _work(self) -> None:
        while not self._ending.is_set():
            try:
                job = self._jobs.get(timeout=1.0)
            except queue.Empty:
                continue
            job()

    def _make(self, found: DatasetVersion) -> None:
        try:
            while self.embed("ready?", patience_s=5.0) is None:
                self._go_on()
            self._build(found)
        except Exception as error:
            what, fix = (error.what, error.fix) if isinstance(error, GraftError) else (str(error), "the log says why")
            self._say(found, Making(failed=what or type(error).__name__, fix=fix))
        else:
            with self._lock:
                self._making.pop(found.ref, None)

    def _build(self, found: DatasetVersion) -> None:
        """With a lake of its own, so that no page waits; clusters too, for they come from the same file."""
        from graft.data.lake import Lake
        from graft.data.vectors import ENCODER, build

        assert self._encoder is not None
        embed, told = self._encoder.result(), [0.0]

        def say(done: int, total: int) -> None:
            self._go_on()
            if time.monotonic() - told[0] > 0.2 or done == total:
                told[0] = time.monotonic()
                self._say(found, Making(done=done, total=total))

        with Lake.open(self._home, read_only=True) as lake:
            build(self._home, lake, found, embed, encoder=ENCODER, say=say)

    def _look(self, found: DatasetVersion, vectors: Vectors) -> Alike:
        from graft.dashboard.figures.map import other_labels
        from graft.data.lake import Lake
        from graft.data.vectors import clusters

        with Lake.open(self._home, read_only=True) as lake:
            return Alike(clusters(vectors, COSINE), other_labels(lake, found, vectors))

    def _say(self, found: DatasetVersion, how: Making) -> None:
        with self._lock:
            self._making[found.ref] = replace(how)

    def _go_on(self) -> None:
        if self._ending.is_set():
            raise GraftError("the server ends", where="embeddings", fix="graft map")


_lock = threading.Lock()
_open: dict[Path, Meaning] = {}


def meaning_of(home: Home) -> Meaning:
    """The embeddings of this home, for as long as we serve."""
    with _lock:
        if home.root not in _open:
            _open[home.root] = Meaning(home)
        return _open[home.root]


def _load(into: Future[Embed]) -> None:
    def loaded() -> Embed:
        from graft.agents.local.encoder import find_embed

        embed, why = find_embed()
        if embed is None:
            raise MissingExtra(why, where="search by meaning", fix="pip install 'graft-factory[local]'")
        return embed

    _settle(into, loaded)


def _settle(into: Future[Any], work: Callable[[], Any]) -> None:
    try:
        into.set_result(work())
    except Exception as error:
        into.set_exception(error)
