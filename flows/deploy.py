"""Create deployments (from prefect.yaml, and added schedules) on a running Prefect server.

It uses Prefect's Python API, so it works offline and without git.
Prefect is imported inside the functions.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.flows.prefect_api import connected
from graft.flows.state import Access
from graft.schemas.errors import GraftError, InputInvalid, NotFound, Problem
from graft.schemas.home import PACKAGE

if TYPE_CHECKING:
    from prefect.flows import Flow

POOL = "graft"

GPU_POOL = "graft-gpu"
"""The work pool of machines with GPUs: deployments tagged GPU_TAG go there if the server has it."""

GPU_TAG = "gpu"

GPU_POOL_NAME = "GRAFT_GPU_POOL"
"""The environment variable that names such a pool; the pool is created if the server lacks it."""

CRON_EXAMPLE = "'0 3 * * *' is every night at 03:00, '*/30 * * * *' every half hour, '0 9 * * 1' Mondays at 09:00"


@dataclass(frozen=True)
class DeploymentSpec:
    """One deployment. `entrypoint` is a flow: `module.function`, or `file.py:function` under `root`."""

    entrypoint: str
    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    cron: str | None = None
    timezone: str = "UTC"
    description: str = ""
    tags: tuple[str, ...] = ()
    root: Path = PACKAGE


def read_deployments(file: Path = PACKAGE / "prefect.yaml") -> list[DeploymentSpec]:
    """The deployments of a prefect.yaml. Raises InputInvalid naming the entry that lacks a name or entrypoint."""
    import yaml

    from graft.schemas.plain_yaml import plain

    if not file.is_file():
        raise NotFound("no prefect.yaml", where=str(file), fix="reinstall Graft")
    try:
        entries = (plain(file.read_text(encoding="utf-8")) or {}).get("deployments") or []
    except (yaml.YAMLError, AttributeError) as error:
        raise InputInvalid(
            [Problem(str(file), None, "", f"not a YAML mapping: {error}", "see docs/schedules.md")]
        ) from error
    specs, problems = [], []
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not entry.get("name") or not entry.get("entrypoint"):
            fix = "give it a name and an entrypoint, such as graft.flows.make_dataset.make_dataset"
            problems.append(Problem(str(file), None, f"deployments.{index}", "name or entrypoint is missing", fix))
            continue
        schedule: dict[str, Any] = next(iter(entry.get("schedules") or []), {})
        specs.append(
            DeploymentSpec(
                entrypoint=str(entry["entrypoint"]),
                name=str(entry["name"]),
                parameters=entry.get("parameters") or {},
                cron=schedule.get("cron"),
                timezone=schedule.get("timezone") or "UTC",
                description=entry.get("description") or "",
                tags=tuple(entry.get("tags") or ()),
                root=file.parent,
            )
        )
    if problems:
        raise InputInvalid(problems)
    return specs


def check_cron(cron: str, timezone: str = "UTC") -> None:
    """Raise GraftError with examples if Prefect cannot parse the expression or the time zone."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    from prefect.client.schemas.schedules import CronSchedule
    from pydantic import ValidationError

    try:
        ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        fix = "use an IANA name, such as UTC or Europe/Berlin"
        raise GraftError(f"unknown time zone {timezone!r}", where="--timezone", fix=fix) from error
    try:
        CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        what = f"{cron!r} is not a cron expression (minute hour day-of-month month day-of-week)"
        raise GraftError(what, where="--cron", fix=CRON_EXAMPLE) from error


def deploy(
    server: Access | str, specs: Sequence[DeploymentSpec], pool: str = POOL, activate: bool = False
) -> list[str]:
    """Create or update each deployment on the server; returns their full names (`flow/name`).

    A deployment tagged "gpu" goes to the pool that GRAFT_GPU_POOL names, else to `graft-gpu` if the server has it, else
    to `pool` like the others. A paused deployment stays paused unless `activate`. Raises GraftError if a flow cannot be
    loaded, a parameter is not one of the flow's, or a cron is bad.
    """
    for spec in specs:
        if spec.cron:
            check_cron(spec.cron, spec.timezone)
    with connected(server):
        gpu_pool = _gpu_pool(pool) if any(GPU_TAG in spec.tags for spec in specs) else pool
        return [_deploy_one(spec, gpu_pool if GPU_TAG in spec.tags else pool, activate) for spec in specs]


def _gpu_pool(otherwise: str) -> str:
    """The work pool for GPU deployments; a pool named by GRAFT_GPU_POOL is created."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    name = os.environ.get(GPU_POOL_NAME, "").strip()
    with get_client(sync_client=True) as client:
        if name:
            with suppress(ObjectAlreadyExists):
                client.create_work_pool(WorkPoolCreate(name=name, type="process", description="Machines with GPUs"))
            return name
        try:
            return client.read_work_pool(GPU_POOL).name
        except ObjectNotFound:
            return otherwise


def _deploy_one(spec: DeploymentSpec, pool: str, activate: bool) -> str:
    from prefect.schedules import Cron
    from prefect.types.entrypoint import EntrypointType

    flow = load_checked(spec)
    resting, silent = (False, False) if activate else _paused(f"{flow.name}/{spec.name}")
    active = not silent
    schedules = [Cron(spec.cron, timezone=spec.timezone, slug="graft", active=active)] if spec.cron else None
    in_file = ":" in spec.entrypoint  # a file runs under another name: a second copy of a module of ours
    deployment = flow.to_deployment(
        name=spec.name,
        parameters=dict(spec.parameters),
        schedules=schedules,
        description=spec.description or None,
        tags=list(spec.tags) or None,
        work_pool_name=pool,
        paused=resting,
        entrypoint_type=EntrypointType.FILE_PATH if in_file else EntrypointType.MODULE_PATH,
    )
    if inspect.isawaitable(deployment):
        raise TypeError("deploy() is for synchronous code: call it in a thread (asyncio.to_thread)")
    deployment.apply()
    return f"{flow.name}/{spec.name}"


def load_checked(spec: DeploymentSpec) -> Flow[..., Any]:
    """The deployment's flow. Raises GraftError if it cannot be loaded or would reject the parameters.

    A deployment without a schedule may lack required parameters: the person who starts it provides them.
    """
    from prefect.exceptions import ParameterTypeError

    flow = _load(spec)
    known, where = list(flow.parameters.properties), f"deployment {spec.name}"
    unknown = sorted(set(spec.parameters) - set(known))
    if unknown:
        what = f"no parameter {unknown[0]!r}; {flow.name} takes {', '.join(known) or 'none'}"
        raise GraftError(what, where=where, fix="leave it out, or use one of those")
    if spec.cron:
        try:
            flow.validate_parameters(dict(spec.parameters))
        except ParameterTypeError as error:
            raise GraftError(str(error), where=where, fix=f"give {flow.name} values of these types") from error
    return flow


def _paused(full_name: str) -> tuple[bool, bool]:
    """Return two flags: the deployment is paused; at least one of its schedules is paused."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            found = client.read_deployment_by_name(full_name)
        except ObjectNotFound:
            return False, False
    return found.paused, any(not schedule.active for schedule in found.schedules)


def _load(spec: DeploymentSpec) -> Flow[..., Any]:
    from prefect.exceptions import MissingFlowError, ScriptError
    from prefect.flows import Flow, load_flow_from_entrypoint

    try:
        if ":" not in spec.entrypoint:
            return load_flow_from_entrypoint(spec.entrypoint, use_placeholder_flow=False)
        flow = Flow.from_source(source=str(spec.root), entrypoint=spec.entrypoint)
    except (ScriptError, MissingFlowError, OSError, ImportError, AttributeError, ValueError, SyntaxError) as error:
        cause = getattr(error, "user_exc", error)
        what = f"cannot load the flow: {type(cause).__name__}: {cause}"
        fix = "the module or file must exist, import cleanly and define that flow"
        raise GraftError(what, where=spec.entrypoint, fix=fix) from error
    if inspect.isawaitable(flow):
        raise TypeError("deploy() is for synchronous code: call it in a thread (asyncio.to_thread)")
    return flow
