"""Exports a version as training-set files in many formats.

formats/ holds the formats, a family of them per file (`schemas.kinds.EXPORTS` finds them and those of other
distributions); write.py writes the files.
"""

from graft.data.export.formats.base import Format
from graft.data.export.write import export, format_of

__all__ = ["Format", "export", "format_of"]
