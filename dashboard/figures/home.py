"""Figures of the first page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dashboard.figures import Rows, rows_of

if TYPE_CHECKING:
    from data.lake import Lake


def datasets(lake: Lake) -> Rows:
    """Each dataset once: its latest version with rows, date and state, and the versions' row counts in order."""
    query = """
        SELECT dataset, max(version) AS version, max_by(rows, version) AS rows, max(created_at) AS created_at,
               list(rows ORDER BY version) AS history, max_by(partial, version) AS partial
        FROM lake.versions GROUP BY dataset ORDER BY max(created_at) DESC, dataset"""
    return rows_of(lake, query)


def money_this_month(lake: Lake) -> dict[str, Any]:
    """Calls that were answered since the month began: their number, price (None: some price is unknown) and tokens."""
    query = """
        SELECT count(*) AS calls, coalesce(sum(prompt), 0) + coalesce(sum(completion), 0) AS tokens,
               CASE WHEN count(*) FILTER (price IS NULL) > 0 THEN NULL ELSE coalesce(sum(price), 0.0) END AS price_usd
        FROM (SELECT key, max(prompt_tokens) AS prompt, max(completion_tokens) AS completion, max(price_usd) AS price
              FROM lake.calls WHERE failure IS NULL AND "at" >= date_trunc('month', now()) GROUP BY key)"""
    return rows_of(lake, query)[0]
