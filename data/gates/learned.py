"""Learned gates: predictions of a classifier that never saw the row, and the distance of its embedding from all others.

Label errors are found by cleanlab (confident learning: Northcutt et al., 2021) from out-of-fold probabilities; rows out
of distribution by their mean cosine to the nearest neighbours; low margin by the probabilities. Used when a version is
gated: a run has too few rows yet while it goes on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from graft.data.gates.base import Finding, Gate, Needs, Rows, Sifted, failed
from graft.data.gates.shared.neighbours import nearest
from graft.schemas.base import OFF, Value
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult
from graft.schemas.sections import Column, Table

GATE = "learned"
NEIGHBOURS = 10
"""Nearest rows whose mean cosine measures how typical a row is."""


class LearnedSettings(Value):
    """Gates by a classifier that is cross-validated on the version itself. Used when a version is gated."""

    action: Annotated[Literal["off", "report", "reject"], OFF] = "report"
    folds: int = Field(default=5, ge=2, le=20)
    min_margin: float = Field(default=0.0, ge=0, lt=1, description="least margin of a row's label; 0: not looked at")
    max_outlier: float = Field(default=0.0, ge=0, le=1, description="share of rows dropped as out of distribution")


class Settings(Value):
    """Fields under `gates`."""

    learned: LearnedSettings = LearnedSettings()


class LearnedGate(Gate):
    """Rules: label_error, low_margin, out_of_distribution. Rows are reported unless the action is `reject`."""

    Settings, cost, scope, embeds, name = Settings, 30_000, "version", True, GATE

    def __init__(self, recipe: Recipe, needs: Needs) -> None:
        super().__init__(recipe, needs)
        assert needs.folds is not None
        self._settings, self._folds, self._seed = recipe.gates.of(Settings).learned, needs.folds, recipe.seed

    @classmethod
    def enabled(cls, recipe: Recipe) -> bool:
        """As the recipe sets."""
        return recipe.gates.of(Settings).learned.action != "off"

    @classmethod
    def make(cls, recipe: Recipe, needs: Needs) -> Sequence[Gate]:
        """None if nothing can be learned."""
        return (cls(recipe, needs),) if needs.folds is not None else ()

    def sift(self, rows: Rows) -> Sifted:
        """See the class."""
        ids, labels = rows.ids, [one.label for one in rows.proposals]
        judged = self._folds(rows.vectors, labels, self._settings.folds, self._seed)
        some, given = [ids[row] for row in judged.rows], [labels[row] for row in judged.rows]
        errors, found = list[LabelError](), dict[str, GateResult]()
        if some:
            errors = label_errors(some, given, judged.names, judged.probabilities)
            found = {error.row_id: error.result() for error in errors}
            margins = low_margin(some, given, judged.names, judged.probabilities, self._settings.min_margin)
            found = {**dict(margins), **found}
        found = {**dict(outliers(ids, rows.vectors, self._settings.max_outlier)), **found}
        findings: list[Finding] = sorted(found.items())
        if self._settings.action == "reject":
            return Sifted(drops=findings, tables=(_table(errors),), notes=judged.notes)
        return Sifted(found=findings, tables=(_table(errors),), notes=judged.notes)


KIND = LearnedGate


@dataclass(frozen=True, slots=True)
class LabelError:
    """A row whose label is probably wrong: the label it has, the likelier one, and the probability of each."""

    row_id: str
    given: str
    likely: str
    share: float
    given_share: float

    def result(self) -> GateResult:
        """The gate's failure; the score is the probability of the given label."""
        detail = f"labelled {self.given}, probably {self.likely} ({self.share:.0%})"
        return failed(GATE, "label_error", detail, round(self.given_share, 4))


def _table(errors: Sequence[LabelError]) -> Table:
    """The label errors, the most certain first."""
    columns = (Column("given", "label"), Column("likely", "probably"), Column("share", "share", "share"))
    rows = [{**asdict(error), "share": round(error.share, 4)} for error in errors]
    return Table("label_errors", f"label errors found: {len(errors):,}", columns, rows)


def label_errors(
    ids: Sequence[str], labels: Sequence[str], names: Sequence[str], probabilities: NDArray[np.floating]
) -> list[LabelError]:
    """Rows whose label cleanlab finds wrong, the surest first, ties by id.

    `probabilities` are out-of-fold, a row each over `names`. A row whose given label is still the likeliest is none.
    Raises ValueError if the shapes do not fit or a label is not among `names`.
    """
    given = _places(ids, labels, names, probabilities)
    if len(set(given.tolist())) < 2:
        return []
    from cleanlab.filter import find_label_issues

    wrong = np.asarray(find_label_issues(given, np.asarray(probabilities, dtype=np.float64), n_jobs=1))
    found = []
    for row in np.flatnonzero(wrong).tolist():
        likely = int(probabilities[row].argmax())
        if likely != given[row]:
            shares = float(probabilities[row, likely]), float(probabilities[row, given[row]])
            found.append(LabelError(ids[row], labels[row], names[likely], *shares))
    return sorted(found, key=lambda error: (error.given_share - error.share, error.row_id))


def low_margin(
    ids: Sequence[str],
    labels: Sequence[str],
    names: Sequence[str],
    probabilities: NDArray[np.floating],
    min_margin: float,
) -> list[tuple[str, GateResult]]:
    """Rows whose label is less than `min_margin` likelier than the next one (0 to 1), by id; none if it is 0."""
    given = _places(ids, labels, names, probabilities)
    if not min_margin or len(names) < 2:
        return []
    rows = np.arange(len(ids))
    own = probabilities[rows, given]
    others = np.array(probabilities, dtype=np.float64)
    others[rows, given] = -1.0
    margin, second = own - others.max(axis=1), others.argmax(axis=1)
    return sorted(
        (ids[row], failed(GATE, "low_margin", f"hardly above {names[second[row]]}", round(float(margin[row]), 4)))
        for row in np.flatnonzero(margin < min_margin).tolist()
    )


def outliers(
    ids: Sequence[str], vectors: NDArray[np.floating], share: float, neighbours: int = NEIGHBOURS
) -> list[tuple[str, GateResult]]:
    """The `share` of rows (rounded down) that lie farthest from their nearest ones, farthest first, ties by id.

    The score is the mean cosine to the `neighbours` nearest rows. Raises ValueError if ids and vectors differ.
    """
    if len(ids) != len(vectors):
        raise ValueError(f"{len(ids)} ids but {len(vectors)} vectors")
    count = math.floor(share * len(ids) + 1e-9)
    if not count or len(ids) < 2:
        return []
    order = np.array(sorted(range(len(ids)), key=lambda row: ids[row]), dtype=np.int64)
    close = np.round(nearest(vectors[order], neighbours).mean(axis=1), 6)
    farthest = np.argsort(close, kind="stable")[:count]
    how = f"mean cosine to its {min(neighbours, len(ids) - 1)} nearest rows"
    return [
        (
            ids[order[row]],
            failed(GATE, "out_of_distribution", f"{how} is {close[row]:.2f}", round(float(close[row]), 4)),
        )
        for row in farthest
    ]


def _places(
    ids: Sequence[str], labels: Sequence[str], names: Sequence[str], probabilities: NDArray[np.floating]
) -> NDArray[np.int64]:
    if not len(ids) == len(labels) == len(probabilities) or probabilities.shape[1:] != (len(names),):
        raise ValueError(f"{len(ids)} ids, {len(labels)} labels, {len(names)} names, shape {probabilities.shape}")
    place = {name: at for at, name in enumerate(names)}
    if unknown := set(labels) - set(place):
        raise ValueError(f"no probability of {sorted(unknown)[0]!r}")
    return np.array([place[label] for label in labels], dtype=np.int64)
