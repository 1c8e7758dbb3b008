"""The values of the map: a point, what is shown of it, a neighbour, and what a file of embeddings is of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from graft.schemas.base import Value

ENCODER = "all-MiniLM-L6-v2"
"""The name of the built-in encoder."""
PLACED = 4_000
"""Rows and seeds that get a place on the map."""

Embed = Callable[[Sequence[str]], Any]
"""Texts to an array of one vector each, as data.quality.meaning has it."""
Kind = Literal["row", "seed"]
Projection = Literal["t-sne", "pca"]


class About(Value):
    """What a file of embeddings is of; it stands in the file itself."""

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
    """A row or seed on the map. `x` and `y` lie between -1 and 1; only nearness on the map means something."""

    id: str
    kind: Kind
    x: float
    y: float


class Placed(Point):
    """A point with what it is coloured by. `split` is empty for a seed, `score` the mean of the row's reviews.

    `text` is its beginning, or "(restricted)" where its words are hidden.
    """

    label: str
    split: str
    source: str
    restricted: bool
    score: float | None
    text: str


class Near(NamedTuple):
    """A row or seed that is near in meaning."""

    id: str
    kind: Kind
    cosine: float


def shares(seeds: int, rows: int, most: int) -> tuple[int, int]:
    """(seeds, rows) of a sample of `most`: all seeds, but where rows are left out no more than half of the sample."""
    some_seeds = min(seeds, max(most // 2, most - rows))
    return some_seeds, min(rows, most - some_seeds)
