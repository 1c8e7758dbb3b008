"""Embeddings for the pages: a version is embedded in the background, and search queries on demand.

The encoder is loaded once, on a thread of its own; pages hardly wait for it.
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
"""Cosine from which rows are near duplicates, as in `graft map`."""
MOST_KEPT = 8
"""Number of versions whose clusters and pairs are cached."""


@dataclass(frozen=True)
class Making:
    """Progress of a version's embedding. `total` is 0 while the encoder loads; `failed` is the reason of a failure."""

    done: int = 0
    total: int = 0
    failed: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Alike:
    """Findings from a version's embeddings: near duplicates, and close pairs with different labels."""

    clusters: list[Cluster]
    pairs: list[tuple[str, str, float]]


class Meaning:
    """One instance for each home. Jobs run one at a time; waiting jobs are dropped when the server ends."""

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
        """A version's embeddings on disk, or None. If `searched`, they must come from our own encoder."""
        from graft.data.vectors import ENCODER, find

        return find(self._home, found, ENCODER if searched else None)

    def making(self, found: DatasetVersion) -> Making | None:
        """Progress (or failure) of a version that this process embeds; None if no embedding was requested."""
        with self._lock:
            return self._making.get(found.ref)

    def make(self, found: DatasetVersion) -> None:
        """Begin to embed a version, unless it is under way. Large versions are sampled, as by `graft map`."""
        with self._lock:
            if (going := self._making.get(found.ref)) is not None and not going.failed:
                return
            self._making[found.ref] = Making()
        self._do(lambda: self._make(found))

    def embed(self, words: str, patience_s: float = 1.0) -> Any | None:
        """The vector of a search query, or None while the encoder loads. Raises MissingExtra."""
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
                self._encoder = None  # the extra may be installed meanwhile
            raise
        return embed([words])[0]

    def alike(self, found: DatasetVersion, vectors: Vectors, patience_s: float = 0.5) -> Alike | None:
        """Clusters and suspicious pairs, or None while they are computed. Raises the error of that computation."""
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
        """Stop the current job at its next step. A partial file is never used, and is deleted the next time."""
        self._ending.set()
        if self._worker is not None:
            self._worker.join(timeout=2.0)

    def _do(self, job: Callable[[], None]) -> None:
        """Queue a job. The worker is a daemon, so that a server need not wait minutes for it to end."""
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
            what, fix = (error.what, error.fix) if isinstance(error, GraftError) else (str(error), "see the log")
            self._say(found, Making(failed=what or type(error).__name__, fix=fix))
        else:
            with self._lock:
                self._making.pop(found.ref, None)

    def _build(self, found: DatasetVersion) -> None:
        """Embed with a lake connection of its own, so that no page waits, and find clusters."""
        from graft.data.lake import Lake
        from graft.data.vectors import ENCODER, build

        assert self._encoder is not None
        embed, reported = self._encoder.result(), [0.0]

        def say(done: int, total: int) -> None:
            self._go_on()
            if time.monotonic() - reported[0] > 0.2 or done == total:
                reported[0] = time.monotonic()
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
    """The embeddings of this home while the server runs."""
    with _lock:
        if home.root not in _open:
            _open[home.root] = Meaning(home)
        return _open[home.root]


def _load(into: Future[Embed]) -> None:
    def loaded() -> Embed:
        from graft.agents.local.encoder import find_embed

        embed, why = find_embed()
        if embed is None:
            raise MissingExtra(why, where="semantic search", fix="pip install 'graft-factory[local]'")
        return embed

    _settle(into, loaded)


def _settle(into: Future[Any], work: Callable[[], Any]) -> None:
    try:
        into.set_result(work())
    except Exception as error:
        into.set_exception(error)
