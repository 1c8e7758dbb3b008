"""A student against a held-out file: accuracy, macro-F1, each class, and the confusion matrix as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from schemas.base import content_hash
from schemas.errors import GraftError
from schemas.students import ClassScore, Evaluation


def evaluate(
    predicted: Sequence[str], rows: Sequence[tuple[str, str]], labels: Sequence[str], *, student_id: str, test_file: str
) -> Evaluation:
    """Compare predictions with the (text, label) rows. Classes that the file lacks count in no mean.

    Raises GraftError for an empty file, or for a label that the student cannot predict.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    true = [label for _, label in rows]
    if not rows:
        raise GraftError("there is no row to evaluate on", where=test_file, fix="name a labelled file with --test")
    unknown = sorted(set(true) - set(labels))
    if unknown:
        raise GraftError(
            f"the test file has labels that the dataset lacks: {', '.join(unknown[:5])}", where=test_file,
            fix=f"the dataset has {', '.join(labels)}",
        )  # fmt: skip
    names = list(labels)
    precision, recall, f1, support = precision_recall_fscore_support(true, predicted, labels=names, zero_division=0.0)
    seen = [place for place, count in enumerate(support) if count]
    return Evaluation(
        student_id=student_id,
        test_file=test_file,
        test_hash=content_hash(rows),
        rows=len(rows),
        accuracy=sum(a == b for a, b in zip(true, predicted, strict=True)) / len(rows),
        macro_f1=float(sum(f1[place] for place in seen) / len(seen)),
        classes=tuple(
            ClassScore(label=label, precision=float(p), recall=float(r), f1=float(f), support=int(n))
            for label, p, r, f, n in zip(names, precision, recall, f1, support, strict=True)
        ),
        confusion=tuple(tuple(int(n) for n in row) for row in confusion_matrix(true, predicted, labels=names)),
        labels=tuple(names),
    )


def confusion_png(evaluation: Evaluation, path: Path, title: str) -> None:
    """The confusion matrix as a PNG: rows are true labels, columns predicted ones, shares of the row as colour."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(evaluation.labels)
    side = min(24.0, max(5.0, 1.6 + 0.62 * count))
    small = 9 if count <= 15 else 5
    figure = Figure(figsize=(side, side), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shares = [[n / max(1, sum(row)) for n in row] for row in evaluation.confusion]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [label if len(label) <= 24 else label[:23] + "…" for label in evaluation.labels]
    axes.set_xticks(range(count), names, rotation=60, ha="right", fontsize=small)
    axes.set_yticks(range(count), names, fontsize=small)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title.replace("$", r"\$"), fontsize=10)
    for y, row in enumerate(evaluation.confusion):
        for x, number in enumerate(row):
            if number:
                colour = "white" if shares[y][x] > 0.5 else "black"
                axes.text(x, y, str(number), ha="center", va="center", fontsize=small, color=colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
