"""Evaluates a student on a held-out file: figures, weaknesses, and pictures of both."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.schemas.base import content_hash
from graft.schemas.errors import GraftError
from graft.schemas.students import ClassScore, Evaluation

if TYPE_CHECKING:
    from graft.data.scores.maths import Bin

Rows = Sequence[tuple[str, str]]
"""(text, label) pairs."""

Probabilities = Sequence[Sequence[float]]
"""One list a row, in the order of the labels."""

HARMFUL = ("harmful", "unsafe")
"""Names of the class that a guard detects; of two other labels the second counts as the positive one."""


@dataclass(frozen=True)
class Confused:
    """Rows of one label that were predicted as another; `share` is over the true label's rows, 0 to 1."""

    true: str
    predicted: str
    rows: int
    share: float


@dataclass(frozen=True)
class Slice:
    """Some of the rows, and their accuracy."""

    name: str
    rows: int
    accuracy: float


@dataclass(frozen=True)
class Slices:
    """Weak points of a student: labels (worst first), the quarters of the texts by length, and its surest tenth.

    `sure` rows make the tenth with the highest top probability (all of equal ones); `sure_wrong` of them are wrong,
    with the mean confidence `sure_mean`. `sure` is 0 without probabilities. No text of a row is kept.
    """

    labels: tuple[Slice, ...]
    lengths: tuple[Slice, ...]
    sure: int = 0
    sure_wrong: int = 0
    sure_mean: float | None = None


def check_test_rows(rows: Rows, labels: Sequence[str], test_file: str, say: Callable[[str], None]) -> None:
    """Check that a student of `labels` can be evaluated on the file; reports labels that the file does not test.

    Raises GraftError for an empty file, or for a label that the student cannot predict.
    """
    if not rows:
        raise GraftError("no row to evaluate on", where=test_file, fix="name a labelled file with --test")
    held = {label for _, label in rows}
    if unknown := sorted(held - set(labels)):
        raise GraftError(
            f"the test file has labels that the dataset lacks: {few(unknown)}", where=test_file,
            fix=f"rename or remove these rows; the dataset has {few(labels)}",
        )  # fmt: skip
    if untested := [label for label in labels if label not in held]:
        say(f"{test_file} has no rows of {few(untested)}: macro-F1 is over the other {len(held)} labels")


def evaluate(
    predicted: Sequence[str], rows: Rows, labels: Sequence[str], *, student_id: str, test_file: str,
    probabilities: Probabilities | None = None, validation: tuple[Probabilities, Sequence[str]] | None = None,
) -> Evaluation:  # fmt: skip
    """Compare predictions with the (text, label) rows. Classes that the file lacks count in no mean.

    `validation` is the student's probabilities on the version's validation rows, and their true labels: temperature and
    threshold are chosen on them, never on the rows judged. Unknown figures stay None or empty. Errors as
    `check_test_rows`; ValueError for probabilities that are not one list a row with one number a label.
    """
    from graft.data.scores.maths import accuracy_interval

    check_test_rows(rows, labels, test_file, lambda text: None)
    true, names = [label for _, label in rows], list(labels)
    confusion = _confusion(true, predicted, names)
    precision, recall, f1, support = _scores(true, predicted, names)
    seen = [place for place, count in enumerate(support) if count]
    right = sum(guess == label for guess, label in zip(predicted, true, strict=True))
    calibrated = _calibrated(predicted, true, names, probabilities, validation) if probabilities is not None else {}
    return Evaluation(
        student_id=student_id,
        test_file=test_file,
        test_hash=content_hash(rows),
        rows=len(rows),
        accuracy=right / len(rows),
        macro_f1=float(sum(f1[place] for place in seen) / len(seen)),
        classes=tuple(
            ClassScore(label=label, precision=float(p), recall=float(r), f1=float(f), support=int(n))
            for label, p, r, f, n in zip(names, precision, recall, f1, support, strict=True)
        ),
        confusion=confusion,
        labels=tuple(names),
        interval=accuracy_interval(right, len(rows)),
        majority=float(max(support)) / len(rows),
        **calibrated,
    )


def _confusion(true: Sequence[str], predicted: Sequence[str], names: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Rows of each true label (the rows) by predicted label (the columns)."""
    counts = Counter(zip(true, predicted, strict=True))
    return tuple(tuple(counts[label, guess] for guess in names) for label in names)


def _scores(true: Sequence[str], predicted: Sequence[str], names: Sequence[str]) -> tuple[list[Any], ...]:
    """Precision, recall, F1 and support of each label, 0 where undefined. scikit-learn takes a second to import."""
    there, guessed = Counter(true), Counter(predicted)
    hits = Counter(label for label, guess in zip(true, predicted, strict=True) if label == guess)
    return (
        [hits[name] / guessed[name] if guessed[name] else 0.0 for name in names],
        [hits[name] / there[name] if there[name] else 0.0 for name in names],
        [2 * hits[name] / (there[name] + guessed[name]) if there[name] + guessed[name] else 0.0 for name in names],
        [there[name] for name in names],
    )


def average_precision(held: Any, scores: Any) -> float:
    """Area under the precision-recall curve as a step function; equal scores are one step.

    Args:
        held: boolean array, true for rows of the positive class; at least one is true
        scores: array of the same length, higher for the positive class
    """
    import numpy as np

    order = np.argsort(-scores, kind="stable")
    ends = np.r_[np.flatnonzero(np.diff(scores[order])), len(order) - 1]
    hits = np.cumsum(held[order])[ends]
    precision, recall = hits / (ends + 1), hits / hits[-1]
    return float(np.sum(np.diff(np.r_[0.0, recall]) * precision))


def _calibrated(
    predicted: Sequence[str], true: Sequence[str], labels: Sequence[str], probabilities: Probabilities,
    validation: tuple[Probabilities, Sequence[str]] | None,
) -> dict[str, Any]:  # fmt: skip
    """The fields of an Evaluation that need probabilities."""
    import numpy as np

    from graft.data.scores import maths
    from graft.students import calibrate

    matrix = maths.as_matrix(probabilities, len(true), len(labels))
    right = np.array([guess == label for guess, label in zip(predicted, true, strict=True)])
    fields: dict[str, Any] = {"ece": maths.calibration_error(maths.reliability(matrix, right))}
    known = None
    if validation is not None and len(validation[1]):
        known = maths.as_matrix(validation[0], len(validation[1]), len(labels))
        place = {label: n for n, label in enumerate(labels)}
        if strange := sorted(set(validation[1]) - set(place)):
            raise ValueError(f"validation rows have labels that the student lacks: {few(strange)}")
        temperature = calibrate.fit_temperature(known, np.array([place[label] for label in validation[1]]))
        if temperature is not None:
            after = maths.reliability(calibrate.scaled(matrix, temperature), right)
            fields |= {"temperature": temperature, "ece_scaled": maths.calibration_error(after)}
    if len(labels) == 2:
        fields |= _binary(true, labels, matrix, known, validation[1] if validation else ())
    return fields


def _binary(
    true: Sequence[str], labels: Sequence[str], matrix: Any, known: Any, known_true: Sequence[str]
) -> dict[str, Any]:
    """The fields of an Evaluation that are about one of two classes; `known` are the validation rows' probabilities."""
    import numpy as np

    from graft.students.calibrate import choose_threshold

    positive = next((label for label in labels if label.casefold() in HARMFUL), labels[1])
    column = list(labels).index(positive)
    scores, held = matrix[:, column], np.array([label == positive for label in true])
    chosen = None
    if known is not None:
        chosen = choose_threshold(known[:, column], np.array([label == positive for label in known_true]))
    threshold = 0.5 if chosen is None else chosen
    both = 0 < held.sum() < len(held)
    return {
        "positive": positive,
        "threshold": threshold,
        "auprc": average_precision(held, scores) if both else None,
        "false_refusals": float((scores[~held] > threshold).mean()) if not held.all() else None,
    }


def confused(evaluation: Evaluation, most: int = 5) -> tuple[Confused, ...]:
    """The most frequent pairs of a true label and another predicted one, at most `most` of them."""
    held = {score.label: score.support for score in evaluation.classes}
    pairs = [
        Confused(true, guess, count, count / (held.get(true) or sum(row)))
        for true, row in zip(evaluation.labels, evaluation.confusion, strict=True)
        for guess, count in zip(evaluation.labels, row, strict=True)
        if count and guess != true
    ]
    return tuple(sorted(pairs, key=lambda pair: (-pair.rows, -pair.share, pair.true, pair.predicted))[:most])


def worst_slices(predicted: Sequence[str], rows: Rows, probabilities: Probabilities | None = None) -> Slices:
    """The three worst labels, text lengths and confident mistakes of a student. `rows` are (text, label), not empty."""
    import numpy as np

    from graft.data.scores.maths import length_name, quarters

    right = np.array([guess == label for guess, (_, label) in zip(predicted, rows, strict=True)])
    true = np.array([label for _, label in rows], dtype=object)
    labels = [_slice(label, right[true == label]) for label in sorted({label for _, label in rows})]
    labels.sort(key=lambda one: (one.accuracy, -one.rows, one.name))
    length = np.array([len(text) for text, _ in rows])
    quarter = quarters(length)
    lengths = [
        _slice(length_name(length[inside]), right[inside]) for n in range(4) if (inside := quarter == n).any()
    ]  # fmt: skip
    if probabilities is None:
        return Slices(tuple(labels[:3]), tuple(lengths))
    top = np.asarray(probabilities, dtype=float).max(axis=1)
    sure = top >= np.sort(top)[-math.ceil(len(top) / 10)]
    wrong = top[sure & ~right]
    mean = float(wrong.mean()) if len(wrong) else None
    return Slices(tuple(labels[:3]), tuple(lengths), int(sure.sum()), len(wrong), mean)


def _slice(name: str, right: Any) -> Slice:
    return Slice(name, len(right), float(right.mean()))


def write_reliability(
    predicted: Sequence[str], rows: Rows, probabilities: Probabilities, folder: Path, title: str
) -> tuple[Bin, ...]:
    """Write `reliability.json` and `reliability.png` into the folder; the bins that they show.

    The JSON is a list of the 15 bins: low, high, rows, confidence (mean) and accuracy, the last two null without rows.
    """
    import numpy as np

    from graft.data.scores.maths import as_matrix, reliability

    right = np.array([guess == label for guess, (_, label) in zip(predicted, rows, strict=True)])
    bins = reliability(as_matrix(probabilities, len(rows), len(probabilities[0])), right)
    write_bins(bins, folder, title)
    return bins


def write_bins(
    bins: Sequence[Bin], folder: Path, title: str, measured: str = "probability of the predicted label"
) -> None:
    """Write bins as `write_reliability` does; `measured` names the probability that is binned."""
    import orjson

    folder.mkdir(parents=True, exist_ok=True)
    table = orjson.dumps([asdict(one) for one in bins], option=orjson.OPT_INDENT_2)
    (folder / "reliability.json").write_bytes(table + b"\n")
    reliability_png(bins, folder / "reliability.png", title, measured)


def reliability_png(
    bins: Sequence[Bin], path: Path, title: str, measured: str = "probability of the predicted label"
) -> None:
    """The bins as a PNG: accuracy against confidence, and the rows of each bin.

    Bars of a calibrated student end on the dashed line; above it the student is underconfident, below overconfident.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 6), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled = [one for one in bins if one.accuracy is not None and one.confidence is not None]
    width = 1 / max(1, len(bins))
    upper.bar([one.low for one in filled], [one.accuracy for one in filled], width, align="edge", edgecolor="white")
    upper.plot([0, 1], [0, 1], "--", color="grey")
    upper.plot([one.confidence for one in filled], [one.accuracy for one in filled], "o", color="black", markersize=4)
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share that was right")
    upper.set_title(_short(title, 60), fontsize=11, parse_math=False)
    lower.bar(
        [one.low for one in bins], [one.rows for one in bins], width, align="edge", edgecolor="white", color="grey"
    )
    lower.set(xlabel=measured, ylabel="rows")
    _save(figure, path)


def confusion_png(evaluation: Evaluation, path: Path, title: str) -> None:
    """The confusion matrix as a PNG: rows are true labels, columns predicted ones.

    Numbers are rows of the file, colours shares of the true label. The picture grows with the labels, so that 77 are
    still readable. Labels and title are shown as they are: nothing in them is markup.
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
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
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


def few(labels: Sequence[str]) -> str:
    """The first eight names, and the number of others."""
    more = f" and {len(labels) - 8} more" if len(labels) > 8 else ""
    return ", ".join(labels[:8]) + more
