"""Figures of runs: candidates by outcome and by label."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graft.dashboard.figures import Rows

if TYPE_CHECKING:
    from graft.data.query_cache import QueryCache
    from graft.schemas.datasets import Run

LATE_S = 2.0
"""Seconds by which the figures of a live run may lag."""


def funnel(cache: QueryCache, run: Run) -> Rows:
    """A run's candidates by outcome: status, route, code, rows, number reviewed, an example's id."""
    query = """
        SELECT status, route, code, count(*) AS rows, min(candidate_id) AS example,
               count(*) FILTER (asked > 0 OR labelling IS NOT NULL) AS reviewed
        FROM lake.candidates WHERE run_id = ? GROUP BY ALL ORDER BY rows DESC, status, route, code"""
    return _rows(cache, run, query)


def by_label(cache: QueryCache, run: Run) -> Rows:
    """A run's labels: accepted rows and candidates of each."""
    query = """
        SELECT label, count(*) FILTER (status = 'accepted') AS accepted, count(*) AS candidates
        FROM lake.candidates WHERE run_id = ? GROUP BY label ORDER BY label"""
    return _rows(cache, run, query)


def _rows(cache: QueryCache, run: Run, query: str) -> Rows:
    from graft.data.query_cache import run_stamp

    return cache.rows(query, [run.id], stamp=run_stamp(run), late_s=LATE_S)
