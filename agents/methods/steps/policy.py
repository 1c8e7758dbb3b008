"""Label policy of GRA's (text, label) rows: the roles that each policy needs, and a run's report of labels.

A small model can write a text for a label that it cannot judge; a pilot decides which policy yields the best rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from graft.agents.methods.base import Query
from graft.agents.methods.steps.bounds import bounds_facts
from graft.agents.methods.steps.calibrate import Judging
from graft.agents.methods.steps.draw import GraSettings, LabelPolicy
from graft.schemas.recipe import Recipe
from graft.schemas.sections import Column, Section, Table, share

ROLES: Mapping[LabelPolicy, tuple[str, ...]] = {
    "agreeing": ("generator", "reviewer", "adjudicator"),
    "intended": ("generator",),
    "relabelled": ("generator", "reviewer"),
}
YIELDS: Mapping[LabelPolicy, float] = {"agreeing": 0.5, "intended": 0.9, "relabelled": 0.7}
"""Assumed share of accepted candidates before any run has measured it."""

_LABELS = """
    SELECT slot_label AS label, count(*) AS written, count(*) FILTER (status = 'accepted') AS accepted,
           count(*) FILTER (status = 'accepted' AND label <> slot_label) AS relabelled,
           count(best) AS judged, count(*) FILTER (coalesce(scores[place], 0) = best) AS agreed,
           avg(coalesce(scores[place], 0)) FILTER (status = 'accepted' AND best IS NOT NULL) AS probability
    FROM (SELECT *, list_position(json_keys(soft_label), slot_label) AS place, list_max(scores) AS best
          FROM (SELECT *, json_extract_string(soft_label, '$.*')::DOUBLE[] AS scores
                FROM lake.candidates WHERE run_id = ? AND slot_label <> ''))
    GROUP BY slot_label ORDER BY slot_label"""


def roles_under(recipe: Recipe, settings: GraSettings) -> tuple[str, ...]:
    """The roles that rows of any of the recipe's labels need, in the order in which they act."""
    if not recipe.task.labelled:
        return ROLES["agreeing"]
    policies = {settings.policy(label) for label in recipe.task.names}
    return max((ROLES[policy] for policy in policies), key=len, default=ROLES["agreeing"])


def share_under(recipe: Recipe, settings: GraSettings, policy: LabelPolicy) -> float:
    """The share of the requested rows whose label has this policy."""
    if not recipe.task.labelled:
        return float(policy == "agreeing")
    wanted = recipe.wanted()
    under = sum(count for label, count in wanted.items() if settings.policy(label) == policy)
    return under / max(1, sum(wanted.values()))


def judging(recipe: Recipe, settings: GraSettings) -> Judging:
    """The roles that judge labels. Reviewers that relabel may name labels if their server has no log-probabilities."""
    roles = tuple(role for role in roles_under(recipe, settings) if role != "generator")
    policies = {settings.policy(label) for label in recipe.task.names}
    gives = frozenset({"reviewer"} if "relabelled" in policies else ())
    votes = gives if "agreeing" not in policies or recipe.role("reviewer").answer == "scores" else frozenset[str]()
    return Judging(roles=roles, giving=gives, voting=votes)


def label_report(query: Query, run_id: str, counts: Mapping[str, int]) -> Section | None:
    """Each label's policy, and how often judges by probabilities found the intended label likeliest.

    None for a run whose only policy is `agreeing` and whose judges gave no probabilities.
    """
    stored = query(
        """SELECT coalesce(json_extract(recipe, '$.method.label_policy'),
                           json_extract(recipe, '$.method.top_up.label_policy'))::VARCHAR AS policy
           FROM lake.runs WHERE id = ?""",
        [run_id],
    )
    given: Any = orjson.loads(stored[0]["policy"]) if stored and stored[0]["policy"] else "agreeing"
    rows = [
        {**row, "policy": given if isinstance(given, str) else given.get(row["label"], "agreeing"),
         "agreement": row["agreed"] / row["judged"] if row["judged"] else None}
        for row in query(_LABELS, [run_id])
    ]  # fmt: skip
    if not rows or (given == "agreeing" and not any(row["judged"] for row in rows)):
        return None
    columns = (
        Column("label", "label"), Column("policy", "policy"), Column("written", "written", "number"),
        Column("accepted", "accepted", "number"), Column("relabelled", "under another label", "number"),
        Column("agreement", "intended is likeliest", "share"),
        Column("probability", "probability if accepted", "share"),
    )  # fmt: skip
    table = Table("labels", "Label policy and judges' probabilities of the intended label", columns, rows)
    return Section("labels", "Labels", _sentences(rows), facts=tuple(bounds_facts(counts)), tables=(table,))


def _sentences(rows: list[dict[str, Any]]) -> str:
    policies = sorted({row["policy"] for row in rows})
    said = [f"Label policy: {', '.join(policies)}."]
    judged, agreed = (sum(row[name] for row in rows) for name in ("judged", "agreed"))
    if judged:
        said.append(f"Judges found the intended label likeliest for {share(agreed / judged, 0)} of {judged} texts.")
    moved = sum(row["relabelled"] for row in rows)
    if moved:
        said.append(f"{moved} accepted rows have another label than the one they were written for.")
    return " ".join(said)
