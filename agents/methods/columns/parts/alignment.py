"""Which words of a text its compression kept (LLMLingua-2, arXiv 2403.12968, section 3.2)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")
MOST_WORDS = 5_000


@dataclass(frozen=True)
class Kept:
    """The words of a text with a label each: 1 if the compression kept it.

    Args:
        variation: share of the compression's words that the text lacks, or has out of order
        gap: share of the text's words that occur in the compression, minus the share that is labelled: words that the
            alignment missed
    """

    words: tuple[str, ...]
    labels: tuple[int, ...]
    variation: float
    gap: float

    @property
    def value(self) -> dict[str, Any]:
        """As a column's value."""
        return {
            "words": list(self.words), "labels": list(self.labels), "variation": round(self.variation, 4),
            "rate": round(sum(self.labels) / max(1, len(self.labels)), 4), "gap": round(self.gap, 4),
        }  # fmt: skip


def keep_labels(text: str, compressed: str, window: int = 400) -> Kept:
    """The alignment: each word of the compression labels the nearest equal, unlabelled word of the text.

    It is searched forward from the last hit, then backward, within `window` words, without case. The pointer then moves
    to the hit, at most half a window forward. Commas are left out of the compression.
    """
    words = tuple(_WORD.findall(text))[:MOST_WORDS]
    wanted = [word for word in _WORD.findall(compressed)[:MOST_WORDS] if word != ","]
    folded, labels = [word.casefold() for word in words], [0] * len(words)
    pointer, missed = 0, 0
    for word in wanted:
        at = _nearest(word.casefold(), folded, labels, pointer, window)
        if at is None:
            missed += 1
            continue
        labels[at] = 1
        pointer = min(at, pointer + window // 2) if at > pointer else at
    known = {word.casefold() for word in wanted}
    hitting = sum(word in known for word in folded) / max(1, len(words))
    return Kept(words, tuple(labels), missed / max(1, len(wanted)), hitting - sum(labels) / max(1, len(words)))


def _nearest(word: str, folded: list[str], labels: list[int], pointer: int, window: int) -> int | None:
    for distance in range(window + 1):
        for at in (pointer + distance, pointer - distance):
            if 0 <= at < len(folded) and not labels[at] and folded[at] == word:
                return at
    return None
