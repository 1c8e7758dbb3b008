"""Effect of each method's rows on a student: `python benchmarks/methods.py [--data clinc150 banking77] [--seeds 3]`.

CLINC150's ten domains and Banking77's classes, from the 2-shot draws in ../shared/data, with the embedded models. Each
arm gets the same number of candidates a class; its accepted rows and the seeds train a logistic regression on MiniLM's
frozen embeddings, which is judged on the public test rows. Arms share their calls: plain generation is what GRA's
panel is then shown, and PromptMix unrelabelled is what its labelers are then shown. Every figure is over `--seeds`
runs of everything, with the spread. Finished calls stay in --home, so a stopped bench goes on.

Two measures use real rows that no arm learns from, a reference classifier on all of them: how many rows carry the
label that it would give (fidelity), and how many texts lie near a real boundary (its two likeliest classes less than
NEAR apart).
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402

from graft.agents.gateway import Gateway  # noqa: E402
from graft.agents.local.encoder import embed  # noqa: E402
from graft.agents.local.servers import embedded_servers  # noqa: E402
from graft.agents.methods import Context, Drawn, Place, fragments_of, method_of  # noqa: E402
from graft.data.gates import Admission, Needs  # noqa: E402
from graft.flows.neighbours import nearest_classes  # noqa: E402
from graft.schemas.home import Home  # noqa: E402
from graft.schemas.models import EMBEDDED_POOL  # noqa: E402
from graft.schemas.recipe import Recipe  # noqa: E402
from graft.schemas.rows import Candidate, Proposal, Seed  # noqa: E402

DATA = ROOT.parent / "shared" / "data"
SETS = {"clinc150": ("domain", "test.jsonl", 15), "banking77": ("label", "train.jsonl", 2)}
"""Dataset to its label's field, the file of real rows that the reference learns from, and candidates a class."""
NEAR = 0.2
FEW = 20
RANDOM = "PromptMix, random partner"
"""Only run where there are at most FEW classes: it shares no call with the others and costs another third."""

GRA = {"kind": "gra", "reviewers": 2, "few_shot": [2, 2]}
MIX = {"kind": "promptmix", "labelers": 2}
ARMS: dict[str, dict[str, Any]] = {
    "plain generation": {"method": GRA, "keep": "written"},
    "GRA": {"method": GRA},
    "PromptMix, not relabelled": {"method": MIX, "keep": "written"},
    "PromptMix": {"method": MIX},
    "PromptMix, sure labels": {"method": {**MIX, "min_probability": 0.5}},
    RANDOM: {"method": {**MIX, "partner": "random"}},
    "PromptMix with GRA review": {"method": {**MIX, "review": GRA}},
}
ROLES = {
    "generator": {"models": ["gemma"], "temperature": 0.9, "top_p": 0.95, "max_tokens": 120},
    "labeler": {"models": ["gemma", "minilm"]},
    "reviewer": {"models": ["gemma", "minilm"], "answer": "logprobs"},
    "adjudicator": {"models": ["smollm2"], "answer": "logprobs"},
}
CROWDED = {"adjudicator": {"models": ["gemma"], "answer": "logprobs"}}
"""Roles for more than FEW classes: a chat prompt that lists 77 of them does not fit into SmolLM2's context here."""


@dataclass
class Result:
    """One arm in one run."""

    accuracy: float
    rows: int
    candidates: int = 0
    calls: int = 0
    fidelity: float = 0.0
    near: float = 0.0
    agreement: float | None = None


@dataclass
class Task:
    """A dataset, embedded once."""

    name: str
    labels: list[str]
    seeds: list[Seed]
    test: tuple[np.ndarray, list[str]]
    reference: LogisticRegression
    per_class: int
    vectors: dict[str, np.ndarray] = field(default_factory=dict)

    def embedded(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings (n x 384), each text embedded once."""
        missing = [text for text in dict.fromkeys(texts) if text not in self.vectors]
        if missing:
            self.vectors.update(zip(missing, embed(missing), strict=True))
        return np.stack([self.vectors[text] for text in texts])


def read(name: str, file: str, label: str) -> list[tuple[str, str]]:
    """(text, label) pairs of one of the files."""
    lines = (DATA / name / file).read_text(encoding="utf-8").splitlines()
    return [(row["text"], row[label]) for row in map(json.loads, lines)]


def load(name: str, per_class: int | None) -> Task:
    """The dataset with its reference classifier."""
    label, real_file, default = SETS[name]
    shots = read(name, "train_2shot_seed0.jsonl", label)
    test, real = read(name, "test.jsonl", label), read(name, real_file, label)
    reference = LogisticRegression(max_iter=300).fit(embed([text for text, _ in real]), [known for _, known in real])
    return Task(
        name, sorted({known for _, known in shots}), [Seed.of(text, known) for text, known in shots],
        (embed([text for text, _ in test]), [known for _, known in test]), reference, per_class or default,
    )  # fmt: skip


def recipe_of(task: Task, method: dict[str, Any], seed: int) -> Recipe:
    """The arm's recipe; a class is described by its name alone, so that nobody's hand helps."""
    return Recipe.model_validate({
        "name": f"bench-{task.name}", "seed": seed, "method": method, "models": list(EMBEDDED_POOL),
        "roles": {**ROLES, **(CROWDED if len(task.labels) > FEW else {})},
        "task": {
            "kind": "classification", "text": "a message that a user types or says to an assistant",
            "labels": [{"name": name, "description": name.replace("_", " ")} for name in task.labels],
        },
        "seeds": {"rows": [{"text": row.text, "label": row.label} for row in task.seeds]},
        "gates": {"min_chars": 10, "max_chars": 300, "label_leak": False},
    })  # fmt: skip


async def make(task: Task, recipe: Recipe, gateway: Gateway) -> list[Candidate]:
    """Every candidate of an arm, decided; duplicates are settled in a fixed order."""
    method = method_of(recipe)
    pool = {name: [row for row in task.seeds if row.label == name] for name in task.labels}
    drawn = Drawn(recipe, pool, nearest_classes(recipe, task.seeds, embed))
    admission = Admission(recipe, Needs(seeds=task.seeds, fragments=fragments_of(recipe)))
    slots = [
        method.make_slot(Place("bench", 0, 0, index, name), drawn)
        for index in range(task.per_class)
        for name in task.labels
    ]
    context = Context(recipe=recipe, seeds=task.seeds, ask=gateway.call, screen=admission.screen)
    found = await method.prepare(context, drawn)
    context = dataclasses.replace(context, calibration=found.calibration)
    room = asyncio.Semaphore(24)

    async def one(slot: Any) -> Candidate:
        async with room:
            return await method.run_slot(slot, context)

    return list(await asyncio.gather(*(one(slot) for slot in slots)))


def kept(candidates: Sequence[Candidate], recipe: Recipe, seeds: Sequence[Seed], keep: str) -> list[tuple[str, str]]:
    """(text, label) of the accepted rows, or of all that the gates let through with the label that was intended."""
    admission = Admission(recipe, Needs(seeds=seeds, fragments=fragments_of(recipe)))
    rows: list[tuple[str, str]] = []
    for one in candidates:
        gated = bool(one.text) and all(gate.passed for gate in one.gates)
        if not (gated if keep == "written" else one.accepted):
            continue
        label = one.intended_label if keep == "written" else one.label
        if admission.admit(Proposal(one.text, None, label, one.id))[-1].passed:
            rows.append((one.text, label))
    return rows


def judge(task: Task, rows: Sequence[tuple[str, str]]) -> Result:
    """A student on the seeds and these rows."""
    texts = [row.text for row in task.seeds] + [text for text, _ in rows]
    student = LogisticRegression(max_iter=1000, class_weight="balanced").fit(
        task.embedded(texts), [row.label for row in task.seeds] + [label for _, label in rows]
    )
    unknown, known = task.test
    result = Result(100 * float(student.score(unknown, known)), len(rows))
    if rows:
        shares = task.reference.predict_proba(task.embedded([text for text, _ in rows]))
        top = np.sort(shares, axis=1)
        predicted = task.reference.classes_[shares.argmax(axis=1)]
        result.fidelity = 100 * float(np.mean(predicted == np.array([label for _, label in rows])))
        result.near = 100 * float(np.mean(top[:, -1] - top[:, -2] < NEAR))
    return result


async def run(task: Task, seed: int, gateway: Gateway, results: dict[str, list[Result]]) -> None:
    """Every arm once. Calls that arms share count in each of them."""
    results.setdefault("seeds only", []).append(judge(task, []))
    made: dict[str, tuple[list[Candidate], int]] = {}
    for name, arm in ARMS.items():
        if name == RANDOM and len(task.labels) > FEW:
            continue
        recipe = recipe_of(task, arm["method"], seed)
        key = json.dumps(arm["method"], sort_keys=True)
        begin, before = time.perf_counter(), gateway.stats
        if key not in made:
            candidates = await make(task, recipe, gateway)
            made[key] = candidates, gateway.stats.calls - before.calls + gateway.stats.cached - before.cached
        candidates, calls = made[key]
        keep = arm.get("keep", "accepted")
        result = judge(task, kept(candidates, recipe, task.seeds, keep))
        result.candidates, result.calls = len(candidates), calls
        if keep == "written":
            result.calls = len({one.slot.group or one.slot.id for one in candidates})
        labelled = [one for one in candidates if one.labelling and one.labelling.label]
        if labelled and keep != "written":
            result.agreement = (
                100 * sum(not one.labelling.relabelled for one in labelled if one.labelling) / len(labelled)
            )
        results.setdefault(name, []).append(result)
        took = time.perf_counter() - begin
        print(
            f"  {task.name} seed {seed}: {name}: {result.accuracy:.1f}% with {result.rows} rows ({took:.0f} s)",
            flush=True,
        )


def spread_of(values: Sequence[float]) -> str:
    """Mean and spread."""
    mean = statistics.mean(values)
    return f"{mean:.1f} ({min(values):.1f}-{max(values):.1f})" if max(values) > min(values) else f"{mean:.1f}"


def table(task: Task, results: dict[str, list[Result]]) -> str:
    """The table of one dataset, Markdown."""
    lines = [
        f"\n{task.name}: {len(task.labels)} classes, {len(task.seeds)} seeds, {task.per_class} candidates a class, "
        f"{len(task.test[1]):,} test rows, {len(results['seeds only'])} runs\n",
        "| arm | accuracy, % | rows | calls | fidelity, % | near a real boundary, % | agreement, % |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in results.items():
        agreement = [one.agreement for one in runs if one.agreement is not None]
        cells = [
            name, spread_of([one.accuracy for one in runs]), f"{statistics.mean(one.rows for one in runs):.0f}",
            f"{statistics.mean(one.calls for one in runs):.0f}" if runs[0].calls else "",
            spread_of([one.fidelity for one in runs]) if runs[0].rows else "",
            spread_of([one.near for one in runs]) if runs[0].rows else "", spread_of(agreement) if agreement else "",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    best = max(
        (name for name in results if name != "seeds only"),
        key=lambda n: statistics.mean(r.accuracy for r in results[n]),
    )
    base = statistics.mean(one.accuracy for one in results["seeds only"])
    gain = [one.accuracy - base for one in results[best]]
    verdict = "helps" if min(gain) > 0 else "is not shown to help here"
    lines.append(f"\nBest: {best}, {spread_of(gain)} points over the seeds alone: it {verdict}.")
    return "\n".join(lines)


async def main(arguments: argparse.Namespace, home: Home) -> None:
    """Every dataset, every seed."""
    served = [model for model in EMBEDDED_POOL if model.provider == "embedded"]
    async with embedded_servers(served, home, lambda text: print(text, file=sys.stderr)) as endpoints:
        for name in arguments.data:
            task, results = load(name, arguments.per_class), dict[str, list[Result]]()
            async with Gateway(journal=home.journal, endpoints=endpoints, concurrency=16) as gateway:
                for seed in range(arguments.seeds):
                    await run(task, seed, gateway, results)
                    print(table(task, results), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--seeds", type=int, default=3, help="runs of everything, each with other draws")
    parser.add_argument("--per-class", type=int, help="candidates a class; left out, 15 (clinc150) or 2 (banking77)")
    parser.add_argument("--home", default=str(ROOT / ".graft-bench"), help="where finished calls stay")
    given = parser.parse_args()
    folder = Path(given.home).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(main(given, Home(folder)))
