"""Figures of runs: how candidates ended, what models took."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboard.figures import Rows, rows_of

if TYPE_CHECKING:
    from data.lake import Lake


def funnel(lake: Lake, run_id: str) -> Rows:
    """A run's candidates by how they ended: status, route, code, rows, and the id of one of them."""
    query = """
        SELECT status, route, code, count(*) AS rows, min(candidate_id) AS example
        FROM lake.candidates WHERE run_id = ? GROUP BY ALL ORDER BY rows DESC, status, route, code"""
    return rows_of(lake, query, [run_id])


def by_label(lake: Lake, run_id: str) -> Rows:
    """A run's labels: rows accepted as it, candidates that were meant as it."""
    query = """
        SELECT label, count(*) FILTER (status = 'accepted') AS accepted, count(*) AS candidates
        FROM lake.candidates WHERE run_id = ? GROUP BY label ORDER BY label"""
    return rows_of(lake, query, [run_id])


def by_model(lake: Lake, run_id: str) -> Rows:
    """A run's calls by model and role: calls, failures, tokens, price, median and p95 of the latency (s)."""
    query = """
        SELECT model, role, count(*) AS calls, count(*) FILTER (failure IS NOT NULL) AS failed,
               coalesce(sum(prompt_tokens), 0) + coalesce(sum(completion_tokens), 0) AS tokens,
               CASE WHEN count(*) FILTER (price_usd IS NULL AND failure IS NULL) > 0 THEN NULL
                    ELSE coalesce(sum(price_usd), 0.0) END AS price_usd,
               quantile_cont(latency_s, 0.5) FILTER (NOT cached) AS p50,
               quantile_cont(latency_s, 0.95) FILTER (NOT cached) AS p95
        FROM lake.calls WHERE run_id = ? GROUP BY ALL ORDER BY calls DESC, model, role"""
    return rows_of(lake, query, [run_id])


def over_time(lake: Lake, run_id: str, parts: int = 60) -> Rows:
    """A run's answered calls in up to `parts` equal stretches: seconds since its first call, calls, price."""
    query = """
        WITH c AS (SELECT epoch("at") AS t, price_usd FROM lake.calls WHERE run_id = $1 AND failure IS NULL),
             ends AS (SELECT min(t) AS first, greatest(max(t) - min(t), 1e-6) AS span FROM c)
        SELECT least(floor((t - first) / span * $2), $2 - 1) AS part, any_value(span) / $2 AS width,
               count(*) AS calls, sum(price_usd) AS price_usd
        FROM c, ends GROUP BY part ORDER BY part"""
    found = rows_of(lake, query, [run_id, parts])
    return [
        {"seconds": row["part"] * row["width"], "calls": row["calls"], "price_usd": row["price_usd"]} for row in found
    ]
