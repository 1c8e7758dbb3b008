"""Audits of a version, one file each: words that give a label away, planted rows, rounds that please the judges.

base.py says what an audit is; `schemas.kinds.AUDITS` finds those of this folder and of other distributions.
"""

from __future__ import annotations

from graft.data.audits.base import Audit, Material
from graft.schemas.kinds import AUDITS, Kinds

__all__ = ["KINDS", "Audit", "Material"]

KINDS: Kinds[Audit] = AUDITS
