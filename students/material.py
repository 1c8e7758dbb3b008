"""Training rows of a classifier from a version: by split, with the soft labels of judges."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import orjson

from graft.data.lake import Lake
from graft.data.versions import rows as version_rows
from graft.schemas.datasets import DatasetVersion
from graft.schemas.rows import Seed
from graft.students.rows import TrainRow, as_one_text, distribution


@dataclass(frozen=True)
class Material:
    """Rows by split (train, validation, test), and their ids in the same order."""

    rows: dict[str, list[TrainRow]] = field(default_factory=lambda: defaultdict(list))
    ids: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def read_version(
    lake: Lake, found: DatasetVersion, labels: Sequence[str], say: Callable[[str], None], *, soft: bool = True
) -> Material:
    """A version's rows; a guard's response is part of the classified text. `soft`: with soft labels."""
    shares = soft_labels(lake, found, labels, say) if soft else {}
    material = Material()
    for row in version_rows(lake, found).to_pylist():
        text = as_one_text(row["text"], row["response"])
        material.rows[row["split"]].append(TrainRow(text, row["label"], shares.get(row["id"])))
        material.ids[row["split"]].append(row["id"])
    return material


def of_seeds(seeds: Sequence[Seed]) -> list[tuple[str, str]]:
    """Seeds as (text, label) pairs."""
    return [(as_one_text(seed.text, seed.response), seed.label) for seed in seeds]


def soft_labels(
    lake: Lake, found: DatasetVersion, labels: Sequence[str], say: Callable[[str], None]
) -> dict[str, tuple[float, ...]]:  # fmt: skip
    """Row id to its judges' probabilities of the labels; invalid distributions are left out, with a message."""
    query = """
        SELECT r.id, c.soft_label FROM lake.version_rows r
        JOIN lake.candidates c ON c.run_id = r.run_id AND c.candidate_id = r.candidate_id
        WHERE r.dataset = ? AND r.version = ?"""
    given = lake.sql(query, [found.dataset, found.version]).to_pylist()
    judged = {str(row["id"]): shares for row in given if (shares := orjson.loads(row["soft_label"] or "{}"))}
    soft = {name: each for name, shares in judged.items() if (each := distribution(shares, labels)) is not None}
    if len(soft) < len(judged):
        say(f"{len(judged) - len(soft)} rows have soft labels that are no distribution over the labels: left out")
    return soft
