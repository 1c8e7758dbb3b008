"""The verdict of `graft teacher`: what to do before money is spent, and why. Rules and sentences are pure functions.

`conclude` turns measured figures into a verdict; `section` shows it on terminal, card and page alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from statistics import NormalDist
from typing import Any, Literal, get_args

from pydantic import Field

from graft.schemas.base import Value
from graft.schemas.sections import Column, Fact, Section, Table, share
from graft.schemas.shown import Shown
from graft.schemas.students import TeacherScore

Way = Literal["generate", "label", "both", "hand"]
Advice = Literal["generate", "label", "both", "hand", "rethink"]
Policy = Literal["intended", "agreeing", "relabelled"]

LIKELY = 0.8
"""Probability of a gain from which a way counts: a run costs minutes, and its own evaluation tests the way again."""
MARGIN = 0.03
"""Gain in accuracy by which labels by hand must exceed every other way: they cost a person's time."""
BY_HAND = 50
"""Labels by hand at which that is decided, or fewer if there are fewer known rows: half an hour's work."""
AN_HOUR = 150
"""Labels by hand whose gain is shown too."""
FEW = 10
"""Fewer known rows than this say little."""
ALIKE = 0.8
"""AUC of real against generated texts above which they are called different."""
NAMES: dict[Advice, str] = {
    "generate": "generate", "label": "label your own texts", "both": "both: label your own texts and generate",
    "hand": "label by hand", "rethink": "rethink",
}  # fmt: skip


class Gain(Value):
    """A quick student of the seeds and some rows, against one of the seeds alone, on the known rows."""

    way: Way
    policy: Policy | None = Field(default=None, description="which label a generated row gets; None: no such rows")
    rows: int = Field(description="rows besides the seeds; of labels by hand their number")
    accuracy: float
    gain: float = Field(description="in accuracy, -1 to 1; of `low` and `high` the 95% paired bootstrap interval")
    low: float
    high: float
    extrapolated: bool = Field(default=False, description="follows from the learning curve: it decides nothing")

    @property
    def spread(self) -> float:
        """The standard error that the interval stands for."""
        return (self.high - self.low) / (2 * 1.96)

    @property
    def chance(self) -> float:
        """Probability that the gain exceeds 0, by the normal distribution that the interval stands for."""
        middle = (self.low + self.high) / 2
        return NormalDist().cdf(middle / self.spread) if self.spread else float(middle > 0)


class Evidence(Value):
    """Everything that was measured."""

    dataset: str
    key: str = Field(description="hash of task, seeds and models: the verdict holds while these stay")
    method: str
    known: int = Field(description="known rows that students were tested on; models on the first `teachers[].rows`")
    source: str = Field(description="the file of the known rows; empty: the seeds, each left out in turn")
    base: float = Field(description="accuracy of the quick student of the seeds alone")
    base_interval: tuple[float, ...]
    teachers: tuple[TeacherScore, ...] = Field(description="every model of the pool, best first")
    candidates: int = Field(description="candidates of the pilot")
    texts: int = Field(description="of these, texts that passed the gates")
    agreed: int = Field(default=0, description="of these, texts whose intended label is the best judge's")
    refused: dict[str, int] = Field(default={}, description="why the others failed, by decision code")
    own_texts: int = Field(default=0, description="texts of the user that were labelled; 0: the known rows stand in")
    auc: float | None = Field(default=None, description="real against generated texts; 0.5: alike, 1: told apart")
    gains: tuple[Gain, ...]
    notes: tuple[str, ...] = Field(default=(), description="what could not be measured, and why")
    calls: int
    price_usd: float | None
    local: tuple[str, ...] = Field(default=(), description="models of the pool that run on this machine, unpaid")
    seconds: float


class Verdict(Shown, Evidence):
    """The advice that follows."""

    advice: Advice
    policy: Policy | None = None
    reasons: tuple[str, ...]
    used: tuple[str, ...] = Field(default=(), description="hashes of held-out texts that the verdict has seen")
    at: datetime

    def shown(self) -> dict[str, object]:
        """See Shown."""
        return {"advice": self.advice, "reasons": " ".join(self.reasons)}


def decide(gains: Sequence[Gain]) -> tuple[Advice, Gain | None]:
    """The advice and the gain that it rests on; its order does not matter.

    A way counts if a gain is LIKELY. Labels by hand win if BY_HAND of them (or all known ones, if these
    are fewer) bring MARGIN more than every other way. Of the others the best lower bound wins; both together if each
    helps alone and they are within one standard error of each other, or if together they are better still.
    """
    helpful = [
        one
        for one in gains
        if one.chance >= LIKELY and not one.extrapolated and (one.way != "hand" or one.rows <= BY_HAND)
    ]
    generate, label, both, hand = (_best(helpful, way) for way in ("generate", "label", "both", "hand"))
    best = _best([one for one in (generate, label) if one])
    if generate and label and best:
        near = abs(generate.gain - label.gain) <= max(generate.spread, label.spread)
        best = both if both and (near or both.low > best.low) else best
    best = best or both
    if hand and hand.gain >= (best.gain if best else 0.0) + MARGIN:
        return "hand", hand
    return (best.way, best) if best else ("rethink", None)


def conclude(found: Evidence, *, used: Sequence[str], at: datetime) -> Verdict:
    """The verdict on the evidence, with its reasons as sentences."""
    advice, by = decide(found.gains)
    return Verdict(
        **dict(found), advice=advice, policy=by.policy if by else None, used=tuple(used), at=at,
        reasons=tuple(_reasons(found, advice, by)),
    )  # fmt: skip


def one_line(verdict: Verdict) -> str:
    """The verdict in one line, for the start of a run."""
    best = _of(verdict)
    gain = f", {points(best)}" if best else ""
    labels = f" with {verdict.policy} labels" if verdict.policy else ""
    return f"graft teacher, {verdict.at:%Y-%m-%d}: {NAMES[verdict.advice]}{labels}{gain} on {verdict.known} known rows"


def section(verdict: Verdict) -> Section:
    """The verdict for terminal, card and page: figures and sentences, never a text."""
    low, high = verdict.base_interval
    facts = (
        Fact("known rows", verdict.known, "number"),
        Fact("seeds alone, accuracy", f"{share(verdict.base)} ({share(low)} to {share(high)})"),
        Fact("pilot: texts that passed the gates", f"{verdict.texts} of {verdict.candidates}"),
        *((Fact("real against generated texts, AUC", verdict.auc, "number", 2),) if verdict.auc is not None else ()),
        Fact("calls", verdict.calls, "number"),
        Fact("price", verdict.price_usd, "money", local={one.model for one in verdict.teachers} <= set(verdict.local)),
        Fact("time", verdict.seconds, "seconds"),
    )
    return Section(
        name="teacher", title=f"Verdict of graft teacher: {NAMES[verdict.advice]}", text=verdict.reasons[0],
        facts=facts, tables=(_models(verdict), _ways(verdict)), notes=verdict.reasons[1:],
        unusual=verdict.advice in ("hand", "rethink"),
    )  # fmt: skip


def points(one: Gain) -> str:
    """A gain in points with its interval: `+4.1 points (0.9 to 7.2)`."""
    return f"{100 * one.gain:+.1f} points ({100 * one.low:.1f} to {100 * one.high:.1f})"


def _odds(one: Gain) -> str:
    """A gain whose interval holds 0 comes with its probability."""
    return "" if one.low > 0 else f"; a gain is {share(one.chance, 0)} likely"


def _best(gains: Sequence[Gain], way: Way | None = None) -> Gain | None:
    """The gain with the best lower bound; of equal ones that of fewer rows, then of labels that take no review."""
    of = [one for one in gains if way in (None, one.way)]
    order = (None, *get_args(Policy))
    return max(of, key=lambda one: (one.low, one.gain, -one.rows, -order.index(one.policy)), default=None)


def _of(verdict: Verdict) -> Gain | None:
    return decide(verdict.gains)[1]


def _reasons(found: Evidence, advice: Advice, by: Gain | None) -> list[str]:
    """Sentences: the advice first, then what speaks for and against each way."""
    return [
        _first(found, advice, by), _judges(found), *_generated(found, by), *_hand(found), _width(found), *found.notes,
        _next(found, advice, by),
    ]  # fmt: skip


def _first(found: Evidence, advice: Advice, by: Gain | None) -> str:
    seeds = f"the seeds alone have {share(found.base)}"
    if by is None:
        tried = [one for one in found.gains if one.way != "hand"]
        best = max(tried, key=lambda one: one.chance, default=None)
        closest = f"; the best, {_named(found, best)}: {points(best)}{_odds(best)}" if best else ""
        return f"No way is {share(LIKELY, 0)} likely to beat the seeds on {found.known} known rows: {seeds}{closest}."
    named = _named(found, by)
    return f"{named[:1].upper()}{named[1:]} bring {points(by)} on {found.known} known rows{_odds(by)}: {seeds}."


def _named(found: Evidence, one: Gain) -> str:
    """The rows of a way, in words."""
    whose = "your" if found.own_texts else "the known"
    real = f"{one.rows} of {whose} texts labelled by {found.teachers[0].model}" if found.teachers else ""
    names = {
        "generate": f"{one.rows} generated rows with {one.policy} labels", "label": real,
        "both": f"{one.rows} rows (labelled texts, and generated ones with {one.policy} labels)",
        "hand": f"{one.rows} labels by hand",
    }  # fmt: skip
    return names[one.way]


def _judges(found: Evidence) -> str:
    if not found.teachers:
        return "No model labelled the known rows."
    best = found.teachers[0]
    low, high = best.between
    how = f"{best.shots} examples a label" if best.shots else "no example"
    against = "more than" if best.accuracy > best.student_accuracy else "no more than"
    return (
        f"The best judge, {best.model} with {how}, labels {share(best.accuracy)} of {best.rows} correctly "
        f"({share(low)} to {share(high)}), {against} the student of the seeds alone."
    )


def _generated(found: Evidence, by: Gain | None) -> list[str]:
    """About the pilot's texts: how many, their labels, their likeness to real ones."""
    if not found.candidates:
        return ["No text was generated: the recipe's method writes none."]
    if not found.texts:
        why = ", ".join(f"{code} {count}" for code, count in sorted(found.refused.items(), key=lambda item: -item[1]))
        return [f"None of the pilot's {found.candidates} texts passed the gates{': ' + why if why else ''}."]
    said = [f"The best judge gives {found.agreed} of the pilot's {found.texts} texts their intended label."]
    if found.auc is not None:
        alike = "differ from" if found.auc >= ALIKE else "resemble"
        said.append(f"Generated texts {alike} real ones: a classifier tells them apart with AUC {found.auc:.2f}.")
    if not found.source:
        said.append("The known rows are the seeds, which the generator was shown: generated rows are flattered.")
    return said


def _hand(found: Evidence) -> list[str]:
    by_hand = sorted((one for one in found.gains if one.way == "hand"), key=lambda one: one.rows)
    if not by_hand:
        return ["The gain of labels by hand cannot be measured on the seeds: give --file with labelled rows."]
    each = [f"{one.rows} {points(one)}{' (extrapolated)' if one.extrapolated else ''}" for one in by_hand]
    return [f"Labels by hand, expected gain: {'; '.join(each)}."]


def _width(found: Evidence) -> str:
    measured = [one.high - one.low for one in found.gains if not one.extrapolated]
    low, high = found.base_interval
    wide = f"the interval of a gain is {100 * max(measured):.0f} points wide" if measured else ""
    wide = wide or f"the interval of the accuracy is {100 * (high - low):.0f} points wide"
    wanted = max(10 * FEW, 4 * found.known)
    more = "" if found.known >= 10 * FEW else f"; {wanted} known rows (--file, --rows) would narrow it"
    few = "Very few known rows" if found.known < FEW else f"With {found.known} known rows"
    return f"{few}: {wide}{more}."


def _next(found: Evidence, advice: Advice, by: Gain | None) -> str:
    """The next step, as sentences."""
    policy = by.policy if by else None
    keep = f"method.label_policy: {policy} if the method has it" if policy else ""
    return {
        "generate": f"Next: graft run, with {keep}.",
        "label": "Next: label your own texts (graft label FILE), without generated rows.",
        "both": f"Next: label your own texts (graft label FILE) and let generated rows top them up, with {keep}.",
        "hand": "Next: label rows by hand and add them to the seeds: that is worth more than any model of the pool.",
        "rethink": "Next: write more seeds, take a larger model, or describe the labels better, and ask again.",
    }[advice]


def _models(verdict: Verdict) -> Table:
    columns = (
        Column("model", "model"), Column("examples", "examples a label", "number"), Column("rows", "rows", "number"),
        Column("accuracy", "labels correctly", "share"), Column("low", "from", "share"), Column("high", "to", "share"),
        Column("answered", "answered", "number"), Column("price", "price", "money"),
    )  # fmt: skip
    rows = [
        {"model": one.model, "examples": one.shots, "rows": one.rows, "accuracy": one.accuracy, "low": _end(one, 0),
         "high": _end(one, 1), "answered": one.answered, "price": one.price_usd, "local": one.model in verdict.local}
        for one in verdict.teachers
    ]  # fmt: skip
    return Table("teacher_models", "Models on the known rows", columns, rows, empty="no model labelled them")


def _end(one: TeacherScore, place: int) -> float | None:
    return one.between[place]


def _ways(verdict: Verdict) -> Table:
    columns = (
        Column("way", "the seeds and"), Column("rows", "rows", "number"), Column("accuracy", "accuracy", "share"),
        Column("gain", "gain, points", "change", 1), Column("low", "from", "change", 1),
        Column("high", "to", "change", 1), Column("chance", "chance of a gain", "share"),
    )  # fmt: skip
    rows: list[dict[str, Any]] = [
        {"way": _way(verdict, one), "rows": one.rows, "accuracy": one.accuracy, "gain": 100 * one.gain,
         "low": 100 * one.low, "high": 100 * one.high, "chance": one.chance}
        for one in verdict.gains
    ]  # fmt: skip
    note = "quick students: logistic regression on sentence vectors; 95% intervals: paired bootstrap of known rows"
    return Table("teacher_ways", "Students against one of the seeds alone", columns, rows, note=note)


def _way(verdict: Verdict, one: Gain) -> str:
    texts = "your texts" if verdict.own_texts else "the known texts"
    names: dict[Way, str] = {
        "generate": f"generated rows, {one.policy} labels", "label": f"{texts}, labelled by a model",
        "both": f"{texts} and generated rows, {one.policy} labels", "hand": "labels by hand",
    }  # fmt: skip
    return names[one.way] + (" (extrapolated: a - b/√n)" if one.extrapolated else "")
