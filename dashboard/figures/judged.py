"""Intended and final labels, adjudications, and the distribution of judges' scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from graft.agents.methods import report_of
from graft.dashboard.figures import Rows, rows_of
from graft.dashboard.figures.datasets import runs
from graft.schemas.sections import Section

if TYPE_CHECKING:
    from graft.data.lake import Lake
    from graft.schemas.datasets import DatasetVersion


@dataclass(frozen=True)
class JudgementFigures:
    """Counts over a version and its runs: relabelled rows, adjudications, scores, and the methods' own reports.

    `relabels`: intended, label, rows, share (of the version's rows with that intended label).
    `labels`: label, candidates, adjudicated, overturned, and the shares adjudicated_share, overturned_share.
    `scores`: start, end, status, rows: candidates by the reviewers' mean, 0 to 10.
    `reports`: (run id, section) of the runs whose method has figures of its own.
    """

    relabels: Rows
    meant: int
    labels: Rows
    scores: Rows
    reports: tuple[tuple[str, Section], ...]


def judged(lake: Lake, found: DatasetVersion) -> JudgementFigures:
    """Compute all counts; some seconds on a million rows."""
    of_runs = runs(lake, found)
    pairs = relabelled(lake, found)
    meant = sum(row["rows"] for row in pairs)
    return JudgementFigures(
        relabels=[row for row in pairs if row["intended"] != row["label"]],
        meant=meant,
        labels=adjudicated(lake, of_runs),
        scores=scores(lake, of_runs),
        reports=tuple(
            (run_id, report)
            for run_id in of_runs
            if (run := lake.run(run_id)) and (report := report_of(run, lake.query))
        ),
    )


def relabelled(lake: Lake, found: DatasetVersion) -> Rows:
    """Row counts of a version by intended and final label; most first."""
    query = """
        WITH pairs AS (SELECT coalesce(nullif(c.intended_label, ''), v.label) AS intended, v.label AS label,
                              count(*) AS rows
            FROM lake.version_rows v JOIN lake.candidates c ON c.run_id = v.run_id AND c.candidate_id = v.candidate_id
            WHERE v.dataset = ? AND v.version = ? GROUP BY ALL)
        SELECT *, rows / sum(rows) OVER (PARTITION BY intended) AS share
        FROM pairs ORDER BY rows DESC, intended, label"""
    return rows_of(lake, query, [found.dataset, found.version])


def adjudicated(lake: Lake, run_ids: list[str]) -> Rows:
    """Intended labels whose candidates went to an adjudicator, with the share it rejected; most first."""
    query = """
        WITH meant AS (SELECT coalesce(nullif(intended_label, ''), label) AS intended_label, count(*) AS n,
                              count(*) FILTER (route = 'adjudicated') AS disputed,
                              count(*) FILTER (route = 'adjudicated' AND status <> 'accepted') AS refused
                       FROM lake.candidates WHERE list_contains(?::VARCHAR[], run_id) GROUP BY 1)
        SELECT intended_label AS label, n AS candidates, disputed AS adjudicated, refused AS overturned,
               disputed / n AS adjudicated_share, refused / disputed AS overturned_share
        FROM meant WHERE disputed > 0 ORDER BY adjudicated_share DESC, label"""
    return rows_of(lake, query, [run_ids])


def scores(lake: Lake, run_ids: list[str]) -> Rows:
    """Candidates by mean review score, in steps of 0.5 (10 is in the last), and outcome."""
    query = """
        SELECT least(floor(mean * 2), 19) / 2 AS start, start + 0.5 AS "end", status, count(*) AS rows
        FROM lake.candidates WHERE list_contains(?::VARCHAR[], run_id) AND mean IS NOT NULL
        GROUP BY ALL ORDER BY start, status"""
    return rows_of(lake, query, [run_ids])
