"""Human review of a version: queues of rows that need review, decisions, agreement, judges against people.

Decisions are edits (data/edits.py): `decide` and `record` write them, `undo` reverts one, `rebase` applies them.
"""

from __future__ import annotations

from graft.data.review.items import item
from graft.data.review.model import (
    AgainstPeople,
    Agreement,
    Difference,
    Item,
    Judge,
    Pair,
    Person,
    Progress,
    Queue,
    QueueRule,
    Standing,
    Verdict,
)
from graft.data.review.people import against_people, agreement, decisions, progress, standing
from graft.data.review.queues import chosen, gates, queue

__all__ = [
    "AgainstPeople", "Agreement", "Difference", "Item", "Judge", "Pair", "Person", "Progress", "Queue", "QueueRule",
    "Standing", "Verdict", "against_people", "agreement", "chosen", "decisions", "gates", "item", "progress",
    "queue", "standing",
]  # fmt: skip
