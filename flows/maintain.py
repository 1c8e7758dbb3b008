"""The flow that maintains the lake: merges small files, expires old snapshots, deletes unused files."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from graft.data.lake import Lake
from graft.data.maintain import Maintenance
from graft.data.maintain import maintain as maintain_lake
from graft.flows.engine import Flow
from graft.schemas.errors import GraftError
from graft.schemas.home import Home

DAYS = 30.0
"""Minimum age of an expiring snapshot, in days."""


@Flow
def maintain(older_than: float = DAYS, dry_run: bool = False) -> dict[str, Any]:
    """Maintain the lake. `older_than` is in days; a snapshot that a published version names never expires."""
    return maintain_now(older_than=older_than, dry_run=dry_run).model_dump(mode="json")


def maintain_now(*, older_than: float = DAYS, dry_run: bool = False) -> Maintenance:
    """Maintain the lake without Prefect. Raises GraftError if `older_than` (days) is negative or too large."""
    try:
        age = timedelta(days=older_than)
    except (OverflowError, ValueError):
        age = timedelta(days=-1)
    if not timedelta() <= age <= timedelta(days=36_500):
        raise GraftError(f"{older_than:g} is not an age in days", where="--older-than", fix="a number from 0 to 36500")
    with Lake.open(Home.find()) as lake:
        return maintain_lake(lake, older_than=age, dry_run=dry_run)
