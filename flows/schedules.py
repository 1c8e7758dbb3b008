"""Deployments, their schedules and runs, through the API of this home's Prefect server.

For the command line and a polling page. Each function raises GraftError within about 3 s if the server is down or
hangs; `overview` returns that as a value instead. Prefect is imported inside the functions.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from graft.flows.deploy import POOL, DeploymentSpec, deploy
from graft.flows.parameters import ParameterInfo, checked, parameters_of
from graft.flows.prefect_api import ANSWER_SECONDS, client_of, deployment_url, flow_run_url, require_server
from graft.flows.settings import apply_prefect_environment
from graft.schemas.base import Value
from graft.schemas.errors import GraftError, NotFound
from graft.schemas.home import Home

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.client.schemas.responses import DeploymentResponse

PLANNING_SECONDS = 20.0
"""Seconds to wait for Prefect's scheduler to plan a new schedule's first runs (it works every 5 s)."""
RECIPE_FLOWS = ("make_dataset", "improve")
"""Flows whose `recipe` is a recipe's name or file; workers have another folder, so they get the full path."""
NEXT_RUNS = 3
PAGE = 200
"""Runs in one reply of the server."""
PAGES = 5
"""Maximum replies read for planned runs: the scheduler plans an hour, or 3 runs, of each schedule ahead."""


class ScheduleInfo(Value):
    """One schedule: its deployment, its times, and whether it is paused. Times have a zone."""

    deployment: str
    schedule: str
    timezone: str
    paused: bool
    parameters: dict[str, Any]
    next_runs: tuple[datetime, ...]


class RunInfo(Value):
    """One flow run in Prefect; `seconds` is its time in the running state, `url` its page."""

    id: str
    name: str
    deployment: str
    state: str
    started: datetime | None
    seconds: float
    url: str = ""


class StartedRun(Value):
    """A requested flow run; a worker starts it within about 15 s."""

    id: str
    name: str
    url: str


class Timer(Value):
    """One schedule of a deployment; an inactive schedule does not fire."""

    id: str
    cron: str
    timezone: str
    active: bool


class DeploymentInfo(Value):
    """A deployment (`name` is "flow/name"): parameters with their types, next runs and last run.

    `paused` stops all its schedules; it can still be started by hand.
    """

    name: str
    id: str
    description: str
    parameters: dict[str, Any]
    accepts: tuple[ParameterInfo, ...]
    schedules: tuple[Timer, ...]
    paused: bool
    next_runs: tuple[datetime, ...]
    last_run: RunInfo | None
    url: str
    tags: tuple[str, ...] = ()


class Overview(Value):
    """The contents of the schedules page; `up` is False, and the rest empty, if no server responds."""

    up: bool = False
    url: str | None = None
    worker_online: bool = False
    deployments: tuple[DeploymentInfo, ...] = ()
    runs: tuple[RunInfo, ...] = ()


def schedule(
    home: Home,
    recipe: str,
    cron: str,
    name: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    timezone: str = "UTC",
) -> ScheduleInfo:
    """Make `recipe` (a shipped name or a path) run at the times of `cron`; the same `name` again replaces it.

    `overrides` are parameters of make_dataset; `fresh` is true by default, so that each scheduled run makes
    new rows. Raises NotFound (no such recipe) and GraftError (bad cron, unknown override, server not up).
    """
    from graft.schemas.load import find_recipe

    file = find_recipe(recipe).resolve()
    spec = DeploymentSpec(
        entrypoint="graft.flows.make_dataset.make_dataset",
        name=name or file.stem,
        parameters={"recipe": str(file), "fresh": True, **(overrides or {})},
        cron=cron,
        timezone=timezone,
        description=f"Scheduled by `graft schedule {recipe}`",
        tags=("graft", "scheduled"),
    )
    return add_schedule(home, spec)


def add_schedule(home: Home, spec: DeploymentSpec) -> ScheduleInfo:
    """Create one scheduled deployment on the running server and return its next firing (planned within seconds)."""
    server = require_server(home)
    apply_prefect_environment(home)
    full_name = deploy(server, [spec], activate=True)[0]
    deadline = time.monotonic() + PLANNING_SECONDS
    while True:
        found = next(info for info in schedules(home) if info.deployment == full_name)
        if found.next_runs or found.paused or time.monotonic() > deadline:
            return found
        time.sleep(0.5)


def unschedule(home: Home, deployment: str) -> None:
    """Delete a deployment (`flow/name`, as `schedules` lists it) with its schedule. Raises NotFound."""
    with client_of(home) as client:
        client.delete_deployment(_find(client, deployment).id)


def schedules(home: Home) -> list[ScheduleInfo]:
    """Every schedule on the server with its planned firings."""
    return [
        ScheduleInfo(
            deployment=info.name,
            schedule=timer.cron,
            timezone=timer.timezone,
            paused=info.paused or not timer.active,
            parameters=info.parameters,
            next_runs=info.next_runs,
        )
        for info in deployments(home)
        for timer in info.schedules
    ]


def deployments(home: Home) -> list[DeploymentInfo]:
    """Every deployment on the server, by name, with the data for its panel and form."""
    with client_of(home) as client:
        return list(_look(client, 0).deployments)


def recent(home: Home, count: int = 20) -> list[RunInfo]:
    """The last runs, newest first; runs that wait for a worker come before all others."""
    with client_of(home) as client:
        names = _names(client, client.read_deployments())
        return _shown(client, names, _scheduled(client, pages=1), _begun(client, count))[:count]


def overview(home: Home, runs: int = 20, seconds: float = ANSWER_SECONDS) -> Overview:
    """Deployments, planned runs and last runs, in five requests. Does not raise if the server is down.

    `seconds` is the timeout of a request.
    """
    try:
        with client_of(home, seconds) as client:
            return _look(client, runs)
    except GraftError:
        return Overview()


def set_paused(home: Home, deployment: str, paused: bool, schedule: str | None = None) -> None:
    """Pause or resume a deployment's schedules, or only the schedule with the given id.

    `graft up` keeps the state. Raises NotFound for an unknown deployment or schedule.
    """
    with client_of(home) as client:
        found = _find(client, deployment)
        if schedule is None:
            (client.pause_deployment if paused else client.resume_deployment)(found.id)
            return
        timer = next((timer for timer in found.schedules if str(timer.id) == schedule), None)
        if timer is None:
            ids = ", ".join(str(timer.id) for timer in found.schedules) or "none"
            raise NotFound(f"no schedule {schedule!r}", where=deployment, fix=f"its schedules are: {ids}")
        client.update_deployment_schedule(found.id, timer.id, active=not paused)


def start(home: Home, deployment: str, parameters: Mapping[str, Any] | None = None) -> StartedRun:
    """Request a run of a deployment now; `parameters` override the deployment's.

    Raises:
        GraftError: names a parameter that is unknown, missing or of another type
        NotFound: an unknown deployment
        InputInvalid: an unknown recipe
    """
    from graft.schemas.load import find_recipe

    with client_of(home) as client:
        found = _find(client, deployment)
        given = checked(deployment, found.parameter_openapi_schema, found.parameters, parameters or {})
        if deployment.split("/")[0] in RECIPE_FLOWS and "recipe" in given:
            given["recipe"] = str(find_recipe(given["recipe"]).resolve())
        run = client.create_flow_run_from_deployment(found.id, parameters=given)
        return StartedRun(id=str(run.id), name=run.name, url=flow_run_url(str(client.api_url), str(run.id)))


def cancel(home: Home, flow_run_id: str) -> None:
    """Cancel a flow run: its worker stops it within about 20 s; a run that has not begun never begins.

    Raises NotFound, and GraftError if it has already ended or runs in a terminal.
    """
    from uuid import UUID

    from prefect.client.schemas.objects import State, StateType
    from prefect.client.schemas.responses import SetStateStatus
    from prefect.exceptions import ObjectNotFound

    with client_of(home) as client:
        try:
            run = client.read_flow_run(UUID(flow_run_id))
        except (ObjectNotFound, ValueError) as error:
            raise NotFound(f"no flow run {flow_run_id!r}", fix="the last runs: graft status") from error
        state = run.state
        if state is None or state.is_final():
            raise GraftError(f"{run.name} has ended already ({run.state_name})", where=flow_run_id)
        if run.deployment_id is None and not state.is_paused():
            raise GraftError(f"{run.name} runs in a terminal", where=flow_run_id, fix="press Ctrl-C there")
        response = client.set_flow_run_state(run.id, State(type=StateType.CANCELLING))
        if response.status == SetStateStatus.ABORT:
            reason = getattr(response.details, "reason", None) or "Prefect gives no reason"
            raise GraftError(f"{run.name} cannot be cancelled: {reason}", where=flow_run_id)


def _find(client: SyncPrefectClient, name: str) -> DeploymentResponse:
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_deployment_by_name(name)
    except (ObjectNotFound, ValueError) as error:
        known = ", ".join(sorted(_names(client, client.read_deployments()).values())) or "none"
        raise NotFound(f"no deployment {name!r}", fix=f"deployments: {known}") from error


def _look(client: SyncPrefectClient, runs: int) -> Overview:
    url, found = str(client.api_url), client.read_deployments()
    names, begun = _names(client, found), _begun(client, PAGE)
    scheduled = _scheduled(client, PAGES)
    planned: dict[Any, list[datetime]] = {}
    for run in scheduled:
        if _planned(run) and run.next_scheduled_start_time:
            planned.setdefault(run.deployment_id, []).append(run.next_scheduled_start_time)
    last = _last_of_each(client, found, begun)
    shown = [
        _deployment(item, names[item.id], url, planned.get(item.id, ()), _run(last.get(item.id), names, url))
        for item in sorted(found, key=lambda item: names[item.id])
    ]
    return Overview(
        up=True,
        url=url,
        worker_online=worker_online(client),
        deployments=tuple(shown),
        runs=tuple(_shown(client, names, scheduled, begun)[:runs]),
    )


def worker_online(client: SyncPrefectClient) -> bool:
    """Return True if a worker of the pool `graft` has reported recently."""
    from prefect.exceptions import ObjectNotFound

    try:
        workers = client.read_workers_for_work_pool(POOL)
    except ObjectNotFound:
        return False
    return any(str(worker.status) in ("ONLINE", "WorkerStatus.ONLINE") for worker in workers)


def _names(client: SyncPrefectClient, found: Iterable[DeploymentResponse]) -> dict[Any, str]:
    """Deployment's id to "flow/name"."""
    flows = {flow.id: flow.name for flow in client.read_flows()}
    return {item.id: f"{flows.get(item.flow_id, '?')}/{item.name}" for item in found}


def _deployment(
    item: DeploymentResponse, name: str, url: str, planned: Sequence[datetime], last: RunInfo | None
) -> DeploymentInfo:
    timers = [
        Timer(
            id=str(timer.id),
            cron=str(getattr(timer.schedule, "cron", None) or timer.schedule),
            timezone=getattr(timer.schedule, "timezone", None) or "UTC",
            active=bool(timer.active),
        )
        for timer in item.schedules
    ]
    return DeploymentInfo(
        name=name,
        id=str(item.id),
        description=item.description or "",
        parameters=item.parameters,
        accepts=parameters_of(item.parameter_openapi_schema, item.parameters),
        schedules=tuple(timers),
        paused=item.paused,
        next_runs=tuple(planned[:NEXT_RUNS]),
        last_run=last,
        url=deployment_url(url, str(item.id)),
        tags=tuple(item.tags),
    )


def _scheduled(client: SyncPrefectClient, pages: int) -> list[FlowRun]:
    """Runs that have not begun, soonest first; further replies are read while they are full."""
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort

    which = FlowRunFilter.model_validate({"state": {"type": {"any_": ["SCHEDULED"]}}})
    soonest, found = FlowRunSort.EXPECTED_START_TIME_ASC, list["FlowRun"]()
    for page in range(pages):
        new = client.read_flow_runs(flow_run_filter=which, sort=soonest, limit=PAGE, offset=page * PAGE)
        found += new
        if len(new) < PAGE:
            break
    return found


def _begun(client: SyncPrefectClient, count: int, deployments: Sequence[Any] = ()) -> list[FlowRun]:
    """Runs that have begun, newest first; only of these deployments if some are named."""
    from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort

    which = FlowRunFilter.model_validate({"state": {"type": {"not_any_": ["SCHEDULED"]}}})
    of = DeploymentFilter.model_validate({"id": {"any_": list(deployments)}}) if deployments else None
    newest = FlowRunSort.EXPECTED_START_TIME_DESC
    return client.read_flow_runs(flow_run_filter=which, deployment_filter=of, sort=newest, limit=min(count, PAGE))


def _last_of_each(
    client: SyncPrefectClient, found: Sequence[DeploymentResponse], begun: Sequence[FlowRun]
) -> dict[Any, FlowRun]:
    """Deployment's id to its newest run; if the first reply was full, missing deployments are requested again."""
    last = {run.deployment_id: run for run in reversed(begun)}
    silent = [item.id for item in found if item.id not in last]
    if silent and len(begun) == PAGE:
        last |= {run.deployment_id: run for run in reversed(_begun(client, PAGE, silent))}
    return last


def _planned(run: FlowRun) -> bool:
    """Return True if a schedule will begin it in time; requested and late runs wait for a worker."""
    return bool(run.auto_scheduled) and run.state_name != "Late"


def _shown(
    client: SyncPrefectClient, names: Mapping[Any, str], scheduled: Iterable[FlowRun], begun: Iterable[FlowRun]
) -> list[RunInfo]:
    waiting = [run for run in scheduled if not _planned(run)]
    infos = (_run(run, names, str(client.api_url)) for run in (*reversed(waiting), *begun))
    return [info for info in infos if info is not None]


def _run(run: FlowRun | None, names: Mapping[Any, str], url: str) -> RunInfo | None:
    if run is None:
        return None
    return RunInfo(
        id=str(run.id),
        name=run.name,
        deployment=names.get(run.deployment_id, ""),
        state=run.state_name or "",
        started=run.start_time,
        seconds=run.total_run_time.total_seconds(),
        url=flow_run_url(url, str(run.id)),
    )
