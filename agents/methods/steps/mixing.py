"""Report of a run's mixing and relabelling, counted from the lake: counts and shares only, never a text.

*Agreement* is the share of labelled texts whose label is the intended one, the *relabel rate* its complement.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graft.agents.methods.base import Query
from graft.agents.methods.steps.bounds import bounds_facts
from graft.schemas.sections import Column, Section, Table, share

NEAR_MARGIN = 0.2
"""A text lies near a boundary if its two likeliest labels are less than this apart in probability."""
PAIRS_SHOWN = 12

_MIXED = f"""
    SELECT round(CAST(payload->>'alpha' AS DOUBLE) * 20) / 20 AS alpha, slot_label AS class,
           payload->>'partner' AS partner, labelling->>'label' AS label, labelling->>'second' AS second,
           abs(CAST(labelling->>'margin' AS DOUBLE)) < {NEAR_MARGIN} AS close
    FROM lake.candidates WHERE run_id = ? AND labelling IS NOT NULL AND slot_label <> ''
        AND NOT (status = 'failed' AND (labelling->>'label') = '')"""
"""Leaves out texts that no judge could judge: they failed, rather than got no label."""

_FIGURES = """
    count(*) AS judged, count(*) FILTER (label <> '') AS labelled, count(*) FILTER (label = class) AS agreed,
    count(*) FILTER (label = partner) AS to_partner,
    count(*) FILTER (label NOT IN ('', class, partner)) AS to_others,
    count(*) FILTER (label <> '' AND close) AS near,
    count(*) FILTER (close AND ((label = class AND second = partner) OR (label = partner AND second = class)))
        AS near_pair"""

_COLUMNS = (
    Column("judged", "judged", "number"), Column("agreement", "agreement", "share"),
    Column("partner_share", "to the partner", "share"), Column("others_share", "to another", "share"),
    Column("no_label_rate", "no label", "share"), Column("near_share", "near a boundary", "share"),
)  # fmt: skip


def mixing_report(query: Query, run_id: str, counts: Mapping[str, int]) -> Section | None:
    """The figures overall, by alpha (rising), and by pair of seed class and partner (most frequent first).

    None for a run without a judged text.
    """
    whole = next(iter(_mixed(query, run_id, "'all'", "1")), None)
    if not whole or not whole["judged"]:
        return None
    alphas = _mixed(query, run_id, "format('{:.2f}', alpha)", "name")
    also = ", class AS seed_class, partner AS partner"
    pairs = _mixed(query, run_id, "class || ' + ' || partner", "judged DESC, seed_class, partner", also)
    agreement = Column("agreement", "agreement", "share", bar=True)
    by_alpha = (Column("name", "alpha"), *(agreement if one.key == "agreement" else one for one in _COLUMNS))
    by_pair = (Column("name", "class + partner"), *_COLUMNS)
    return Section(
        "mixing", "Mixing and relabelling", _sentences(whole), facts=tuple(bounds_facts(counts)),
        tables=(
            Table("by_alpha", "Agreement and relabelling by alpha", by_alpha, [*alphas, whole]),
            Table(
                "by_pair", "Agreement and relabelling by pair of classes", by_pair, [*pairs[:PAIRS_SHOWN], whole],
                note=f"the {PAIRS_SHOWN} most frequent of {len(pairs):,} pairs" if len(pairs) > PAIRS_SHOWN else "",
            ),
        ),
    )  # fmt: skip


def _mixed(query: Query, run_id: str, name: str, order: str, also: str = "") -> list[dict[str, Any]]:
    sql = f"SELECT {name} AS name{also}, {_FIGURES} FROM ({_MIXED}) GROUP BY ALL ORDER BY {order}"
    return [{**row, **_rates(row)} for row in query(sql, [run_id])]


def _rates(row: dict[str, Any]) -> dict[str, float | None]:
    """Shares of the labelled texts (no label: of the judged ones); None if there are none."""
    labelled, judged = row["labelled"], row["judged"]

    def of(count: int) -> float | None:
        return count / labelled if labelled else None

    return {
        "agreement": of(row["agreed"]), "relabel_rate": of(labelled - row["agreed"]),
        "partner_share": of(row["to_partner"]), "others_share": of(row["to_others"]), "near_share": of(row["near"]),
        "near_pair_share": of(row["near_pair"]), "no_label_rate": (judged - labelled) / judged if judged else None,
    }  # fmt: skip


def _sentences(whole: dict[str, Any]) -> str:
    return (
        f"{whole['labelled']} of {whole['judged']} texts got a label; {share(whole['agreement'], 0)} kept the intended "
        f"one, {share(whole['relabel_rate'], 0)} got another ({share(whole['partner_share'], 0)} their partner's). "
        f"{share(whole['near_share'], 0)} lie near a class boundary, {share(whole['near_pair_share'], 0)} near the "
        "intended one."
    )
