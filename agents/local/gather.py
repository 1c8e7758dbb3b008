"""Micro-batching: texts that arrive together go to a model as one batch, in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from graft.schemas.errors import GraftError


class Gather:
    """Calls `work` on batches of texts.

    Args:
        work: returns one row per text, or raises for the whole batch.
        gather_s: seconds to wait for further texts of a batch.
    """

    def __init__(self, work: Callable[[Sequence[str]], Any], gather_s: float = 0.003) -> None:
        self._work, self._gather_s = work, gather_s
        self._waiting: list[tuple[str, asyncio.Future[Any]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def ask(self, text: str) -> Any:
        """Return the text's row. Raises the exceptions of `work`."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((text, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._go())
        return await future

    async def close(self) -> None:
        """Cancel pending texts."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        for _, future in self._waiting:
            future.cancel()
        self._waiting.clear()

    async def _go(self) -> None:
        while self._waiting:
            await asyncio.sleep(self._gather_s)
            batch, self._waiting = self._waiting, []
            try:
                rows = await asyncio.to_thread(self._work, [text for text, _ in batch])
            except (GraftError, RuntimeError, OSError, asyncio.CancelledError) as error:
                for _, future in batch:
                    if isinstance(error, asyncio.CancelledError):
                        future.cancel()
                    elif not future.done():
                        future.set_exception(error)
                if isinstance(error, asyncio.CancelledError):
                    raise
                continue
            for (_, future), row in zip(batch, rows, strict=True):
                if not future.done():
                    future.set_result(row)
