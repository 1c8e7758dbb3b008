"""Audits of a version: words that give a label away, what planted rows would do, and rounds that please the judges."""

from __future__ import annotations

from graft.data.audit.base import AuditRow, audit_rows, distinct, wilson
from graft.data.audit.hacking import Curve, Point, curves
from graft.data.audit.poison import FORMS, FormResult, Poisoning, poison
from graft.data.audit.shortcuts import Shortcut, ShortcutReport, shortcuts

__all__ = [
    "FORMS", "AuditRow", "Curve", "FormResult", "Point", "Poisoning", "Shortcut", "ShortcutReport", "audit_rows",
    "curves", "distinct", "poison", "shortcuts", "wilson",
]  # fmt: skip
