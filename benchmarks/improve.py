"""Steered rounds against unsteered ones: `python benchmarks/improve.py [--sets demo mr] [--policies hard_negatives]`.

For each set and policy one loop of `graft improve`, and one that no policy steers: the same rounds, the same first
round, and in every round the same limit of tokens, so that a policy with longer prompts gets fewer rows, or, with
`--calls`, the same number of calls to the generator. A fixed draw of the test file's rows steers; all students are
tested on the others. What counts is the difference between the two loops' last students, logistic regressions on
MiniLM's frozen embeddings of seeds and rows, with McNemar's p and a bootstrap interval over test rows. Beside them
stands a student that also learns from the steering rows, which is what else a person can do with labelled rows.

Finished loops are lines of `OUT/steering.jsonl`, and each has a home of its own under OUT, so that no loop is spared a
call by another's journal. Needs ../shared/data for all sets but the demo's.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import gain  # isort: skip  (before ours: it finds them)

from graft.schemas.plain_yaml import plain

UNSTEERED = "unsteered"
ARM = "plain generation"
ROUNDS = 3
STEERING = 100
"""Most test rows that steer; a quarter of a smaller file."""
HELD = 50
"""Test rows that a loop's own report is on: its tuned students would take minutes for all of them."""
LEFT_OUT = shutil.ignore_patterns("models", "*.lock")


@dataclass(frozen=True)
class Case:
    """One set, teacher and random seed, with its limit of tokens or calls over all rounds."""

    name: str
    teacher: str
    seed: int
    tokens: int
    calls: int | None
    out: Path

    @property
    def folder(self) -> Path:
        """Its files and homes."""
        return self.out / gain.name_of(self.name, ARM, self.teacher, self.seed)

    def split(self) -> tuple[gain.Pairs, gain.Pairs]:
        """Rows that steer, and rows that test."""
        rows = gain.split_of(gain.SETS[self.name])[0]
        taken = set(random.Random(1).sample(range(len(rows)), min(STEERING, len(rows) // 4)))
        return [rows[at] for at in sorted(taken)], [row for at, row in enumerate(rows) if at not in taken]

    def recipe(self, policies: Sequence[str]) -> Path:
        """Write the recipe of a loop with these policies, and its two files."""
        file = gain.recipe_of(self.name, ARM, self.teacher, self.seed, self.tokens // ROUNDS, self.out)
        recipe = plain(file.read_text(encoding="utf-8"))
        recipe["models"][0] |= {"max_concurrency": 2, "timeout_s": 1800}  # long prompts on a busy machine
        if self.calls:
            recipe["limits"] |= {"tokens": None, "candidates": self.calls // ROUNDS}
        steering, test = self.split()
        for place, rows in (("steer", steering), ("held", test[:HELD])):
            lines = (json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
            (self.folder / f"{place}.jsonl").write_text("".join(lines), encoding="utf-8")
        recipe["student"] = {"test": "held.jsonl", "epochs": 10}
        recipe["improve"] = {
            "policies": list(policies), "rounds": ROUNDS, "steer_on": "steer.jsonl", "patience": ROUNDS, "enough": 1.0,
            "judge": False, "compare": False,
        }  # fmt: skip
        file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        return file

    def home(self, arm: str) -> Path:
        """A loop's own home, which begins with the first round that all loops share."""
        first, own = self.folder / "home", self.folder / f"home-{arm}"
        if not own.exists():
            if not (self.folder / "first.json").exists():
                self.loop(first, self.recipe(()), 1)
                (self.folder / "first.json").touch()
            shutil.copytree(first, own, ignore=LEFT_OUT)
            gain.link_models(first / "models", own / "models")
        return own

    def loop(self, home: Path, recipe: Path, rounds: int) -> dict[str, Any]:
        """Run `graft improve` and return its record."""
        gain.link_models(self.out / "home" / "models", home / "models")
        command = [sys.executable, "-m", "graft", "improve", str(recipe), "--rounds", str(rounds), "--json"]
        environment = {**os.environ, "GRAFT_HOME": str(home), "PYTHONPATH": str(gain.ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise SystemExit(f"{self.name}, {recipe} failed:\n{done.stderr}")
        return dict(json.loads(done.stdout))


def run_arm(case: Case, arm: str, policies: Sequence[str]) -> dict[str, Any]:
    """One loop, and its last student's answers."""
    home, begin = case.home(arm), time.perf_counter()
    record = case.loop(home, case.recipe(policies), ROUNDS)
    seconds = time.perf_counter() - begin
    last = record["rounds"][-1]
    rows, tokens = made(home, last["dataset"], last["version"])
    steering, test = case.split()
    seeds = gain.rows_of(gain.SETS[case.name].seeds, gain.SETS[case.name].field)
    guesses = {
        "guesses": [*seeds, *rows], "seeds": seeds, "with steering rows": [*seeds, *rows, *steering],
    }  # fmt: skip
    answers = {name: gain.frozen_predictions(train, test) for name, train in guesses.items()}
    return {
        "set": case.name, "arm": arm, "teacher": case.teacher, "seed": case.seed, "rounds": last["round"],
        "rows": len(rows), "tokens": tokens, "seconds": round(seconds), "stopped_by": record["stopped_by"],
        "said": [one["said"] for one in record["rounds"]], "tuned": [one["test"] for one in record["rounds"]],
        **answers,
    }  # fmt: skip


def made(home: Path, dataset: str, version: int) -> tuple[gain.Pairs, int]:
    """The rows of a version, and all tokens that its home paid for."""
    from graft.data.lake import Lake
    from graft.data.versions import rows
    from graft.data.versions import version as find_version
    from graft.schemas.home import Home

    with Lake.open(Home(home), read_only=True) as lake:
        found = rows(lake, find_version(lake, f"{dataset}@{version}")).to_pylist()
        paid = "SELECT key, max(prompt_tokens + completion_tokens) AS n FROM lake.calls WHERE NOT cached GROUP BY key"
        tokens = lake.query(f"SELECT sum(n)::BIGINT AS n FROM ({paid})")[0]["n"]
    return [(row["text"], row["label"]) for row in found], tokens


def table(results: Sequence[dict[str, Any]], cases: dict[tuple[Any, ...], Case]) -> str:
    """Every loop of these cases beside the unsteered one of its set, teacher and seed, as a Markdown table."""
    lines = [
        "| set | seed | policy | rounds | rows | tokens | seeds | accuracy | minus unsteered, p | and steering rows |",
        "|---|---:|---|---:|---:|---:|---:|---:|---|---:|",
    ]  # fmt: skip
    for one in (one for one in results if keyed(one) in cases):
        key = keyed(one)
        test = cases[key].split()[1]
        plain = next((other for other in results if other["arm"] == UNSTEERED and key == keyed(other)), None)
        cells = [one["set"], one["seed"], one["arm"], one["rounds"], one["rows"], one["tokens"]]
        cells += [share(one["seeds"], test), f"**{share(one['guesses'], test)}**"]
        cells += ["" if plain is None or plain is one else against(plain["guesses"], one["guesses"], test)]
        cells += [share(one["with steering rows"], test)]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def keyed(one: dict[str, Any]) -> tuple[Any, ...]:
    """A result's case."""
    return one["set"], one["teacher"], one["seed"]


def share(guesses: Sequence[str], test: gain.Pairs) -> str:
    """Accuracy in percent."""
    return f"{100 * sum(guess == label for guess, (_, label) in zip(guesses, test, strict=True)) / len(test):.1f}"


def against(before: Sequence[str], after: Sequence[str], test: gain.Pairs) -> str:
    """The paired difference in points, its interval and p."""
    from graft.data.scores.maths import paired

    found = paired(before, after, test)
    low, high = 100 * found.low, 100 * found.high
    return f"{100 * found.difference:+.1f} ({low:+.1f} to {high:+.1f}), {found.p_value:.2g}"


def main() -> None:
    """Run the loops that have no result yet, and print the table."""
    from graft.schemas.kinds import POLICIES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(gain.SETS), choices=list(gain.SETS))
    parser.add_argument("--teacher", default="0.5b", choices=list(gain.TEACHERS))
    parser.add_argument("--policies", nargs="+", default=["hard_negatives", "domain_gap"], choices=POLICIES.names)
    parser.add_argument("--seeds", type=int, default=3, help="loops of each policy, with other draws")
    parser.add_argument("--tokens", type=int, default=15_000, help="prompt and completion tokens of one loop's runs")
    parser.add_argument("--calls", type=int, help="calls to the generator of one loop, in place of a limit of tokens")
    parser.add_argument("--out", type=Path, default=gain.ROOT / ".graft-steering", help="folder of results and homes")
    given = parser.parse_args()
    file = given.out.resolve() / "steering.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    results = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    known, cases = {(*keyed(one), one["arm"]) for one in results}, dict[tuple[Any, ...], Case]()
    for seed in range(given.seeds):
        for name in given.sets:
            case = Case(name, given.teacher, seed, given.tokens, given.calls, file.parent)
            cases[name, given.teacher, seed] = case
            for arm in (UNSTEERED, *given.policies):
                if (name, given.teacher, seed, arm) in known:
                    continue
                results.append(run_arm(case, arm, () if arm == UNSTEERED else (arm,)))
                with file.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(results[-1]) + "\n")
                print(table(results, cases), flush=True)
    print(table(results, cases))


if __name__ == "__main__":
    main()
