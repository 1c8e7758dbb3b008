"""Order in which `graft label` labels texts: `python -m benchmarks.selection [SETS]` (needs ../shared/data).

Of each set 800 texts wait for a label, which is the true one here, or with a probability of 15% a random one. After
each batch of 50 a quick student of label names and labelled texts is tested on 800 others. Beside its accuracy: the
accuracy by cross-validation that ends the labelling with `margin_of_error`. Means of four draws; some minutes of CPU.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graft.agents.local import encoder
from graft.flows.batches import Selection, of_run
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GivenText
from graft.students.quick import Rows, predicted
from graft.students.rows import named

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = {"mr": ("mr/test.jsonl", "label"), "clinc150": ("clinc150/test.jsonl", "domain"),
        "banking77": ("banking77/test.jsonl", "label")}  # fmt: skip
TEXTS, TESTED, EACH, DRAWS = 800, 800, 50, 4
SIZES = (50, 100, 150, 200)
NOISE = (0.0, 0.15)
ORDERS = ("given", "diverse", "uncertain")
"""`given` is the order of a shuffled file: random."""


def remembered(embed: encoder.Embed) -> encoder.Embed:
    """The encoder with a memory, as every draw has the same texts."""
    known: dict[str, Any] = {}

    def vectors(texts: Sequence[str]) -> Any:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        for begin in range(0, len(new), 256):
            part = new[begin : begin + 256]
            known.update(zip(part, embed(part), strict=True))
        return np.stack([known[text] for text in texts])

    return vectors


def recipe_of(labels: Sequence[str], order: str, draw: int) -> Recipe:
    """A recipe that labels the texts in this order, with a look after each batch."""
    return Recipe.model_validate({
        "name": "order", "seed": draw, "task": {"kind": "classification", "labels": [{"name": one} for one in labels]},
        "models": [{"name": "m", "provider": "openai", "model": "m", "base_url": "http://127.0.0.1:1/v1"}],
        "method": {"kind": "label", "texts": "-", "order": order, "batch": EACH, "margin_of_error": 0.001},
    })  # fmt: skip


def draw_of(rows: Sequence[tuple[str, str]], order: str, noise: float, draw: int) -> list[tuple[float, float]]:
    """(accuracy on the test rows, held-out accuracy) after each batch."""
    labels, shuffled = sorted({label for _, label in rows}), random.Random(draw).sample(rows, len(rows))
    rng, tested = random.Random(f"noise-{draw}"), shuffled[TEXTS : TEXTS + TESTED]
    given = {GivenText.of(text, "-", at + 1): label if rng.random() >= noise else rng.choice(labels)
             for at, (text, label) in enumerate(shuffled[:TEXTS])}  # fmt: skip
    of = {row.id: label for row, label in given.items()}
    names = named(labels)
    fixed = Rows(encoder.features([text for text, _ in names]), tuple(label for _, label in names))
    tests, truth = (
        encoder.features([text for text, _ in tested]),
        np.array([label for _, label in tested], dtype=object),
    )
    found, done = list[tuple[float, float]](), list[GivenText]()
    with tempfile.TemporaryDirectory() as folder:
        selection = of_run(recipe_of(labels, order, draw), (), list(given), Path(folder), lambda text: None)
        assert isinstance(selection, Selection)
        while len(done) < max(SIZES):
            done += selection.next([of[row.id] for row in done])
            if len(done) > EACH:
                held, right = selection.figures["held_out"], selection.figures["held_out_right"]
                found[-1] = found[-1][0], right / held
            learned = Rows(encoder.features([row.text for row in done]), tuple(of[row.id] for row in done))
            found.append((float((predicted(fixed + learned, tests) == truth).mean()), float("nan")))
        selection.next([of[row.id] for row in done])
    return [*found[:-1], (found[-1][0], selection.figures["held_out_right"] / selection.figures["held_out"])]


def main() -> None:
    """Print a table for each set."""
    encoder.features = remembered(encoder.features)
    for name in sys.argv[1:] or SETS:
        file, field = SETS[name]
        lines = (DATA / file).read_text(encoding="utf-8").splitlines()
        rows = [(row["text"], row[field]) for row in map(json.loads, lines)]
        for noise in NOISE:
            print(f"{name}, {noise:.0%} of the labels random: accuracy (held out) after {SIZES} texts", flush=True)
            for order in ORDERS:
                draws = np.mean([draw_of(rows, order, noise, draw) for draw in range(DRAWS)], axis=0)
                print(f"  {order:10}", "  ".join(f"{test:6.1%} ({held:.1%})" for test, held in draws), flush=True)


if __name__ == "__main__":
    main()
