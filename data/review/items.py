"""Rows as shown for review: their content, the judges' verdicts, and the reason for the review."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from graft.data.rescue import runs_of
from graft.data.review.model import Item, QueueRule, Verdict
from graft.data.seen import seen
from graft.schemas.decisions import UNSURE
from graft.schemas.sections import HIDDEN

if TYPE_CHECKING:
    from graft.data.lake import Lake
    from graft.schemas.datasets import DatasetVersion

FAILED = "list_filter(gates, lambda g: NOT g.passed)"
REFUSED_BY = f"""
    CASE WHEN code = '{UNSURE}' THEN 'judges'
         WHEN route = 'gate' THEN coalesce({FAILED}[1].gate, replace(code, 'gate.', ''))
         WHEN route IN ('flag', 'low_mean') THEN 'reviewers' WHEN route = 'adjudicated' THEN 'adjudicator'
         WHEN route IN ('no_label', 'labelled') THEN 'labelers' ELSE route END"""
"""SQL over candidates: the gate, or else the judges, that rejected a candidate."""

HELD = """
    SELECT id, text, response, label, split, restricted, data, run_id, candidate_id FROM lake.version_rows
    WHERE dataset = $1 AND version = $2 AND id IN (SELECT unnest($3::VARCHAR[]))"""
MADE = f"""
    SELECT run_id, candidate_id AS id, text, response, label, intended_label, restricted, data, status, route, mean,
           spread, reviews, labelling, soft_label, {REFUSED_BY} AS refused_by, {FAILED}[1].rule AS rule,
           {FAILED}[1].score AS score, {FAILED}[1].neighbour AS neighbour
    FROM lake.candidates LEFT JOIN (SELECT id AS run_id, started_at FROM lake.runs) USING (run_id)
    WHERE run_id IN (SELECT unnest($1::VARCHAR[])) AND candidate_id IN (SELECT unnest($2::VARCHAR[]))
    ORDER BY started_at, run_id"""
NEAR = """
    SELECT candidate_id AS id, text, restricted, label FROM lake.candidates
    WHERE run_id IN (SELECT unnest($1::VARCHAR[])) AND candidate_id IN (SELECT unnest($2::VARCHAR[]))
    UNION ALL SELECT id, text, NULL, label FROM lake.seeds
    WHERE run_id IN (SELECT unnest($1::VARCHAR[])) AND id IN (SELECT unnest($2::VARCHAR[]))"""
NEAR_SECRET = """
    SELECT DISTINCT id FROM lake.version_rows
    WHERE dataset = $1 AND restricted AND id IN (SELECT unnest($2::VARCHAR[]))"""
NEAR_OLDER = """
    SELECT id, text, restricted FROM lake.version_rows WHERE dataset = $1 AND id IN (SELECT unnest($2::VARCHAR[]))"""
"""Reads the texts of all versions, so it is used only for ids that are missing from this version's runs."""


def item(
    lake: Lake, found: DatasetVersion, row_id: str, *, restricted: bool = False, rule: QueueRule | None = None
) -> Item:
    """Return a row of a version, or a rejected candidate of its runs; a unique prefix of its id suffices.

    `why` and `score` belong to the queue `rule`, else to the first rule that applies. Words of a restricted row are
    hidden unless `restricted`. Raises NotFound.
    """
    name = seen(lake, found, row_id).id
    return items(lake, found, [name], rule=rule, restricted=restricted)[0]


def items(
    lake: Lake, found: DatasetVersion, ids: Sequence[str], *, rule: QueueRule | None, restricted: bool
) -> tuple[Item, ...]:
    """Return the items with these ids, in order; unknown ids are left out."""
    runs = runs_of(lake, found)
    held = {row["id"]: row for row in lake.query(HELD, [found.dataset, found.version, list(ids)])}
    made: dict[str, dict[str, Any]] = {}
    for row in lake.query(MADE, [runs, list(ids)]):
        place = held.get(row["id"])
        if place is None or place["run_id"] == row["run_id"]:
            made[row["id"]] = row
    near = _neighbours(lake, found, runs, [row["neighbour"] for row in made.values() if row["neighbour"]])
    return tuple(
        _item(held.get(name), made.get(name, {}), near, rule, restricted)
        for name in ids
        if name in held or name in made
    )


def _neighbours(lake: Lake, found: DatasetVersion, runs: list[str], ids: list[str]) -> dict[str, tuple[str, bool]]:
    """Text, and whether any row of that id is restricted, by id."""
    if not ids:
        return {}
    from graft.data.seen import task_of

    made, task = lake.query(NEAR, [runs, ids]), task_of(lake, found)
    for row in made:
        if row["restricted"] is None:  # a seed
            row["restricted"] = task.restricts(row["label"])
    missing = sorted(set(ids) - {row["id"] for row in made})
    older = lake.query(NEAR_OLDER, [found.dataset, missing]) if missing else []
    secret = {row["id"] for row in lake.query(NEAR_SECRET, [found.dataset, ids])}
    secret |= {row["id"] for row in (*made, *older) if row["restricted"]}
    return {row["id"]: (row["text"], row["id"] in secret) for row in (*older, *made)}


def _item(
    held: dict[str, Any] | None,
    made: Mapping[str, Any],
    near: Mapping[str, tuple[str, bool]],
    rule: QueueRule | None,
    restricted: bool,
) -> Item:
    row: Mapping[str, Any] = held if held is not None else made
    secret = bool(row["restricted"] or made.get("restricted"))
    hide = secret and not restricted
    margin, second = _margin(made, row["label"])
    why, score = _why(made, held is None, margin, second, rule)
    neighbour = made.get("neighbour") or ""
    text, near_secret = near.get(neighbour, (None, False))
    if text is not None and not restricted and (near_secret or secret):
        text = HIDDEN

    def shown(words: Any) -> Any:
        return HIDDEN if hide and words else words

    return Item(
        row_id=row["id"], text=shown(row["text"]), response=shown(row["response"]), label=row["label"],
        intended_label=made.get("intended_label", row["label"]), split=held["split"] if held else None,
        status="accepted" if held else "rejected", restricted=secret, why=why, score=score, second=second,
        reviews=tuple(
            Verdict(role=one["role"], model=one["model"], mean=one["mean"],
                    probability=_probability(one["distribution"], row["label"]), answer=shown(one["answer"] or ""),
                    comment=shown(one["comment"]))
            for one in made.get("reviews") or ()
        ),
        neighbour=neighbour, neighbour_text=text, data={} if hide else orjson.loads(row["data"]),
    )  # fmt: skip


def _probability(distribution: Sequence[Mapping[str, Any]] | None, label: str) -> float | None:
    given = {one["label"]: one["calibrated"] for one in distribution or ()}
    return math.exp(given.get(label, -math.inf)) if given else None


def _margin(made: Mapping[str, Any], label: str) -> tuple[float | None, str]:
    """The margin of the label over the likeliest other label, and that label."""
    labelling = orjson.loads(made["labelling"]) if made.get("labelling") else None
    if labelling and (labelling["margin"] is not None or labelling["second"]):
        return labelling["margin"], labelling["second"]
    soft: dict[str, float] = orjson.loads(made["soft_label"]) if made.get("soft_label") else {}
    ranked = sorted(soft, key=lambda name: (-soft[name], name))
    second = next((name for name in ranked if name != label), "")
    return (soft[ranked[0]] - soft[ranked[1]] if len(ranked) > 1 else None), second


def _why(
    made: Mapping[str, Any], refused: bool, margin: float | None, second: str, rule: QueueRule | None
) -> tuple[str, float | None]:
    """The reason for the review, and its figure."""
    if refused:
        return _refusal(made)
    if rule == "query":
        return "matches the query", None
    if rule == "random":
        return "drawn at random", None
    spread, adjudicated = made.get("spread"), made.get("route") == "adjudicated"
    if rule != "margin" and (spread or adjudicated):
        parts = [f"reviewers' spread {spread:.1f}"] if spread else []
        return ", ".join([*parts, *(["the adjudicator decided"] if adjudicated else [])]), spread
    if margin is not None:
        return f"margin {margin:.2f}" + (f" over {second!r}" if second else ""), margin
    return "", None


def _refusal(made: Mapping[str, Any]) -> tuple[str, float | None]:
    who, rule, score, neighbour = made["refused_by"], made["rule"], made["score"], made["neighbour"]
    if made["route"] != "gate":
        mean = made["mean"]
        return f"rejected by the {who}" + (f", mean {mean:.1f}" if mean is not None else ""), mean
    reason = f"rejected by gate {who}" + (f" ({rule})" if rule and rule != who else "")
    if score is not None:
        reason += f", {score:.2f}"
    return reason + (f" to {neighbour}" if neighbour else ""), score
