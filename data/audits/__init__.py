"""Audits of a version, one file each: label and writer shortcuts, planted bias, teacher hacking.

base.py has the contract; `schemas.kinds.AUDITS` finds those of this folder and of other distributions.
"""

from __future__ import annotations

from graft.data.audits.base import Audit, Material
from graft.schemas.kinds import AUDITS, Kinds

__all__ = ["KINDS", "Audit", "Material"]

KINDS: Kinds[Audit] = AUDITS
