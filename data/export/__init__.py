"""Exports a version as training-set files in many formats.

registry.py defines `Format`; files.py, chat.py, preference.py and hub.py hold the formats; write.py writes the files.
"""

from graft.data.export.registry import Format
from graft.data.export.write import FORMATS, KINDS, export

__all__ = ["FORMATS", "KINDS", "Format", "export"]
