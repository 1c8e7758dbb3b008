"""Heads: how a classifier's logits become labels, and everything that follows from that.

A head owns its targets (which labels a row has), its usual objective, predictions, thresholds and figures. Nothing here
loads torch: numpy and lists alone, so that an exported student needs no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graft.schemas.students import StudentSettings
from graft.students.heads.base import Answer, Head, Predicted, Rule, Several
from graft.students.heads.multi_label import MultiLabel
from graft.students.heads.single import Single

__all__ = ["Answer", "Head", "Predicted", "Rule", "Several", "head_in", "head_of"]


def head_of(settings: StudentSettings, labels: Sequence[str]) -> Head:
    """The head of a student before it is trained. Raises GraftError if settings or labels do not fit it."""
    head: Head = Single(labels) if settings.multi_label is None else MultiLabel(labels, least=settings.multi_label)
    head.check(settings)
    return head


def head_in(facts: Mapping[str, Any]) -> Head:
    """The head of a student's JSON. Raises GraftError if a label has no threshold in it."""
    return MultiLabel.read(facts) or Single(facts["labels"])
