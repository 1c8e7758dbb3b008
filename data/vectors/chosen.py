"""Rows and seeds of a version: those to embed, in order, with the text that the encoder reads; fields for display."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graft.data.vectors.model import Kind, Placed, Point
from graft.schemas.errors import NotFound
from graft.schemas.sections import HIDDEN

if TYPE_CHECKING:
    import pyarrow as pa

    from graft.data.lake import Lake
    from graft.schemas.datasets import DatasetVersion

EMBEDDED_CHARS = 4_000
"""Characters of a text passed to the encoder, which reads 256 tokens."""

_OF_RUNS = """
    FROM lake.seeds s WHERE s.kind = 'seed' AND s.run_id IN
         (SELECT DISTINCT run_id FROM lake.version_rows WHERE dataset = $1 AND version = $2)"""
SEEDS = f"""
    SELECT s.id, min(s.text) AS text, min(s.response) AS response, min(s.label) AS label,
           bool_or(list_contains($3::VARCHAR[], s.run_id || ' ' || s.label)) AS restricted
    {_OF_RUNS} GROUP BY s.id"""
"""SQL of the distinct seeds of the runs that a version's rows come from.

$1 is the dataset, $2 the version, $3 the result of `restricted_seeds`.
"""
CHARS = 200
BATCH = 4_000
"""Maximum ids per query: DuckDB takes minutes for lists of more than 12,000."""


@dataclass(frozen=True)
class Chosen:
    """The selection in a temporary table; `count` is the number of each kind."""

    lake: Lake
    name: str
    count: dict[Kind, int]

    def block(self, kind: Kind, start: int, end: int) -> pa.Table:
        """Return positions `start` to `end` (exclusive): id, content, restricted, again (True if it is repeated)."""
        query = f"""
            SELECT id, content, restricted, again FROM {self.name}
            WHERE kind = ? AND place >= ? AND place < ? ORDER BY place"""
        return self.lake.sql(query, [kind, start, end])


def restricted_seeds(lake: Lake, found: DatasetVersion) -> list[str]:
    """Return run and label, separated by a space, of the version's seeds that their tasks restrict."""
    query = f"SELECT DISTINCT s.run_id, s.label {_OF_RUNS}"
    labels: dict[str, list[str]] = {}
    for row in lake.query(query, [found.dataset, found.version]):
        labels.setdefault(row["run_id"], []).append(row["label"])
    tasks = {name: run.task for name in labels if (run := lake.run(name))}
    return [f"{name} {label}" for name, task in tasks.items() for label in labels[name] if task.restricts(label)]


@contextlib.contextmanager
def chosen(lake: Lake, found: DatasetVersion, limit: int | None) -> Iterator[Chosen]:
    """Select at most `limit` rows (None: all) and as many seeds, by the hash of their ids, until the block ends.

    A seed that is a row of the version counts as a row. Raises NotFound if the version no longer exists.
    """
    name = f"vectors_{uuid.uuid4().hex}"
    body = "left(text || CASE WHEN response IS NULL OR response = '' THEN '' ELSE chr(10) || response END, $5)"
    query = f"""
        CREATE TEMP TABLE {name} AS
        WITH held AS (
            SELECT id, {body} AS content, restricted, row_number() OVER (ORDER BY md5_number_lower(id), id) - 1 AS place
            FROM lake.version_rows WHERE dataset = $1 AND version = $2),
        taken AS (SELECT * FROM held WHERE $4::BIGINT IS NULL OR place < $4),
        given AS (
            SELECT id, {body} AS content, restricted, row_number() OVER (ORDER BY md5_number_lower(id), id) - 1 AS place
            FROM ({SEEDS}) WHERE id NOT IN (SELECT id FROM taken))
        SELECT *, count(*) OVER (PARTITION BY hash(content)) > 1 AS again
        FROM (SELECT 'row' AS kind, * FROM taken
              UNION ALL SELECT 'seed', * FROM given WHERE $4::BIGINT IS NULL OR place < $4)"""
    lake.sql(query, [found.dataset, found.version, restricted_seeds(lake, found), limit, EMBEDDED_CHARS])
    try:
        counted = lake.query(f"SELECT kind, count(*) AS n FROM {name} GROUP BY kind")
        count: dict[Kind, int] = {"row": 0, "seed": 0, **{row["kind"]: int(row["n"]) for row in counted}}
        if not count["row"]:
            raise NotFound(f"{found.ref} no longer exists", where=found.dataset, fix="graft datasets")
        yield Chosen(lake, name, count)
    finally:
        lake.sql(f"DROP TABLE {name}")


def points_of(lake: Lake, found: DatasetVersion, points: Iterable[Point], *, restricted: bool = False) -> list[Placed]:
    """Return the points with their display fields, in order; points missing from the lake are left out.

    The words of restricted rows and seeds are replaced with "(restricted)" unless `restricted` is set.
    """
    wanted = list(points)
    held = {}
    for start in range(0, len(wanted), BATCH):
        for row in _rows(lake, found, wanted[start : start + BATCH], restricted):
            held[row["kind"], row["id"]] = row
    return [
        Placed.model_construct(x=point.x, y=point.y, **held[point.kind, point.id])
        for point in wanted
        if (point.kind, point.id) in held
    ]


def _rows(lake: Lake, found: DatasetVersion, points: list[Point], restricted: bool) -> list[dict[str, Any]]:
    query = f"""
        SELECT r.id, 'row' AS kind, r.label, r.split, r.source, r.restricted, c.mean AS score,
               CASE WHEN r.restricted AND NOT $6 THEN $7 ELSE left(r.text, $8) END AS text
        FROM lake.version_rows r
        LEFT JOIN lake.candidates c ON c.run_id = r.run_id AND c.candidate_id = r.candidate_id
        WHERE r.dataset = $1 AND r.version = $2 AND r.id IN (SELECT unnest($4::VARCHAR[]))
        UNION ALL
        SELECT id, 'seed', label, '', 'seed', restricted, NULL,
               CASE WHEN restricted AND NOT $6 THEN $7 ELSE left(text, $8) END
        FROM ({SEEDS}) WHERE id IN (SELECT unnest($5::VARCHAR[]))"""
    ids = [[point.id for point in points if point.kind == kind] for kind in ("row", "seed")]
    given = [found.dataset, found.version, restricted_seeds(lake, found), *ids, restricted, HIDDEN, CHARS]
    return list(lake.query(query, given))
