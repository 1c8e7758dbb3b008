"""Which calls and candidates a question is about, as SQL: by dataset, run and days.

Of the dataset and run that are asked for, each call counts once (`data.quality.judged.calls_once`), on the day of its
first record: later ones read it from the journal. A candidate has no time of its own: its day is that of its last call.
Days are UTC, the first and the last of them included.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, TypedDict

from graft.data.quality.judged import calls_once
from graft.schemas.errors import GraftError

if TYPE_CHECKING:
    from graft.data.lake import Lake

Params = list[Any]


class Filters(TypedDict, total=False):
    """What every question takes: each is optional, and None asks for all."""

    dataset: str | None
    run_id: str | None
    since: date | None
    until: date | None


RUNS = """($2::VARCHAR IS NULL OR run_id = $2)
    AND ($1::VARCHAR IS NULL OR run_id IN (SELECT id FROM lake.runs WHERE dataset = $1))"""
DAYS = """($3::TIMESTAMPTZ IS NULL OR "at" >= $3) AND ($4::TIMESTAMPTZ IS NULL OR "at" < $4)"""
DAY = """DATE '1970-01-01' + (epoch_us("at") // 86_400_000_000)::INTEGER"""
"""The day (UTC) of a time; `::DATE` looks into time zones and takes six times as long."""
MADE = 'min("at") AS "at"'
RUN = 'min_by(run_id, "at") AS run_id'
"""The run that met with a call first, and so the one that made it."""


def params(filters: Filters) -> Params:
    """The values of $1 to $4, days as the times between which they lie. Raises GraftError where the days are the wrong
    way round."""
    since, until = filters.get("since"), filters.get("until")
    if since is not None and until is not None and since > until:
        raise GraftError(f"no day is from {since} to {until}", where="since, until", fix="since is the earlier day")
    first = None if since is None else datetime.combine(since, time(), UTC)
    end = None if until is None else datetime.combine(until, time(), UTC) + timedelta(days=1)
    return [filters.get("dataset"), filters.get("run_id"), first, end]


def calls(more: str = "") -> str:
    """SQL: calls in scope, each once: key, role, model, price, answered, tokens, at, and `more` aggregates."""
    columns = f"{MADE}, {more}" if more else MADE
    return f"SELECT * FROM ({calls_once(RUNS, 'key', columns)}) WHERE {DAYS}"


def candidates(filters: Filters, columns: str) -> str:
    """SQL: columns of the candidates in scope; calls are looked at only where days are asked for."""
    if filters.get("since") is None and filters.get("until") is None:
        unasked = "$3::TIMESTAMPTZ IS NULL AND $4::TIMESTAMPTZ IS NULL"
        return f"SELECT {columns} FROM lake.candidates WHERE {RUNS} AND {unasked}"
    return f"""
        SELECT {columns} FROM lake.candidates WHERE {RUNS} AND hash(run_id, candidate_id) IN
        (SELECT unit FROM (SELECT hash(run_id, candidate_id) AS unit, max("at") AS "at" FROM lake.calls
            WHERE {RUNS} GROUP BY unit) WHERE {DAYS})"""


def rows(lake: Lake, query: str, given: Params) -> list[dict[str, Any]]:
    """The answer as a dict a row."""
    return list(lake.sql(query, given).to_pylist())


def dollars(value: Any) -> float | None:
    """A price in US dollars with nine decimals: one call may take a millionth of one, and the order in which threads
    add does not show."""
    return None if value is None else round(float(value), 9)


def each(price: float | None, count: int, times: int = 1) -> float | None:
    """A price over a count; None where either is not there."""
    return None if price is None or not count else dollars(times * price / count)
