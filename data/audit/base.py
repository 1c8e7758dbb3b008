"""What the audits share: a version's rows with the model that wrote each, intervals, and distinct-n."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graft.data.gates.shared.folding import words
from graft.schemas.datasets import DatasetVersion

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from graft.data.lake import Lake

    Vectors = NDArray[np.float32]

Embed = Callable[[Sequence[str]], "Vectors"]
"""Texts to unit vectors, one row a text."""
Z95 = 1.959964


@dataclass(frozen=True)
class AuditRow:
    """A row of a version. `writer` is the model that wrote it, or `seed` or `imported` where none did."""

    id: str
    text: str
    response: str | None
    label: str
    split: str
    writer: str


def audit_rows(lake: Lake, found: DatasetVersion, *, restricted: bool = False) -> list[AuditRow]:
    """A version's rows by id, without the restricted ones unless they are asked for."""
    query = """
        SELECT v.id, v.text, v.response, v.label, v.split, CASE WHEN v.source <> 'synthetic' THEN v.source ELSE
            coalesce(json_extract_string(c.models, '$.generator'), json_extract_string(c.models, '$.responder'),
                     'unknown') END AS writer
        FROM lake.version_rows v
        LEFT JOIN lake.candidates c ON c.run_id = v.run_id AND c.candidate_id = v.candidate_id
        WHERE v.dataset = ? AND v.version = ? AND (? OR NOT v.restricted) ORDER BY v.id"""
    rows: list[dict[str, Any]] = lake.sql(query, [found.dataset, found.version, restricted]).to_pylist()
    return [AuditRow(**row) for row in rows]


def wilson(hits: int, of: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share; (0, 1) where nothing was counted."""
    if of == 0:
        return (0.0, 1.0)
    share, spread = hits / of, Z95**2 / of
    middle = share + spread / 2
    reach = Z95 * math.sqrt(share * (1 - share) / of + spread / (4 * of))
    return (
        min(share, max(0.0, (middle - reach) / (1 + spread))),
        max(share, min(1.0, (middle + reach) / (1 + spread))),
    )


def distinct(texts: Iterable[str], n: int = 2) -> float | None:
    """Distinct word n-grams over all of them, 0 to 1; None where there is none. Falls as texts are added."""
    seen: set[tuple[str, ...]] = set()
    total = 0
    for text in texts:
        found = words(text)
        grams = [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]
        seen.update(grams)
        total += len(grams)
    return len(seen) / total if total else None
