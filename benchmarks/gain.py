"""Gain of each method's rows for a student: `python benchmarks/gain.py [--sets demo mr] [--teachers 0.5b] [--seeds 3]`.

Each arm is a recipe that `graft run --train` makes from two seeds per class under the same limit of tokens, so an arm
that asks judges gets fewer rows. Its rows and the seeds train two students: a logistic regression on MiniLM's frozen
embeddings, and the tuned encoder. Both are tested on rows that no model was shown; the teacher itself labels 200 of
them, zero- and few-shot. Finished arms are lines of `OUT/results.jsonl`, and finished calls stay in the arm's journal:
a stopped benchmark continues where it was. The table is printed after the last one, and drawn in `OUT/gain.svg`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import yaml  # noqa: E402

DATA, RECIPES = ROOT.parent / "shared" / "data", ROOT / "recipes" / "data"
TEXTS = 150
Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Source:
    """Where a set's rows lie, and how a recipe describes it. `cut` takes the texts away from the test file's end."""

    seeds: Path
    test: Path
    texts: Path | None
    field: str
    about: str
    labels: dict[str, str]
    cut: bool = False


SETS = {
    "demo": Source(
        RECIPES / "demo_seeds.jsonl", RECIPES / "demo_test.jsonl", RECIPES / "demo_texts.jsonl", "label",
        "a message that a customer writes to an online shop after buying something",
        {"complaint": "something went wrong, or the customer is unhappy",
         "praise": "the customer is happy with an article, a delivery or the staff"},
    ),
    "mr": Source(
        DATA / "mr/train_2shot_seed0.jsonl", DATA / "mr/test.jsonl", DATA / "mr/unlabelled.jsonl", "label",
        "a sentence of a film review", {"negative": "the critic dislikes the film", "positive": "the critic likes it"},
    ),
    "clinc150": Source(
        DATA / "clinc150/train_2shot_seed0.jsonl", DATA / "clinc150/test.jsonl", None, "domain",
        "a message that a user types or says to an assistant",
        {"auto_and_commute": "cars and getting around: traffic, directions, distances, fuel, tyres, repairs, taxis",
         "banking": "a bank account: balance, transfers, bills, PIN, cheques, interest, fraud, a blocked account",
         "credit_cards": "a credit card: limit, score, rewards, applying for one, a lost, damaged or declined card",
         "home": "running a household: shopping and to-do lists, calendar, reminders, orders, music, smart devices",
         "kitchen_and_dining": "recipes, ingredients, calories, cooking times, restaurants and their tables",
         "meta": "the assistant's own settings and replies: its name, language, accent, speed, volume, yes, no, repeat",
         "small_talk": "chatting with the assistant: greetings, thanks, jokes, questions about itself, fun facts",
         "travel": "trips: flights, hotels, rental cars, luggage, visas, vaccines, time zones, exchange rates, phrases",
         "utility": "small tools: time, date, alarm, timer, weather, calls, texts, sums, units, spelling, coins, dice",
         "work": "a job: pay, taxes, leave, holidays, insurance, meetings, pensions, direct deposit"},
        cut=True,
    ),
    "banking77": Source(
        DATA / "banking77/train_2shot_seed0.jsonl", DATA / "banking77/test.jsonl", DATA / "banking77/train.jsonl",
        "label", "a question that a customer asks a bank", {},
    ),
}  # fmt: skip
TEACHERS = {"270m": "gemma-3-270m", "0.5b": "qwen2.5-coder-0.5b-instruct", "1.5b": "qwen2.5-coder-1.5b-instruct"}
MARKERS = dict(zip(TEACHERS, "ovs", strict=True))
GRA: dict[str, Any] = {"kind": "gra", "reviewers": 2, "few_shot": [2, 2], "calibration_texts": 16}
PLAIN = {**GRA, "label_policy": "intended"}
LABEL: dict[str, Any] = {"kind": "label", "labelers": 1, "texts": "texts.jsonl", "calibration_texts": 16}
ARMS: dict[str, dict[str, Any]] = {
    "plain generation": PLAIN,
    "GRA": GRA,
    "GRA, relabelled": {**GRA, "label_policy": "relabelled"},
    "PromptMix": {"kind": "promptmix", "labelers": 2, "calibration_texts": 16},
    f"{TEXTS} texts labelled": {**LABEL, "most": TEXTS},
    "half texts, half written": {**LABEL, "most": TEXTS // 2, "top_up": PLAIN},
}
SELECTED = {f"{arm}, selected": arm for arm in ("plain generation", "half texts, half written")}
"""Arms with a choice among as many written rows as the same tokens made in another arm, by that arm."""
OVERSAMPLE = 1.5
NO_ROOM = "leaves no room for another call"
"""Error of a run whose limit was used up before its judges were calibrated: an arm without rows."""
ENDED: dict[str, Any] = {
    "exported": [], "student": None,
    "run": {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0, "stopped_by": "budget"},
}  # fmt: skip
ARMS |= {arm: ARMS[base] for arm, base in SELECTED.items()}


@lru_cache
def rows_of(file: Path, field: str) -> Pairs:
    """(text, label) pairs of a file; the label is empty where a row has none."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return [(row["text"], row.get(field, "")) for row in map(json.loads, lines)]


def split_of(source: Source) -> tuple[Pairs, list[str]]:
    """Test rows and unlabelled texts; where a set has no texts, they are a fixed draw that leaves the test rows."""
    test = rows_of(source.test, source.field)
    if not source.cut:
        return test, [text for text, _ in rows_of(source.texts or source.test, source.field)]
    taken = set(random.Random(0).sample(range(len(test)), TEXTS))
    return [row for at, row in enumerate(test) if at not in taken], [test[at][0] for at in sorted(taken)]


def name_of(name: str, arm: str, teacher: str, seed: int) -> str:
    """Name of an arm's folder and dataset."""
    return re.sub(r"\W+", "-", f"{name}-{arm}-{teacher}-{seed}".lower())


def recipe_of(name: str, arm: str, teacher: str, seed: int, tokens: int, folder: Path, chosen: int = 0) -> Path:
    """Write an arm's recipe beside its files, and return its path. `chosen` rows of a label are chosen among more.

    Each arm has a dataset of its own: rows of another arm's version would count as duplicates.
    """
    own = name_of(name, arm, teacher, seed)
    source, method, folder = SETS[name], ARMS[arm], folder / own
    folder.mkdir(parents=True, exist_ok=True)
    test, texts = split_of(source)
    seeds = rows_of(source.seeds, source.field)
    random.Random(seed).shuffle(texts)
    for file, rows in (("seeds", seeds), ("test", test), ("texts", [(text, None) for text in texts])):
        lines = (json.dumps({"text": text, **({"label": label} if label else {})}) + "\n" for text, label in rows)
        (folder / f"{file}.jsonl").write_text("".join(lines), encoding="utf-8")
    labels = source.labels or {label: label.replace("_", " ") for label in sorted({label for _, label in seeds})}
    judges = {"models": ["teacher", "minilm"], "answer": "logprobs", "calibration": "batch"}
    panel = {"reviewer": judges, "adjudicator": {**judges, "models": ["teacher"]}}
    recipe = {
        "name": f"gain-{own}", "seed": seed, "method": method,
        "task": {"kind": "classification", "text": source.about,
                 "labels": [{"name": label, "description": text} for label, text in labels.items()]},
        "seeds": {"path": "seeds.jsonl"},
        "models": [
            {"name": "teacher", "provider": "embedded", "model": TEACHERS[teacher], "max_concurrency": 8,
             "style": "completion" if teacher == "270m" else "chat", "top_logprobs": 200, "timeout_s": 900},
            {"name": "minilm", "provider": "encoder", "model": "all-MiniLM-L6-v2"},
        ],
        "roles": {
            "generator": {"models": ["teacher"], "temperature": 0.9, "top_p": 0.95, "max_tokens": 112},
            **(panel if method["kind"] == "gra" else {"labeler": {"models": ["teacher"], "calibration": "batch"}}),
        },
        "target": {"rows_per_label": chosen or max(10, 400 // len(labels))},
        **({"select": {"oversample": OVERSAMPLE}} if chosen else {}),
        "limits": {"tokens": tokens, "out_of_reach": "go_on", "min_yield": 0.0},
        "gates": {"min_chars": 10, "max_chars": 300, "label_leak": False},
        "splits": {"train": 0.9, "validation": 0.1, "test": 0.0},
        "student": {"test": "test.jsonl", "teacher_rows": 200 if "most" in method else 0},
    }  # fmt: skip
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return file


def rows_chosen(name: str, arm: str, teacher: str, seed: int, results: Sequence[dict[str, Any]]) -> int:
    """Rows of each label that an arm with a choice publishes: the texts and 1/OVERSAMPLE of the written rows that the
    arm without a choice has. 0 for an arm without a choice."""
    if arm not in SELECTED:
        return 0
    wanted = (name, SELECTED[arm], teacher, seed)
    base = next((one for one in results if (one["set"], one["arm"], one["teacher"], one["seed"]) == wanted), None)
    if base is None:
        raise SystemExit(f"{arm} needs the rows of {SELECTED[arm]!r} first: add it to --arms")
    labels = len({label for _, label in rows_of(SETS[name].seeds, SETS[name].field)})
    texts = base.get("texts", 0)
    return max(1, int((texts + (base["rows"] - texts) / OVERSAMPLE) / labels))


def run_arm(
    name: str, arm: str, teacher: str, seed: int, out: Path, tokens: int, tuned: bool, chosen: int = 0
) -> dict[str, Any]:
    """Make an arm's rows by the command line and test its students.

    Each arm has a home of its own: replies of another arm's calls would not count against its limit.
    """
    file = recipe_of(name, arm, teacher, seed, tokens, out, chosen)
    home, models = file.parent / "home", out / "models"
    link_models(models, home / "models")
    begin = time.perf_counter()
    command = [sys.executable, "-m", "graft", "run", str(file), "--export", "jsonl", "--json"]
    command += ["--train"] if tuned else []
    environment = {**os.environ, "GRAFT_HOME": str(home), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode not in (0, 7) and NO_ROOM not in done.stderr:
        raise SystemExit(f"{name}, {arm}, {teacher}, seed {seed} failed:\n{done.stderr}")
    link_models(home / "models", models)
    result = ENDED if NO_ROOM in done.stderr else json.loads(done.stdout)
    seconds = time.perf_counter() - begin
    exported = (Path(path) for path in result["exported"] or ())
    lines = [line for path in exported if path.suffix == ".jsonl" for line in path.read_text().splitlines()]
    rows = [(row["text"], row["label"]) for row in map(json.loads, lines)]
    seeds, (test, texts) = rows_of(SETS[name].seeds, SETS[name].field), split_of(SETS[name])
    frozen = compared(frozen_predictions(seeds, test), frozen_predictions([*seeds, *rows], test), test)
    student, run = result["student"], result["run"]
    tested = [one["accuracy"] for one in student["evaluations"]] if student else []
    return {
        "set": name, "arm": arm, "teacher": teacher, "seed": seed, "rows": len(rows), "calls": run["calls"],
        "texts": len({text for text, _ in rows} & {*texts}),
        "tokens": run["prompt_tokens"] + run["completion_tokens"], "seconds": round(seconds), "frozen": frozen,
        "tuned": [*tested, student["paired"]["p_value"]] if student else None,
        "stopped_by": run["stopped_by"],
        "teacher_right": [one["accuracy"] for one in student["evaluations"][-1]["teachers"]] if student else [],
    }  # fmt: skip


def link_models(source: Path, target: Path) -> None:
    """Link the model files that the target folder lacks, which is made: they are hundreds of megabytes."""
    target.mkdir(parents=True, exist_ok=True)
    for file in source.glob("*.gguf"):
        if not (target / file.name).exists():
            os.link(file, target / file.name)


def frozen_predictions(train: Pairs, test: Pairs) -> list[str]:
    """The answers of a logistic regression on frozen embeddings."""
    from sklearn.linear_model import LogisticRegression

    from graft.agents.local.encoder import embed

    model = LogisticRegression(max_iter=2000, class_weight="balanced")
    model.fit(embed([text for text, _ in train]), [label for _, label in train])
    return [str(label) for label in model.predict(embed([text for text, _ in test]))]


def compared(before: Sequence[str], after: Sequence[str], test: Pairs) -> list[float]:
    """Accuracy of the seeds' student, of the arm's, and McNemar's p of their difference."""
    from graft.data.scores.maths import paired

    right = [sum(guess == label for guess, (_, label) in zip(all_, test, strict=True)) for all_ in (before, after)]
    return [count / len(test) for count in right] + [paired(before, after, test).p_value]


def table(results: Sequence[dict[str, Any]]) -> str:
    """Every set and teacher as Markdown tables; figures are means over seeds, with the least and the most."""
    lines = [
        "| set | teacher | arm | runs | rows | tokens | frozen: seeds, arm, p | tuned: seeds, arm, p | s |",
        "|---|---|---|---:|---:|---:|---|---|---:|",
    ]
    keys = dict.fromkeys((one["set"], one["teacher"], one["arm"]) for one in results)
    for key in keys:
        runs = [one for one in results if (one["set"], one["teacher"], one["arm"]) == key]
        cells = [len(runs), *(round(statistics.mean(one[name] for one in runs)) for name in ("rows", "tokens"))]
        cells += [_scores([one["frozen"] for one in runs]), _scores([one["tuned"] for one in runs if one["tuned"]])]
        cells.append(round(statistics.mean(one["seconds"] for one in runs)))
        lines.append("| " + " | ".join(map(str, (*key, *cells))) + " |")
    judged = {(one["set"], one["teacher"]): one["teacher_right"] for one in results if one["teacher_right"]}
    lines += ["", "| set | teacher | zero-shot, with two examples a label |", "|---|---|---|"] if judged else []
    for (name, teacher), scores in judged.items():
        lines.append(f"| {name} | {teacher} | {', '.join(f'{score:.1%}' for score in scores)} |")
    return "\n".join(lines)


def _scores(runs: Sequence[Sequence[float]]) -> str:
    if not runs:
        return ""
    before, after, chance = zip(*runs, strict=True)
    spread = f" ({100 * min(after):.1f}–{100 * max(after):.1f})" if len(runs) > 1 else ""
    mean = math.fsum(after) / len(after)
    return f"{100 * statistics.mean(before):.1f}, **{100 * mean:.1f}**{spread}, p ≤ {max(chance):.2g}"


def plot(results: Sequence[dict[str, Any]], file: Path) -> None:
    """A panel for each set: accuracy of every arm, a dot for each run, a colour for each teacher; a line for the seeds.

    The frozen student's accuracy, since every run has it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sets, arms = (list(dict.fromkeys(one[key] for one in results)) for key in ("set", "arm"))
    figure = Figure(figsize=(4.5 * len(sets), 1.5 + 0.4 * len(arms)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    for panel, name in zip(panels, sets, strict=True):
        own = [one for one in results if one["set"] == name]
        for (teacher, marker), colour in zip(MARKERS.items(), ("#0072b2", "#e69f00", "#009e73"), strict=True):
            dots = [(100 * one["frozen"][1], arms.index(one["arm"])) for one in own if one["teacher"] == teacher]
            panel.scatter(*zip(*dots, strict=True), marker=marker, color=colour, label=teacher) if dots else None
        panel.axvline(100 * own[0]["frozen"][0], color="black", linestyle="--", label="seeds alone")
        panel.set(title=name, xlabel="accuracy of the frozen student, %", yticks=range(len(arms)), yticklabels=arms)
        panel.legend(fontsize="small")
    panels[0].invert_yaxis()
    figure.savefig(file)


def main() -> None:
    """Run the arms that have no result yet, and print the table after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--teachers", nargs="+", default=["0.5b"], choices=list(TEACHERS))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", type=int, default=3, help="runs of each arm, with other draws")
    parser.add_argument("--tokens", type=int, default=60_000, help="prompt and completion tokens of each arm")
    parser.add_argument("--frozen", action="store_true", help="leave the tuned student out: minutes less for each arm")
    parser.add_argument("--out", type=Path, default=ROOT / ".graft-gain", help="folder of results and journal")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "results.jsonl"
    results = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    known = {(one["set"], one["arm"], one["teacher"], one["seed"]) for one in results}
    for seed in range(given.seeds):
        for name in given.sets:
            for teacher in given.teachers:
                for arm in given.arms:
                    if (name, arm, teacher, seed) in known:
                        continue
                    chosen = rows_chosen(name, arm, teacher, seed, results)
                    done = run_arm(name, arm, teacher, seed, given.out, given.tokens, not given.frozen, chosen)
                    results.append(done)
                    with file.open("a", encoding="utf-8") as out:
                        out.write(json.dumps(results[-1]) + "\n")
                    print(results[-1], flush=True)
    print(table(results))
    if results:
        plot(results, given.out / "gain.svg")
        print(f"plot: {given.out / 'gain.svg'}")


if __name__ == "__main__":
    main()
