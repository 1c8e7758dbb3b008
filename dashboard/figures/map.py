"""Figures of the map: points with their colours, clusters of near duplicates, close pairs with different labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graft.dashboard.figures import Rows, rows_of
from graft.data.vectors import Placed, Point, Vectors, points_of
from graft.schemas.sections import HIDDEN

if TYPE_CHECKING:
    from graft.data.lake import Lake
    from graft.data.vectors import Cluster
    from graft.schemas.datasets import DatasetVersion

COMPARED = 20_000
"""Maximum number of rows compared in search of close pairs with different labels."""
SEEDS = 4_000
"""Maximum number of seeds that rows are compared with."""
BLOCK = 512
PAIRS = 20
CLUSTERS = 30
"""Maximum number of clusters on the page."""
EXAMPLE = 160
"""Characters shown of an example."""


def points(lake: Lake, found: DatasetVersion, vectors: Vectors) -> list[Placed]:
    """The map's points, seeds first; text of restricted rows is hidden."""
    return points_of(lake, found, vectors.points())


def placed(lake: Lake, found: DatasetVersion, ids: Sequence[str], seeds: Sequence[str] = ()) -> dict[str, Placed]:
    """Texts and labels of these rows and seeds, by id; text of restricted rows is hidden."""
    wanted = [Point(id=one, kind="row", x=0, y=0) for one in ids]
    wanted += [Point(id=one, kind="seed", x=0, y=0) for one in seeds]
    return {one.id: one for one in points_of(lake, found, wanted)}


def other_labels(lake: Lake, found: DatasetVersion, vectors: Vectors) -> list[tuple[str, str, float]]:
    """The closest pairs of a row with a row or seed of another label, closest first: (row, other, cosine).

    The first 20,000 rows by the hash of their ids are compared with each other and with the seeds. Each row or seed is
    in one pair at most, so that an outlier does not fill the list.
    """
    import numpy as np

    row_ids, rows = vectors.matrix("row", COMPARED)
    seed_ids, seeds = vectors.matrix("seed", SEEDS)
    known = _labels(lake, found, row_ids) | {one.id: one.label for one in placed(lake, found, (), seed_ids).values()}
    ids, numbers = row_ids + seed_ids, np.concatenate([rows, seeds])
    labels = [known.get(one, "") for one in ids]
    codes = np.unique(np.array(labels, dtype=np.str_), return_inverse=True)[1].reshape(-1)
    codes = np.where(np.array([bool(label) for label in labels], dtype=bool), codes, -1)
    near = list[tuple[float, int, int]]()
    floor = -1.0
    for start in range(0, len(row_ids), BLOCK):
        mine = codes[start : start + BLOCK, None]
        cosines = numbers[start : min(start + BLOCK, len(row_ids))] @ numbers[start:].T
        mine = mine[: len(cosines)]
        cosines[(mine == codes[None, start:]) | (mine < 0) | (codes[None, start:] < 0)] = -1.0
        best, at = cosines.max(axis=1), cosines.argmax(axis=1)
        for place in np.flatnonzero(best > floor).tolist():
            near.append((float(best[place]), start + place, start + int(at[place])))
        near = sorted(near, key=lambda pair: (-pair[0], ids[pair[1]], ids[pair[2]]))[: PAIRS * 20]
        floor = near[-1][0] if len(near) == PAIRS * 20 else -1.0
    taken, chosen = set[int](), list[tuple[str, str, float]]()
    for cosine, one, other in near:
        if not {one, other} & taken and len(chosen) < PAIRS:
            taken |= {one, other}
            chosen.append((ids[one], ids[other], round(min(cosine, 1.0), 4)))
    return chosen


def _labels(lake: Lake, found: DatasetVersion, ids: Sequence[str]) -> dict[str, str]:
    query = """
        SELECT id, label FROM lake.version_rows
        WHERE dataset = ? AND version = ? AND id IN (SELECT unnest(?::VARCHAR[]))"""
    return {row["id"]: row["label"] for row in rows_of(lake, query, [found.dataset, found.version, list(ids)])}


def cluster_rows(lake: Lake, found: DatasetVersion, clusters: Sequence[Cluster]) -> Rows:
    """For each cluster: first (the id of its first row), size, lowest, highest, labels, example, restricted."""
    places = [place for place, one in enumerate(clusters) for _ in one.members]
    members = [member for one in clusters for member in one.members]
    query = """
        WITH member AS (SELECT unnest($3::BIGINT[]) AS place, unnest($4::VARCHAR[]) AS id),
             held AS (SELECT place, id, label, restricted, text FROM member JOIN (
                      SELECT id, label, restricted, text FROM lake.version_rows WHERE dataset = $1 AND version = $2
                      AND id IN (SELECT unnest($4::VARCHAR[]))) USING (id))
        SELECT place, label, count(*) AS rows, bool_or(restricted) AS restricted,
               min_by(CASE WHEN restricted THEN $5 ELSE left(text, $6) END, id) AS example, min(id) AS first
        FROM held GROUP BY place, label ORDER BY place, rows DESC, label"""
    given = [found.dataset, found.version, places, members, HIDDEN, EXAMPLE]
    by_place: dict[int, Rows] = {}
    for row in rows_of(lake, query, given):
        by_place.setdefault(row["place"], []).append(row)
    made = []
    for place, parts in by_place.items():
        one = clusters[place]
        made.append({
            "first": one.members[0], "size": len(one.members), "lowest": one.lowest, "highest": one.highest,
            "labels": ", ".join(f"{part['label']} {part['rows']}" for part in parts), "several": len(parts) > 1,
            "example": min(parts, key=lambda part: part["first"])["example"],
        })  # fmt: skip
    return made


def pair_rows(lake: Lake, found: DatasetVersion, pairs: Sequence[tuple[str, str, float]]) -> Rows:
    """Pairs with both labels and texts; text of restricted rows is hidden."""
    ids = [one for pair in pairs for one in pair[:2]]
    known = placed(lake, found, (), ids) | placed(lake, found, ids)
    made = Rows()
    for one, other, cosine in pairs:
        if one in known and other in known:
            left, right = known[one], known[other]
            made.append({
                "cosine": cosine, "id": one, "label": left.label, "text": left.text[:EXAMPLE], "other": other,
                "other_label": right.label, "other_text": right.text[:EXAMPLE], "kind": right.kind,
            })  # fmt: skip
    return made


SCORES = ("under 5", "5 to 6", "6 to 7", "7 to 8", "8 to 9", "9 and more", "not scored")


def score_of(point: Placed) -> str:
    """The band of a point's score."""
    if point.score is None:
        return SCORES[-1]
    return SCORES[min(5, max(0, int(point.score) - 4))]


def value_of(point: Placed, colour: str) -> str:
    """The value that colours a point."""
    if colour == "score":
        return score_of(point)
    if colour == "split":
        return point.split or "seed"
    return str(getattr(point, colour)) or "no label"


def groups(found: Sequence[Placed], colour: str, colours: Sequence[str], other: str) -> dict[str, tuple[str, int]]:
    """Each value with its colour and number of points: most frequent first, score bands in order.

    The first `colours` values have a colour of their own; rarer values share `other`.
    """
    counted = Counter(value_of(point, colour) for point in found)
    names = [name for name in SCORES if name in counted] if colour == "score" else sorted(
        counted, key=lambda name: (-counted[name], name)
    )  # fmt: skip
    return {
        name: (colours[place] if place < len(colours) else other, counted[name]) for place, name in enumerate(names)
    }


def chart_rows(found: Sequence[Placed], colour: str, shown: Mapping[str, Any], rest: str) -> list[dict[str, Any]]:
    """The points as rows for a chart: x, y, value, kind. Values not in `shown` become `rest`."""
    values = [value_of(point, colour) for point in found]
    return [
        {"x": point.x, "y": point.y, "value": value if value in shown else rest, "kind": point.kind}
        for point, value in zip(found, values, strict=True)
    ]
