"""Where a student is weak: the rows of one label, length, source or concept, and which of them it got wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np

from graft.data.audits.base import wilson
from graft.data.scores import maths
from graft.data.scores.answers import BETWEEN, Answers
from graft.schemas.base import Value

if TYPE_CHECKING:
    from graft.data.lake import Lake

Kind = Literal["label", "length", "label and length", "source", "concept"]

LEAST = 5
"""Rows of a slice that is told of: of fewer nothing can be said."""

SHOWN = 100
"""Wrong rows that a slice names at most: those that the student was surest of."""

NO_LABEL = "(no label)"
"""The slice of rows that have none, of a student that gives several."""


class RowFacts(Value):
    """What the lake knows of a version's row. `concept` is what a round of `improve` asked it to be about."""

    source: str
    concept: str = ""


class SliceScore(Value):
    """Some of the rows: how many were right, and Wilson's 95% interval of that share.

    `wrong` are the places (from 1) of its wrong rows, the surest mistakes first and at most SHOWN of them; `wrong_ids`
    their ids where they are a version's rows (of equal length then, else empty).
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
    """Slices of `least` rows or more, the one that is surely worst first: by the upper end of the interval.

    By label, by quarter of the texts by length, by both, and by the source and concept of rows whose id is in `facts`.
    A row with several labels is in the slice of each.
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
    """Source and concept of the version's rows among the answers, by id; none where they are a file's.

    A concept was named by a model that read rows, so that it is left out of restricted ones unless asked for.
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
    found = lake.sql(query, [answers.student_id, ids, restricted]).to_pylist()
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
