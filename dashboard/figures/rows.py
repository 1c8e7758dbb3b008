"""Queries for rows of a version, rejected candidates of a run, and the history of one row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from graft.dashboard.figures import Rows, rows_of
from graft.dashboard.figures.filters import SORTS, RowQuery
from graft.data.duck import quoted
from graft.data.export.formats.base import FORMULA
from graft.data.fence import Budget
from graft.data.quality.judged import pointer
from graft.schemas.sections import HIDDEN

if TYPE_CHECKING:
    from graft.data.lake import Lake


@dataclass(frozen=True)
class Within:
    """The scope of a search: the rows of a version, or the rejected candidates of a run."""

    rejected: bool
    dataset: str = ""
    version: int = 0
    run_id: str = ""
    rows: int | None = None
    """The number of rows without filters, if known."""


JOINED = "LEFT JOIN lake.candidates c ON c.run_id = v.run_id AND c.candidate_id = v.candidate_id"
HELD = ("id", "text", "response", "label", "split", "source", "restricted")
"""Columns of a list of rows and of its CSV."""
PROBABLE = f"CAST(json_extract_string(c.soft_label, {pointer('c.label')}) AS DOUBLE)"
"""SQL for the judges' mean probability of a candidate's label; NULL if none answered by probabilities."""
JUDGED = ("intended_label", "mean", "spread", "probability", "code")
"""Columns added if rows are joined to their candidates."""
MADE = (
    "id", "text", "response", "label", "intended_label", "status", "code", "reason", "mean", "spread", "probability",
    "restricted",
)  # fmt: skip
"""Columns of a list of rejected candidates."""
FILE = Budget(seconds=60.0, memory_mb=1_500, spill=True)
"""Further columns of the file with all matching rows."""
WORDS = ("text", "response", "reason")
"""Columns hidden for restricted rows."""


def find(lake: Lake, within: Within, wanted: RowQuery, *, page: int, size: int, only: list[str] | None = None) -> tuple[
    int, Rows
]:  # fmt: skip
    """The number of matching rows, and one page of them (from 0). `only` are the ids that may match, in that order.

    A search has a budget (data/fence.py). A text search skips restricted rows: a hit would reveal their text.
    """
    if within.rows is not None and not wanted.given and wanted.sort == "id" and only is None:
        places: list[Any] = list(range(page * size, min((page + 1) * size, within.rows)))
        return within.rows, _fetch(lake, within, wanted, places)
    source, where, params = _source(within, wanted, only)
    key, sort = _key(within), SORTS[wanted.sort]
    rank = sort.key.format(r=_row(within)) if sort.key else "NULL"
    order = f"rank {'DESC' if sort.down else 'ASC'} NULLS LAST, place"
    if only is not None and not sort.key:
        rank, order = f"list_position(?::VARCHAR[], {_id(within)})", "rank, place"
        params = [only, *params]
    query = f"""
        WITH fit AS MATERIALIZED (SELECT {key} AS place, {rank} AS rank FROM {source} WHERE {where}),
             page AS (SELECT place, rank FROM fit ORDER BY {order} LIMIT ? OFFSET ?)
        SELECT (SELECT count(*) FROM fit) AS total, (SELECT list(place ORDER BY {order}) FROM page) AS places"""
    found = lake.fences.sql(query, [*params, size, page * size]).to_pylist()[0]
    return int(found["total"]), _fetch(lake, within, wanted, found["places"] or [])


def columns(within: Within, wanted: RowQuery) -> dict[str, str]:
    """The columns of a list with their SQL sources."""
    own = {"id": "c.candidate_id", "probability": PROBABLE}
    if within.rejected:
        return {name: own.get(name, f"c.{name}") for name in MADE}
    judged = {name: own.get(name, f"c.{name}") for name in JUDGED} if wanted.judged else {}
    return {**{name: f"v.{name}" for name in HELD}, **judged}


def _fetch(lake: Lake, within: Within, wanted: RowQuery, places: list[Any]) -> Rows:
    """The rows with these keys, in that order, with their further columns in `data`; restricted text is hidden."""
    if not places:
        return []
    selected = ", ".join(f"{held} AS {name}" for name, held in columns(within, wanted).items())
    if within.rejected:
        query = f"""
            SELECT candidate_id AS place, {selected}, c.data FROM lake.candidates c
            WHERE run_id = ? AND candidate_id IN (SELECT unnest(?::VARCHAR[]))"""
        found = rows_of(lake, query, [within.run_id, places])
    else:
        query = f"""
            SELECT v.ordinal AS place, {selected}, v.data FROM lake.version_rows v {JOINED if wanted.judged else ""}
            WHERE v.dataset = ? AND v.version = ? AND v.ordinal BETWEEN ? AND ?
            AND v.ordinal IN (SELECT unnest(?::BIGINT[]))"""
        found = rows_of(lake, query, [within.dataset, within.version, min(places), max(places), places])
    at = {place: number for number, place in enumerate(places)}
    return [_hidden(row) for row in sorted(found, key=lambda row: at[row.pop("place")])]


def _hidden(row: dict[str, Any]) -> dict[str, Any]:
    if not row["restricted"]:
        return {**row, "data": orjson.loads(row["data"])}
    return {**row, **{name: HIDDEN for name in WORDS if row.get(name)}, "data": {}}


def write_csv(lake: Lake, within: Within, wanted: RowQuery, path: Path) -> None:
    """Write all matching rows to CSV with DuckDB; restricted text is hidden and formulas are defused."""
    source, where, params = _source(within, wanted, None)
    row, sort, cells = _row(within), SORTS[wanted.sort], []
    for name, held in columns(within, wanted).items():
        cell = f"replace({held}::VARCHAR, chr(0), chr(65533))"
        cell = f"CASE WHEN {row}.restricted AND {held} <> '' THEN '{HIDDEN}' ELSE {cell} END" if name in WORDS else cell
        if name not in ("mean", "spread", "probability", "restricted"):
            cell = f"CASE WHEN regexp_matches({cell}, {quoted(FORMULA)}) THEN chr(39) || {cell} ELSE {cell} END"
        cells.append(f"{cell} AS {name}")
    key = f"{sort.key.format(r=row)} {'DESC' if sort.down else 'ASC'} NULLS LAST, " if sort.key else ""
    query = f"SELECT {', '.join(cells)} FROM {source} WHERE {where} ORDER BY {key}{_key(within)}"
    lake.fences.sql(
        f"COPY ({query}) TO {quoted(str(path))} (FORMAT csv, HEADER, QUOTE '\"', ESCAPE '\"')", params, FILE
    )


def _source(within: Within, wanted: RowQuery, only: list[str] | None) -> tuple[str, str, list[Any]]:
    """The SQL source, the condition, and the condition's values."""
    where, params = wanted.where(only)
    if within.rejected:
        return "lake.candidates c", f"c.run_id = ? AND c.status <> 'accepted' AND {where}", [within.run_id, *params]
    source = f"lake.version_rows v {JOINED if wanted.judged else ''}"
    return source, f"v.dataset = ? AND v.version = ? AND {where}", [within.dataset, within.version, *params]


def _row(within: Within) -> str:
    return "c" if within.rejected else "v"


def _key(within: Within) -> str:
    return "c.candidate_id" if within.rejected else "v.ordinal"


def _id(within: Within) -> str:
    return "c.candidate_id" if within.rejected else "v.id"


def codes(lake: Lake, run_id: str, *, rejected: bool) -> list[str]:
    """Decision codes of a run's candidates, most frequent first."""
    query = """
        SELECT code, count(*) AS rows FROM lake.candidates WHERE run_id = ? AND (status <> 'accepted') = ?
        GROUP BY code ORDER BY rows DESC, code LIMIT 50"""
    return [str(row["code"]) for row in rows_of(lake, query, [run_id, rejected])]


def stops(lake: Lake, run_id: str) -> list[str]:
    """The gates or judges that rejected a run's candidates, most frequent first."""
    from graft.data.review.items import REFUSED_BY

    query = f"""
        SELECT {REFUSED_BY} AS gate, count(*) AS rows FROM lake.candidates WHERE run_id = ? AND status <> 'accepted'
        GROUP BY gate ORDER BY rows DESC, gate LIMIT 50"""
    return [str(row["gate"]) for row in rows_of(lake, query, [run_id])]


def brief(lake: Lake, dataset: str, version: int, row_id: str) -> dict[str, Any] | None:
    """A summary of a version's row, with restricted text hidden; None if the version does not hold it."""
    query = f"""
        SELECT v.id, v.text, v.response, v.label, v.split, v.source, v.restricted, c.intended_label, c.mean, c.spread,
               {PROBABLE} AS probability, c.reason, v.data
        FROM lake.version_rows v {JOINED} WHERE v.dataset = ? AND v.version = ? AND v.id = ?"""
    found = rows_of(lake, query, [dataset, version, row_id])
    return _hidden(found[0]) if found else None


def reasons(lake: Lake, within: Within, ids: list[str]) -> dict[str, str]:
    """The reason of each row's decision by its id; a row without a candidate has none."""
    query = f"""
        SELECT v.id, c.reason FROM lake.version_rows v {JOINED}
        WHERE v.dataset = ? AND v.version = ? AND v.id IN (SELECT unnest(?::VARCHAR[])) AND c.reason IS NOT NULL"""
    return {row["id"]: row["reason"] for row in rows_of(lake, query, [within.dataset, within.version, ids])}


def holder(lake: Lake, ids: list[str]) -> str:
    """The version that holds most of these rows, the newest if several do; empty if none holds any."""
    query = """
        SELECT r.dataset || '@' || r.version AS ref FROM lake.version_rows r
        JOIN lake.versions v ON v.dataset = r.dataset AND v.version = r.version
        WHERE r.id IN (SELECT unnest(?::VARCHAR[]))
        GROUP BY r.dataset, r.version ORDER BY count(*) DESC, max(v.created_at) DESC LIMIT 1"""
    found = rows_of(lake, query, [ids])
    return str(found[0]["ref"]) if found else ""


def fate(lake: Lake, datasets: list[str], row_id: str) -> Rows:
    """Every version of these datasets, oldest first, with the fate of a row in it.

    `split` and `label` if the version holds it; `gate`, `rule` and `detail` if it was dropped; otherwise neither.
    """
    query = """
        SELECT v.dataset, v.version, v.created_at, v.origin, r.split, r.label, d.gate, d.rule, d.detail
        FROM lake.versions v
        LEFT JOIN (SELECT dataset, version, split, label FROM lake.version_rows WHERE id = $2) r
               ON r.dataset = v.dataset AND r.version = v.version
        LEFT JOIN (SELECT dataset, version, gate, rule, detail FROM lake.drops WHERE row_id = $2) d
               ON d.dataset = v.dataset AND d.version = v.version
        WHERE v.dataset IN (SELECT unnest($1::VARCHAR[])) ORDER BY v.dataset, v.version"""
    return rows_of(lake, query, [datasets, row_id])
