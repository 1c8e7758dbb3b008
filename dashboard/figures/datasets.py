"""Figures of a version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboard.figures import Rows, rows_of

if TYPE_CHECKING:
    from data.lake import Lake


def balance(lake: Lake, dataset: str, version: int) -> Rows:
    """Rows of each label and split of a version."""
    query = """
        SELECT label, split, count(*) AS rows FROM lake.version_rows WHERE dataset = ? AND version = ?
        GROUP BY ALL ORDER BY label, split"""
    return rows_of(lake, query, [dataset, version])
