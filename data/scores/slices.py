"""Weak slices of a student: rows of a label, length, source or concept, with its errors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np

from graft.data.scores import maths
from graft.data.scores.answers import BETWEEN, Answers
from graft.schemas.base import Value
from graft.schemas.intervals import wilson

if TYPE_CHECKING:
    from graft.data.lake import Lake

Kind = Literal["label", "length", "label and length", "source", "concept"]

LEAST = 5
"""Minimum rows of a reported slice; fewer are not meaningful."""

SHOWN = 100
"""Maximum wrong rows listed per slice, the most confident errors first."""

NO_LABEL = "(no label)"
"""The slice of rows without a label, for a student with several labels."""


class RowFacts(Value):
    """Facts about a version's row. `concept` is the topic that a round of `improve` requested for it."""

    source: str
    concept: str = ""


class SliceScore(Value):
    """A slice of the rows, with its accuracy and Wilson's 95% interval.

    `wrong` holds the positions (from 1) of its wrong rows, the most confident errors first, at most SHOWN; `wrong_ids`
    their ids if they are a version's rows (then of equal length, else empty).
    """

    kind: Kind
    name: str
    rows: int
    right: int
    accuracy: float
    interval: tuple[float, float]
    wrong: tuple[int, ...]
    wrong_ids: tuple[str, ...] = ()


def worst_slices(
    answers: Answers, facts: Mapping[str, RowFacts] | None = None, *, least: int = LEAST
) -> list[SliceScore]:  # fmt: skip
    """Return slices of `least` rows or more, sorted by the upper end of the interval, lowest first.

    Slices are by label, by quarter of the text lengths, by both, and by the source and concept of rows whose id is in
    `facts`. A row with several labels is in the slice of each.
    """
    members = defaultdict[tuple[Kind, str], list[int]](list)
    length, ids = np.array(answers.column("chars"), dtype=np.int64), answers.column("row_id")
    quarter = maths.quarters(length)
    names = {n: maths.length_name(length[quarter == n]) for n in set(quarter.tolist())}
    for place, cell in enumerate(answers.column("label")):
        band = names[int(quarter[place])]
        members["length", band].append(place)
        for label in cell.split(BETWEEN) if answers.several else (cell,):
            members["label", label or NO_LABEL].append(place)
            members["label and length", f"{label or NO_LABEL}, {band}"].append(place)
        known = (facts or {}).get(ids[place])
        if known is not None:
            members["source", known.source].append(place)
            if known.concept:
                members["concept", known.concept].append(place)
    right, sure = answers.right, np.array(answers.column("confidence"))
    found = [
        _slice(kind, name, np.array(places), right, sure, ids)
        for (kind, name), places in members.items()
        if len(places) >= least
    ]
    return sorted(found, key=lambda one: (one.interval[1], -one.rows, one.kind, one.name))


def row_facts(lake: Lake, answers: Answers, *, restricted: bool = False) -> dict[str, RowFacts]:
    """Return source and concept of the version's rows among the answers, by id; empty for a file's rows.

    A concept was named by a model that read the rows, so it is omitted for restricted rows unless `restricted`.
    """
    ids = sorted({name for name in answers.column("row_id") if name})
    if not ids:
        return {}
    query = """
        WITH student AS (SELECT dataset, version FROM lake.students WHERE id = $1),
             wanted AS (SELECT unnest($2::VARCHAR[]) AS id),
             held AS (SELECT v.id, any_value(v.source) AS source, any_value(v.run_id) AS run_id,
                             any_value(v.candidate_id) AS candidate_id, bool_or(v.restricted) AS restricted
                      FROM lake.version_rows v JOIN wanted w ON w.id = v.id
                      JOIN student s ON s.dataset = v.dataset AND (s.version IS NULL OR s.version = v.version)
                      GROUP BY v.id)
        SELECT h.id, h.source, CASE WHEN h.restricted AND NOT $3 THEN ''
               ELSE coalesce(json_extract_string(c.steer, '$.concept'), '') END AS concept
        FROM held h LEFT JOIN lake.candidates c ON c.run_id = h.run_id AND c.candidate_id = h.candidate_id"""
    found = lake.query(query, [answers.student_id, ids, restricted])
    return {row["id"]: RowFacts(source=row["source"], concept=row["concept"]) for row in found}


def _slice(
    kind: Kind, name: str, places: maths.Places, right: maths.Truths, sure: maths.Matrix, ids: list[str]
) -> SliceScore:
    hits = int(right[places].sum())
    missed = places[~right[places]]
    shown = missed[np.argsort(-sure[missed], kind="stable")][:SHOWN].tolist()
    return SliceScore(
        kind=kind, name=name, rows=len(places), right=hits, accuracy=hits / len(places),
        interval=wilson(hits, len(places)), wrong=tuple(place + 1 for place in shown),
        wrong_ids=tuple(ids[place] for place in shown) if any(ids) else (),
    )  # fmt: skip
