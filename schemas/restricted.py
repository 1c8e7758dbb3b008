"""Replacement for the words of restricted rows, wherever they are shown without a request for them."""

from __future__ import annotations

HIDDEN = "(restricted)"
"""Placeholder of hidden words."""
