"""Audits of a version: words that give a label away, what planted rows would do, and rounds that please the judges."""

from __future__ import annotations

from data.audit.base import AuditRow, audit_rows, distinct, wilson
from data.audit.hacking import Curve, Point, curves
from data.audit.poison import FORMS, FormResult, Poisoning, poison
from data.audit.shortcuts import Shortcut, ShortcutReport, shortcuts

__all__ = [
    "FORMS", "AuditRow", "Curve", "FormResult", "Point", "Poisoning", "Shortcut", "ShortcutReport", "audit_rows",
    "curves", "distinct", "poison", "shortcuts", "wilson",
]  # fmt: skip
