"""A steering policy of another distribution: the generator is shown the shortest row of each label."""

from __future__ import annotations

from graft.students.steer.base import Evidence, Policy, Wish, shown


async def wish(evidence: Evidence) -> Wish:
    """Exemplars alone."""
    rows = [
        min(found, key=lambda row: (len(row.text), row.text))
        for label in evidence.labels
        if (found := [row for row in evidence.pool if row.label == label])
    ]
    return Wish(exemplars=shown(rows), summary=f"{len(rows)} short rows shown")


KIND: Policy = wish
