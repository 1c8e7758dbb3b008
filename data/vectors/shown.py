"""Display fields of the map's points: label, split, source, score and the first words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from graft.data.vectors.chosen import SEEDS, restricted_seeds
from graft.data.vectors.model import Placed, Point
from graft.schemas.sections import HIDDEN

if TYPE_CHECKING:
    from graft.data.lake import Lake
    from graft.schemas.datasets import DatasetVersion

CHARS = 200
BATCH = 4_000
"""Maximum ids per query: DuckDB takes minutes for lists of more than 12,000."""


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
    return list(lake.sql(query, given).to_pylist())
