"""The report of a training, and the comparison of two classifiers in plain text, for terminal and page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.schemas.shown import Shown
from graft.schemas.students import Evaluation, Student
from graft.students.evaluate import Slices, confused

if TYPE_CHECKING:
    from graft.data.scores.maths import Paired

_WIDTH = 28


@dataclass(frozen=True, repr=False)
class Report(Shown):
    """Result of a training, of any kind of student.

    `notes` report what needs attention (stopped early, diverged); `text`, for people, includes them. The last student
    is the version's.
    """

    students: tuple[Student, ...]
    evaluations: tuple[Any, ...]
    text: str
    notes: tuple[str, ...] = ()

    def shown(self) -> dict[str, object]:
        """See Shown."""
        return {"students": ", ".join(one.id for one in self.students), "notes": "; ".join(self.notes) or None}

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "students": [student.model_dump(mode="json") for student in self.students],
            "evaluations": [evaluation.model_dump(mode="json") for evaluation in self.evaluations],
            "notes": list(self.notes),
            "text": self.text,
        }


def comparison(
    student: Student, seeds: Evaluation, version: Evaluation, picture: Path, *,
    paired: Paired | None = None, slices: Slices | None = None,
) -> str:  # fmt: skip
    """Seeds only against the version, overall and class by class.

    `student` is the version's. The interval is the evaluation's bootstrapped 95% one of the accuracy, or Wilson's if
    that has no width: a gain well inside it may be chance. `paired` (seeds as a, version as b) and `slices` (of the
    version's student) add their lines.
    """
    right = "accuracy" if version.micro_f1 is None else "all labels of a text right"
    lines = [
        f"student {student.id}: {student.train_rows} rows, {student.seconds:.0f} s on {student.device}",
        f"tested on {version.rows} rows: {version.test_file}",
        "",
        f"{'':{_WIDTH}}{'seeds only':>12}{'with version':>14}{'gain':>9}",
        _row(right, seeds.accuracy, version.accuracy),
        f"{'  95% interval':{_WIDTH}}{interval_of(seeds):>12}{interval_of(version):>14}",
        *_further_accuracy(seeds, version, paired),
        _row("macro-F1", seeds.macro_f1, version.macro_f1),
        *_micro(seeds, version),
        *_calibration(seeds, version),
        "",
        f"{'F1 of each class':{_WIDTH + 35}}{'precision':>11}{'recall':>9}{'rows':>7}",
    ]
    for before, after in zip(seeds.classes, version.classes, strict=True):
        if after.support:
            more = f"{after.precision:>11.1%}{after.recall:>9.1%}{after.support:>7}"
            lines.append(_row("  " + after.label, before.f1, after.f1) + more)
        else:
            lines.append(f"{_name('  ' + after.label)}{'not in the test file':>26}")
    return "\n".join([*lines, *_weak(version, slices), "", f"confusion matrix: {picture}"])


def _further_accuracy(seeds: Evaluation, version: Evaluation, paired: Paired | None) -> list[str]:
    lines = []
    if len(seeds.accuracies) > 1 or len(version.accuracies) > 1:
        most = max(len(seeds.accuracies), len(version.accuracies))
        lines.append(_pair(f"  of {most} trainings", _range(seeds.accuracies), _range(version.accuracies)))
    if version.majority is not None:
        name = "largest class" if version.micro_f1 is None else "commonest labels"
        lines.append(f"{_name(f'  {name} guessed')}{version.majority:>12.1%}{version.majority:>14.1%}")
    if paired is not None:
        chance = chance_of(paired.p_value)
        lines.append(
            f"  version right where seeds were wrong: {paired.better}, the reverse: {paired.worse}; {chance};"
            f" difference {100 * paired.difference:+.1f} points ({100 * paired.low:.1f} to {100 * paired.high:.1f})"
        )
    return lines


def chance_of(p_value: float) -> str:
    """McNemar's p as reports write it."""
    return "p < 0.0001" if p_value < 0.0001 else f"p = {p_value:.4f}"


def _micro(seeds: Evaluation, version: Evaluation) -> list[str]:
    """A line for students with several labels per text."""
    if seeds.micro_f1 is None or version.micro_f1 is None:
        return []
    return [_row("micro-F1", seeds.micro_f1, version.micro_f1)]


def _calibration(seeds: Evaluation, version: Evaluation) -> list[str]:
    """Lines about probabilities; none if the evaluations have none."""
    if version.ece is None:
        return []
    lines = [_pair("calibration error", _share(seeds.ece), _share(version.ece))]
    if version.micro_f1 is not None:
        return lines
    if version.temperature is None and seeds.temperature is None:
        lines.append("  no temperature: there are no validation rows to fit it on, or every one of them is right")
    else:
        lines.append(_pair("  temperature", _number(seeds.temperature), _number(version.temperature)))
        lines.append(_pair("  error after scaling", _share(seeds.ece_scaled), _share(version.ece_scaled)))
    if version.positive:
        lines.append(_pair(f"AUPRC of {version.positive}", _share(seeds.auprc), _share(version.auprc)))
        lines.append(_pair("  threshold", _number(seeds.threshold), _number(version.threshold)))
        lines.append(_pair("  false refusals there", _share(seeds.false_refusals), _share(version.false_refusals)))
    return lines


def _weak(version: Evaluation, slices: Slices | None) -> list[str]:
    """The version's student's weak points, in a few lines."""
    lines = [
        f"  {_flat(pair.true)} predicted as {_flat(pair.predicted)}: {pair.rows} ({pair.share:.0%} of its rows)"
        for pair in confused(version)
    ]
    if lines:
        lines = ["", "most confused", *lines]
    if slices is None:
        return lines
    lines += ["", "weakest"]
    lines += [f"  label {_flat(one.name)}: {one.accuracy:.1%} of {one.rows} rows right" for one in slices.labels]
    length = min(slices.lengths, key=lambda one: one.accuracy)
    lines.append(f"  texts of {length.name}: {length.accuracy:.1%} of {length.rows} rows right")
    if slices.sure:
        mean = f", at a mean confidence of {slices.sure_mean:.1%}" if slices.sure_mean is not None else ""
        lines.append(f"  the surest tenth: {slices.sure_wrong} of {slices.sure} rows wrong{mean}")
    return lines


def _name(text: str) -> str:
    shown = text if len(text) <= _WIDTH - 1 else text[: _WIDTH - 2] + "…"
    return f"{shown:{_WIDTH}}"


def _flat(label: str) -> str:
    return " ".join(label.split())[: _WIDTH - 1]


def _row(name: str, before: float, after: float) -> str:
    return f"{_name(name)}{before:>12.1%}{after:>14.1%}{100 * (after - before):>+9.1f}"


def _pair(name: str, before: str, after: str) -> str:
    return f"{_name(name)}{before:>12}{after:>14}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _range(values: Sequence[float]) -> str:
    return f"{100 * min(values):.1f}–{100 * max(values):.1f}%" if values else "–"


def interval_of(evaluation: Evaluation) -> str:
    """The 95% interval of an accuracy, in percent."""
    return _range(evaluation.between)
