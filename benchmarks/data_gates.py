"""Precision and recall of the gates for personal data and secrets, and rensa beside datasketch for near duplicates.

    python benchmarks/data_gates.py

The set is tests/gate_cases.py. Near duplicates: 20,000 short texts, a tenth of them altered copies of others.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from gate_cases import CASES  # noqa: E402

from data.gates.personal import PersonalGate  # noqa: E402
from data.gates.secrets import SecretGate  # noqa: E402
from schemas.gates import PersonalSettings  # noqa: E402


def found_kinds(text: str) -> set[str]:
    """The kinds that the two gates find in a text."""
    personal = PersonalGate(PersonalSettings())
    return {span.kind for span in (*personal.find(text), *SecretGate().find(text))}


def scores() -> dict[str, tuple[int, float, float]]:
    """Kind to (texts that hold one, precision, recall)."""
    right, wrong, missed, there = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for kind, text in CASES:
        found = found_kinds(text)
        if kind:
            there[kind] += 1
            right[kind] += kind in found
            missed[kind] += kind not in found
        wrong.update(found - {kind})
    return {
        kind: (there[kind], right[kind] / max(1, right[kind] + wrong[kind]), right[kind] / there[kind])
        for kind in sorted(there)
    }


def near_duplicates(count: int = 20_000) -> None:
    """Seconds and agreement of two MinHash libraries at 128 permutations and a Jaccard of 0.8 over word pairs."""
    from datasketch import MinHash, MinHashLSH
    from rensa import RMinHash, RMinHashLSH

    random.seed(1)
    vocabulary = [f"word{number}" for number in range(3_000)]
    texts = [random.choices(vocabulary, k=12) for _ in range(count * 9 // 10)]
    texts += [[*text[:-1], random.choice(vocabulary)] for text in random.choices(texts, k=count // 10)]
    grams = [[" ".join(text[place : place + 2]) for place in range(len(text) - 1)] for text in texts]

    begun = time.perf_counter()
    lsh = RMinHashLSH(threshold=0.8, num_perm=128, num_bands=16)
    hits = 0
    for row, some in enumerate(grams):
        sketch = RMinHash(num_perm=128, seed=42)
        sketch.update(some)
        hits += bool(lsh.query(sketch))
        lsh.insert(row, sketch)
    ours = time.perf_counter() - begun

    begun = time.perf_counter()
    other = MinHashLSH(num_perm=128, params=(16, 8))
    others = 0
    for row, some in enumerate(grams):
        sketched = MinHash(num_perm=128, seed=42)
        sketched.update_batch([gram.encode() for gram in some])
        others += bool(other.query(sketched))
        other.insert(str(row), sketched)
    theirs = time.perf_counter() - begun
    print(f"near duplicates, {count:,} texts: rensa {ours:.2f} s, {hits} with a neighbour; "
          f"datasketch {theirs:.2f} s, {others}; {theirs / ours:.1f} times as long")  # fmt: skip


def main() -> None:
    """Print both tables."""
    clean = sum(not kind for kind, _ in CASES)
    print(f"{len(CASES)} texts, {clean} of them without any\n")
    print("| kind | texts | precision | recall |\n|---|---|---|---|")
    for kind, (texts, precision, recall) in scores().items():
        print(f"| {kind} | {texts} | {precision:.2f} | {recall:.2f} |")
    print()
    near_duplicates()


if __name__ == "__main__":
    main()
