"""The quality report as a value: every figure once, with its unit. None: unknown, and `missing` has the reason; never
0."""

from __future__ import annotations

from pydantic import Field

from graft.schemas.base import Value
from graft.schemas.datasets import Origin
from graft.schemas.shown import Shown


class Spread(Value):
    """A distribution in four figures, in the unit of the counted values."""

    mean: float
    p5: float
    p50: float
    p95: float


class LabelShare(Value):
    """One label's rows. `expected` is its share by the recipe, or an even share without a recipe."""

    label: str
    rows: int
    share: float = Field(ge=0, le=1)
    expected: float = Field(ge=0, le=1)


class Balance(Value):
    """Distribution of rows over labels and splits."""

    labels: tuple[LabelShare, ...] = Field(description="by name")
    entropy: float = Field(ge=0, description="of the labels' shares, in bits")
    evenness: float | None = Field(description="entropy over its maximum, 0 to 1; None for a single label")
    splits: dict[str, int] = Field(description="split to rows")


class Lengths(Value):
    """Lengths of the texts and of the responses, if there are any."""

    chars: Spread = Field(description="characters of a text")
    words: Spread = Field(description="words of a text")
    response_chars: Spread | None = None


class Wording(Value):
    """Diversity of words. Words are folded (case, composition, punctuation) and taken from text and response."""

    tokens: int = Field(description="words in all")
    vocabulary: int = Field(description="different words")
    distinct_1: float | None = Field(description="different words over words: the type/token ratio, 0 to 1")
    distinct_2: float | None = Field(description="different word pairs over word pairs, 0 to 1")
    distinct_3: float | None = Field(description="different word triples over word triples, 0 to 1")
    self_bleu: float | None = Field(description="mean BLEU-4 of a sampled text against the others sampled, 0 to 1")
    self_bleu_rows: int = Field(description="rows sampled for it")


class Repeated(Value):
    """A text that several rows share once folded. "(restricted)" replaces hidden words."""

    text: str
    rows: int


class Duplicates(Value):
    """Rows that repeat another row."""

    exact_rows: int = Field(description="rows beyond the first of each folded text")
    exact: float = Field(ge=0, le=1, description="exact_rows over rows")
    near: float | None = Field(description="share of sampled rows with another row at or above the threshold")
    near_rows: int = Field(description="rows sampled; each was compared with the whole version")
    threshold: float = Field(description="Jaccard similarity of words and word pairs")
    repeated: tuple[Repeated, ...] = Field(description="the texts of most rows")


class Meaning(Value):
    """Figures from embeddings of a sample; distances are 1 - cosine, 0 to 2."""

    rows: int = Field(description="rows sampled")
    seeds: int = Field(description="seeds embedded")
    spread: float | None = Field(description="mean distance of two sampled rows")
    clusters: int = Field(description="k of the k-means on seeds and rows; 0 if there are no seeds")
    seed_clusters_covered: float | None = Field(description="share of the clusters with seeds that hold rows")
    row_clusters_seeded: float | None = Field(description="share of the clusters with rows that hold seeds")
    nearest_seed: Spread | None = Field(description="a row's distance to its nearest seed")
    copied: float | None = Field(description="share of sampled rows within 0.05 of a seed")


class Reviewer(Value):
    """One judging model, compared with its panels."""

    model: str
    reviews: int = Field(description="its scored reviews")
    mean: float = Field(description="its mean score, 0 to 10")
    severity: float | None = Field(description="its mean offset from the panel's mean, points; below 0: severe")
    bias: dict[str, float] = Field(description="label to its mean offset on it less its severity, points")


class Reviews(Value):
    """Judgements of the candidates of the version's runs, rejected ones included."""

    candidates: int
    accepted: float = Field(ge=0, le=1, description="share of the candidates that were accepted")
    adjudicated: float = Field(ge=0, le=1, description="share that went to an adjudicator")
    overturned: float | None = Field(description="share of the adjudicated that the adjudicator rejected")
    relabelled: float | None = Field(description="share of the labelled whose label is not the intended one")
    alpha: float | None = Field(description="Krippendorff's alpha (interval) of the reviews' means; 1: agreement")
    alpha_candidates: int = Field(description="candidates with two scores or more that it was computed on")
    alpha_flags: float | None = Field(description="Krippendorff's alpha (nominal) of the 0/1 flags")
    alpha_flags_units: int = Field(description="flags of candidates with two answers or more")
    reviewers: tuple[Reviewer, ...] = Field(description="by model name")


class Bin(Value):
    """Gold rows whose confidence lies in one tenth of 0 to 1."""

    low: float
    rows: int
    confidence: float
    accuracy: float


class Calibration(Value):
    """The version's labels against a gold file's."""

    gold: int = Field(description="entries of the gold file")
    matched: int = Field(description="rows of the version that it names, by id or by text")
    accuracy: float | None = Field(description="share of the matched whose label is the gold one")
    scored: int = Field(description="matched rows with a confidence")
    by: str = Field(description="what confidence is: soft labels, or the mean score over 10; empty: there is none")
    ece: float | None = Field(description="expected calibration error, ten bins, 0 to 1")
    brier: float | None = Field(description="mean squared error of the confidence, 0 to 1")
    bins: tuple[Bin, ...] = ()


class LabelYield(Value):
    """Cost of one label. The price covers the calls that name a candidate of the label."""

    label: str
    candidates: int
    accepted: int
    price_usd: float | None
    row_price_usd: float | None = Field(description="price over accepted rows")
    local: bool = Field(default=False, description="whether only local models made the calls")


class ModelYield(Value):
    """Outcomes of the candidates that one model wrote."""

    model: str
    candidates: int
    accepted: int


class Spending(Value):
    """The calls of one role to one model, each call once."""

    role: str
    model: str
    calls: int
    failed: int
    tokens: int | None = Field(description="prompt and completion tokens; None if a server did not report them")
    price_usd: float | None
    local: bool = Field(default=False, description="whether the model is local")


class Yields(Value):
    """Candidates to rows, and their cost when the calls were made, in US dollars."""

    candidates: int
    accepted: int
    price_usd: float | None = Field(description="of all calls; None if the price of an answered call is unknown")
    local: bool = Field(default=False, description="whether only local models made the calls")
    least_usd: float = Field(default=0.0, description="sum of the known prices")
    row_price_usd: float | None = Field(description="price over accepted candidates")
    labels: tuple[LabelYield, ...]
    models: tuple[ModelYield, ...]
    spending: tuple[Spending, ...]


class Change(Value):
    """One figure before and now."""

    figure: str
    before: float | None
    now: float | None


class Drift(Value):
    """Differences of this version from another. Divergences are Jensen-Shannon in bits, 0 (same) to 1 (nothing
    shared)."""

    against: str = Field(description="the other version, name@number")
    labels: float
    tokens: float | None = Field(description="of the word distributions; None if a version has no word")
    chars_psi: float = Field(description="population stability index of text lengths over the other's deciles")
    words_psi: float = Field(description="the same of lengths in words")
    equal_rows: int = Field(description="rows taken of each version for the two figures below")
    distinct_2: float | None = Field(description="distinct-2 of as many rows of this version")
    distinct_2_before: float | None = Field(description="distinct-2 of as many rows of the other")
    changes: tuple[Change, ...]


class Counts(Value):
    """How often the values of one measure occur; `most` are the most frequent."""

    name: str
    different: int
    total: int
    most: dict[str, int]


class Shape(Value):
    """The measures that a task takes of its rows, over a sample of `rows`."""

    rows: int
    numbers: dict[str, Spread]
    counts: tuple[Counts, ...]


class Quality(Shown, Value):
    """The quality figures of a version. An unknown group or figure is None; `missing` has the reason."""

    dataset: str
    version: int
    origin: Origin
    rows: int
    restricted_rows: int
    balance: Balance
    lengths: Lengths
    wording: Wording
    duplicates: Duplicates
    meaning: Meaning | None
    reviews: Reviews | None
    calibration: Calibration | None
    yields: Yields | None
    drift: Drift | None
    missing: dict[str, str] = Field(description="group or group.figure that is None, to the reason")
    sampled: tuple[str, ...] = Field(description="figures computed on a sample, with the number of rows, in sentences")
    shape: Shape | None = Field(default=None, description="as the task measures its rows; None if it measures nothing")

    def shown(self) -> dict[str, object]:
        """See Shown."""
        shares = {one.label: one.rows for one in self.balance.labels}
        return {
            "ref": self.ref, "rows": self.rows, "labels": shares, "distinct_2": self.wording.distinct_2,
            "missing": ", ".join(self.missing) or None,
        }  # fmt: skip

    @property
    def ref(self) -> str:
        """The version's reference: name@number."""
        return f"{self.dataset}@{self.version}"
