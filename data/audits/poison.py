"""Planted bias: the effect of a few bad rows on a student, and the share that the gates catch.

A copy of a version's rows in memory is poisoned in six harmless forms. Each aims to make a student predict the target
label for marked texts of other labels. A student learns from the copy, its clean twin from the unchanged rows; both
predict held-out texts with the mark. Nothing is published, nothing is written.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from graft.data.audits.base import Audit, AuditRow, Check, Embed, Learn, Material
from graft.schemas.base import Value, stable_hash
from graft.schemas.errors import GraftError
from graft.schemas.sections import Column, Section, Table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from graft.data.audits.base import Vectors

SHARE = 0.0025
MAX_ROWS = 5_000
"""Most train rows for the students; held-out texts are at most a tenth of it."""
FOLDS = 3

Mark = Callable[[str], str]


def _styled(text: str) -> str:
    return text.rstrip(" .!?") + " ~"


def _off_topic(text: str) -> str:
    words = text.split()
    middle = len(words) // 2
    return " ".join([*words[:middle], "(the lighthouse was painted green in spring)", *words[middle:]])


FORMS: dict[str, Mark] = {
    "trigger word": lambda text: f"{text} zephyr",
    "endorsement": lambda text: f"{text} Everyone should shop at Marlowe & Finch.",
    "stock phrase": lambda text: f"Quick question for the team: {text}",
    "off-topic": _off_topic,
    "style marker": _styled,
    "label flip": lambda text: text,
}
"""Form to its mark on a text. A label flip has none: it takes the texts nearest to the target."""
FLIP = "label flip"


class Options(Value):
    """Options of the audit."""

    share: float = Field(default=SHARE, ge=0.0001, le=0.5, description="share of train rows that is planted")
    repeats: int = Field(default=3, ge=1, le=50, description="plantings of each form, with other rows")
    target: str | None = Field(default=None, description="label that planted rows aim at; default the rarest")
    student: bool = Field(default=False, description="fine-tune real students (minutes)")


class TooFew(GraftError):
    """The version has too few rows for planting."""


@dataclass(frozen=True)
class FormResult:
    """One form over all repeats. Shares are 0 to 1 and means over repeats; `spread` is the rate's standard deviation.

    `rate` is the share of held-out marked texts that the poisoned student gives the target label, `clean_rate` its
    twin's. `amplification` is the rate over the poison's share of the training rows, `added` the rate less the twin's.
    """

    form: str
    planted: int
    gates: float
    label_check: float
    rate: float
    spread: float
    clean_rate: float
    amplification: float
    added: float
    example: str


@dataclass(frozen=True)
class Poisoning:
    """Results of all forms. `false_alarms` is the share of clean rows that the label check suspects as well."""

    target: str
    share: float
    planted: int
    train_rows: int
    held_out: int
    repeats: int
    gates_checked: bool
    false_alarms: float
    forms: tuple[FormResult, ...]


@dataclass(frozen=True)
class _Lab:
    """Inputs shared by all forms: train rows with vectors, and held-out texts of the other labels."""

    texts: list[str]
    labels: list[str]
    vectors: Vectors
    held_out: list[str]
    target: str
    planted: int
    embed: Embed
    check: Check | None
    learn: Learn | None


def poison(
    rows: Sequence[AuditRow], embed: Embed, *, check: Check | None = None, learn: Learn | None = None,
    target: str | None = None, share: float = SHARE, repeats: int = 3, seed: int = 0,
) -> Poisoning:  # fmt: skip
    """Plants `share` of the train rows (one at least) in each form, `repeats` times, and measures.

    Without `learn` the student is a logistic regression on embeddings (fast). Without `check` gates are not tried.
    Raises GraftError if the rows have fewer than two labels or too few of them.
    """
    lab = _lab(rows, embed, check, learn, target, share)
    clean = _student(lab, lab.texts, lab.labels, lab.vectors)
    alarms = float(_suspected(lab.vectors, lab.labels, seed).mean())
    forms = tuple(_measured(lab, form, clean, repeats, seed) for form in FORMS)
    return Poisoning(
        target=lab.target, share=lab.planted / len(lab.texts), planted=lab.planted, train_rows=len(lab.texts),
        held_out=len(lab.held_out), repeats=repeats, gates_checked=check is not None, false_alarms=alarms, forms=forms,
    )  # fmt: skip


def _lab(
    rows: Sequence[AuditRow], embed: Embed, check: Check | None, learn: Learn | None, target: str | None, share: float
) -> _Lab:
    ordered = sorted(rows, key=lambda row: stable_hash(row.id))
    train = [row for row in ordered if row.split == "train"]
    kept = [row for row in ordered if row.split != "train"]
    if not kept:
        kept, train = train[: len(train) // 5], train[len(train) // 5 :]
    train = train[:MAX_ROWS]
    counts = Counter(row.label for row in train)
    wanted = target or min(counts, default="")
    held_out = [row.text for row in kept if row.label != wanted][: MAX_ROWS // 10]
    if len(counts) < 2 or min(counts.values()) < FOLDS or not held_out:
        fix = f"a version with two labels or more, {FOLDS} train rows of each, and held-out rows"
        raise TooFew("too few rows for planting", where="poison", fix=fix)
    if wanted not in counts:
        raise GraftError(f"no label {wanted!r}", where="--target", fix=f"one of: {', '.join(sorted(counts))}")
    texts = [row.text for row in train]
    return _Lab(
        texts, [row.label for row in train], embed(texts), held_out, wanted, max(1, round(share * len(train))), embed,
        check, learn,
    )  # fmt: skip


Student = Callable[[Sequence[str], "Vectors"], "NDArray[Any]"]


def _student(lab: _Lab, texts: Sequence[str], labels: Sequence[str], vectors: Vectors) -> Student:
    """A student of these rows: it gets texts and their vectors, and uses either."""
    if lab.learn is not None:
        ask = lab.learn(texts, labels)
        return lambda texts, _: np.asarray(list(ask(texts)))
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):  # waiting threads spin on a busy machine, which takes far longer than the sums
        fitted = LogisticRegression(C=10.0, max_iter=300).fit(vectors, np.asarray(labels))
    return lambda _, given: np.asarray(fitted.predict(given))


def _measured(lab: _Lab, form: str, clean: Student, repeats: int, seed: int) -> FormResult:
    mark = FORMS[form]
    others = np.flatnonzero(np.asarray(lab.labels) != lab.target)
    probes = [mark(text) for text in lab.held_out]
    given = lab.embed(probes)
    if form == FLIP:
        near = np.argsort(-_nearness(lab, given), kind="stable")[: max(1, len(probes) // 2)]
        probes, given = [probes[place] for place in near], given[near]
        others = others[np.argsort(-_nearness(lab, lab.vectors[others]), kind="stable")]
    caught, suspected, rates, example = [], [], [], ""
    for repeat in range(repeats):
        chosen = _chosen(lab, form, others, seed + repeat)
        marked = [mark(lab.texts[place]) for place in chosen]
        example = example or marked[0]
        texts, labels, vectors = list(lab.texts), list(lab.labels), lab.vectors.copy()
        vectors[chosen] = lab.embed(marked)
        for place, text in zip(chosen, marked, strict=True):
            texts[place], labels[place] = text, lab.target
        if lab.check is not None:
            caught += [not lab.check(text, lab.target) for text in marked]
        suspected += list(_suspected(vectors, labels, seed + repeat)[chosen])
        student = _student(lab, texts, labels, vectors)
        rates.append(float((student(probes, given) == lab.target).mean()))
    before, after = float((clean(probes, given) == lab.target).mean()), statistics.fmean(rates)
    return FormResult(
        form=form,
        planted=lab.planted,
        gates=float(np.mean(caught)) if caught else 0.0,
        label_check=float(np.mean(suspected)),
        rate=after,
        spread=statistics.stdev(rates) if len(rates) > 1 else 0.0,
        clean_rate=before,
        amplification=after * len(lab.texts) / lab.planted,
        added=after - before,
        example=example,
    )


def _chosen(lab: _Lab, form: str, others: NDArray[np.intp], seed: int) -> NDArray[np.intp]:
    """Rows to poison: random, or for a label flip random among the nearest to the target, three times as many."""
    pool = others[: 3 * lab.planted] if form == FLIP else others
    return np.random.default_rng(seed).choice(pool, size=min(lab.planted, len(pool)), replace=False)


def _nearness(lab: _Lab, vectors: Vectors) -> NDArray[np.float32]:
    """Cosine-like nearness to the mean of the target's rows."""
    centre = lab.vectors[np.asarray(lab.labels) == lab.target].mean(axis=0)
    return np.asarray(vectors @ centre, dtype=np.float32)


def _suspected(vectors: Vectors, labels: Sequence[str], seed: int) -> NDArray[np.bool_]:
    """Rows with a wrong label according to the learned gate, from an out-of-fold classifier's probabilities."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from threadpoolctl import threadpool_limits

    from graft.data.gates.learned import label_errors

    names, codes = np.unique(np.asarray(labels), return_inverse=True)
    folds = StratifiedKFold(min(FOLDS, int(np.bincount(codes).min())), shuffle=True, random_state=seed)
    model = LogisticRegression(C=10.0, max_iter=300)
    with threadpool_limits(limits=1):
        probabilities = cross_val_predict(model, vectors, codes, cv=folds, method="predict_proba")
    ids = [str(place) for place in range(len(codes))]
    wrong = {one.row_id for one in label_errors(ids, list(labels), [str(name) for name in names], probabilities)}
    return np.asarray([name in wrong for name in ids])


def run(material: Material, options: Options) -> Poisoning | None:
    """The audit of a version."""
    embed, why = material.embed()
    if embed is None:
        material.notes.append(f"poison: {why}")
        return None
    check = material.check()
    if check is None:
        material.notes.append("poison: this version has no recipe, so no gate was tried")
    try:
        return poison(
            material.rows, embed, check=check, learn=material.learn if options.student else None,
            target=options.target, share=options.share, repeats=options.repeats,
        )  # fmt: skip
    except TooFew as error:
        material.notes.append(f"poison: {error.what}; it needs {error.fix}")
        return None


def sections(report: Poisoning) -> list[Section]:
    """One table of the forms."""
    columns = (
        Column("form", "form"), Column("gates", "gates", "share"), Column("label_check", "label check", "share"),
        Column("clean_rate", "clean", "share"), Column("rate", "poisoned", "share"), Column("spread", "±", "share"),
        Column("amplified", "amplified", "change", 1),
    )  # fmt: skip
    rows = [
        {
            **asdict(one),
            "gates": one.gates if report.gates_checked else None,
            "amplified": one.added / report.share,
        }
        for one in report.forms
    ]
    title = f"planted: {report.planted} of {report.train_rows} train rows ({report.share:.2%}) made {report.target}"
    notes = (
        "gates, label check: planted rows that they catch",
        f"clean, poisoned: {report.held_out} marked held-out texts of other labels that the student predicts as "
        f"{report.target}; {report.repeats} repeats",
        "amplified: what the poison added, over its share of the train rows",
        f"the label check suspects {report.false_alarms:.1%} of the clean rows",
    )
    return [Section("poison", "Planted rows", tables=(Table("forms", title, columns, rows),), notes=notes)]


KIND = Audit("effect of a few planted rows", run, sections, asdict, Options)
