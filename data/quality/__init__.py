"""The figures that a published version is judged by, each defined once."""

from data.quality.model import Quality
from data.quality.report import quality
from data.quality.view import Section, tables

__all__ = ["Quality", "Section", "quality", "tables"]
