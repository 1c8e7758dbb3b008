"""One batch from here to the provider and back: handed in, or found again after a crash; polled; its results read."""

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
from graft.agents.gateway.retry import RETRYABLE
from graft.agents.gateway.transport import RateLimited, Refused
from graft.schemas.errors import CallFailed, ModelUnreachable
from graft.schemas.models import ModelSpec

RAREST, GROWTH = 4.0, 1.1
"""Polls get rarer by GROWTH each time, up to RAREST times poll_s."""
LONGEST_S = 300.0
"""Seconds between tries after failures at most."""
SUBMITS = 6
"""Times that a batch is handed in until its calls fail; should it have got in, their retries find it."""
LOOKS = 3
"""Searches at the provider for a batch whose creation was not confirmed; over about a minute with the usual poll."""
SETTLED_S = 3600.0
"""Seconds after which a batch that is not listed is not there."""
GONE_AT = 3
"""Times in a row that the provider must say that it has no such batch or file."""
SWEPT_S = 3600.0
FINAL = frozenset({"completed", "expired", "cancelled", "failed", "gone"})
STOPPED = frozenset({"cancelling", "cancelled"})

T = TypeVar("T")


class Journey:
    """A batch that is followed. `keys` are the calls that wait for it here; `me` is the id of the desk."""

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
        """To the batch's end: the outcomes by key, and that of every other key. `lines`: it begins here.

        Raises CallFailed and ModelUnreachable where it could not be handed in, or the provider refuses to speak of it.
        """
        status: dict[str, Any] = {}
        if lines is not None:
            await asyncio.to_thread(store.add, self.batch, list(lines), charges)
            await self._hand_in(store, provider, b"".join(lines.values()))
        else:
            if not await self._take_up(store, provider):
                return {}, Again()
            status = await self._look(provider)
            self._stopped_before = status.get("status") in STOPPED
        self.submitted.set()
        status = await self._to_the_end(store, provider, status)
        return await self._results(store, provider, status)

    async def _hand_in(self, store: BatchStore, provider: Provider, lines: bytes) -> None:
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
                if tries == SUBMITS or not self._may_pass(failure):
                    raise
                await asyncio.sleep(self._wait_s(tries, failure))
        raise AssertionError  # the loop returns or raises

    async def _create(self, provider: Provider) -> dict[str, Any]:
        """The batch at the provider. After a failure the provider is searched before the batch is handed in again.

        A timeout or a lost connection leaves open whether the batch was created, perhaps seconds later: it is searched
        for several times, and where the provider lists no batches it is not handed in again.
        """
        for tries in range(1, SUBMITS + 1):
            try:
                return await provider.create(str(self.batch.input_file), self.batch.id, self.batch.chat)
            except CallFailed as failure:
                if not self._may_pass(failure):
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
        """The batch at the provider, looked for so many times; None where it is not there, or none are listed."""
        for look in range(1, looks + 1):
            found = await self._patiently(lambda: provider.search(self.batch))
            if found is not None or not provider.lists or look == looks:
                return found
            await asyncio.sleep(self._wait_s(look))
        return None

    def _may_pass(self, failure: CallFailed) -> bool:
        """Whether a failure to hand in is worth another try; a wait beyond LONGEST_S is not waited for."""
        too_long = (getattr(failure, "retry_after", None) or 0.0) > LONGEST_S
        return failure.code in RETRYABLE and not isinstance(failure, Gone) and not too_long

    async def _take_up(self, store: BatchStore, provider: Provider) -> bool:
        """Go on with a batch that was begun before; False where it has ended, or the provider never got it."""
        while True:
            found = await asyncio.to_thread(store.get, self.batch.id)
            if found is None or found.state == "ended":
                return False
            self.batch = found
            if found.state == "sent":
                return True
            if found.desk == self._me or await asyncio.to_thread(is_dead, store.path, found.desk):
                break
            await asyncio.sleep(self._poll_s)  # another process is handing it in
        if found.state == "uploaded":
            there = await self._search(provider, LOOKS if time.time() - found.created < SETTLED_S else 1)
            if there is not None:
                await self._sent(store, there)
                return True
        await self._end(store, "never sent")
        return False

    async def _sent(self, store: BatchStore, status: dict[str, Any]) -> None:
        self.batch.remote, self.batch.state = str(status["id"]), "sent"
        self.batch.status = _said(status)
        await asyncio.to_thread(store.update, self.batch)

    async def _look(self, provider: Provider) -> dict[str, Any]:
        try:
            return await self._patiently(lambda: provider.retrieve(str(self.batch.remote)))
        except Gone:
            return {"status": "gone"}

    async def _to_the_end(self, store: BatchStore, provider: Provider, status: dict[str, Any]) -> dict[str, Any]:
        """Poll until nothing more is to come; a batch that the provider forgot counts as completed without results."""
        wait_s = self._poll_s
        while status.get("status") not in FINAL:
            await asyncio.sleep(wait_s * random.uniform(0.75, 1.25))
            wait_s = min(wait_s * GROWTH, self._poll_s * RAREST)
            status = await self._look(provider)
            if _said(status) != self.batch.status:
                self.batch.status = _said(status)
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
                    payload = await self._patiently(partial(provider.content, str(file)))
                except Gone:
                    continue
                found = await results_of(payload, self.model) | found
        answers = [(key, outcome) for key, outcome in found.items() if isinstance(outcome, bytes)]
        await self._end(store, _said(status), answers)
        otherwise: Outcome = otherwise_of(status, self.model)
        if self._stopped_before:  # whoever asks after it was cancelled wants an answer all the same
            otherwise = Again()
            found = dict(answers)
        return found, otherwise

    async def _end(self, store: BatchStore, status: str, answers: list[tuple[str, bytes]] | None = None) -> None:
        self.batch.state, self.batch.status = "ended", status
        await asyncio.to_thread(store.end, self.batch, answers or [])

    async def _patiently(self, act: Callable[[], Awaitable[T]]) -> T:
        """What `act` brings, however long the provider or the network fails. Raises Gone once that is certain, and
        what only a person can mend."""
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
        asked: float = getattr(failure, "retry_after", None) or 0.0
        return max(usual, min(asked, LONGEST_S))


def alive_lock(store: Path, desk: str) -> FileLock:
    """The lock that a desk holds as long as its process lives."""
    return FileLock(store.with_name(f"{store.name}.{desk}.desk"), thread_local=False)


def is_dead(store: Path, desk: str) -> bool:
    """Whether the process of a desk is gone; its lock is swept away then."""
    lock = alive_lock(store, desk)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    leave(lock)
    return True


def leave(lock: FileLock) -> None:
    """Release a desk's lock and remove its file; its name is never used again."""
    lock.release()
    Path(lock.lock_file).unlink(missing_ok=True)


def sweep(store: Path) -> None:
    """Remove what killed processes left of their locks (after an hour: a new one may not be held yet)."""
    for file in store.parent.glob(f"{store.name}.*.desk"):
        with contextlib.suppress(FileNotFoundError):
            if file.stat().st_mtime < time.time() - SWEPT_S:
                is_dead(store, file.name.removeprefix(f"{store.name}.").removesuffix(".desk"))


def _said(status: dict[str, Any]) -> str:
    """What a provider says of a batch, in a few words for a person."""
    counts = status.get("request_counts") or {}
    total, failed = counts.get("total") or 0, counts.get("failed") or 0
    done = f" {(counts.get('completed') or 0) + failed}/{total}" if total else ""
    return f"{status.get('status') or 'unknown'}{done}" + (f", {failed} failed" if failed else "")
