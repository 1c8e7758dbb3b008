"""Spending by day, by dataset, and in the current month."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from graft.data.quality.judged import PRICED, TOKENS
from graft.data.spending.model import DatasetUse, DayUse, Part, Total
from graft.data.spending.scope import DAY, RUN, Filters, calls, candidates, dollars, each, params, rows
from graft.schemas.base import utc_now
from graft.schemas.errors import GraftError

if TYPE_CHECKING:
    from graft.data.lake import Lake

PARTS: dict[Part, str] = {"all": "''", "model": "model", "role": "role", "dataset": "dataset"}
SUMS = f"count(*) AS calls, {TOKENS} AS tokens, {PRICED} AS price"


def total(lake: Lake, **filters: Unpack[Filters]) -> Total:
    """Return the totals of all calls in scope, zeros if there are none. See `data.spending.scope` for filters."""
    return Total(**_sums(rows(lake, f"SELECT {SUMS} FROM ({calls()})", params(filters))[0]))


def month(lake: Lake) -> Total:
    """Return the totals since the first day of this month (UTC)."""
    return total(lake, since=utc_now().date().replace(day=1))


def by_day(lake: Lake, part: Part = "all", **filters: Unpack[Filters]) -> list[DayUse]:
    """Return each day of each part, from the first day with a call to the last; days without a call have zeros.

    A call that several datasets share is attributed to the run that made it. Raises GraftError for an unknown part.
    """
    if part not in PARTS:
        raise GraftError(f"no part {part!r}", where="part", fix=", ".join(PARTS))
    query = f"""
        WITH once AS MATERIALIZED (SELECT {DAY} AS day, {PARTS[part]} AS part, price, answered, tokens
            FROM {_with_dataset(part)}),
        days AS (SELECT unnest(generate_series(min(day), max(day), INTERVAL 1 DAY))::DATE AS day FROM once),
        summed AS (SELECT day, part, {SUMS} FROM once GROUP BY day, part)
        SELECT day, part, coalesce(calls, 0) AS calls, CASE WHEN calls IS NULL THEN 0 ELSE tokens END AS tokens,
               CASE WHEN calls IS NULL THEN 0.0 ELSE price END AS price
        FROM days CROSS JOIN (SELECT DISTINCT part FROM once) LEFT JOIN summed USING (day, part) ORDER BY day, part"""
    return [DayUse(day=row["day"], part=row["part"], **_sums(row)) for row in rows(lake, query, params(filters))]


def by_dataset(lake: Lake, **filters: Unpack[Filters]) -> list[DatasetUse]:
    """Return each dataset with a call or a candidate in scope, most expensive first (unknown prices before all)."""
    query = f"""
        WITH spent AS (SELECT dataset, {SUMS} FROM {_with_dataset("dataset")} GROUP BY dataset),
        made AS (SELECT coalesce(dataset, '') AS dataset, count(*) AS candidates, count(DISTINCT run_id) AS runs,
                        count(*) FILTER (status = 'accepted') AS accepted
                 FROM ({candidates(filters, "run_id, status")}) LEFT JOIN
                 (SELECT id AS run_id, dataset FROM lake.runs) USING (run_id) GROUP BY 1)
        SELECT dataset, coalesce(runs, 0) AS runs, coalesce(candidates, 0) AS candidates,
               coalesce(accepted, 0) AS accepted, coalesce(calls, 0) AS calls,
               CASE WHEN calls IS NULL THEN 0 ELSE tokens END AS tokens,
               CASE WHEN calls IS NULL THEN 0.0 ELSE price END AS price
        FROM spent FULL JOIN made USING (dataset) ORDER BY price DESC NULLS FIRST, candidates DESC, dataset"""
    return [
        DatasetUse(
            dataset=row["dataset"], runs=row["runs"], candidates=row["candidates"], accepted=row["accepted"],
            row_price_usd=each(dollars(row["price"]), row["accepted"]), **_sums(row),
        )
        for row in rows(lake, query, params(filters))
    ]  # fmt: skip


def _with_dataset(part: Part) -> str:
    """SQL of the calls in scope, with the dataset of the run that made each if the part is `dataset`."""
    if part != "dataset":
        return f"({calls()})"
    return f"""(SELECT coalesce(r.dataset, '') AS dataset, c.* FROM ({calls(RUN)}) c
        LEFT JOIN (SELECT id AS run_id, dataset FROM lake.runs) r USING (run_id))"""


def _sums(row: dict[str, Any]) -> dict[str, Any]:
    return {"calls": row["calls"], "tokens": row["tokens"], "price_usd": dollars(row["price"])}
