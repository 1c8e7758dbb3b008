"""Cells that a spreadsheet shows and does not run, for the tables that Python writes (exports say the same in SQL)."""

from __future__ import annotations

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What a spreadsheet takes a cell that begins so for: an instruction."""


def inert_cell(text: str) -> str:
    """The text as a cell that a spreadsheet shows and does not run."""
    return f"'{text}" if text.startswith(FORMULA) else text
