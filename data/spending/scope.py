"""SQL of the calls and candidates in scope, by dataset, run and days.

Within the dataset and run, each call counts once (`data.quality.judged.calls_once`), on the day of its first record:
later records are reads from the journal. A candidate's day is that of its last call. Days are UTC, inclusive.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, TypedDict

from graft.data.quality.judged import calls_once
from graft.schemas.base import utc_now
from graft.schemas.errors import GraftError

if TYPE_CHECKING:
    from graft.data.lake import Lake

Params = list[Any]


class Filters(TypedDict, total=False):
    """Filters of every query; each is optional, and None means all."""

    dataset: str | None
    run_id: str | None
    since: date | None
    until: date | None


RUNS = """($2::VARCHAR IS NULL OR run_id = $2)
    AND ($1::VARCHAR IS NULL OR run_id IN (SELECT id FROM lake.runs WHERE dataset = $1))"""
DAYS = """($3::TIMESTAMPTZ IS NULL OR "at" >= $3) AND ($4::TIMESTAMPTZ IS NULL OR "at" < $4)"""
DAY = """DATE '1970-01-01' + (epoch_us("at") // 86_400_000_000)::INTEGER"""
"""SQL of the day (UTC) of a time; `::DATE` consults time zones and takes six times as long."""
MADE = 'min("at") AS "at"'
RUN = 'min_by(run_id, "at") AS run_id'
"""SQL of the run that recorded a call first, and therefore made it."""


def last_days(days: int) -> date:
    """Return the first of the last `days` days (UTC), today included."""
    return utc_now().date() - timedelta(days=days - 1)


def period(filters: Filters) -> str:
    """Return the days of the filters in words, for headings."""
    since, until = filters.get("since"), filters.get("until")
    if since and until:
        return f"{since} to {until}"
    if until:
        return f"until {until}"
    return f"since {since}" if since else "all time"


def params(filters: Filters) -> Params:
    """Return the values of $1 to $4, with days as time bounds. Raises GraftError if `since` is after `until`."""
    since, until = filters.get("since"), filters.get("until")
    if since is not None and until is not None and since > until:
        raise GraftError(
            f"{since} to {until} contains no day", where="since, until", fix="since must be the earlier day"
        )
    first = None if since is None else datetime.combine(since, time(), UTC)
    end = None if until is None else datetime.combine(until, time(), UTC) + timedelta(days=1)
    return [filters.get("dataset"), filters.get("run_id"), first, end]


def calls(more: str = "") -> str:
    """Return SQL of the calls in scope, each once.

    Columns: key, role, model, price, answered, tokens, at, and the aggregates in `more`.
    """
    columns = f"{MADE}, {more}" if more else MADE
    return f"SELECT * FROM ({calls_once(RUNS, 'key', columns)}) WHERE {DAYS}"


def candidates(filters: Filters, columns: str) -> str:
    """Return SQL of columns of the candidates in scope; calls are read only if days are given."""
    if filters.get("since") is None and filters.get("until") is None:
        any_time = "$3::TIMESTAMPTZ IS NULL AND $4::TIMESTAMPTZ IS NULL"
        return f"SELECT {columns} FROM lake.candidates WHERE {RUNS} AND {any_time}"
    return f"""
        SELECT {columns} FROM lake.candidates WHERE {RUNS} AND hash(run_id, candidate_id) IN
        (SELECT unit FROM (SELECT hash(run_id, candidate_id) AS unit, max("at") AS "at" FROM lake.calls
            WHERE {RUNS} GROUP BY unit) WHERE {DAYS})"""


def rows(lake: Lake, query: str, given: Params) -> list[dict[str, Any]]:
    """Return the query's rows as dicts."""
    return list(lake.query(query, given))


def dollars(value: Any) -> float | None:
    """Round a price to nine decimals.

    A call may cost a millionth of a dollar, and the order in which threads add must not show.
    """
    return None if value is None else round(float(value), 9)


def each(price: float | None, count: int, times: int = 1) -> float | None:
    """Return `times` the price per unit of `count`; None if the price is unknown or the count is 0."""
    return None if price is None or not count else dollars(times * price / count)
