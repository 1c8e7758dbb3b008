"""The contract of a gate: one class in one file of this folder, found by the file's name.

A file holds its class as `KIND`. The class owns its part of the recipe's block `gates` and declares when it runs. Raise
its `version` when its rules change: the id of every run that has the gate on depends on it, and no other run's id does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from graft.data.gates.shared.spans import Span
from graft.schemas.base import Value
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult, Proposal, Seed
from graft.schemas.sections import Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from graft.data.gates.shared.held_out import TestText

Embed = Callable[[Sequence[str]], Any]
"""Texts to an array (n x d) of L2-normalised rows."""
Say = Callable[[str], None]
Finding = tuple[str, GateResult]
"""A row's id and its finding."""
Perplexity = Callable[[str], Callable[[str], float]]
"""A causal model's name to the function that gives its perplexity of a text. Raises GraftError if it cannot be used."""
Student = Callable[[str, Sequence[str]], tuple[Sequence[str], Sequence[Sequence[float]]]]
"""(a student's id, texts) to its labels, and each text's probability of each label. Raises NotFound."""


class FoldProbabilities(Protocol):
    """Out-of-fold probabilities over `names` of the rows at the places `rows`; see students.folds."""

    @property
    def names(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def rows(self) -> NDArray[np.int64]: ...  # noqa: D102
    @property
    def probabilities(self) -> NDArray[np.float64]: ...  # noqa: D102
    @property
    def notes(self) -> tuple[str, ...]: ...  # noqa: D102


@dataclass(frozen=True)
class Needs:
    """Inputs of gates beside the recipe. A gate that lacks an input is left out.

    Args:
        seeds: the run's seeds
        published: (id, text, label) of the rows of earlier versions
        fragments: the fixed sentences of the prompts
        evaluation: held-out texts as hashes (`Lake.test_texts`)
        student: predicts with a student of this home
        texts: a person's texts without labels, in part
        perplexity: opens a causal model
        embed: gives the sentence encoder, or None and the reason
        folds: (vectors, labels, folds, seed) to out-of-fold probabilities
        tests: (place, text) of held-out files, for comparison by meaning
        test_cosine: least cosine at which such a text counts as repeated
        documents: hash to text of the documents that rows rest on
    """

    seeds: Sequence[Seed] = ()
    published: Sequence[tuple[str, str, str]] = ()
    fragments: Sequence[str] = ()
    evaluation: Sequence[TestText] = ()
    student: Student | None = None
    texts: Sequence[str] = ()
    perplexity: Perplexity | None = None
    embed: Callable[[], tuple[Embed | None, str]] = lambda: (None, "no encoder")
    folds: Callable[[NDArray[np.floating], Sequence[str], int, int], FoldProbabilities] | None = None
    tests: Sequence[tuple[str, str]] = ()
    test_cosine: float = 0.9
    documents: Mapping[str, str] = field(default_factory=dict)


class Gate:
    """A check of rows. A subclass sets the attributes and overrides the method of its scope.

    Attributes:
        Settings: the fields under `gates` that this gate owns, top-level names as people write them
        cost: about how many microseconds of CPU a short text takes: cheap gates run first
        version: of the gate's rules
        scope: `row`: `check` needs no other row; `run`: `check` compares with the run's rows, which `remember` adds;
            `version`: `sift` gets all rows of a published version, when it is screened again
        reviewed: `check` reads reviews or soft label: it runs once the row's judges have accepted it
        embeds: `sift` needs vectors
        name: in results, cards and pages
        redacts: whether the finds of `find` are replaced in a text before any gate reads it
        off: settings under which it rejects no row
        people: whether rows that people wrote have to pass it, as models' rows do
        published: whether it compares with earlier versions of the dataset
    """

    Settings: ClassVar[type[Value]] = Value
    cost: ClassVar[float]
    version: ClassVar[int] = 1
    reviewed: ClassVar[bool] = False
    embeds: ClassVar[bool] = False
    off: ClassVar[Mapping[str, Any]] = {}
    people: ClassVar[bool] = True
    published: ClassVar[bool] = False
    scope: Literal["row", "run", "version"] = "row"
    name: str
    redacts: bool = False
    most: int | None = None

    def __init__(self, recipe: Recipe, needs: Needs) -> None:
        self.passed, self.most = passed(self.name), self.longest(recipe)

    @classmethod
    def longest(cls, recipe: Recipe) -> int | None:
        """Characters of a text or response above which `check` fails: no longer text is searched or requested."""
        return None

    @classmethod
    def enabled(cls, recipe: Recipe) -> bool:
        """Return True if the recipe sets the gate."""
        return True

    @classmethod
    def make(cls, recipe: Recipe, needs: Needs) -> Sequence[Gate]:
        """The gates to run if the recipe sets this kind: usually itself, none if an input is missing."""
        return (cls(recipe, needs),)

    def load(self) -> None:
        """Load what `check` reads, such as a model's file, so that the first check need not. It runs in a thread."""

    def check(self, proposal: Proposal) -> GateResult:
        """Return True if the row passes. Never raises; a failure names its rule, and score and neighbour if any."""
        return self.passed

    def failed(self, rule: str, detail: str, score: float | None = None, neighbour: str = "") -> GateResult:
        """A failure by this gate."""
        return failed(self.name, rule, detail, score, neighbour)

    def find(self, text: str) -> Sequence[Span]:
        """The unwanted pieces of a text, in order, without overlaps."""
        return ()

    def remember(self, proposal: Proposal) -> None:
        """Register a row of the run that has passed, once per id."""

    def clusters(self, ids: Sequence[str], texts: Sequence[str]) -> Mapping[str, str]:
        """Each id to its cluster of similar rows; empty if the gate does not compare rows."""
        return {}

    def sift(self, rows: Rows) -> Sifted:
        """Findings among the rows of a version; the result does not depend on their order."""
        return Sifted()


@dataclass(frozen=True)
class Rows:
    """The rows of a version that are left, in the order of their ids.

    Args:
        proposals: one per row
        scores: quality of each: of two similar rows the higher one stays
        vectors: n x d, float16, of the texts; 0 x 0 for a gate that does not embed
        embed: the sentence encoder
        say: reports progress
    """

    proposals: Sequence[Proposal]
    scores: Sequence[float]
    vectors: NDArray[np.floating]
    embed: Embed | None
    say: Say

    @property
    def ids(self) -> list[str]:
        """The rows' ids."""
        return [one.id for one in self.proposals]


@dataclass(frozen=True)
class Sifted:
    """A gate's findings in a version: rows to drop, rows that are only reported, and clusters of similar rows.

    `clusters` has each id's cluster. A row of `tables` with a `row_id` is shown with that row's words.
    """

    drops: Sequence[Finding] = ()
    found: Sequence[Finding] = ()
    clusters: Mapping[str, str] = field(default_factory=dict)
    tables: tuple[Table, ...] = ()
    notes: Sequence[str] = ()


def passed(gate: str) -> GateResult:
    """The result of a gate without a finding; frozen, so one serves all rows."""
    return GateResult(gate=gate, rule="passed", passed=True)


def failed(gate: str, rule: str, detail: str, score: float | None = None, neighbour: str = "") -> GateResult:
    """The result of a gate with a finding."""
    return GateResult(gate=gate, rule=rule, passed=False, detail=detail, score=score, neighbour=neighbour)
