"""What the pages ask of the lake, one query a question. Nothing here is computed by data/quality or data/versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.lake import Lake

Rows = list[dict[str, Any]]


def datasets(lake: Lake) -> Rows:
    """Each dataset once: its latest version with rows, date and state, and the versions' row counts in order."""
    query = """
        SELECT dataset, max(version) AS version, max_by(rows, version) AS rows, max(created_at) AS created_at,
               list(rows ORDER BY version) AS history, max_by(partial, version) AS partial
        FROM lake.versions GROUP BY dataset ORDER BY max(created_at) DESC, dataset"""
    return _rows(lake, query)


def money_this_month(lake: Lake) -> dict[str, Any]:
    """Calls that were answered since the month began: their number, price (None: some price is unknown) and tokens."""
    query = """
        SELECT count(*) AS calls, coalesce(sum(prompt), 0) + coalesce(sum(completion), 0) AS tokens,
               CASE WHEN count(*) FILTER (price IS NULL) > 0 THEN NULL ELSE coalesce(sum(price), 0.0) END AS price_usd
        FROM (SELECT key, max(prompt_tokens) AS prompt, max(completion_tokens) AS completion, max(price_usd) AS price
              FROM lake.calls WHERE failure IS NULL AND "at" >= date_trunc('month', now()) GROUP BY key)"""
    return _rows(lake, query)[0]


def funnel(lake: Lake, run_id: str) -> Rows:
    """A run's candidates by how they ended: status, route, code, rows, and the id of one of them."""
    query = """
        SELECT status, route, code, count(*) AS rows, min(candidate_id) AS example
        FROM lake.candidates WHERE run_id = ? GROUP BY ALL ORDER BY rows DESC, status, route, code"""
    return _rows(lake, query, [run_id])


def by_label(lake: Lake, run_id: str) -> Rows:
    """A run's labels: rows accepted as it, candidates that were meant as it."""
    query = """
        SELECT label, count(*) FILTER (status = 'accepted') AS accepted, count(*) AS candidates
        FROM lake.candidates WHERE run_id = ? GROUP BY label ORDER BY label"""
    return _rows(lake, query, [run_id])


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
    return _rows(lake, query, [run_id])


def over_time(lake: Lake, run_id: str, parts: int = 60) -> Rows:
    """A run's answered calls in up to `parts` equal stretches: seconds since its first call, calls, price."""
    query = """
        WITH c AS (SELECT epoch("at") AS t, price_usd FROM lake.calls WHERE run_id = $1 AND failure IS NULL),
             ends AS (SELECT min(t) AS first, greatest(max(t) - min(t), 1e-6) AS span FROM c)
        SELECT least(floor((t - first) / span * $2), $2 - 1) AS part, any_value(span) / $2 AS width,
               count(*) AS calls, sum(price_usd) AS price_usd
        FROM c, ends GROUP BY part ORDER BY part"""
    found = _rows(lake, query, [run_id, parts])
    return [
        {"seconds": row["part"] * row["width"], "calls": row["calls"], "price_usd": row["price_usd"]} for row in found
    ]


def balance(lake: Lake, dataset: str, version: int) -> Rows:
    """Rows of each label and split of a version."""
    query = """
        SELECT label, split, count(*) AS rows FROM lake.version_rows WHERE dataset = ? AND version = ?
        GROUP BY ALL ORDER BY label, split"""
    return _rows(lake, query, [dataset, version])


SORTS = {
    "id": "id",
    "label": "label, id",
    "longest": "length(text) DESC, id",
    "shortest": "length(text), id",
}


def find_rows(
    lake: Lake, dataset: str, version: int, *, words: str, label: str, split: str, source: str, sort: str, page: int,
    size: int = 50,
) -> tuple[int, Rows]:  # fmt: skip
    """Rows of a version that hold `words` and are of that label, split and source (empty: any): (how many, one page).

    A search by words passes restricted rows over: a hit would tell what they say.
    """
    where = """
        dataset = $1 AND version = $2 AND ($4 = '' OR label = $4) AND ($5 = '' OR split = $5)
        AND ($3 = '' OR (NOT restricted AND contains(lower(text), lower($3)))) AND ($6 = '' OR source = $6)"""
    given = [dataset, version, words, label, split, source]
    total = _rows(lake, f"SELECT count(*) AS n FROM lake.version_rows WHERE {where}", given)[0]["n"]
    query = f"""
        SELECT id, text, response, label, split, source, restricted FROM lake.version_rows WHERE {where}
        ORDER BY {SORTS[sort]} LIMIT {size:d} OFFSET {page * size:d}"""
    return int(total), _rows(lake, query, given)


def find_candidates(
    lake: Lake, run_id: str, *, words: str, code: str, status: str, page: int, size: int = 50
) -> tuple[int, Rows]:
    """Candidates of a run that were not accepted (or of one status or code): (how many, one page of them)."""
    where = """
        run_id = $1 AND ($2 = '' OR (NOT restricted AND contains(lower(text), lower($2)))) AND ($3 = '' OR code = $3)
        AND CASE WHEN $4 = '' THEN status <> 'accepted' ELSE status = $4 END"""
    given = [run_id, words, code, status]
    total = _rows(lake, f"SELECT count(*) AS n FROM lake.candidates WHERE {where}", given)[0]["n"]
    query = f"""
        SELECT candidate_id AS id, text, response, label, status, code, reason, mean, restricted
        FROM lake.candidates WHERE {where} ORDER BY candidate_id LIMIT {size:d} OFFSET {page * size:d}"""
    return int(total), _rows(lake, query, given)


def _rows(lake: Lake, query: str, given: Sequence[Any] = ()) -> Rows:
    return list(lake.sql(query, given).to_pylist())
