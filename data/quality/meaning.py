"""Figures from embeddings of a sample of rows and of the seeds: spread, coverage of the seeds, nearness to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from graft.data.quality.model import Meaning, Spread
from graft.data.quality.words import DIGITS, Held

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from graft.data.lake import Lake

    Vectors = NDArray[np.float32]
    Embed = Callable[[Sequence[str]], Vectors]
"""`Embed`: texts to one vector each."""

SAMPLE = 2_000
COPIED = 0.05
"""Distance to a seed at or below which a row is counted as copied."""
ROUNDS = 30


def meaning(lake: Lake, rows: Held, embed: Embed, missing: dict[str, str]) -> Meaning:
    """The figures over at most SAMPLE rows and SAMPLE seeds, both chosen by the hash of their ids."""
    texts, seeds = _texts(lake, rows), _seeds(lake, rows)
    vectors = _unit(embed(texts))
    anchors = _unit(embed(seeds)) if seeds else vectors[:0]
    if len(texts) < 2:
        missing["meaning.spread"] = "there is a single row"
    if not seeds:
        why = "the lake holds no seeds of its runs"
        missing.update({f"meaning.{name}": why for name in (*COVERAGE, "nearest_seed", "copied")})
    clusters, covered, seeded = coverage(anchors, vectors) if seeds else (0, None, None)
    near = _nearest(anchors, vectors) if seeds else None
    return Meaning(
        rows=len(texts),
        seeds=len(seeds),
        spread=mean_distance(vectors) if len(texts) > 1 else None,
        clusters=clusters,
        seed_clusters_covered=covered,
        row_clusters_seeded=seeded,
        nearest_seed=near[0] if near else None,
        copied=near[1] if near else None,
    )


COVERAGE = ("seed_clusters_covered", "row_clusters_seeded")


def _texts(lake: Lake, rows: Held) -> list[str]:
    query = f"""
        SELECT v.text FROM (SELECT id, pick FROM {rows.name} ORDER BY pick, id LIMIT {SAMPLE}) picked
        JOIN lake.version_rows v USING (id) WHERE v.dataset = ? AND v.version = ? ORDER BY pick, id"""
    found: list[str] = lake.sql(query, [rows.version.dataset, rows.version.version]).column("text").to_pylist()
    return found


def _seeds(lake: Lake, rows: Held) -> list[str]:
    """The different texts of the seeds in the runs that the rows come from."""
    query = f"""
        SELECT text FROM lake.seeds WHERE kind = 'seed' AND run_id IN
        (SELECT DISTINCT run_id FROM lake.version_rows WHERE dataset = ? AND version = ?)
        GROUP BY text ORDER BY md5_number_lower(text), text LIMIT {SAMPLE}"""
    found: list[str] = lake.sql(query, [rows.version.dataset, rows.version.version]).column("text").to_pylist()
    return found


def _unit(vectors: Vectors) -> Vectors:
    import numpy as np

    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = (vectors / np.maximum(norms, 1e-12)).astype(np.float32)
    return unit


def mean_distance(vectors: Vectors) -> float:
    """Mean of 1 - cosine over all pairs of different rows of unit vectors, 0 to 2."""
    count, total = len(vectors), vectors.sum(axis=0, dtype=float)
    cosine = (float(total @ total) - count) / (count * (count - 1))
    return max(0.0, round(1 - cosine, DIGITS))


def _nearest(seeds: Vectors, vectors: Vectors) -> tuple[Spread, float]:
    import numpy as np

    distances = np.maximum(0.0, 1 - (vectors @ seeds.T).max(axis=1).astype(float))
    p5, p50, p95 = (round(float(part), DIGITS) for part in np.quantile(distances, [0.05, 0.5, 0.95]))
    spread = Spread(mean=round(float(distances.mean()), DIGITS), p5=p5, p50=p50, p95=p95)
    return spread, round(float((distances <= COPIED).mean()), DIGITS)


def coverage(seeds: Vectors, vectors: Vectors) -> tuple[int, float, float]:
    """(k, share of clusters with seeds that hold rows, share of clusters with rows that hold seeds).

    k-means on both together; k is the root of half their number, 2 to 50, and at most the number of seeds.
    """
    import numpy as np

    both = np.concatenate([seeds, vectors])
    k = max(1, min(len(seeds), 50, max(2, round((len(both) / 2) ** 0.5))))
    place = _k_means(both, k)
    with_seeds, with_rows = set(place[: len(seeds)].tolist()), set(place[len(seeds) :].tolist())
    shared = len(with_seeds & with_rows)
    return k, round(shared / len(with_seeds), DIGITS), round(shared / len(with_rows), DIGITS)


def _k_means(points: Vectors, k: int) -> NDArray[np.intp]:
    """The cluster of each point, by Lloyd's algorithm; starts are drawn in proportion to the squared distance (seed
    0)."""
    import numpy as np

    rng = np.random.default_rng(0)
    centres = points[[int(rng.integers(len(points)))]]
    gaps = np.full(len(points), np.inf)
    for _ in range(k - 1):
        gaps = np.minimum(gaps, ((points - centres[-1]) ** 2).sum(axis=1).astype(float))
        if not gaps.sum():
            break
        chosen = int(rng.choice(len(points), p=gaps / gaps.sum()))
        centres = np.concatenate([centres, points[[chosen]]])
    place = np.zeros(len(points), dtype=np.intp)
    for turn in range(ROUNDS):
        fresh = (points @ centres.T - (centres**2).sum(axis=1) / 2).argmax(axis=1)
        if turn and (fresh == place).all():
            break
        place = fresh
        for cluster in np.unique(place):
            centres[cluster] = points[place == cluster].mean(axis=0)
    return place
