"""What the pages ask of the lake, one query a question, a file a page. What data/ computes is not computed here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graft.data.lake import Lake

Rows = list[dict[str, Any]]


def rows_of(lake: Lake, query: str, given: Sequence[Any] = ()) -> Rows:
    """The answer to a query as plain rows. Values go in `given`, never into the query's text."""
    return list(lake.sql(query, given).to_pylist())
