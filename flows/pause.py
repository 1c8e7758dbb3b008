"""A run that pauses until people have reviewed its rows, and then applies their decisions.

The version is published before the wait, so nothing is lost if nobody comes. A waiting run is noted in
GRAFT_HOME/runs/<run id>/waiting.json. In a Prefect flow run, the wait is Prefect's pause, which any process can end
through the server's API; in any other run, it ends when handed_in.json appears beside the note. Prefect is imported
inside the functions.

A review ends when a person resumes the run, or at the end of the wait with `unanswered: go_on`; the end is
noted in reviewed.json, and the same command then returns the same version without another wait. A run that was killed,
cancelled, or stopped by `unanswered: stop` leaves the review open: the same command waits again.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID, uuid4

from pydantic import Field

from graft.flows.engine import flow_run
from graft.flows.prefect_api import access_to, client_at
from graft.flows.settings import apply_prefect_environment
from graft.schemas.base import Value, utc_now
from graft.schemas.durable import put
from graft.schemas.errors import GraftError, NotFound
from graft.schemas.home import Home
from graft.schemas.live import process_of
from graft.schemas.recipe import ReviewBy, ReviewSettings

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

    from graft.data.edits import Rebased

T = TypeVar("T", bound=Value)

NOTE, HANDED_IN, CLOSED = "waiting.json", "handed_in.json", "reviewed.json"
POLL_SECONDS = 2
"""Seconds between two checks of a paused run."""
SERVER_PATIENCE = 30 * 24 * 3600
"""Seconds beyond the recipe's wait after which Prefect fails a paused run. The run ends its wait by its own wall clock,
which a machine's sleep does not stop."""
TRIES = 10
"""Attempts to resume: Prefect's pause begins a few requests after the note is written."""
NOT_REVIEWED = ("refusals", "disagreement", "out_of_reach")
"""Reasons of stops that end a run with an error: there is nothing to review."""


class Waiting(Value):
    """A waiting run: the version under review, the number and choice of rows, and the server that resumes it."""

    run_id: str
    dataset: str
    """The version under review: "name@number"."""
    rows: int
    by: ReviewBy
    unanswered: str
    api_url: str
    """Prefect's server; this and `flow_run_id` are empty if the run is none of Prefect's."""
    flow_run_id: str
    since: datetime
    until: datetime
    host: str
    pid: int
    born: float
    """Start time of the process in Unix seconds, which identifies it with its id."""


class Reviewed(Value):
    """A person's confirmation that a review is done; Prefect's page shows it as a form."""

    by: str = Field(min_length=1, max_length=200, description="who reviewed")
    note: str = Field(default="", max_length=2_000, description="a note about the review")


class Closed(Value):
    """The end of a wait. `by` is empty if nobody came; `version` is the run's result."""

    onto: str
    version: str
    by: str = ""
    note: str = ""
    said: str
    at: datetime


def waiting(home: Home) -> list[Waiting]:
    """The runs that wait for a review, longest first; runs without a live process are left out."""
    notes = (_read(file, Waiting) for file in home.runs.glob(f"*/{NOTE}"))
    return sorted((note for note in notes if note is not None and _lives(note)), key=lambda note: note.since)


def resume(home: Home, run_id: str, *, by: str, note: str = "") -> None:
    """Resume a waiting run (by id or unique prefix) after its review. It continues within seconds.

    Raises NotFound if it does not wait, GraftError if no reviewer is named or Prefect's server does not respond.
    """
    here = waiting(home)
    found = [one for one in here if one.run_id == run_id] or [one for one in here if one.run_id.startswith(run_id)]
    if not run_id or len(found) != 1:
        fix = f"these wait: {', '.join(one.run_id for one in here)}" if here else "no run is waiting; see: graft status"
        raise NotFound(f"no run {run_id!r} waits for a review", where=str(home.runs), fix=fix)
    if not by.strip() or len(by) > 200 or len(note) > 2_000:
        raise GraftError("a review needs a name of up to 200 characters, and a note of 2,000", where="--by")
    reviewed = Reviewed(by=by.strip(), note=note)
    if found[0].flow_run_id:
        apply_prefect_environment(home)
        _hand_in(home, found[0], reviewed)
    else:
        _write(home.run(found[0].run_id) / HANDED_IN, reviewed)
    _note_file(home, found[0].run_id).unlink(missing_ok=True)


async def review(
    home: Home, settings: ReviewSettings, result: dict[str, Any], say: Callable[[str], None]
) -> dict[str, Any]:
    """Wait inside a flow for people's review of the published version; returns the result with their edits.

    If the review ended before, its result is returned. Raises GraftError if nobody came
    and the recipe has `unanswered: stop`, or if Prefect's run was cancelled.
    """
    from graft.flows.run_context import run_lock

    run, version = result["run"], result["version"]
    if version is None or run["stopped_by"] in NOT_REVIEWED:
        return result
    run_id, ref = run["id"], f"{version['dataset']}@{version['version']}"
    with run_lock(home, run_id):
        closed = _read(home.run(run_id) / CLOSED, Closed)
        if closed is None or closed.onto != ref:
            note = _note(run_id, ref, settings)
            reviewed = await _wait(home, note, say)
            closed = await asyncio.to_thread(_close, home, note, reviewed)
        return await asyncio.to_thread(_result, home, result, closed)


async def _wait(home: Home, note: Waiting, say: Callable[[str], None]) -> Reviewed | None:
    """Wait with a note on disk; returns the review, or None if time ran out."""
    file = _note_file(home, note.run_id)
    (file.parent / HANDED_IN).unlink(missing_ok=True)
    _write(file, note)
    say(f"{note.dataset} waits for review: graft dashboard, page Review; then: graft resume {note.run_id}")
    try:
        reviewed = await (_answer(home, note) if note.flow_run_id else _handed_in(home, note))
    finally:
        file.unlink(missing_ok=True)
    if reviewed is None and note.unanswered == "stop":
        what = f"no review of {note.dataset} within {_span(note)}; it stays published unchanged"
        fix = "review it and run the same command, which waits again, or set review.unanswered: go_on"
        raise GraftError(what, where=note.run_id, fix=fix)
    return reviewed


async def _handed_in(home: Home, note: Waiting) -> Reviewed | None:
    """Wait for the file that `resume` writes; None once time is up."""
    file = home.run(note.run_id) / HANDED_IN
    while True:
        late = utc_now() >= note.until
        reviewed = _read(file, Reviewed)
        if reviewed is not None or late:
            file.unlink(missing_ok=True)
            return reviewed
        await asyncio.sleep(_nap(note))


async def _answer(home: Home, note: Waiting) -> Reviewed | None:
    """Pause in Prefect until someone resumes the flow run; the run resumes itself when time runs out."""
    from prefect.flow_runs import apause_flow_run

    seconds = int((note.until - note.since).total_seconds()) + SERVER_PATIENCE
    pausing = asyncio.ensure_future(
        apause_flow_run(wait_for_input=Reviewed, timeout=seconds, poll_interval=POLL_SECONDS, key=f"review-{uuid4()}")
    )
    late = False
    try:
        while not (await asyncio.wait([pausing], timeout=_nap(note)))[0]:
            if not late and utc_now() >= note.until:
                late = await asyncio.to_thread(_time_is_up, home, note)
            await asyncio.to_thread(_check_not_cancelled, home, note)
        return None if late else Reviewed.model_validate(_word(note, pausing).model_dump())
    finally:
        pausing.cancel()
        await asyncio.gather(pausing, return_exceptions=True)


def _word(note: Waiting, pausing: asyncio.Future[Reviewed]) -> Reviewed:
    import httpx

    try:
        return pausing.result()
    except httpx.TransportError as error:
        what = "Prefect's server stopped while the run waited for review"
        raise GraftError(what, where=note.api_url, fix="run the same command: it waits again") from error


def _nap(note: Waiting) -> float:
    return max(0.1, min(POLL_SECONDS, (note.until - utc_now()).total_seconds()))


def _time_is_up(home: Home, note: Waiting) -> bool:
    """Resume the run without a review; False if another resumed it first or the server does not respond."""
    try:
        _hand_in(home, note, Reviewed(by="nobody", note="time ran out"), tries=1)
    except GraftError:
        return False
    return True


def _check_not_cancelled(home: Home, note: Waiting) -> None:
    try:
        with client_at(access_to(home, note.api_url)) as client:
            state: State[Any] | None = client.read_flow_run(UUID(note.flow_run_id)).state
    except GraftError:
        return
    if state is not None and (state.is_cancelling() or state.is_final()):
        fix = "run the same command: it waits again"
        raise GraftError(f"cancelled while {note.dataset} waited for review", where=note.run_id, fix=fix)


def _hand_in(home: Home, note: Waiting, word: Reviewed, tries: int = TRIES) -> None:
    from prefect.client.schemas.responses import SetStateStatus

    reason = ""
    for attempt in range(tries):
        time.sleep(0.3 if attempt else 0)
        with client_at(access_to(home, note.api_url)) as client:
            response = client.resume_flow_run(UUID(note.flow_run_id), run_input=word.model_dump())
        if response.status == SetStateStatus.ACCEPT:
            return
        reason = str(getattr(response.details, "reason", ""))
    raise NotFound(f"the run does not wait: {reason}", where=note.run_id, fix="see: graft status")


def _note(run_id: str, ref: str, settings: ReviewSettings) -> Waiting:
    import psutil

    context = flow_run()
    url, flow_run_id = "", ""
    if context is not None and context.flow_run is not None:
        url, flow_run_id = str(context.client.api_url).rstrip("/"), str(context.flow_run.id)
    since = utc_now()
    return Waiting(
        run_id=run_id, dataset=ref, rows=settings.rows, by=settings.by, unanswered=settings.unanswered,
        api_url=url, flow_run_id=flow_run_id, since=since,
        until=since + timedelta(minutes=settings.wait_minutes), host=socket.gethostname(), pid=os.getpid(),
        born=psutil.Process().create_time(),
    )  # fmt: skip


def _close(home: Home, note: Waiting, reviewed: Reviewed | None) -> Closed:
    """Apply people's decisions to the version and note the end of the review."""
    from graft.data.edits import rebase
    from graft.data.lake import Lake
    from graft.data.versions import version

    with Lake.open(home) as lake:
        made = rebase(lake, version(lake, note.dataset))
    who = f"reviewed by {reviewed.by}" if reviewed else f"not reviewed within {_span(note)}"
    comment = f": {reviewed.note}" if reviewed and reviewed.note else ""
    closed = Closed(
        onto=note.dataset,
        version=made.version or note.dataset,
        by=reviewed.by if reviewed else "",
        note=reviewed.note if reviewed else "",
        said=f"{note.dataset} {who}{comment}. {_changes(note.dataset, made)}",
        at=utc_now(),
    )
    _write(home.run(note.run_id) / CLOSED, closed)
    return closed


def _changes(ref: str, made: Rebased) -> str:
    counts = [
        (len(made.relabelled), "relabelled"), (len(made.edited), "edited"), (len(made.rejected), "rejected"),
        (len(made.conflicts), "in conflict, not applied"),
    ]  # fmt: skip
    changes = ", ".join(f"{count} {word}" for count, word in counts if count)
    if made.version is None:
        return f"{ref} stays unchanged{f' ({changes})' if changes else ''}."
    return f"{made.version} holds the decisions: {changes}."


def _result(home: Home, result: dict[str, Any], closed: Closed) -> dict[str, Any]:
    from graft.data.lake import Lake
    from graft.data.versions import version

    notes, found = [*result.get("notes", ()), closed.said], result["version"]
    try:
        with Lake.open(home, read_only=True) as lake:
            found = version(lake, closed.version).model_dump(mode="json")
    except NotFound:
        notes.append(f"{closed.version} was deleted since; the result is {closed.onto}")
    return {**result, "version": found, "notes": notes, "review": closed.model_dump(mode="json")}


def _span(note: Waiting) -> str:
    minutes = (note.until - note.since).total_seconds() / 60
    return f"{minutes / 60:g} hours" if minutes >= 60 else f"{minutes:.2g} minutes"


def _note_file(home: Home, run_id: str) -> Path:
    return home.run(run_id) / NOTE


def _write(file: Path, value: Value) -> None:
    """Write a file atomically, by renaming."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    beside.write_text(value.model_dump_json(indent=1), encoding="utf-8")
    put(beside, file)


def _read(file: Path, kind: type[T]) -> T | None:
    try:
        return kind.model_validate_json(file.read_bytes())
    except (OSError, ValueError):
        return None


def _lives(note: Waiting) -> bool:
    """Return True if the waiting process is alive; on another machine it is assumed alive until its time is up."""
    if note.host != socket.gethostname():
        return utc_now() < note.until
    return process_of(note.pid, note.born) is not None
