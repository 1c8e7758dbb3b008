"""The pages' queries on the lake, one file for each page. Figures that data/ computes are not repeated here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graft.data.lake import Lake

Rows = list[dict[str, Any]]


def rows_of(lake: Lake, query: str, given: Sequence[Any] = ()) -> Rows:
    """The result of a query as plain rows. Pass values in `given`, never in the query's text."""
    return list(lake.query(query, given))
