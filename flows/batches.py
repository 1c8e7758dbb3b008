"""Batches of a person's texts: which are labelled next, and when enough are (active selection, early stopping).

The first batch represents all texts. With `order: uncertain` half of every later one does too; the other half are texts
that a quick student of the labels so far is least sure of: the smallest leads of the likeliest label, and among
AMONG times as many as needed those that represent them best. The student is cross-validated on the labelled texts that
were not chosen for doubt, as doubtful ones are harder than the rest. Each choice is kept with the run before a call is
made for it, and follows from the labels so far and the recipe's seed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.agents.local import encoder
from graft.agents.methods import TextSource, method_of
from graft.flows.given import CHOSEN, COMPARED, TOGETHER, keep, read_given
from graft.schemas.intervals import margin_of_error, rows_for, wilson
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GivenText, Seed
from graft.schemas.sections import share

if TYPE_CHECKING:
    from graft.students.quick import Matrix, Rows

Batch = tuple[list[str], list[str]]
"""Ids of the texts chosen for doubt, and of the others."""
ASSUMED_LABELLED = 0.8
"""Assumed share of a person's texts that get a label."""
AMONG = 3
GROWTH = 5
"""A batch is at least one in so many of the texts before it, so that looks stay few as texts grow many."""


def at_most(recipe: Recipe, file: Path) -> Sequence[GivenText]:
    """The texts that a run labels at most, or as many others."""
    source, rows = method_of(recipe).source(recipe), read_given(recipe, file).rows[: recipe.limits.candidates]
    return rows if source is None else rows[: most_labelled(source, len(rows), ASSUMED_LABELLED)]


def most_labelled(source: TextSource, texts: int, labelled: float) -> int:
    """The number of texts after which labelling ends at the latest.

    Args:
        source: the method's
        texts: number of different texts in the file
        labelled: share of texts that get a label
    """
    most = min(texts, source.most or texts)
    if source.margin_of_error is None:
        return most
    held_out, each = ceil(rows_for(source.margin_of_error) / labelled), source.each
    needed = 2 * held_out - each if source.uncertain else held_out
    return min(most, each * ceil(max(each, needed) / each))


def of_run(
    recipe: Recipe, seeds: Sequence[Seed], rows: Sequence[GivenText], folder: Path, say: Callable[[str], None]
) -> Selection | None:
    """The selection of a run; None if its method labels no texts, or all of them at once."""
    source = method_of(recipe).source(recipe)
    return Selection(source, recipe, seeds, rows, folder, say) if source is not None and source.batches else None


@dataclass
class Selection:
    """The texts of one run in batches. `next` returns them; `figures` and `enough` tell what the last look found."""

    source: TextSource
    recipe: Recipe
    seeds: Sequence[Seed]
    rows: Sequence[GivenText]
    folder: Path
    say: Callable[[str], None]
    figures: dict[str, int] = field(default_factory=dict)
    enough: bool = False
    outlook: str = ""
    """The margin of error so far, and the one that is enough, as an addition to a sentence."""
    _batches: list[Batch] = field(default_factory=list)
    _known: dict[str, Any] = field(default_factory=dict)
    """Vectors by text id."""

    def next(self, labels: Sequence[str]) -> list[GivenText]:
        """The next batch; empty if all texts were chosen or enough are labelled.

        Raises MissingExtra without the sentence encoder.

        Args:
            labels: the label of each text so far, in the order in which they were returned; empty if it has none
        """
        if labels:
            self._look(labels)
        each = self.source.each
        size = min(each * max(1, len(labels) // (GROWTH * each)), self.most - len(labels))
        if self.enough or size <= 0:
            return []
        place, kept = len(self._batches), self._kept
        self._batches.append(kept[place] if place < len(kept) else self._chosen(labels, size))
        if place >= len(kept):
            keep(self.folder / CHOSEN, self._batches)
        return [self._by_id[name] for part in self._batches[-1] for name in part]

    @cached_property
    def most(self) -> int:
        """The number of texts that may be labelled."""
        return min(len(self.rows), self.source.most or len(self.rows))

    @cached_property
    def _by_id(self) -> dict[str, GivenText]:
        return {row.id: row for row in self.rows}

    @cached_property
    def _kept(self) -> list[Batch]:
        """The batches that an earlier start of this run chose."""
        with suppress(OSError, ValueError, TypeError):
            found = json.loads((self.folder / CHOSEN).read_text(encoding="utf-8"))
            if all(name in self._by_id for doubtful, others in found for name in (*doubtful, *others)):
                return [(doubtful, others) for doubtful, others in found]
        return []

    @cached_property
    def _compared(self) -> list[str]:
        """The texts among which choices are made: all, or a random sample of many."""
        count = len(self.rows)
        drawn = random.Random(f"compared-{self.recipe.seed}").sample(range(count), min(COMPARED, count))
        return [self.rows[place].id for place in sorted(drawn)]

    @cached_property
    def _order(self) -> list[str]:
        """All texts: those that represent the others best first, or as in the file."""
        from graft.data.vectors.spread import spread

        if not self.source.spread:
            return list(self._by_id)
        vectors, most = self._vectors(self._compared), min(self.most, len(self._compared) - 1)
        first = dict.fromkeys(self._compared[place] for place in spread(vectors, most, self.recipe.seed))
        return list(first | dict.fromkeys(self._by_id))

    @cached_property
    def _fixed(self) -> Rows:
        """Rows that every student learns from: the label names and the seeds."""
        from graft.students.quick import Rows
        from graft.students.rows import named

        seeds = [(seed.text, seed.label) for seed in self.seeds if seed.label]
        pairs = [*named(self.recipe.task.names), *seeds]
        return Rows(encoder.features([text for text, _ in pairs]), tuple(label for _, label in pairs))

    def _chosen(self, labels: Sequence[str], size: int) -> Batch:
        taken = {name for batch in self._batches for part in batch for name in part}
        doubtful = self._doubtful(labels, taken, size // 2) if labels and self.source.uncertain else []
        taken |= set(doubtful)
        return doubtful, [name for name in self._order if name not in taken][: size - len(doubtful)]

    def _doubtful(self, labels: Sequence[str], taken: set[str], count: int) -> list[str]:
        """The texts of which a student of these labels is least sure."""
        import numpy as np

        from graft.data.vectors.spread import spread
        from graft.students.quick import margins

        left = [name for name in self._compared if name not in taken]
        if not left:
            return []
        vectors = self._vectors(left)
        least = np.argsort(margins(self._fixed + self._labelled(labels).labelled, vectors), kind="stable")
        among = least[: AMONG * count]
        return [left[among[place]] for place in spread(vectors[among], count, self.recipe.seed)]

    def _labelled(self, labels: Sequence[str]) -> Rows:
        """The texts so far with their labels."""
        from graft.students.quick import Rows

        names = [name for batch in self._batches for part in batch for name in part]
        return Rows(self._vectors(names), tuple(labels))

    def _vectors(self, names: Sequence[str]) -> Matrix:
        import numpy as np

        new = [name for name in names if name not in self._known]
        for begin in range(0, len(new), TOGETHER):
            part = new[begin : begin + TOGETHER]
            self._known.update(zip(part, encoder.features([self._by_id[name].text for name in part]), strict=True))
            if len(new) > TOGETHER:
                self.say(f"comparing texts: {begin + len(part):,} of {len(new):,}")
        return np.stack([self._known[name] for name in names])

    def _look(self, labels: Sequence[str]) -> None:
        """Cross-validate a student of the labelled texts and the seeds; a narrow interval is enough."""
        import numpy as np

        from graft.students.quick import FOLDS, Known, dealt

        rows = self._labelled(labels)
        fair = [part is others for doubtful, others in self._batches for part in (doubtful, others) for _ in part]
        held = np.array([fair[place] for place, label in enumerate(labels) if label], dtype=bool)
        if not held.any():
            return
        known = Known(rows.labelled, dealt(rows.labelled.labels, FOLDS, self.recipe.seed))
        tested = known.right(self._fixed, rows.labelled.labels)[held]
        right, count, wanted = int(tested.sum()), len(tested), self.source.margin_of_error
        margin, (low, high) = margin_of_error(right, count), wilson(right, count)
        self.enough = wanted is not None and len(labels) < self.most and margin <= wanted
        self.figures = {"held_out": count, "held_out_right": right}
        if self.enough:
            self.figures["texts_left"] = self.most - len(labels)
        goal = f", ±{100 * wanted:g} are enough" if wanted is not None else ""
        self.outlook = f" (±{100 * margin:.1f} points{goal})"
        self.say(
            f"{len(labels):,} texts done: a quick student is right on {share(right / count)} of {count:,} "
            f"held-out ones ({share(low)} to {share(high)}: ±{100 * margin:.1f} points{goal})"
        )
