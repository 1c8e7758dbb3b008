"""Precision and recall of the gates for personal data and secrets, and rensa beside datasketch for near duplicates.

    python benchmarks/data_gates.py                                       # the labelled sets, near duplicates
    python benchmarks/data_gates.py /data/banking77/train.jsonl ...       # and what is rejected of people's texts

The sets are those of tests/gate_cases.py. Near duplicates: 20,000 short texts, a tenth of them altered copies of
others. A file has an object a line with a field `text`; it is read and never kept.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from gate_cases import CASES, HELD  # noqa: E402

from graft.data.gates import Admission, Needs  # noqa: E402
from graft.data.gates.personal import PersonalGate  # noqa: E402
from graft.data.gates.secrets import SecretGate  # noqa: E402
from graft.data.gates.shared.near import PERMUTATIONS, bands_of, shingles_of  # noqa: E402
from graft.schemas.recipe import Recipe, SeedRow, SeedSettings  # noqa: E402
from graft.schemas.rows import Proposal  # noqa: E402
from graft.schemas.tasks.base import Label  # noqa: E402
from graft.schemas.tasks.classification import ClassificationTask  # noqa: E402

RECIPE = Recipe(
    name="bench",
    task=ClassificationTask(labels=(Label(name="label_a"), Label(name="label_b"))),
    seeds=SeedSettings(rows=(SeedRow(text="one", label=""),)),
)
PERSONAL, SECRETS = PersonalGate(RECIPE, Needs()), SecretGate(RECIPE, Needs())


def scores(cases: list[tuple[str, str]]) -> dict[str, tuple[int, int, float]]:
    """Kind to (texts that hold one, texts in which it is found wrongly, recall)."""
    right, wrong, there = Counter[str](), Counter[str](), Counter[str]()
    for kind, text in cases:
        found = {span.kind for span in (*PERSONAL.find(text), *SECRETS.find(text))}
        there[kind] += 1
        right[kind] += kind in found
        wrong.update(found - {kind})
    return {kind: (there[kind], wrong[kind], right[kind] / there[kind]) for kind in sorted(there) if kind}


def print_scores(name: str, cases: list[tuple[str, str]]) -> None:
    """One table: precision and recall a kind."""
    print(f"{name}: {len(cases)} texts, {sum(not kind for kind, _ in cases)} of them without any\n")
    print("| kind | texts | precision | recall |\n|---|---|---|---|")
    for kind, (texts, wrong, recall) in scores(cases).items():
        right = round(recall * texts)
        precision = f"{right / (right + wrong):.2f}" if right + wrong else "-"
        print(f"| {kind} | {texts} | {precision} | {recall:.2f} |")
    print()


def public(files: list[str]) -> None:
    """Rejections by the gates that need no label, on texts written by people, and their cost."""
    texts = [json.loads(line)["text"] for file in files for line in Path(file).read_text("utf-8").splitlines()]
    given = [Proposal(text, None, "label_a") for text in texts]
    admission = Admission(RECIPE)
    gates = [gate for gate in admission.gates if gate.scope == "row"]
    rejected, cost = Counter[str](), dict[str, float]()
    for gate in gates:
        gate.check(Proposal("call +1 650-253-0000 or write to a@example.com, my password is incorrect"))
        begun = time.process_time()
        rejected.update(f"{gate.name}/{r.rule}" for one in given if not (r := gate.check(one)).passed)
        cost[gate.name] = (time.process_time() - begun) / len(texts) * 1e6
    print(f"{len(texts):,} texts of people, rejected: {dict(rejected)}")
    print("CPU microseconds a text: " + ", ".join(f"{name} {each:.1f}" for name, each in cost.items()))
    print(f"all text gates {sum(cost.values()):.0f}", end="; ")
    begun = time.process_time()
    for text in texts:
        admission.screen(Proposal(text, None, "label_a"))
    print(f"screen {(time.process_time() - begun) / len(texts) * 1e6:.0f}\n")


def near_duplicates(count: int = 20_000) -> None:
    """Seconds and agreement of two MinHash libraries, set up as data/gates/near.py is at a Jaccard of 0.8."""
    from datasketch import MinHash, MinHashLSH
    from rensa import RMinHash, RMinHashLSH

    random.seed(1)
    vocabulary = [f"word{number}" for number in range(3_000)]
    texts = [random.choices(vocabulary, k=24) for _ in range(count * 9 // 10)]
    texts += [[*text[:-1], random.choice(vocabulary)] for text in random.choices(texts, k=count // 10)]
    grams = [shingles_of(" ".join(text)) for text in texts]
    bands = bands_of(0.8)

    begun = time.perf_counter()
    lsh = RMinHashLSH(threshold=0.8, num_perm=PERMUTATIONS, num_bands=bands)
    ours = set()
    for row, some in enumerate(grams):
        sketch = RMinHash(num_perm=PERMUTATIONS, seed=42)
        sketch.update(some)
        if any(jaccard(grams, row, other) >= 0.8 for other in lsh.query(sketch)):
            ours.add(row)
        lsh.insert(row, sketch)
    first = time.perf_counter() - begun

    begun = time.perf_counter()
    rival = MinHashLSH(num_perm=PERMUTATIONS, params=(bands, PERMUTATIONS // bands))
    theirs = set()
    for row, some in enumerate(grams):
        sketched = MinHash(num_perm=PERMUTATIONS, seed=42)
        sketched.update_batch([gram.encode() for gram in some])
        if any(jaccard(grams, row, int(other)) >= 0.8 for other in rival.query(sketched)):
            theirs.add(row)
        rival.insert(str(row), sketched)
    second = time.perf_counter() - begun
    print(f"near duplicates, {count:,} texts, {PERMUTATIONS} permutations, {bands} bands: rensa {first:.2f} s, "
          f"{len(ours)} found; datasketch {second:.2f} s, {len(theirs)} found; both {len(ours & theirs)}")  # fmt: skip


def jaccard(grams: list[list[str]], one: int, other: int) -> float:
    """The similarity that decides, of two rows' shingles."""
    a, b = set(grams[one]), set(grams[other])
    return len(a & b) / len(a | b)


def main() -> None:
    """Print everything."""
    print_scores("CASES", CASES)
    print_scores("HELD", HELD)
    if sys.argv[1:]:
        public(sys.argv[1:])
    near_duplicates()


if __name__ == "__main__":
    main()
