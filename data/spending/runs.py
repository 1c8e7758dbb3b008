"""Spending by day, by dataset and in the current month; a run over time, its failures, comparison of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from graft.data.quality.judged import PARTLY, PRICED, TOKENS, calls_once
from graft.data.quality.words import ratio
from graft.data.spending.model import DatasetUse, DayUse, Failure, Part, RunFigures, Stretch, Total
from graft.data.spending.scope import DAY, MADE, RUN, Filters, calls, candidates, dollars, each, params, rows
from graft.schemas.base import utc_now
from graft.schemas.errors import GraftError, NotFound

if TYPE_CHECKING:
    from graft.data.lake import Lake

CODES = 5
_STRETCH = """least(floor((epoch("at") - first) / span * $2), $2 - 1)::BIGINT"""


PARTS: dict[Part, str] = {"all": "''", "model": "model", "role": "role", "dataset": "dataset"}
SUMS = f"count(*) AS calls, {TOKENS} AS tokens, {PRICED} AS price, {PARTLY}"


def total(lake: Lake, **filters: Unpack[Filters]) -> Total:
    """Return the totals of all calls in scope, zeros if there are none. See `data.spending.scope` for filters."""
    query = f"SELECT {SUMS}, coalesce(sum(tokens), 0)::BIGINT AS counted FROM ({calls()})"
    row = rows(lake, query, params(filters))[0]
    return Total(**_sums(row), counted=row["counted"])


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
        WITH once AS MATERIALIZED (SELECT {DAY} AS day, {PARTS[part]} AS part, price, local, answered, tokens
            FROM {_with_dataset(part)}),
        days AS (SELECT unnest(generate_series(min(day), max(day), INTERVAL 1 DAY))::DATE AS day FROM once),
        summed AS (SELECT day, part, {SUMS} FROM once GROUP BY day, part)
        SELECT day, part, coalesce(calls, 0) AS calls, CASE WHEN calls IS NULL THEN 0 ELSE tokens END AS tokens,
               CASE WHEN calls IS NULL THEN 0.0 ELSE price END AS price, local, least
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
               CASE WHEN calls IS NULL THEN 0.0 ELSE price END AS price, local, least
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
    paid = {"price_usd": dollars(row["price"]), "local": bool(row["local"]), "least_usd": dollars(row["least"]) or 0.0}
    return {"calls": row["calls"], "tokens": row["tokens"], **paid}


def over_run(lake: Lake, run_id: str, parts: int = 60) -> list[Stretch]:
    """Return a run in `parts` equal intervals from its first call to its last; empty if the lake has no call of it.

    A candidate counts when the last of its calls was recorded. A candidate without calls in the lake counts in the last
    interval, so that the last figures are the whole run's. Raises GraftError for parts < 1.
    """
    if parts < 1:
        raise GraftError(f"a run cannot be divided into {parts} parts", where="parts", fix="1 or more")
    query = f"""
        WITH mentions AS MATERIALIZED (SELECT candidate_id, "at" FROM lake.calls WHERE run_id = $1),
        ends AS (SELECT min(epoch("at")) AS first, greatest(max(epoch("at")) - min(epoch("at")), 1e-6) AS span
                 FROM mentions HAVING count(*) > 0),
        once AS (SELECT price, local, answered, {_STRETCH} AS part FROM ({calls_once("run_id = $1", more=MADE)}), ends),
        ended AS (SELECT candidate_id, max("at") AS "at" FROM mentions GROUP BY candidate_id),
        made AS (SELECT status, coalesce({_STRETCH}, $2 - 1) AS part FROM
                 (SELECT candidate_id, status FROM lake.candidates WHERE run_id = $1) LEFT JOIN ended
                 USING (candidate_id), ends),
        called AS (SELECT part, count(*) AS calls, {PRICED} IS NULL AS unknown, {PRICED} AS price
                   FROM once GROUP BY part),
        counted AS (SELECT part, count(*) AS n, count(*) FILTER (status = 'accepted') AS accepted
                    FROM made GROUP BY part)
        SELECT (part + 1) * span / $2 AS seconds, coalesce(calls, 0) AS calls, coalesce(n, 0) AS n,
               coalesce(accepted, 0) AS accepted, sum(n) OVER past AS all_n, sum(accepted) OVER past AS all_accepted,
               CASE WHEN NOT coalesce(bool_or(unknown) OVER past, false) THEN coalesce(sum(price) OVER past, 0) END
                   AS price
        FROM (SELECT unnest(range($2)) AS part) LEFT JOIN called USING (part) LEFT JOIN counted USING (part), ends
        WINDOW past AS (ORDER BY part) ORDER BY part"""
    return [_as_stretch(row) for row in rows(lake, query, [run_id, parts])]


def _as_stretch(row: dict[str, Any]) -> Stretch:
    price, accepted = dollars(row["price"]), int(row["all_accepted"] or 0)
    return Stretch(
        seconds=round(row["seconds"], 3), calls=row["calls"], candidates=row["n"], accepted=row["accepted"],
        yield_so_far=ratio(accepted, row["all_n"]), price_so_far=price, row_price_so_far=each(price, accepted),
    )  # fmt: skip


def errors(lake: Lake, run_id: str) -> list[Failure]:
    """Return the failures of a run's calls, most frequent first: counts and times, never content."""
    query = """
        WITH sent AS (SELECT key, failure, model, role, "at", bool_or(failure IS NULL) OVER (PARTITION BY key) AS ok
                       FROM lake.calls WHERE run_id = $1
                       AND key IN (SELECT key FROM lake.calls WHERE run_id = $1 AND failure IS NOT NULL))
        SELECT failure AS code, model, role, count(DISTINCT key) AS calls,
               count(DISTINCT key) FILTER (ok) AS answered, min("at") AS first, max("at") AS last
        FROM sent WHERE failure IS NOT NULL GROUP BY ALL ORDER BY calls DESC, code, model, role"""
    return [Failure.model_validate(row) for row in rows(lake, query, [run_id])]


def runs_by_dataset(lake: Lake, limit: int = 20) -> dict[str, tuple[str, ...]]:
    """Return each dataset's runs, newest first, at most `limit`; the dataset of the newest run comes first."""
    query = """
        SELECT dataset, list(id ORDER BY started_at DESC, id)[:$1] AS runs FROM lake.runs
        GROUP BY dataset ORDER BY max(started_at) DESC, dataset"""
    return {row["dataset"]: tuple(row["runs"]) for row in rows(lake, query, [limit])}


_WANTED = "list_contains($1::VARCHAR[], run_id)"


def compare_runs(lake: Lake, run_ids: Sequence[str]) -> list[RunFigures]:
    """Compare runs, in the order given, each once.

    A call that several runs share counts in each, at its cost when it was made. Raises NotFound if a run is not in the
    lake.
    """
    wanted = list(dict.fromkeys(run_ids))
    query = f"""
        WITH once AS MATERIALIZED ({calls_once(_WANTED, more='min("at") AS "at"')}),
        spent AS (SELECT run_id, {SUMS} FROM once GROUP BY run_id),
        played AS (SELECT run_id, map_from_entries(list((role, models) ORDER BY role)) AS models FROM
                   (SELECT run_id, role, list(DISTINCT model ORDER BY model) AS models FROM once GROUP BY run_id, role)
                   GROUP BY run_id),
        ends AS (SELECT run_id, status, code, count(*) AS n FROM lake.candidates WHERE {_WANTED} GROUP BY ALL),
        made AS (SELECT run_id, sum(n)::BIGINT AS opened, coalesce(sum(n) FILTER (status = 'accepted'), 0)::BIGINT
                     AS accepted FROM ends GROUP BY run_id),
        lost AS (SELECT run_id, map_from_entries(list((code, n) ORDER BY n DESC, code)[:{CODES}]) AS codes FROM
                 (SELECT run_id, code, sum(n)::BIGINT AS n FROM ends WHERE status <> 'accepted' GROUP BY run_id, code)
                 GROUP BY run_id)
        SELECT id AS run_id, dataset, r.status, stopped_by, started_at, version, seconds,
               coalesce(json_extract_string(recipe, '$.method.kind'), '') AS method, coalesce(opened, 0) AS opened,
               coalesce(accepted, 0) AS accepted, coalesce(s.calls, 0) AS calls,
               CASE WHEN s.calls IS NULL THEN 0 ELSE tokens END AS tokens, price, local, least, models, codes
        FROM lake.runs r LEFT JOIN spent s ON s.run_id = id LEFT JOIN played p ON p.run_id = id
        LEFT JOIN made m ON m.run_id = id LEFT JOIN lost l ON l.run_id = id WHERE list_contains($1::VARCHAR[], id)"""
    found = {row["run_id"]: row for row in rows(lake, query, [wanted])}
    missing = [run_id for run_id in wanted if run_id not in found]
    if missing:
        raise NotFound(f"no run {missing[0]}", where=str(lake.home.lake), fix="graft status lists runs")
    return [_figures(found[run_id]) for run_id in wanted]


def _figures(row: dict[str, Any]) -> RunFigures:
    accepted, seconds, paid = row["accepted"], row["seconds"], _sums(row)
    row = {name: value for name, value in row.items() if name not in ("price", "local", "least")} | paid
    models, codes = dict(row.pop("models") or []), dict(row.pop("codes") or [])
    return RunFigures(
        **row, row_price_usd=each(paid["price_usd"], accepted), share=ratio(accepted, row["opened"]),
        rows_per_minute=ratio(60 * accepted, seconds), codes=codes,
        models={role: tuple(names) for role, names in models.items()},
    )  # fmt: skip
