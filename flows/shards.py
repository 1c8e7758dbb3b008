"""Reports of finished shards, so that a rerun skips them: JSON in GRAFT_HOME/runs/RUN/shards.

Prefect's persisted results are not used: such a file names its own serializer, possibly pickle, so that
somebody else's home could run code here. A report that is missing or unreadable costs a replay from the lake.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from graft.flows.plan import ShardSpec
from graft.schemas.base import Value, stable_hash
from graft.schemas.home import Home


class Finished(Value):
    """The result of a finished shard; the fields of flows.streaming.ShardReport."""

    settled: int
    accepted: dict[str, int]
    stopped_by: str
    overshoot: int
    tried: dict[str, int]


def report_file(home: Home, run_id: str, lake_id: str, spec: ShardSpec) -> Path:
    """The path of a shard's report; it depends on the lake."""
    return home.run(run_id) / "shards" / f"{stable_hash(lake_id, spec.model_dump())}.json"


def read_report(file: Path) -> dict[str, Any] | None:
    """The shard's report, or None if none can be read."""
    try:
        return Finished.model_validate_json(file.read_bytes()).model_dump()
    except (OSError, ValueError):
        return None


def keep_report(file: Path, report: dict[str, Any]) -> None:
    """Write the report atomically; on a full disk it is not written."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_suffix(".tmp")
        beside.write_text(Finished.model_validate(report).model_dump_json(), encoding="utf-8")
        beside.replace(file)
