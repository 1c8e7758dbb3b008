"""The comparison of two students in plain text, for the terminal and the run's page."""

from __future__ import annotations

import math
from pathlib import Path

from schemas.students import Evaluation, Student


def comparison(student: Student, seeds: Evaluation, version: Evaluation, picture: Path) -> str:
    """Seeds only against the version, overall and class by class. The interval is the accuracy's 95% one (Wilson)."""
    lines = [
        f"student {student.id}: {student.train_rows} rows, {student.seconds:.0f} s on {student.device}; "
        f"tested on {version.rows} rows of {version.test_file}",
        "",
        f"{'':24}{'seeds only':>12}{'with version':>14}{'gain':>9}",
        _row("accuracy", seeds.accuracy, version.accuracy),
        _row("macro-F1", seeds.macro_f1, version.macro_f1),
        f"{'  95% interval':24}{_interval(seeds):>12}{_interval(version):>14}",
        "",
        f"{'F1 of each class':24}",
    ]
    for before, after in zip(seeds.classes, version.classes, strict=True):
        lines.append(_row("  " + before.label, before.f1, after.f1))
    return "\n".join([*lines, "", f"confusion matrix: {picture}"])


def _row(name: str, before: float, after: float) -> str:
    return f"{name[:24]:24}{before:>12.1%}{after:>14.1%}{100 * (after - before):>+9.1f}"


def _interval(evaluation: Evaluation) -> str:
    """Wilson's 95% interval of an accuracy, in whole percent."""
    n, p, z = evaluation.rows, evaluation.accuracy, 1.96
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return f"{100 * (middle - half):.0f}–{100 * (middle + half):.0f}%"
