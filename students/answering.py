"""What a classifier says of texts, and how quick it is at it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from graft.data.scores import Speed
from graft.students.multilabel import cell_of

if TYPE_CHECKING:
    from graft.students.classifier import TextClassifier

Said = tuple[list[str], list[list[float]]]
"""Predicted labels, or label cells, and the probabilities of each text in the labels' order."""

SINGLES = 32
"""Texts that are asked one by one, to know how long one takes."""

PATIENCE_S = 0.5
"""Seconds that this may take."""


def say(model: TextClassifier, texts: Sequence[str]) -> Said:
    """What a classifier says of texts: labels, or cells where it gives several."""
    if model.thresholds is None:
        return model.predict(texts)
    found, shares = model.predict_many(texts)
    return [cell_of(some) for some in found], shares


def say_timed(model: TextClassifier, texts: Sequence[str]) -> tuple[Said, Speed]:
    """The same, and how long it took: all texts in batches, then a few alone, for half a second at most.

    A first text goes through before, so that what a device does only once is not counted.
    """
    import numpy as np

    say(model, texts[:1])
    started = time.perf_counter()
    said = say(model, texts)
    ended = time.perf_counter()
    took = list[float]()
    for text in texts[:SINGLES]:
        before = time.perf_counter()
        say(model, [text])
        took.append(time.perf_counter() - before)
        if time.perf_counter() - ended > PATIENCE_S:
            break
    p50, p95 = np.quantile(took or [0.0], (0.5, 0.95))
    seconds = max(ended - started, 1e-9)
    return said, Speed(
        device=model.device.type, rows=len(texts), seconds=round(seconds, 4),
        texts_per_second=round(len(texts) / seconds, 1), singles=len(took), p50_s=round(float(p50), 5),
        p95_s=round(float(p95), 5),
    )  # fmt: skip
