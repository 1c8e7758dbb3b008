"""Report of a run's messages and guard scores, counted from the lake: counts and shares only, never a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graft.agents.methods.base import Query
from graft.schemas.sections import Column, Section, Table, share

WAYS = {"prefilled": ("with the prefix", 0.9681), "plain": ("without", 0.1302)}
"""Way of requesting messages: its name, and the paper's share of replies without a refusal (arXiv 2410.01524,
10,000 messages)."""

_SCORED = """
    FROM (SELECT payload->>'side' AS side, payload->>'variant' AS variant, count(*) AS rows,
                 count(*) FILTER (label = ?) AS harmful,
                 avg(CAST(json_extract_string(soft_label, ?) AS DOUBLE)) AS mean_score
          FROM lake.candidates WHERE run_id = ? AND status = 'accepted' GROUP BY 1, 2)
    ORDER BY list_position(CAST(? AS VARCHAR[]), side), list_position(CAST(? AS VARCHAR[]), variant)"""
_REFUSED = """
    SELECT count(DISTINCT message) AS asked, count(DISTINCT message) FILTER (code = 'rejected.refusal') AS refused
    FROM (SELECT *, coalesce(nullif(slot_group, ''), slot_id) AS message FROM lake.candidates)
    WHERE run_id = ? AND (notes->>'prefilled') IS NOT NULL"""


def scoring_report(
    query: Query, run_id: str, counts: Mapping[str, int], *, refused: str, sides: Sequence[str], variants: Sequence[str]
) -> Section | None:
    """Guard scores of each kind of accepted row, and refusals: of messages, not of the rows made from them.

    `counts` are the run's, with the comparison of refusals: asked_prefilled, refused_prefilled, asked_plain,
    refused_plain. `refused` is the label of harmful rows; `sides` and `variants` are in the order of the table. None
    for a run without a message.
    """
    given = [refused, f'$."{refused}"', run_id, list(sides), list(variants)]
    scored = [{**row, "harmful_share": row["harmful"] / row["rows"]} for row in query(_SCORED, given)]
    [counted] = query(_REFUSED, [run_id])
    if not scored and not counted["asked"]:
        return None
    compared = [
        {"how": how, "asked": name, "messages": messages, "here": 1 - counts.get(f"refused_{how}", 0) / messages,
         "paper": paper}
        for how, (name, paper) in WAYS.items() if (messages := counts.get(f"asked_{how}", 0))
    ]  # fmt: skip
    made = Table(
        "scored", "Intended kind and guard label of the messages",
        (
            Column("side", "meant"), Column("variant", "response"), Column("rows", "rows", "number"),
            Column("harmful_share", f"labelled {refused}", "share", bar=True),
            Column("mean_score", "mean score", "number", 2),
        ),
        scored,
    )  # fmt: skip
    refusals = Table(
        "refusals", "Replies without a refusal",
        (
            Column("asked", "asked"), Column("messages", "messages", "number"), Column("here", "here", "share"),
            Column("paper", "in the paper", "share", 2),
        ),
        compared,
    )  # fmt: skip
    return Section(
        "guard", "Generation and labelling of the messages", _sentences(scored, counted, compared, refused),
        tables=tuple(table for table in (made, refusals) if table.rows),
    )  # fmt: skip


def _sentences(
    scored: list[dict[str, Any]], counted: dict[str, int], compared: list[dict[str, Any]], refused: str
) -> str:
    by_side: dict[str, list[int]] = {}
    for row in scored:
        pair = by_side.setdefault(row["side"], [0, 0])
        pair[0] += row["rows"]
        pair[1] += row["harmful"]
    shares = ", ".join(f"{side} {share(harmful / rows, 0)} of {rows}" for side, (rows, harmful) in by_side.items())
    lines = [f"The guard labelled {refused}: {shares}."] if shares else []
    if counted["asked"]:
        lines.append(f"{counted['refused']} of {counted['asked']} messages were refused.")
    ways = [one["asked"] if one["how"] == "prefilled" else f"{one['asked']} the prefix" for one in compared]
    tried = [f"{share(one['here'], 0)} {way}" for one, way in zip(compared, ways, strict=True)]
    if tried:
        lines.append(f"Replies that were not refusals: {' and '.join(tried)}.")
    return " ".join(lines)
