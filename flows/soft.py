"""What judges said of a version's rows, as probabilities that a student can learn from."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from graft.data.lake import Lake
from graft.flows import artifacts
from graft.schemas.datasets import DatasetVersion
from graft.students.rows import distribution


def soft_labels(lake: Lake, found: DatasetVersion, labels: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Row id to what its judges' probabilities say of the labels; what is no distribution is left out, and said."""
    query = """
        SELECT r.id, c.soft_label FROM lake.version_rows r
        JOIN lake.candidates c ON c.run_id = r.run_id AND c.candidate_id = r.candidate_id
        WHERE r.dataset = ? AND r.version = ?"""
    given = lake.sql(query, [found.dataset, found.version]).to_pylist()
    judged = {str(row["id"]): shares for row in given if (shares := orjson.loads(row["soft_label"] or "{}"))}
    soft = {name: each for name, shares in judged.items() if (each := distribution(shares, labels)) is not None}
    if len(soft) < len(judged):
        artifacts.say(f"{len(judged) - len(soft)} rows' soft labels are no distributions over the labels: left out")
    return soft
