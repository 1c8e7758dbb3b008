"""GRA's bounds on probability and lead, on labelled texts: `python -m benchmarks.sureness [RECIPE TEST]`.

The recipe's reviewers judge every text of a labelled file, calibrated on these texts without their labels. Each text
is then proposed twice: under its own label, as by a generator that succeeded, and under the likeliest wrong one, as by
one that failed. Then bounds that are `auto`, calibrated on a part of the texts and measured on the others, and the
reviewers' agreement over 30 of the texts, by the share of wrong labels. Defaults:
recipes/topics.yaml and its handwritten test (a minute on two quiet cores, no download).
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from graft.agents.methods.base import Bounds
from graft.agents.methods.steps.bounds import FIXED, Known, Sureness, chosen
from graft.agents.methods.steps.panel import decide
from graft.agents.roles.calibration import batch_means, calibrate
from graft.agents.roles.choice import judge_label
from graft.data.seeds import load_seeds
from graft.flows.agreement import CHANCE_Z, interval_alpha
from graft.flows.run_context import open_gateway
from graft.schemas.home import Home
from graft.schemas.load import load_recipe
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed

ROOT = Path(__file__).resolve().parents[1]
DRAWS = 200
BOUNDS = ((0.0, 0.0), (0.3, 0.05), (0.4, 0.1), (0.5, 0.0), (0.5, 0.1), (0.5, 0.2), (0.6, 0.2), (0.7, 0.3))

Judged = list[dict[str, float]]
"""Each judge's probabilities of one text's labels."""


async def judge(recipe: Recipe, seeds: Sequence[Seed], texts: Sequence[str]) -> list[Judged]:
    """The reviewers' calibrated probabilities of every text."""
    by_judge = []
    with tempfile.TemporaryDirectory() as folder:
        async with open_gateway(recipe, Home(Path(folder)), print) as gateway:
            for model in recipe.models_for("reviewer"):
                judged = await asyncio.gather(
                    *(
                        judge_label(gateway.call, recipe=recipe, model=model, role="reviewer", seeds=seeds, text=text)
                        for text in texts
                    )
                )
                means = batch_means([one.raw for one in judged])
                by_judge.append([
                    {name: math.exp(value) for name, value in calibrate(one.raw, means).items()} for one in judged
                ])  # fmt: skip
    return [list(row) for row in zip(*by_judge, strict=True)]


def accepted(given: Judged, soft: Mapping[str, float], label: str, least: float, margin: float) -> bool:
    """GRA's rule with its default tau and delta, and both bounds; a dispute counts as rejected."""
    fits = [10 * one[label] / max(one.values()) for one in given]
    lead = soft[label] - max(value for name, value in soft.items() if name != label)
    return decide(fits, 8.0, 1.5) == "accept" and soft[label] >= least and lead >= margin


def main() -> None:
    """Print the share of texts accepted under the right and under the likeliest wrong label, for several bounds."""
    given = [Path(word) for word in sys.argv[1:]] or [
        ROOT / "recipes/topics.yaml",
        ROOT / "recipes/data/topics_test.jsonl",
    ]
    rows = [json.loads(line) for line in given[1].read_text(encoding="utf-8").splitlines()]
    recipe = load_recipe(given[0])
    judged = asyncio.run(judge(recipe, load_seeds(recipe, given[0].resolve().parent), [row["text"] for row in rows]))
    softs = [{name: sum(one[name] for one in each) / len(each) for name in each[0]} for each in judged]
    wrong = [max((name for name in soft if name != row["label"]), key=lambda name: soft[name])
             for row, soft in zip(rows, softs, strict=True)]  # fmt: skip
    print("min_probability  min_margin  right label  likeliest wrong label")
    for least, margin in BOUNDS:
        right, false = (
            sum(map(accepted, judged, softs, labels, [least] * len(rows), [margin] * len(rows))) / len(rows)
            for labels in ([row["label"] for row in rows], wrong)
        )
        print(f"{least:15.2f}  {margin:10.2f}  {right:11.1%}  {false:21.1%}")

    _print_auto(judged, softs, [row["label"] for row in rows], wrong)
    if len(judged[0]) < 2:
        return
    print("\nwrong labels  median alpha of 30 texts  runs stopped")
    for share in (0.0, 0.3, 0.6):
        found = sorted(_alpha(judged, [row["label"] for row in rows], share, seed) for seed in range(DRAWS))
        stopped = sum(alpha < -CHANCE_Z / math.sqrt(30) for alpha in found) / DRAWS
        print(f"{share:12.0%}  {found[DRAWS // 2]:24.2f}  {stopped:12.1%}")


def _print_auto(
    judged: Sequence[Judged], softs: Sequence[dict[str, float]], labels: list[str], wrong: list[str]
) -> None:
    """Bounds calibrated on a random part of the texts (`auto`), and what they accept of the others."""
    print("\nauto: known texts  bounds found  median bounds  right label  likeliest wrong label")
    settings, rng = Sureness(min_probability="auto", min_margin="auto"), random.Random(1)
    cases = [[_case(soft, label, right=right) for label, right in ((own, True), (other, False))]
             for soft, own, other in zip(softs, labels, wrong, strict=True)]  # fmt: skip
    for size in (12, 24, 48, 96):
        found, shares = list[Bounds](), list[tuple[float, float]]()
        for _ in range(DRAWS // 4):
            places = rng.sample(range(len(labels)), len(labels))
            picked = chosen([case for place in places[:size] for case in cases[place]], settings)
            least, margin = settings.bounds(picked)
            found += [picked] if picked else []
            right, false = (
                [accepted(judged[place], softs[place], names[place], least, margin) for place in places[size:]]
                for names in (labels, wrong)
            )
            shares.append((sum(right) / len(right), sum(false) / len(false)))
        middle = Bounds(*(sorted(values)[len(found) // 2] for values in zip(*found, strict=True))) if found else FIXED
        right_share, false_share = (sum(values) / len(shares) for values in zip(*shares, strict=True))
        print(f"{size:17}  {len(found) / len(shares):12.0%}  {middle.min_probability:6.2f} {middle.min_margin:6.2f}  "
              f"{right_share:11.1%}  {false_share:21.1%}")  # fmt: skip


def _case(soft: Mapping[str, float], label: str, *, right: bool) -> Known:
    return Known(soft[label], soft[label] - max(value for name, value in soft.items() if name != label), right)


def _alpha(judged: Sequence[Judged], labels: Sequence[str], wrong: float, seed: int) -> float:
    """Alpha of the reviewers' scores of 30 texts, a share of them under a label drawn at random."""
    rng, units = random.Random(seed), list[list[float]]()
    for place in rng.sample(range(len(labels)), 30):
        label = rng.choice(list(judged[place][0])) if rng.random() < wrong else labels[place]
        units.append([10 * one[label] / max(one.values()) for one in judged[place]])
    return interval_alpha(units) or 0.0


if __name__ == "__main__":
    main()
