"""Duplicate clusters of a version: rows with nearly the same meaning, computed from its embeddings."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from graft.data.gates.shared.neighbours import EXACT_BELOW, clusters_of, members
from graft.schemas.base import Value
from graft.schemas.errors import MissingExtra

if TYPE_CHECKING:
    from graft.data.vectors.store import Vectors

COMPARED = 2_000
"""In a larger cluster, rows are compared only with this many, so that the time does not grow quadratically."""


class Cluster(Value):
    """Rows linked by cosines at or above a threshold, by id.

    `lowest` and `highest` are the cosines of its least and most similar rows. The lowest can be under the threshold,
    because two rows may only be linked through a third.
    """

    members: tuple[str, ...]
    lowest: float
    highest: float


def clusters(
    vectors: Vectors, min_cosine: float = 0.9, *, most: int | None = 50_000, say: Callable[[str], None] | None = None
) -> list[Cluster]:
    """Return connected components over pairs of rows with a cosine of `min_cosine` or more, largest first, ties by id.

    The result is stored beside the vectors.

    Args:
        vectors: The version's embeddings; seeds are not compared.
        min_cosine: The threshold, -1 to 1.
        most: Compare the first rows by the hash of their ids (None: all); above 50,000 through an index.
        say: Receives progress messages.

    Raises:
        MissingExtra: The index is required but not installed.
        ValueError: `min_cosine` is out of range.
    """
    say = say or (lambda line: None)
    if not -1 <= min_cosine <= 1:
        raise ValueError("min_cosine is between -1 and 1")
    compared = vectors.rows if most is None else min(most, vectors.rows)
    memory = vectors.path.with_name(f"{vectors.path.stem}.clusters-{min_cosine:.4f}-{compared}.json")
    known = _known(memory, vectors)
    if known is not None:
        return known
    if compared > EXACT_BELOW and find_spec("usearch") is None:
        what = f"clusters of more than {EXACT_BELOW:,} rows need an index (usearch), which is not installed"
        raise MissingExtra(what, where="clusters", fix="pip install 'graft-factory[audit]'")
    ids, numbers = vectors.matrix("row", compared)
    place = {row_id: row for row, row_id in enumerate(ids)}
    found = members(clusters_of(ids, numbers, min_cosine, say=say))
    made = [
        Cluster(members=tuple(some), lowest=low, highest=high)
        for some in found.values()
        for low, high in [_range(numbers[[place[row_id] for row_id in some]])]
    ]
    _keep(memory, vectors, made)
    return made


def _range(rows: NDArray[np.float32]) -> tuple[float, float]:
    """The lowest and the highest cosine between two different rows."""
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    low, high = 1.0, -1.0
    for start in range(0, len(unit), COMPARED):
        cosines = unit[start : start + COMPARED] @ unit[:COMPARED].T
        if start == 0:
            cosines = cosines[~np.eye(len(cosines), dtype=bool)]
        low, high = min(low, float(cosines.min())), max(high, float(cosines.max()))
    return round(max(low, -1.0), 4), round(min(high, 1.0), 4)


def _stamp(vectors: Vectors) -> list[int]:
    stat = vectors.path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _known(memory: Path, vectors: Vectors) -> list[Cluster] | None:
    """The stored clusters of these embeddings; None if they are missing or truncated."""
    try:
        kept: Any = json.loads(memory.read_bytes())
        if not isinstance(kept, dict) or kept.get("of") != _stamp(vectors):
            return None
        return [Cluster.model_validate(one) for one in kept["clusters"]]
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None


def _keep(memory: Path, vectors: Vectors, made: list[Cluster]) -> None:
    """Store clusters for the next time; on a write error they are computed again then."""
    part = memory.with_name(f".{memory.name}.{uuid.uuid4().hex}.part")
    try:
        kept = {"of": _stamp(vectors), "clusters": [one.model_dump(mode="json") for one in made]}
        part.write_text(json.dumps(kept), encoding="utf-8")
        part.replace(memory)
    except OSError:
        part.unlink(missing_ok=True)
