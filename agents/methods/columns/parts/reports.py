"""A pipeline's figures for card, terminal and pages: calls and ends of each step."""

from __future__ import annotations

from graft.agents.methods.base import Query
from graft.schemas.sections import Column, Section, Table

_ENDS = """
    SELECT coalesce(json_extract_string(notes, '$.step'), '') AS step, count(*) AS ended,
           count(*) FILTER (status = 'failed') AS failed
    FROM lake.candidates WHERE run_id = ? AND status != 'accepted' GROUP BY ALL"""
_CALLS = """
    SELECT string_split(purpose, '.')[2] AS step, count(DISTINCT key) AS calls,
           sum(coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0))::BIGINT AS tokens
    FROM lake.calls WHERE run_id = ? AND purpose LIKE '%.%' GROUP BY ALL"""


def steps_report(query: Query, run_id: str) -> Section | None:
    """Calls and tokens of each step, and the candidates that ended there; None if the run has none."""
    ends = {row["step"]: row for row in query(_ENDS, [run_id])}
    calls = {row["step"]: row for row in query(_CALLS, [run_id])}
    if not calls and not ends:
        return None
    names = sorted({*calls, *(name for name in ends if name)})
    rows = [
        {
            "step": name, "calls": calls.get(name, {}).get("calls", 0), "tokens": calls.get(name, {}).get("tokens", 0),
            "ended": ends.get(name, {}).get("ended", 0), "failed": ends.get(name, {}).get("failed", 0),
        }
        for name in names
    ]  # fmt: skip
    columns = (
        Column("step", "step", "code"), Column("calls", "calls", "number"), Column("tokens", "tokens", "number"),
        Column("ended", "candidates that ended here", "number"), Column("failed", "of them failed", "number"),
    )  # fmt: skip
    last = max(rows, key=lambda row: row["ended"], default=None)
    text = "Every candidate passed every step."
    if last and last["ended"]:
        text = f"Most candidates that did not become rows ended at step {last['step']}: {last['ended']:,}."
    table = Table("steps", "", columns, rows, empty="no step has ended a candidate")
    return Section("steps", "Steps", text, tables=(table,))
