"""A student on the CPU, ONNX Runtime against PyTorch: `python benchmarks/onnx_speed.py [STUDENT] [--repeats 5]`.

Without STUDENT (an id or a dataset in GRAFT_HOME) the built-in MiniLM with a layer for ten labels is exported to a
temporary folder: what it has learned makes no difference to its speed. Both engines read the same texts, at batch 1 and
32, each through its whole way from text to probabilities. Prints p50 and p95 of a batch in ms and texts a second: the
median of the repeats, which take turns. The machine and its load are above the table. Two minutes.

Not named onnx.py: this folder is the first on the path of everything that is run from it.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from graft.students.heads import Rule  # noqa: E402
from graft.students.heads.single import Single  # noqa: E402
from graft.students.predict import Predictor  # noqa: E402

TEXTS = [
    "where is my parcel, it should have been here on Monday",
    "I was charged twice for the same order, please give me one of them back",
    "how do I change my e-mail address",
    "the app closes itself whenever I open the list of my orders, and I have installed it again two times already",
    "thank you, that is all",
    "can the courier bring it in the evening, I am at work until six and nobody else is at home",
    "do you have this lamp in white",
    "my voucher is not taken",
]
WARM_UP = 10

Figures = tuple[float, float, float]
"""p50 and p95 of a batch in ms, texts a second."""


def timed(predict: Callable[[Sequence[str]], object], batch: int, rounds: int) -> Figures:
    """One measurement of so many batches, after a few that do not count."""
    texts = [TEXTS[place % len(TEXTS)] for place in range(batch * rounds)]
    for _ in range(WARM_UP):
        predict(texts[:batch])
    times = []
    for place in range(rounds):
        start = time.perf_counter()
        predict(texts[place * batch : (place + 1) * batch])
        times.append(1000 * (time.perf_counter() - start))
    times.sort()
    return times[len(times) // 2], times[int(len(times) * 0.95)], 1000 * batch * rounds / sum(times)


def measure(folder: Path, repeats: int) -> list[str]:
    """The table's lines."""
    engines = {
        "ONNX Runtime": Predictor.open(folder, engine="onnx"),
        "PyTorch": Predictor.open(folder, engine="pytorch"),
    }
    lines = ["| engine | batch | p50, ms | p95, ms | texts a second |", "| --- | --- | --- | --- | --- |"]
    for batch, rounds in ((1, 200), (32, 30)):
        found: dict[str, list[Figures]] = {name: [] for name in engines}
        for _ in range(repeats):
            for name, engine in engines.items():
                found[name].append(timed(engine.predict, batch, rounds))
        for name, figures in found.items():
            p50, p95, rate = (statistics.median(column) for column in zip(*figures, strict=True))
            lines.append(f"| {name} | {batch} | {p50:.1f} | {p95:.1f} | {rate:,.0f} |")
    return lines


def exported(place: Path) -> Path:
    """The built-in encoder with a layer for ten labels, exported."""
    from graft.students.classifier import TextClassifier
    from graft.students.encoder import BUILT_IN, find_encoder
    from graft.students.onnx import export_folder

    labels = [f"label {n}" for n in range(10)]
    model = TextClassifier.start(find_encoder(BUILT_IN), Single(labels), 64)
    model.imprint([])
    export_folder(model, place / "student", student="benchmark", rule=Rule(), card=lambda worst: f"{worst}\n")
    return place / "student"


def main() -> None:
    """Exports where needed, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student", nargs="?")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        if given.student:
            from graft.flows.export_student import export_student

            folder = export_student(given.student, out=Path(place) / "student").folder
        else:
            folder = exported(Path(place))
        size = (folder / "model.onnx").stat().st_size / 1e6
        before = os.getloadavg()[0]
        lines = measure(folder, given.repeats)
    import onnxruntime
    import torch

    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load before {before:.1f}; Python {platform.python_version()}, "
        f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__} ({torch.get_num_threads()} threads); "
        f"model.onnx {size:.0f} MB; median of {given.repeats} repeats\n"
    )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
