"""Life of one batch: submission or recovery after a crash, polling, and results."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from graft.agents.gateway.batch.provider import Gone, Provider
from graft.agents.gateway.batch.results import Again, Outcome, otherwise_of, results_of, unconfirmed
from graft.agents.gateway.batch.store import Batch, BatchStore
from graft.agents.gateway.limiter import RETRYABLE
from graft.agents.gateway.transport import RateLimited, Refused
from graft.schemas.errors import CallFailed, ModelUnreachable
from graft.schemas.models import ModelSpec

RAREST, GROWTH = 4.0, 1.1
"""The poll interval grows by GROWTH each time, up to RAREST times poll_s."""
LONGEST_S = 300.0
"""Longest backoff in seconds."""
SUBMITS = 6
"""Submissions of a batch before its calls fail; if it was created after all, their retries find it."""
LOOKS = 3
"""Searches for a batch of unconfirmed creation; they take about a minute at the default poll interval."""
SETTLED_S = 3600.0
"""Age in seconds after which an unlisted batch does not exist."""
GONE_AT = 3
"""Consecutive answers by which the provider must deny a batch or file."""
SWEPT_S = 3600.0
FINAL = frozenset({"completed", "expired", "cancelled", "failed", "gone"})
STOPPED = frozenset({"cancelling", "cancelled"})

T = TypeVar("T")


class Journey:
    """Follows one batch.

    Args:
        batch: the batch.
        model: its model.
        keys: calls that wait for it in this process.
        me: the desk's id.
        poll_s: seconds between polls.
    """

    def __init__(self, batch: Batch, model: ModelSpec, keys: set[str], *, me: str, poll_s: float) -> None:
        self.batch, self.model, self.keys = batch, model, keys
        self.submitted = asyncio.Event()
        self._me, self._poll_s = me, poll_s
        self._stopped_before = False

    async def run(
        self,
        store: BatchStore,
        provider: Provider,
        lines: dict[str, bytes] | None,
        charges: Mapping[str, bytes] | None = None,
    ) -> tuple[dict[str, Outcome], Outcome]:
        """Follow the batch to its end.

        Args:
            store: the store of batches.
            provider: the batch API of the model's provider.
            lines: request lines by key, for a new batch; None resumes an earlier one.
            charges: the run's charges by key, for a new batch.

        Returns:
            The outcomes by key, and the outcome of every other key.

        Raises:
            CallFailed, ModelUnreachable: the submission failed, or the provider refuses to report on the batch.
        """
        status: dict[str, Any] = {}
        if lines is not None:
            await asyncio.to_thread(store.add, self.batch, list(lines), charges)
            await self._submit(store, provider, b"".join(lines.values()))
        else:
            if not await self._resume(store, provider):
                return {}, Again()
            status = await self._poll(provider)
            self._stopped_before = status.get("status") in STOPPED
        self.submitted.set()
        status = await self._poll_until_final(store, provider, status)
        return await self._results(store, provider, status)

    async def _submit(self, store: BatchStore, provider: Provider, lines: bytes) -> None:
        batch = self.batch
        try:
            batch.input_file = await self._upload(provider, lines)
            batch.state = "uploaded"
            await asyncio.to_thread(store.update, batch)
            created = await self._create(provider)
        except (Refused, Gone, ModelUnreachable) as failure:
            await self._end(store, "refused")
            if isinstance(failure, Refused):
                failure.what = f"the provider refused the batch: {failure.raw or failure.what}"
            raise
        await self._sent(store, created)

    async def _upload(self, provider: Provider, lines: bytes) -> str:
        for tries in range(1, SUBMITS + 1):
            try:
                return await provider.upload(lines)
            except CallFailed as failure:
                if tries == SUBMITS or not self._is_transient(failure):
                    raise
                await asyncio.sleep(self._wait_s(tries, failure))
        raise AssertionError  # the loop returns or raises

    async def _create(self, provider: Provider) -> dict[str, Any]:
        """Create the batch at the provider; after a failure, search for it before submitting it again.

        After a timeout or a lost connection the batch may still have been created, perhaps seconds later: the search is
        repeated, and the batch is not submitted again if the provider cannot list batches.
        """
        for tries in range(1, SUBMITS + 1):
            try:
                return await provider.create(str(self.batch.input_file), self.batch.id, self.batch.chat)
            except CallFailed as failure:
                if not self._is_transient(failure):
                    raise
                doubtful = not isinstance(failure, RateLimited)
                await asyncio.sleep(self._wait_s(tries, failure))
                found = await self._search(provider, LOOKS if doubtful else 1)
                if found is not None:
                    return found
                if doubtful and not provider.lists:
                    raise unconfirmed(self.model) from None
                if tries == SUBMITS:
                    raise
        raise AssertionError  # the loop returns or raises

    async def _search(self, provider: Provider, looks: int) -> dict[str, Any] | None:
        """Search for the batch at the provider up to `looks` times; None if it is absent or cannot be listed."""
        for look in range(1, looks + 1):
            found = await self._retried(lambda: provider.search(self.batch))
            if found is not None or not provider.lists or look == looks:
                return found
            await asyncio.sleep(self._wait_s(look))
        return None

    def _is_transient(self, failure: CallFailed) -> bool:
        """Return True if a failed submission is retried; a requested wait beyond LONGEST_S ends it."""
        too_long = (getattr(failure, "retry_after", None) or 0.0) > LONGEST_S
        return failure.code in RETRYABLE and not isinstance(failure, Gone) and not too_long

    async def _resume(self, store: BatchStore, provider: Provider) -> bool:
        """Resume an earlier batch; False if it has ended or never reached the provider."""
        while True:
            found = await asyncio.to_thread(store.get, self.batch.id)
            if found is None or found.state == "ended":
                return False
            self.batch = found
            if found.state == "sent":
                return True
            if found.desk == self._me or await asyncio.to_thread(is_dead, store.path, found.desk):
                break
            await asyncio.sleep(self._poll_s)  # another process is submitting it
        if found.state == "uploaded":
            there = await self._search(provider, LOOKS if time.time() - found.created < SETTLED_S else 1)
            if there is not None:
                await self._sent(store, there)
                return True
        await self._end(store, "never sent")
        return False

    async def _sent(self, store: BatchStore, status: dict[str, Any]) -> None:
        self.batch.remote, self.batch.state = str(status["id"]), "sent"
        self.batch.status = _summary(status)
        await asyncio.to_thread(store.update, self.batch)

    async def _poll(self, provider: Provider) -> dict[str, Any]:
        try:
            return await self._retried(lambda: provider.retrieve(str(self.batch.remote)))
        except Gone:
            return {"status": "gone"}

    async def _poll_until_final(self, store: BatchStore, provider: Provider, status: dict[str, Any]) -> dict[str, Any]:
        """Poll until the status is final; a batch unknown to the provider counts as completed without results."""
        wait_s = self._poll_s
        while status.get("status") not in FINAL:
            await asyncio.sleep(wait_s * random.uniform(0.75, 1.25))
            wait_s = min(wait_s * GROWTH, self._poll_s * RAREST)
            status = await self._poll(provider)
            if _summary(status) != self.batch.status:
                self.batch.status = _summary(status)
                await asyncio.to_thread(store.update, self.batch)
        return status

    async def _results(
        self, store: BatchStore, provider: Provider, status: dict[str, Any]
    ) -> tuple[dict[str, Outcome], Outcome]:
        found: dict[str, Outcome] = {}
        for name in ("output_file_id", "error_file_id"):
            file = status.get(name)
            if file:
                try:
                    payload = await self._retried(partial(provider.content, str(file)))
                except Gone:
                    continue
                found = await results_of(payload, self.model) | found
        answers = [(key, outcome) for key, outcome in found.items() if isinstance(outcome, bytes)]
        await self._end(store, _summary(status), answers)
        otherwise: Outcome = otherwise_of(status, self.model)
        if self._stopped_before:  # calls that joined after the cancellation still need an answer
            otherwise = Again()
            found = dict(answers)
        return found, otherwise

    async def _end(self, store: BatchStore, status: str, answers: list[tuple[str, bytes]] | None = None) -> None:
        self.batch.state, self.batch.status = "ended", status
        await asyncio.to_thread(store.end, self.batch, answers or [])

    async def _retried(self, act: Callable[[], Awaitable[T]]) -> T:
        """Retry `act` without limit while the provider or network fails.

        Raises:
            Gone: the provider denies the batch or file GONE_AT times in a row.
            CallFailed, ModelUnreachable: a failure that is not transient.
        """
        failures = gone = 0
        while True:
            try:
                return await act()
            except CallFailed as failure:
                failures += 1
                gone = gone + 1 if isinstance(failure, Gone) else 0
                if gone >= GONE_AT or failure.code not in RETRYABLE:
                    raise
                await asyncio.sleep(self._wait_s(failures, failure))

    def _wait_s(self, failures: int, failure: CallFailed | None = None) -> float:
        usual = min(LONGEST_S, self._poll_s * 2.0 ** min(failures - 1, 10)) * random.uniform(0.5, 1.0)
        requested: float = getattr(failure, "retry_after", None) or 0.0
        return max(usual, min(requested, LONGEST_S))


def alive_lock(store: Path, desk: str) -> FileLock:
    """Lock that a desk holds while its process lives."""
    return FileLock(store.with_name(f"{store.name}.{desk}.desk"), thread_local=False)


def is_dead(store: Path, desk: str) -> bool:
    """Return True if a desk's process is gone; if so, its lock is removed."""
    lock = alive_lock(store, desk)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    leave(lock)
    return True


def leave(lock: FileLock) -> None:
    """Release a desk's lock and remove its file, whose name is never reused."""
    lock.release()
    Path(lock.lock_file).unlink(missing_ok=True)


def sweep(store: Path) -> None:
    """Remove locks of killed processes, after an hour, because a new lock may not be held yet."""
    for file in store.parent.glob(f"{store.name}.*.desk"):
        with contextlib.suppress(FileNotFoundError):
            if file.stat().st_mtime < time.time() - SWEPT_S:
                is_dead(store, file.name.removeprefix(f"{store.name}.").removesuffix(".desk"))


def _summary(status: dict[str, Any]) -> str:
    """Summarise a provider's batch status in a few words."""
    counts = status.get("request_counts") or {}
    total, failed = counts.get("total") or 0, counts.get("failed") or 0
    done = f" {(counts.get('completed') or 0) + failed}/{total}" if total else ""
    return f"{status.get('status') or 'unknown'}{done}" + (f", {failed} failed" if failed else "")
