"""Figures of datasets: overview, a version's rows and lengths, and how its candidates ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from graft.dashboard.figures import Rows, rows_of
from graft.data.quality.judged import runs_of
from graft.data.quality.words import Held

if TYPE_CHECKING:
    from graft.data.lake import Lake
    from graft.schemas.datasets import DatasetVersion

BARS = 32
"""Approximate number of bars of a histogram."""
TextField = Literal["text", "response"]


def datasets(lake: Lake) -> Rows:
    """One row for each dataset: its latest version without the card, the row counts of all versions, its tags.

    `tags` are the current (tag, version) pairs, by name.
    """
    query = """
        WITH last AS (SELECT dataset, coalesce(max(version) FILTER (origin != 'trial'), max(version)) AS version,
                             count(*) AS versions, list(rows ORDER BY version) AS history
                      FROM lake.versions GROUP BY dataset),
        named AS (SELECT dataset, list({'tag': tag, 'version': version} ORDER BY tag) AS tags FROM
                  (SELECT dataset, tag, version FROM lake.tags
                   QUALIFY row_number() OVER (PARTITION BY dataset, tag ORDER BY "at" DESC) = 1)
                  WHERE version > 0 GROUP BY dataset)
        SELECT v.dataset, v.version, v.rows, v.splits, v.labels, v.origin, v.partial, v.note, v.created_at,
               versions, history, tags
        FROM last JOIN lake.versions v USING (dataset, version) LEFT JOIN named USING (dataset)
        ORDER BY v.created_at DESC, v.dataset"""
    return rows_of(lake, query)


def counts(lake: Lake, found: DatasetVersion) -> Rows:
    """Row counts of a version by label, split, source and restricted."""
    query = """
        SELECT label, split, source, restricted, count(*) AS rows FROM lake.version_rows
        WHERE dataset = ? AND version = ? GROUP BY ALL ORDER BY ALL"""
    return rows_of(lake, query, [found.dataset, found.version])


def balance(found: DatasetVersion, counted: Rows) -> Rows:
    """One row for each label, most rows first: rows, their share, and rows in each split."""
    parts: defaultdict[tuple[str, str], int] = defaultdict(int)
    for row in counted:
        parts[row["label"], row["split"]] += row["rows"]
    ranked = sorted(found.labels.items(), key=lambda one: (-one[1], one[0]))
    return [
        {
            "label": label,
            "rows": rows,
            "share": rows / found.rows,
            **{name: parts[label, name] for name in found.splits},
        }
        for label, rows in ranked
    ]


def lengths(lake: Lake, found: DatasetVersion, field: TextField = "text") -> Rows:
    """Rows by length in characters and split: `start` and `end` of a bar, split, rows. Empty if no row has this text.

    The longest half percent is in the last bar, so that a long outlier does not squeeze all others into the first.
    """
    query = f"""
        WITH r AS MATERIALIZED (SELECT split, length({field}) AS n FROM lake.version_rows
            WHERE dataset = $1 AND version = $2 AND {field} IS NOT NULL),
        ends AS (SELECT min(n) AS low, quantile_disc(n, 0.995) AS high,
                        greatest(1.0, (quantile_disc(n, 0.995) - min(n)) / $3) AS raw FROM r),
        step AS (SELECT low, high, ceil(raw / pow(10, floor(log10(raw)))) * pow(10, floor(log10(raw))) AS width
                 FROM ends),
        bars AS (SELECT floor(least(n, high) / width) * width AS start, width, split FROM r, step)
        SELECT start, start + any_value(width) AS "end", split, count(*) AS rows FROM bars
        GROUP BY start, split ORDER BY start, split"""
    return rows_of(lake, query, [found.dataset, found.version, BARS])


def runs(lake: Lake, found: DatasetVersion) -> list[str]:
    """The runs whose candidates became the version's rows; none for an import."""
    return runs_of(lake, Held("", found))


def ends(lake: Lake, run_ids: Sequence[str]) -> Rows:
    """Candidates of these runs by outcome: status, route, code, rows; most first."""
    query = """
        SELECT status, route, code, count(*) AS rows FROM lake.candidates
        WHERE list_contains(?::VARCHAR[], run_id) GROUP BY ALL ORDER BY rows DESC, status, route, code"""
    return rows_of(lake, query, [list(run_ids)])


def by_run(lake: Lake, run_ids: Sequence[str]) -> Rows:
    """Candidates, accepted rows and price (None: unknown) of each run, in order of start."""
    query = """
        WITH made AS (SELECT run_id, count(*) AS candidates, count(*) FILTER (status = 'accepted') AS accepted
                      FROM lake.candidates WHERE list_contains($1::VARCHAR[], run_id) GROUP BY run_id)
        SELECT run_id, candidates, accepted, accepted / candidates AS share, r.price_usd, r.started_at
        FROM made LEFT JOIN lake.runs r ON r.id = run_id ORDER BY r.started_at NULLS FIRST, run_id"""
    return rows_of(lake, query, [list(run_ids)])


def drops(lake: Lake, found: DatasetVersion) -> Rows:
    """Rows of its parent that a derived version leaves out: gate, rule, rows; most first."""
    query = """
        SELECT gate, rule, count(*) AS rows FROM lake.drops WHERE dataset = ? AND version = ?
        GROUP BY ALL ORDER BY rows DESC, gate, rule"""
    return rows_of(lake, query, [found.dataset, found.version])


def shown_labels(rows: Sequence[dict[str, Any]], most: int = 100) -> list[dict[str, Any]]:
    """All labels of a chart or, if there are too many, an equal number with the most and with the fewest rows."""
    return [*rows] if len(rows) <= most else [*rows[: most // 2], *rows[-(most // 2) :]]
