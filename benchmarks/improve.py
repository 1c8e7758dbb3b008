"""Gain from a loop of rounds: `python benchmarks/improve.py [--rounds 5] [--seeds 3] [--rows 100]`.

CLINC150's ten domains from two examples a domain, labels known by their names alone, with the embedded models. Round by
round, and beside it the same number of candidates at once without steering. Two fifths of the public test rows were
looked at while the loop was built; the figures are of the other 3,500 (a fixed draw), which no round sees. What steers
are the versions' own validation rows: there is no other real row than the 20 seeds.

Finished calls, versions and students stay in --home, so a stopped bench goes on. Needs ../shared/data; an hour and more
on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "clinc150"
LOOKED_AT = 1_000
"""Test rows that were looked at while the loop was built: left out."""


def write_recipe(folder: Path, rows: int, policies: list[str]) -> Path:
    """The recipe and its held-out file."""
    seeds = DATA / "train_2shot_seed0.jsonl"
    labels = sorted({json.loads(line)["domain"] for line in seeds.read_text(encoding="utf-8").splitlines()})
    everything = [json.loads(line) for line in (DATA / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    seen = {row["text"] for row in random.Random(0).sample(everything, LOOKED_AT)}
    held = [json.dumps(row) for row in everything if row["text"] not in seen]
    (folder / "held_out.jsonl").write_text("\n".join(held) + "\n", encoding="utf-8")
    recipe = {
        "name": "clinc",
        "task": {
            "kind": "classification", "text": "a message that a user types or says to an assistant",
            "labels": [{"name": label} for label in labels],
        },
        "seeds": {"path": str(seeds), "label_field": "domain"},
        "method": {"kind": "gra", "reviewers": 2, "few_shot": [2, 4]},
        "roles": {
            "generator": {"models": ["gemma"], "temperature": 0.9, "top_p": 0.95, "max_tokens": 48},
            "reviewer": {"models": ["gemma", "minilm"], "answer": "logprobs"},
            "adjudicator": {"models": ["smollm2"], "answer": "logprobs"},
        },
        "target": {"rows_per_label": -(-rows // len(labels))},
        "gates": {"min_chars": 10, "max_chars": 300, "label_leak": False},
        "limits": {"candidates": 4_000, "min_yield": 0.01},
        "splits": {"train": 0.8, "validation": 0.2, "test": 0.0},
        "student": {"test": "held_out.jsonl", "label_field": "domain", "epochs": 10},
        "improve": {"policies": policies, "patience": 5},
    }  # fmt: skip
    file = folder / "clinc.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return file


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=100, help="accepted rows of a round over all labels")
    parser.add_argument("--policies", nargs="+", default=["hard_negatives", "domain_gap"])
    parser.add_argument("--home", default=str(ROOT / ".graft-bench"), help="where finished work stays")
    given = parser.parse_args()
    home = Path(given.home).resolve()
    home.mkdir(parents=True, exist_ok=True)
    command = [
        "improve",
        str(write_recipe(home, given.rows, given.policies)),
        "--rounds",
        str(given.rounds),
        "--seeds",
        str(given.seeds),
    ]
    environment = {**os.environ, "GRAFT_HOME": str(home)}
    raise SystemExit(
        subprocess.run([sys.executable, "-m", "graft", *command], cwd=ROOT, env=environment, check=False).returncode
    )
