"""95% intervals of a share of counted rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z95 = 1.959964


def wilson(hits: int, of: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share; (0, 1) without counts."""
    if of == 0:
        return (0.0, 1.0)
    share, spread = hits / of, Z95**2 / of
    middle = share + spread / 2
    reach = Z95 * math.sqrt(share * (1 - share) / of + spread / (4 * of))
    return (
        min(share, max(0.0, (middle - reach) / (1 + spread))),
        max(share, min(1.0, (middle + reach) / (1 + spread))),
    )


def of_accuracy(stored: Sequence[float], accuracy: float, rows: int) -> tuple[float, float]:
    """The 95% interval of an accuracy: the stored bootstrap interval, or Wilson's if that has no width or is absent.

    A bootstrap of rows that are all right, or all wrong, draws the same rows again and again.
    """
    low, high = (min(stored), max(stored)) if stored else (accuracy, accuracy)
    return (low, high) if low < high else wilson(round(accuracy * rows), rows)


def margin_of_error(hits: int, of: int) -> float:
    """Half the width of Wilson's interval, 0 to 0.5."""
    low, high = wilson(hits, of)
    return (high - low) / 2


def rows_for(margin: float) -> int:
    """Rows with which Wilson's interval has at most this margin of error (above 0), whatever the share is."""
    return max(1, math.ceil((Z95 / (2 * margin)) ** 2 - Z95**2))
