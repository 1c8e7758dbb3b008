"""Reports of finished shards, so that a rerun skips them: JSON in GRAFT_HOME/runs/RUN/shards.

They are not Prefect's persisted results: such a file names the serializer that reads it, pickle if it likes, so that
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
    """What a finished shard did; the fields of flows.streaming.ShardReport."""

    settled: int
    accepted: dict[str, int]
    stopped_by: str
    overshoot: int
    tried: dict[str, int]


def report_file(home: Home, run_id: str, lake_id: str, spec: ShardSpec) -> Path:
    """Where the report of this share of a run lies; another lake's does not count."""
    return home.run(run_id) / "shards" / f"{stable_hash(lake_id, spec.model_dump())}.json"


def read_report(file: Path) -> dict[str, Any] | None:
    """The shard's report, None where there is none that can be read."""
    try:
        return Finished.model_validate_json(file.read_bytes()).model_dump()
    except (OSError, ValueError):
        return None


def keep_report(file: Path, report: dict[str, Any]) -> None:
    """Write it whole or not at all; on a full disk not at all."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_suffix(".tmp")
        beside.write_text(Finished.model_validate(report).model_dump_json(), encoding="utf-8")
        beside.replace(file)
