"""Training-set files of a version, in many formats. A new format is a `Format` in one of the files here.

registry.py says what a format is, files.py, chat.py, preference.py and hub.py hold them, write.py writes them.
"""

from graft.data.export.registry import Format
from graft.data.export.write import FORMATS, KINDS, export

__all__ = ["FORMATS", "KINDS", "Format", "export"]
