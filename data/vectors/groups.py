"""Duplicate clusters of a version: rows that say nearly the same, found from its embeddings and kept beside them."""

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

from graft.data.gates.neighbours import EXACT_BELOW, clusters_of, members
from graft.schemas.base import Value
from graft.schemas.errors import MissingExtra

if TYPE_CHECKING:
    from graft.data.vectors.store import Vectors

COMPARED = 2_000
"""Of a larger cluster each row's cosine is taken to the first rows only, so that the time does not grow as a square."""


class Cluster(Value):
    """Rows that are linked by cosines at or above a threshold, by id.

    `lowest` and `highest` are the cosines of its two rows least and most alike: a row may be near to a third only, so
    that the lowest can lie under the threshold.
    """

    members: tuple[str, ...]
    lowest: float
    highest: float


def clusters(
    vectors: Vectors, min_cosine: float = 0.9, *, most: int | None = 50_000, say: Callable[[str], None] | None = None
) -> list[Cluster]:
    """Connected components over pairs of rows with a cosine of `min_cosine` or more, largest first, ties by id.
    Kept beside the vectors once found.

    The first `most` rows by the hash of their ids are compared (None: all that were embedded); above 50,000 through an
    index. Seeds are not among them. Raises MissingExtra where that index is not installed, ValueError for a cosine
    that is none.
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
        what = f"above {EXACT_BELOW:,} rows clusters want an index (usearch), which is not installed"
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
    """The lowest and the highest cosine of two different rows."""
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
    """What is kept of these very embeddings; None where it is not there, or cut off."""
    try:
        kept: Any = json.loads(memory.read_bytes())
        if not isinstance(kept, dict) or kept.get("of") != _stamp(vectors):
            return None
        return [Cluster.model_validate(one) for one in kept["clusters"]]
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None


def _keep(memory: Path, vectors: Vectors, made: list[Cluster]) -> None:
    """Keeps clusters for the next time; where that cannot be written they are found again then."""
    part = memory.with_name(f".{memory.name}.{uuid.uuid4().hex}.part")
    try:
        kept = {"of": _stamp(vectors), "clusters": [one.model_dump(mode="json") for one in made]}
        part.write_text(json.dumps(kept), encoding="utf-8")
        part.replace(memory)
    except OSError:
        part.unlink(missing_ok=True)
