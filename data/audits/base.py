"""The contract of an audit, and shared parts: a version's rows with the model that wrote each, intervals, distinct-n.

A file of this folder holds its audit as `KIND`; the file's name is the audit's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graft.data.gates.shared.folding import words
from graft.schemas.base import Value
from graft.schemas.binding import writing_roles
from graft.schemas.datasets import DatasetVersion
from graft.schemas.sections import Section

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from graft.data.lake import Lake

    Vectors = NDArray[np.float32]

Embed = Callable[[Sequence[str]], "Vectors"]
"""Texts to unit vectors, one row a text."""
Check = Callable[[str, str], bool]
"""(text, label) to whether the gates accept it."""
Learn = Callable[[Sequence[str], Sequence[str]], Callable[[Sequence[str]], Sequence[str]]]
"""Texts and their labels to a student, which labels texts."""


@dataclass(frozen=True)
class AuditRow:
    """A row of a version. `writer` is the model that wrote it, or `seed` or `imported` if none did."""

    id: str
    text: str
    response: str | None
    label: str
    split: str
    writer: str


@dataclass(frozen=True)
class Material:
    """Inputs of an audit.

    Args:
        version: the audited version
        rows: its rows, restricted rows only if requested
        restricted: whether they were requested
        embed: gives the sentence encoder, or None and the reason
        check: gives the gates of the version's run, or None if it has no recipe
        learn: fine-tunes a classifier (minutes)
        notes: reasons for missing figures, added by the audit
    """

    lake: Lake
    version: DatasetVersion
    rows: Sequence[AuditRow]
    restricted: bool = False
    embed: Callable[[], tuple[Embed | None, str]] = lambda: (None, "no encoder")
    check: Callable[[], Check | None] = lambda: None
    learn: Learn | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Audit:
    """One audit.

    Args:
        summary: one line for the command line
        run: (material, options) to the findings; None if the audit cannot be made, with the reason in the notes
        sections: the findings as report sections
        data: the same as plain values for JSON
        options: the class of its options, each with a default and a description
        figure: the same as a picture; None if there is nothing to draw. matplotlib is imported inside
    """

    summary: str
    run: Callable[[Material, Any], Any]
    sections: Callable[[Any], Sequence[Section]]
    data: Callable[[Any], Any]
    options: type[Value] = Value
    figure: Callable[[Any], Figure | None] = lambda found: None


def audit_rows(lake: Lake, found: DatasetVersion, *, restricted: bool = False) -> list[AuditRow]:
    """A version's rows by id, without restricted rows unless requested."""
    writers = ", ".join(f"json_extract_string(c.models, '$.{role}')" for role in writing_roles())
    query = f"""
        SELECT v.id, v.text, v.response, v.label, v.split, CASE WHEN v.source <> 'synthetic' THEN v.source ELSE
            coalesce({writers}, 'unknown') END AS writer
        FROM lake.version_rows v
        LEFT JOIN lake.candidates c ON c.run_id = v.run_id AND c.candidate_id = v.candidate_id
        WHERE v.dataset = ? AND v.version = ? AND (? OR NOT v.restricted) ORDER BY v.id"""
    rows: list[dict[str, Any]] = lake.query(query, [found.dataset, found.version, restricted])
    return [AuditRow(**row) for row in rows]


def distinct(texts: Iterable[str], n: int = 2) -> float | None:
    """Distinct word n-grams over all n-grams, 0 to 1; None if there is none. Falls as texts are added."""
    seen: set[tuple[str, ...]] = set()
    total = 0
    for text in texts:
        found = words(text)
        grams = [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]
        seen.update(grams)
        total += len(grams)
    return len(seen) / total if total else None


def plain(text: str) -> str:
    """A text for a picture: without dollar signs, which start a formula, and undrawable characters; 40 characters."""
    return "".join(letter for letter in text if letter.isprintable()).replace("$", "S")[:40]
