"""Values of the map: points, their display fields, neighbours, and the description of an embeddings file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from graft.schemas.base import Value

ENCODER = "all-MiniLM-L6-v2"
"""The name of the built-in encoder."""
PLACED = 4_000
"""Maximum rows and seeds with a position on the map."""

Embed = Callable[[Sequence[str]], Any]
"""Maps texts to an array of shape (texts, dimensions), as in data.quality.meaning."""
Kind = Literal["row", "seed"]
Projection = Literal["t-sne", "pca"]


class About(Value):
    """Description of an embeddings file, stored in the file itself."""

    rule: int
    key: str
    dataset: str
    version: int
    encoder: str
    of_rows: int
    rows: int
    seeds: int
    placed: int
    dimensions: int
    projection: Projection


class Point(Value):
    """A row or seed on the map. `x` and `y` are between -1 and 1; only proximity on the map is meaningful."""

    id: str
    kind: Kind
    x: float
    y: float


class Placed(Point):
    """A point with its display fields. `split` is empty for a seed, `score` is the mean of the row's reviews.

    `text` is its beginning, or "(restricted)" if its words are hidden.
    """

    label: str
    split: str
    source: str
    restricted: bool
    score: float | None
    text: str


class Near(NamedTuple):
    """A row or seed with a similar meaning."""

    id: str
    kind: Kind
    cosine: float


def shares(seeds: int, rows: int, most: int) -> tuple[int, int]:
    """Return (seeds, rows) of a sample of `most`: all seeds, but at most half of the sample if rows are left out."""
    some_seeds = min(seeds, max(most // 2, most - rows))
    return some_seeds, min(rows, most - some_seeds)
