"""Pairing of classes for mixing: the last student's confusions first, then the nearest by embeddings.

Computed once for each run and kept in its record, so that a rerun mixes alike even if a student was trained meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graft.agents.local import encoder
from graft.agents.methods import method_of
from graft.data.lake import Lake
from graft.data.scores.answers import VALIDATION
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed
from graft.schemas.students import Evaluation


def find_neighbours(
    recipe: Recipe, seeds: Sequence[Seed], lake: Lake, say: Callable[[str], None]
) -> dict[str, tuple[str, ...]]:
    """Class to all other classes, most confusable first; empty if the method needs none or nothing embeds."""
    if not method_of(recipe).traits(recipe).confusable:
        return {}
    embed, why = encoder.find_embed()
    if embed is None:
        say(f"partners are drawn at random: {why}")
        return {}
    near = nearest_classes(recipe, seeds, embed)
    if recipe.steering is not None:
        first = recipe.steering.partners
        return {name: (*(new := first.get(name, ())), *(o for o in near[name] if o not in new)) for name in near}
    last = _last_evaluation(lake, recipe)
    if last is None:
        return near
    say("partners come from the last student's confusions first")
    return {name: _confused_first(name, others, last) for name, others in near.items()}


def nearest_classes(
    recipe: Recipe, seeds: Sequence[Seed], embed: Callable[[Sequence[str]], object]
) -> dict[str, tuple[str, ...]]:
    """Class to the others by cosine of class vectors: the mean over a class's examples, its name and description."""
    import numpy as np

    labels = recipe.task.categories
    texts = [
        [*(seed.text for seed in seeds if seed.label == label.name), label.name.replace("_", " "), label.description]
        for label in labels
    ]
    vectors = np.asarray(embed([text for group in texts for text in group if text]))
    means, at = [], 0
    for group in texts:
        size = sum(1 for text in group if text)
        means.append(vectors[at : at + size].mean(axis=0))
        at += size
    unit = np.stack(means)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    cosine = unit @ unit.T
    names = [label.name for label in labels]
    return {
        name: tuple(names[other] for other in np.argsort(-cosine[row], kind="stable") if other != row)
        for row, name in enumerate(names)
    }


def _last_evaluation(lake: Lake, recipe: Recipe) -> Evaluation | None:
    """The newest student's evaluation on its validation rows, if it has the same classes.

    Test files are not used: a test that steers generation is no independent estimate.
    """
    names = set(recipe.task.names)
    for student in lake.students(recipe.name):
        for evaluation in lake.evaluations(student.id):
            if evaluation.test_file == VALIDATION and names <= set(evaluation.labels):
                return evaluation
    return None


def _confused_first(name: str, others: Sequence[str], last: Evaluation) -> tuple[str, ...]:
    place = {label: index for index, label in enumerate(last.labels)}
    own = place[name]

    def confusions(other: str) -> int:
        return last.confusion[own][place[other]] + last.confusion[place[other]][own]

    return tuple(sorted(others, key=lambda other: -confusions(other)))
