"""Review queues: the rows for a person to review, by five rules, one query each.

A row that the person decided is never in the queue. Otherwise it holds rows that nobody decided, or, if blind, rows
that somebody else decided. Rows that the person skipped come last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Required, TypedDict, Unpack, get_args

from graft.data.edits import DECISIONS
from graft.data.rescue import runs_of
from graft.data.review.items import REFUSED_BY, items
from graft.data.review.model import Queue, QueueRule
from graft.schemas.errors import GraftError

if TYPE_CHECKING:
    from graft.data.lake import Lake
    from graft.schemas.datasets import DatasetVersion

MOST = 1_000
"""Maximum items of a queue."""

_ROWS = "SELECT id, ordinal, run_id, candidate_id FROM lake.version_rows WHERE dataset = $1 AND version = $2"
_JUDGED = f"""
    SELECT r.id, {{score}} AS score FROM ({_ROWS}) r JOIN lake.candidates c
    ON c.run_id = r.run_id AND c.candidate_id = r.candidate_id
    WHERE c.run_id IN (SELECT unnest($6::VARCHAR[])) AND {{fits}}"""
_PICK = "md5_number_lower($6 || ':' || id)"
_BEST = "list_append(list_reverse_sort(json_extract_string(c.soft_label, '$.*')::DOUBLE[]), NULL)"
MARGIN = f"""
    CASE WHEN c.labelling IS NULL THEN list_reduce(list_slice({_BEST}, 1, 2), lambda x, y: x - y)
         ELSE json_extract_string(c.labelling, '$.margin')::DOUBLE END"""
"""SQL of the margin of a candidate `c`'s label; NULL if fewer than two labels have a probability."""
_REJECTED = f"""
    SELECT candidate_id AS id, {REFUSED_BY} AS gate FROM lake.candidates
    ANTI JOIN (SELECT id AS candidate_id FROM lake.version_rows WHERE dataset = $1 AND version = $2)
    USING (candidate_id)
    WHERE run_id IN (SELECT unnest({{runs}}::VARCHAR[])) AND status = 'rejected' AND text <> ''"""

_OPEN = """
    WITH standing AS MATERIALIZED (
        SELECT row_id AS id, "by", action FROM lake.edits WHERE dataset = $1 AND action <> 'undo'
        AND id NOT IN (SELECT undoes FROM lake.edits WHERE dataset = $1 AND action = 'undo')),
    mine AS (SELECT DISTINCT id FROM standing WHERE "by" = $3 AND list_contains($4::VARCHAR[], action)),
    others AS (SELECT DISTINCT id FROM standing WHERE "by" <> $3 AND list_contains($4::VARCHAR[], action)),
    later AS (SELECT DISTINCT id, true AS later FROM standing WHERE "by" = $3 AND action = 'skip'),
    fitting AS ({rows}),
    chosen AS (SELECT * FROM fitting ANTI JOIN mine USING (id) {side} JOIN others USING (id))
    SELECT id, count(*) OVER () AS total FROM chosen LEFT JOIN later USING (id)
    ORDER BY later NULLS FIRST, {order}, id LIMIT $5"""


class QueueOptions(TypedDict, total=False):
    """Arguments of `chosen`: the person, and the part of the queue."""

    by: Required[str]
    blind: bool
    gate: str
    where: str
    size: int
    seed: int


def queue(
    lake: Lake,
    found: DatasetVersion,
    rule: QueueRule,
    *,
    restricted: bool = False,
    **options: Unpack[QueueOptions],
) -> Queue:
    """Return the first `size` rows (1,000 at most) for this person to review.

    `disagreement`: rows of the version by the spread of the reviewers' means, then the adjudicated rows. `margin`: by
    the label's margin over the runner-up, smallest first. `random`: in an order derived from `seed` and the ids alone,
    the same for everybody. `gate`: rejected candidates of the version's runs, also in such an order; only those of
    `gate` if it is given. `query`: rows that match the condition `where`, in the version's order. Raises GraftError if
    the rule or the condition cannot be used.
    """
    ids, total = chosen(lake, found, rule, restricted=restricted, **options)
    return Queue(rule=rule, total=total, items=items(lake, found, ids, rule=rule, restricted=restricted))


def chosen(
    lake: Lake,
    found: DatasetVersion,
    rule: QueueRule,
    *,
    by: str,
    blind: bool = False,
    gate: str = "",
    where: str = "",
    size: int = 50,
    seed: int = 0,
    restricted: bool = False,
) -> tuple[tuple[str, ...], int]:
    """Return the ids of a queue's first rows and the number of matching rows, without reading the rows.

    Arguments and errors are those of `queue`. The condition of `query` cannot read the words of restricted rows unless
    `restricted`, and has a budget (data/fence.py).
    """
    if rule not in get_args(QueueRule):
        raise GraftError(f"no queue {rule!r}", where="--rule", fix=f"one of: {', '.join(get_args(QueueRule))}")
    rows, order, more = _fitting(lake, found, rule, gate, where, seed, restricted=restricted)
    query = _OPEN.format(rows=rows, order=order, side="SEMI" if blind else "ANTI")
    params = [found.dataset, found.version, by, list(DECISIONS), max(0, min(size, MOST)), *more]
    first = _query(lake, query, params, where)
    return tuple(row["id"] for row in first), first[0]["total"] if first else 0


def gates(lake: Lake, found: DatasetVersion) -> list[tuple[str, int]]:
    """Return the gates or judges that rejected candidates of the version's runs, with counts, most first.

    Candidates that the version contains nevertheless, and those without a text, are left out.
    """
    query = f"SELECT gate, count(*) AS n FROM ({_REJECTED.format(runs='$3')}) GROUP BY gate ORDER BY n DESC, gate"
    rows = lake.query(query, [found.dataset, found.version, runs_of(lake, found)])
    return [(str(row["gate"]), int(row["n"])) for row in rows]


def _fitting(
    lake: Lake, found: DatasetVersion, rule: QueueRule, gate: str, where: str, seed: int, *, restricted: bool
) -> tuple[str, str, list[Any]]:
    """SQL of the matching rows, their order, and the values of $6 onwards."""
    if rule == "disagreement":
        fits = "(c.spread > 0 OR c.route = 'adjudicated')"
        return _JUDGED.format(score="coalesce(c.spread, 0)", fits=fits), "score DESC", [runs_of(lake, found)]
    if rule == "margin":
        judged = _JUDGED.format(score=MARGIN, fits="true")
        once = f"WITH scored AS MATERIALIZED ({judged}) SELECT * FROM scored WHERE score IS NOT NULL"
        return once, "score", [runs_of(lake, found)]
    if rule == "random":
        return _ROWS, _PICK, [str(seed)]
    if rule == "gate":
        rows = f"SELECT DISTINCT id FROM ({_REJECTED.format(runs='$7')}) WHERE $8 = '' OR gate = $8"
        return rows, _PICK, [str(seed), runs_of(lake, found), gate]
    from graft.data.export.where import ROW_COLUMNS, safe_where, visible

    if not where.strip():
        fix = "--where \"length(text) > 200 AND label = 'refund'\""
        raise GraftError("the queue `query` needs a condition", where="--where", fix=fix)
    rows = f"""
        SELECT id, ordinal FROM (SELECT {visible(ROW_COLUMNS, restricted=restricted)}, ordinal FROM lake.version_rows
        WHERE dataset = $1 AND version = $2) AS chosen WHERE {safe_where(where)}"""
    return rows, "ordinal", []


def _query(lake: Lake, query: str, params: list[Any], where: str) -> list[dict[str, Any]]:
    import duckdb

    try:
        table = lake.fences.sql(query, params) if where else lake.sql(query, params)
        found: list[dict[str, Any]] = table.to_pylist()
    except duckdb.Error as error:
        if not where:
            raise
        what = "this filter cannot be used: it fails on some row"  # the error would quote the row
        raise GraftError(
            what, where="--where", fix="compare values of the same type, such as text with text"
        ) from error
    return found
