"""One code path with two entrances: every flow runs as a Prefect flow run, or as a plain function of this process.

Where a Prefect server is configured (PREFECT_API_URL) or `graft up` runs one for the home, a flow goes through it.
Otherwise the same function runs without Prefect, which takes seconds to import and a server to talk to. Lake, journal,
log and live figures record the run either way.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast

from graft.flows import stopping
from graft.flows.settings import apply_prefect_environment
from graft.schemas.home import Home

if TYPE_CHECKING:
    from prefect.context import FlowRunContext
    from prefect.flows import Flow as PrefectFlow

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def flow_run() -> FlowRunContext | None:
    """The Prefect flow run that this code is part of, if any. Does not import Prefect."""
    context = sys.modules.get("prefect.context")
    return context.FlowRunContext.get() if context is not None else None


class Flow(Generic[P, R]):
    """A flow of Graft: a call goes through Prefect if a server is there (see the module), else straight to `fn`.

    For everything but a call it stands in for Prefect's flow, which is made on first use: deployments name it as their
    entry point, and Prefect reads its parameters.
    """

    def __init__(self, fn: Callable[P, R]) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn

    def __call__(self, *args: P.args, **given: P.kwargs) -> R:
        """Run the flow."""
        if flow_run() is None and not connect(Home.find()):
            return self.fn(*args, **given)
        return self.prefect(*args, **given)

    @functools.cached_property
    def prefect(self) -> PrefectFlow[P, R]:
        """Prefect's flow of this function, under the function's name."""
        from prefect import flow

        return flow(name=self.fn.__name__, validate_parameters=True)(self.fn)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """Prefect's class once Prefect is imported, so that it accepts this object as a flow."""
        flows = sys.modules.get("prefect.flows")
        return cast("type", getattr(flows, "Flow", Flow))

    def __getattr__(self, name: str) -> Any:
        """An attribute of Prefect's flow."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.prefect, name)


def task(name: str, run_name: str) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, Any]]:
    """A coroutine function that is a Prefect task inside a flow run, and itself elsewhere; nothing is persisted."""

    def wrap(fn: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Any]:
        @functools.cache
        def of_prefect() -> Any:
            from prefect import task
            from prefect.cache_policies import NO_CACHE

            return task(name=name, cache_policy=NO_CACHE, persist_result=False, task_run_name=run_name)(fn)

        @functools.wraps(fn)
        def call(*args: P.args, **given: P.kwargs) -> Any:
            return (fn if flow_run() is None else of_prefect())(*args, **given)

        return call

    return wrap


def connect(home: Home) -> bool:
    """Apply Prefect's settings for this home; returns whether there is a server for this process's flows."""
    apply_prefect_environment(home)
    context = sys.modules.get("prefect.context")
    if context is None:
        return bool(os.environ.get("PREFECT_API_URL"))
    context.refresh_global_settings_context()  # it read the environment when it was imported
    from prefect.settings import PREFECT_API_URL

    return bool(PREFECT_API_URL.value())


_begun: ContextVar[Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] | None] = ContextVar(
    "begun", default=None
)
"""Set for a function that `awaited` runs: the loop and the task of its coroutine, once it has begun."""


async def awaited(fn: Callable[P, R], *args: P.args, **given: P.kwargs) -> R:
    """The result of a synchronous function that may use `finished`, run on a thread of its own.

    Cancelling stops the function's coroutine in order: finished work is committed.
    """
    context, begun = copy_context(), Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]]()
    context.run(_begun.set, begun)
    pool = ThreadPoolExecutor(1)
    result = pool.submit(context.run, functools.partial(fn, *args, **given))
    pool.shutdown(wait=False)
    try:
        return await asyncio.wrap_future(result)
    except asyncio.CancelledError:
        if begun.done() and not result.done():
            await asyncio.to_thread(stopping.wind_down, *begun.result(), result)
        raise


def finished(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, for synchronous callers, also in a notebook's running loop.

    A notebook's interrupt stops the coroutine in order: finished work is committed.
    """
    begun = _begun.get() or Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]]()

    async def main() -> T:
        if not begun.done():
            begun.set_result((asyncio.get_running_loop(), cast("asyncio.Task[Any]", asyncio.current_task())))
        return await work

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(main())
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(asyncio.run, main())
        try:
            return result.result()
        except KeyboardInterrupt:  # of the cell: the other thread knows nothing of it
            if not result.done():
                stopping.wind_down(*begun.result(), result)
            raise
