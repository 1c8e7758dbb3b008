"""Cells that a spreadsheet shows and does not run, for the tables that Python writes (exports say the same in SQL)."""

from __future__ import annotations

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""Beginnings that make a spreadsheet read a cell as a formula."""


def inert_cell(text: str) -> str:
    """The text as a cell that a spreadsheet shows instead of running."""
    return f"'{text}" if text.startswith(FORMULA) else text
