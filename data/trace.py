"""Reverse look-up: the rows of versions that a model, prompt, seed or run touched, and in which part."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graft.data.versions import latest_of, versions
from graft.data.withdrawn import OWN_PROMPTS, PROMPT_VERSION, Places, Selector, direct, touched
from graft.schemas.datasets import DatasetVersion, RecallKind
from graft.schemas.errors import NotFound

if TYPE_CHECKING:
    from graft.data.lake import Lake

SEPARATOR = "\x1f"
_ROWS = """
    SELECT * FROM lake.version_rows WHERE dataset = $1 AND version = $2
    AND ((run_id || chr(31) || candidate_id) IN (SELECT unnest($3::VARCHAR[]))
         OR ($4 = 'run' AND run_id = $5) OR ($4 IN ('seed', 'row') AND id = $5)) ORDER BY id"""
"""A version's rows that a selector touches through their candidate or themselves, as `direct` decides."""


@dataclass(frozen=True)
class Touched:
    """A row of a version and the contact: roles of a model, steps of a prompt, or the part of a seed."""

    id: str
    dataset: str
    version: int
    split: str
    label: str
    text: str
    restricted: bool
    how: tuple[str, ...]


def trace(lake: Lake, selector: Selector, among: Sequence[DatasetVersion] | None = None) -> list[Touched]:
    """Touched rows of these versions (default: the latest of every dataset), by version and id.

    Raises NotFound if the lake has no such model, prompt, seed, run or row.
    """
    places = touched(lake, selector)
    found = rows_at(lake, selector, places, latest(lake) if among is None else among)
    if not found and not places:
        check_known(lake, selector)
    return found


def rows_at(lake: Lake, selector: Selector, places: Places, among: Sequence[DatasetVersion]) -> list[Touched]:
    """Rows of these versions that were touched through their candidate, one of `places`, or themselves."""
    keys = [f"{run_id}{SEPARATOR}{candidate_id}" for run_id, candidate_id in places]
    fields = ("id", "dataset", "version", "split", "label", "text", "restricted")
    found: list[Touched] = []
    for one in among:
        for row in lake.query(_ROWS, [one.dataset, one.version, keys, selector.kind, selector.value]):
            how = places.get((row["run_id"], row["candidate_id"]), ()) or direct(selector, row["id"], row["run_id"])
            found.append(Touched(**{name: row[name] for name in fields}, how=how))
    return found


def latest(lake: Lake) -> list[DatasetVersion]:
    """The latest version of every dataset, by name."""
    by_name = itertools.groupby(versions(lake), key=lambda one: one.dataset)
    return [latest_of([*some]) for _, some in by_name]


def known(lake: Lake, kind: RecallKind) -> list[dict[str, Any]]:
    """Possible selectors: `value`, `calls` and description (`detail`), most calls first; runs and seeds have no calls.

    `detail` of a prompt is only its step, as its words may quote restricted rows.
    """
    queries = {
        "model": "SELECT model AS value, string_agg(DISTINCT role, ', ' ORDER BY role) AS detail, count(*) AS calls"
        " FROM lake.calls GROUP BY 1 ORDER BY calls DESC, value",
        "prompt": f"SELECT {PROMPT_VERSION} AS value, any_value(purpose) AS detail, count(*) AS calls FROM lake.calls"
        " GROUP BY 1 HAVING value IS NOT NULL UNION ALL SELECT value, 'own prompt ' || any_value(name), 0"
        f" FROM ({OWN_PROMPTS}) GROUP BY 1 ORDER BY calls DESC, value",
        "run": "SELECT id AS value, dataset AS detail, calls FROM lake.runs ORDER BY started_at DESC, id",
        "seed": "SELECT DISTINCT id AS value, kind AS detail, 0 AS calls FROM lake.seeds ORDER BY id",
        "row": "SELECT DISTINCT id AS value, dataset AS detail, 0 AS calls FROM lake.version_rows ORDER BY id",
    }
    found: list[dict[str, Any]] = lake.query(queries[kind])
    return found


def check_known(lake: Lake, selector: Selector) -> None:
    """Raises NotFound if the lake has no such model, prompt, seed, run or row."""
    names = [str(row["value"]) for row in known(lake, selector.kind)]
    if selector.value not in names:
        there = ", ".join(names[:12]) + (" …" if len(names) > 12 else "")
        fix = f"one of: {there}" if there else "graft run RECIPE"
        raise NotFound(f"no {selector.kind} {selector.value!r} in the lake", where=f"--{selector.kind}", fix=fix)
