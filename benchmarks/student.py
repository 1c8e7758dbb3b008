"""Quality and training time of few-shot students: `python benchmarks/student.py [TEST_ROWS]` (default 1000).

1. CLINC150's ten domains from two examples a domain, three training seeds, on a fixed random sample of test rows;
   beside it a logistic regression on MiniLM's frozen embeddings, which a student must not fall below.
2. Ten of Banking77's classes with 30 real rows each, one seed, against their test rows: tuning must not hurt there.

Needs ../shared/data. Two threads; more than ten minutes where others use the cores.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402

from graft.schemas.students import StudentSettings  # noqa: E402
from graft.students.classifier import TextClassifier  # noqa: E402
from graft.students.encoder import BUILT_IN, find_encoder  # noqa: E402
from graft.students.fit import fit  # noqa: E402
from graft.students.heads.single import Single  # noqa: E402

DATA = ROOT.parent / "shared" / "data"
Rows = list[tuple[str, str]]


def read(file: str, field: str) -> Rows:
    """(text, label) pairs of a JSONL file under ../shared/data."""
    lines = (DATA / file).read_text(encoding="utf-8").splitlines()
    return [(row["text"], row[field]) for row in map(json.loads, lines)]


def right(predicted: Sequence[str], rows: Rows) -> float:
    """Accuracy in percent."""
    return 100 * sum(p == label for p, (_, label) in zip(predicted, rows, strict=True)) / len(rows)


def frozen(train: Rows, test: Rows, labels: list[str]) -> float:
    """Accuracy of a logistic regression on the untrained encoder's embeddings."""
    model = TextClassifier.start(find_encoder(BUILT_IN), Single(labels), 64).eval()
    with torch.inference_mode():
        known, unknown = (
            torch.cat([model.embed([text for text, _ in rows[at : at + 64]]) for at in range(0, len(rows), 64)]).numpy()
            for rows in (train, test)
        )
    regression = LogisticRegression(max_iter=1000).fit(known, [label for _, label in train])
    return right(list(regression.predict(unknown)), test)


def measure(name: str, train: Rows, test: Rows, seeds: Sequence[int]) -> None:
    """Prints one line: the anchor, then the student's mean and spread over training seeds, and its training time."""
    labels = sorted({label for _, label in train})
    accuracies, seconds = [], []
    for seed in seeds:
        fitted = fit(train, labels, StudentSettings(seed=seed))
        accuracies.append(right(fitted.model.predict([text for text, _ in test])[0], test))
        seconds.append(fitted.seconds)
    print(
        f"{name}: {len(train)} training rows, {len(test)} test rows: logistic regression "
        f"{frozen(train, test, labels):.1f}%, student {statistics.mean(accuracies):.1f}% ({len(seeds)} seeds: "
        f"{min(accuracies):.1f} to {max(accuracies):.1f}), {statistics.mean(seconds):.0f} s of training",
        flush=True,
    )


def main() -> None:
    """Measures both settings."""
    torch.set_num_threads(2)
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    few = read("clinc150/train_2shot_seed0.jsonl", "domain")
    test = read("clinc150/test.jsonl", "domain")
    measure("CLINC150 domains, 2-shot", few, random.Random(0).sample(test, min(wanted, len(test))), (0, 1, 2))
    many, held = read("banking77/train.jsonl", "label"), read("banking77/test.jsonl", "label")
    classes = random.Random(1).sample(sorted({label for _, label in many}), 10)
    draw = random.Random(2)
    train = [row for name in classes for row in draw.sample([row for row in many if row[1] == name], 30)]
    measure("Banking77, 10 classes, 30-shot", train, [row for row in held if row[1] in classes], (0,))


if __name__ == "__main__":
    main()
