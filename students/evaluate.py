"""A student against a held-out file: accuracy, macro-F1, each class, and the confusion matrix as a picture."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from schemas.base import content_hash
from schemas.errors import GraftError
from schemas.students import ClassScore, Evaluation

Rows = Sequence[tuple[str, str]]
"""(text, label) pairs."""


def check_test_rows(rows: Rows, labels: Sequence[str], test_file: str, say: Callable[[str], None]) -> None:
    """Whether a student of `labels` can be judged on the file; says which of them the file does not test.

    Raises GraftError for an empty file, or for a label that the student cannot predict.
    """
    if not rows:
        raise GraftError("there is no row to evaluate on", where=test_file, fix="name a labelled file with --test")
    held = {label for _, label in rows}
    if unknown := sorted(held - set(labels)):
        raise GraftError(
            f"the test file has labels that the dataset lacks: {_few(unknown)}", where=test_file,
            fix=f"rename or remove these rows; the dataset has {_few(labels)}",
        )  # fmt: skip
    if untested := [label for label in labels if label not in held]:
        say(f"{test_file} has no rows of {_few(untested)}: macro-F1 is over the other {len(held)} labels")


def evaluate(
    predicted: Sequence[str], rows: Rows, labels: Sequence[str], *, student_id: str, test_file: str
) -> Evaluation:
    """Compare predictions with the (text, label) rows. Classes that the file lacks count in no mean.

    Errors as `check_test_rows`.
    """
    from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

    check_test_rows(rows, labels, test_file, lambda text: None)
    true, names = [label for _, label in rows], list(labels)
    precision, recall, f1, support = precision_recall_fscore_support(true, predicted, labels=names, zero_division=0.0)
    seen = [place for place, count in enumerate(support) if count]
    return Evaluation(
        student_id=student_id,
        test_file=test_file,
        test_hash=content_hash(rows),
        rows=len(rows),
        accuracy=float(accuracy_score(true, predicted)),
        macro_f1=float(sum(f1[place] for place in seen) / len(seen)),
        classes=tuple(
            ClassScore(label=label, precision=float(p), recall=float(r), f1=float(f), support=int(n))
            for label, p, r, f, n in zip(names, precision, recall, f1, support, strict=True)
        ),
        confusion=tuple(tuple(int(n) for n in row) for row in confusion_matrix(true, predicted, labels=names)),
        labels=tuple(names),
    )


def confusion_png(evaluation: Evaluation, path: Path, title: str) -> None:
    """The confusion matrix as a PNG: rows are true labels, columns predicted ones.

    Numbers are rows of the file, colours shares of the true label. The picture grows with the labels, so that 77 of
    them can still be read. Labels and title are shown as they are: nothing in them is markup.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(evaluation.labels)
    figure = Figure(figsize=(_side(count), _side(count)), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shares = [[n / max(1, sum(row)) for n in row] for row in evaluation.confusion]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [_short(label) for label in evaluation.labels]
    size, large = (9, 11) if count <= 15 else (8, 16)
    axes.set_xticks(range(count), names, rotation=60 if count <= 15 else 90, fontsize=size, parse_math=False)
    if count <= 15:
        for tick in axes.get_xticklabels():
            tick.set_horizontalalignment("right")
            tick.set_rotation_mode("anchor")
    axes.set_yticks(range(count), names, fontsize=size, parse_math=False)
    axes.set_xlabel("predicted label", fontsize=large)
    axes.set_ylabel("true label", fontsize=large)
    axes.set_title(_short(title, 60), fontsize=large, parse_math=False)
    for y, row in enumerate(evaluation.confusion):
        for x, number in enumerate(row):
            if number:
                colour = "white" if shares[y][x] > 0.5 else "black"
                axes.text(x, y, str(number), ha="center", va="center", fontsize=size, color=colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a script that the font lacks is drawn as boxes
        figure.savefig(path)


def _side(count: int) -> float:
    """Inches of the square picture: a margin for the names, then room for two digits a class."""
    return max(5.0, 2.4 + 0.6 * count) if count <= 15 else 5.0 + 0.24 * count


def _short(text: str, most: int = 28) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: most - 1] + "…"


def _few(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - 8} more" if len(labels) > 8 else ""
    return ", ".join(labels[:8]) + more
