"""`graft train` by phase, from the command to its exit: `python benchmarks/train_phases.py`, a minute or more.

Makes a dataset of 200 rows with a fake server, in a home of its own, and trains its student and the baseline on the
seeds, each evaluated on the same test file. CPU seconds of the process and seconds on the clock for each phase; other
work on the machine changes the CPU seconds little.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from figures import machine
from harness import ROOT, fake_server, write_recipe

ROWS, TEST_ROWS, LABELS = 200, 200, ("alpha", "beta")
BEGAN = time.time()
EVERYTHING = "everything else"


class Phases:
    """CPU and clock seconds by phase; a phase inside another is taken out of the outer one."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {EVERYTHING: [0.0, 0.0]}
        self._open, self._at = [EVERYTHING], (time.process_time(), time.perf_counter())

    def _turn(self) -> None:
        now = time.process_time(), time.perf_counter()
        spent = self.spent.setdefault(self._open[-1], [0.0, 0.0])
        for index in (0, 1):
            spent[index] += now[index] - self._at[index]
        self._at = now

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the block as this phase."""
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def watch(self, owner: Any, function: str, name: str) -> None:
        """Count the calls of an attribute as this phase."""
        real: Callable[..., Any] = getattr(owner, function)

        @functools.wraps(real)
        def watched(*args: Any, **given: Any) -> Any:
            with self.phase(name):
                return real(*args, **given)

        setattr(owner, function, watched)


def child(words: list[str]) -> None:
    """Run a command of Graft here and print its phases as JSON on the last line."""
    phases = Phases()
    with phases.phase("imports of torch and transformers"):
        import torch  # noqa: F401
        from transformers import AutoModel, AutoTokenizer  # noqa: F401
    with phases.phase("other imports"):
        from graft.cli.app import main
        from graft.flows import train_student  # noqa: F401
        from graft.students import classifier, launch, loop, train
    phases.watch(classifier.TextClassifier, "start", "loading models: the encoder and both students, each twice")
    phases.watch(loop.Loop, "run", "training steps")
    phases.watch(launch, "save", "writing the students")
    phases.watch(train.Learner, "judged", "predicting and evaluating")
    phases.watch(train, "confusion_png", "pictures")
    sys.argv = ["graft", *words]
    with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(SystemExit):
        main()
    with phases.phase("end"):
        loaded = [name for name in ("sklearn", "scipy", "matplotlib", "pandas", "prefect") if name in sys.modules]
    print(json.dumps({"spent": phases.spent, "loaded": loaded, "all": [time.process_time(), time.time() - BEGAN]}))


def main() -> None:
    """Make the dataset, train, print a table."""
    with tempfile.TemporaryDirectory() as name, fake_server() as server:
        folder = Path(name)
        env = {**os.environ, "GRAFT_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}
        recipe = write_recipe(folder, server, candidates=20 * ROWS, rows=ROWS // 2)
        held = [{"text": f"a held-out text number {n}", "label": LABELS[n % 2]} for n in range(TEST_ROWS)]
        (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held), encoding="utf-8")
        graft = [sys.executable, "-m", "graft"]
        subprocess.run([*graft, "run", str(recipe)], env=env, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        words = ["train", "bench", "--epochs", "1", "--test", str(folder / "test.jsonl")]
        done = subprocess.run(
            [sys.executable, __file__, "--child", *words],
            env=env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found = json.loads(done.stdout.splitlines()[-1])
    print("| phase | CPU seconds | seconds |\n|---|---:|---:|")
    for phase, (cpu, clock) in [*found["spent"].items(), ("whole process", found["all"])]:
        print(f"| {phase} | {cpu:.2f} | {clock:.2f} |")
    print(f"\nloaded: {', '.join(found['loaded'])}\n{machine()}")


if __name__ == "__main__":
    child(sys.argv[2:]) if sys.argv[1:2] == ["--child"] else main()
