"""The comparison of two students in plain text, for the terminal and the run's page."""

from __future__ import annotations

import math
from pathlib import Path

from schemas.students import Evaluation, Student

_WIDTH = 28


def comparison(student: Student, seeds: Evaluation, version: Evaluation, picture: Path) -> str:
    """Seeds only against the version, overall and class by class.

    `student` is the version's. The interval is Wilson's 95% one of the accuracy: a gain well inside it may be chance.
    """
    lines = [
        f"student {student.id}: {student.train_rows} rows, {student.seconds:.0f} s on {student.device}",
        f"tested on {version.rows} rows: {version.test_file}",
        "",
        f"{'':{_WIDTH}}{'seeds only':>12}{'with version':>14}{'gain':>9}",
        _row("accuracy", seeds.accuracy, version.accuracy),
        f"{'  95% interval':{_WIDTH}}{_interval(seeds):>12}{_interval(version):>14}",
        _row("macro-F1", seeds.macro_f1, version.macro_f1),
        "",
        f"{'F1 of each class':{_WIDTH + 35}}{'precision':>11}{'recall':>9}{'rows':>7}",
    ]
    for before, after in zip(seeds.classes, version.classes, strict=True):
        if after.support:
            more = f"{after.precision:>11.1%}{after.recall:>9.1%}{after.support:>7}"
            lines.append(_row("  " + after.label, before.f1, after.f1) + more)
        else:
            lines.append(f"{_name('  ' + after.label)}{'not in the test file':>26}")
    return "\n".join([*lines, "", f"confusion matrix: {picture}"])


def _name(text: str) -> str:
    shown = text if len(text) <= _WIDTH - 1 else text[: _WIDTH - 2] + "…"
    return f"{shown:{_WIDTH}}"


def _row(name: str, before: float, after: float) -> str:
    return f"{_name(name)}{before:>12.1%}{after:>14.1%}{100 * (after - before):>+9.1f}"


def _interval(evaluation: Evaluation) -> str:
    """Wilson's 95% interval of an accuracy, in percent."""
    n, p, z = evaluation.rows, evaluation.accuracy, 1.96
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return f"{100 * (middle - half):.1f}–{100 * (middle + half):.1f}%"
