"""What restricted rows look like to whoever has not asked for them, wherever they are shown."""

from __future__ import annotations

HIDDEN = "(restricted)"
"""What stands in the place of words that are hidden."""
