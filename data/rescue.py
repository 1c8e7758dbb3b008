"""Rescues rejected candidates: finds them in a version's runs and gives them a place in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graft.data.arrow import from_rows
from graft.data.versions import Held
from graft.data.withdrawn import withdrawn
from graft.schemas.base import Value
from graft.schemas.datasets import Row, SplitName
from graft.schemas.kinds import METHODS
from graft.schemas.rows import Data

if TYPE_CHECKING:
    from graft.data.lake import Lake
    from graft.schemas.datasets import DatasetVersion

OUTSIDE: SplitName = "train"
"""Split of a rescued row that resembles no row of the version."""


class Rejected(Value):
    """A rejected candidate of a version's runs, with the fields that a version would hold."""

    id: str
    run_id: str
    text: str
    response: str | None
    label: str
    restricted: bool
    data: Data
    given: bool
    """True if the text is a person's, which models labelled."""
    variant: bool
    """True if several rows share its text, each with another response."""
    neighbour: str
    """The similar row that a gate names; empty if none does."""

    def as_row(self, split: SplitName = OUTSIDE) -> Row:
        """The row for a version."""
        fields = {name: getattr(self, name) for name in ("id", "text", "response", "label", "restricted", "data")}
        return Row(**fields, split=split, source="labelled" if self.given else "synthetic")


_REJECTED = """
    SELECT c.candidate_id AS id, c.run_id, c.text, c.response, c.label, c.restricted, c.data,
           c.slot_label = '' AS given,
           list_contains($3::VARCHAR[], json_extract_string(r.recipe, '$.method.kind')) IS TRUE AS variant,
           coalesce(list_filter(c.gates, lambda g: NOT g.passed AND g.neighbour <> '')[1].neighbour, '') AS neighbour
    FROM lake.candidates c LEFT JOIN lake.runs r ON r.id = c.run_id
    WHERE c.run_id IN (SELECT unnest($1::VARCHAR[])) AND c.status = 'rejected' AND {chosen}
    ORDER BY r.started_at, c.run_id"""


def runs_of(lake: Lake, found: DatasetVersion) -> list[str]:
    """The runs that a version's rows come from, and the one that it names."""
    query = """
        SELECT DISTINCT run_id FROM lake.version_rows WHERE dataset = ? AND version = ? UNION SELECT ? ORDER BY 1"""
    rows = lake.query(query, [found.dataset, found.version, found.run_id])
    return [str(row["run_id"]) for row in rows]


def rejected(lake: Lake, found: DatasetVersion, ids: Iterable[str]) -> dict[str, Rejected]:
    """The candidates among these that a run of the version rejected, by id; of several runs the newest counts."""
    wanted = sorted(ids)
    if not wanted:
        return {}
    query = _REJECTED.format(chosen="c.candidate_id IN (SELECT unnest($2::VARCHAR[]))")
    rows = lake.query(query, [runs_of(lake, found), wanted, _variants()])
    return {one.id: one for one in from_rows(Rejected, rows)}


def rejected_like(lake: Lake, found: DatasetVersion, name: str, most: int) -> list[Rejected]:
    """The rejected candidate of that id, or else the first `most` ids with that prefix."""
    query = _REJECTED.format(chosen="starts_with(c.candidate_id, $2)")
    rows = {row["id"]: row for row in lake.query(query, [runs_of(lake, found), name, _variants()])}
    ids = [name] if name in rows else sorted(rows)[:most]
    return from_rows(Rejected, [rows[one] for one in ids])


def _variants() -> list[str]:
    """The methods that keep several rows of one text."""
    methods = METHODS.all().items()
    return [name for name, method in methods if method.group_shares_text and not method.keeps_one_of_group]


def recalled(lake: Lake, dataset: str, some: Iterable[Rejected]) -> set[str]:
    """Those that a recall withdraws."""
    return {row_id for row_id, _ in withdrawn(lake, dataset, [(one.id, one.run_id, one.id) for one in some])}


@dataclass(frozen=True)
class Taken:
    """Rescued rows, and those that are not, because a row has the same text: id to that row's."""

    rows: tuple[Held, ...]
    repeats: dict[str, str]


def take_in(held: Sequence[Held], wanted: Sequence[tuple[Rejected, Row]]) -> Taken:
    """The requested rows by id, each in the split of its similar row, so that similar rows share a split.

    The similar row has the same text, for another response to it, or a gate named it. A text that a row has already,
    whatever its case and punctuation, is a repeat; if rows share a text by design, the response counts too.
    """
    if not wanted:
        return Taken((), {})
    from graft.data.gates.shared.folding import normalise

    owners: dict[tuple[str, str], str] = {}
    splits: dict[str, SplitName] = {}

    def enter(row: Row) -> None:
        text = normalise(row.text)
        splits.setdefault(text, row.split)
        owners.setdefault((text, ""), row.id)
        owners.setdefault((text, f"r {normalise(row.response or '')}"), row.id)

    of_row = {row.id: row.split for row, *_ in held}
    for row, *_ in held:
        enter(row)
    taken: list[Held] = []
    repeats: dict[str, str] = {}
    for candidate, row in sorted(wanted, key=lambda one: one[0].id):
        text = normalise(row.text)
        owner = owners.get((text, f"r {normalise(row.response or '')}" if candidate.variant else ""))
        if owner is not None:
            repeats[row.id] = owner
            continue
        split = splits.get(text) or of_row.get(candidate.neighbour, OUTSIDE)
        taken.append((row.model_copy(update={"split": split}), candidate.run_id, candidate.id))
        of_row[row.id] = split
        enter(taken[-1][0])
    return Taken(tuple(taken), repeats)
