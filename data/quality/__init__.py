"""The quality figures of a published version, each defined once."""

from graft.data.quality.model import Quality
from graft.data.quality.report import quality
from graft.data.quality.view import page, sections

__all__ = ["Quality", "page", "quality", "sections"]
