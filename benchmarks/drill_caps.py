"""The drill of the caps: the bill of a run stays within its cap, whatever happens to its calls and its processes.

Two drills against a server that keeps the true bill: real runs that are killed and started again under every fault of
the drill, and gateways under an order of events that hypothesis chooses (tests/budget_drill.py).
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from drill_audit import Run, settle_down
from drill_faults import FAULTS, HEALTHY
from drill_lake import Finding
from harness import ROOT, behave, write_recipe

sys.path.insert(0, str(ROOT / "tests"))

CAP_USD, KILLED_LIVES, EXAMPLES, EVENTS_AT_MOST = 0.6, 2, 60, 12
BILL: dict[str, Any] = {"input_usd": 20.0, "output_usd": 80.0, "bill_lost": True}
"""US dollars for a million tokens; answers that never arrived are billed too."""
PRICE = ", price: {input: 20, output: 80}"


def cap_across_restarts(context: ForkServerContext, folder: Path, base: str, seed: int, until: float) -> Finding:
    """The same command several times under each fault, killed in all but its last life. One cap holds for them all."""
    rng, began = random.Random(seed), time.monotonic()
    found = Finding("one cap across restarts, under every fault", of="lives")
    for name, fault in FAULTS.items():
        if fault.full or time.monotonic() > until:
            continue
        place = folder / f"cap-{name}"
        place.mkdir()
        recipe = write_recipe(
            place, base, name="drill", candidates=150, concurrency=32, shard_rows=75, money_usd=CAP_USD,
            model=PRICE + fault.model,
        )  # fmt: skip
        behave(base, **{**HEALTHY, **fault.behaviour, **BILL})
        run = Run(context, recipe, place / "home", base)
        for _ in range(KILLED_LIVES):
            process = run.start()
            process.join(rng.uniform(0.5, 4.0))
            process.kill()
            process.join()
            found.done += 1
        try:
            ended = run.to_the_end(120).ended
        except RuntimeError as error:
            found.check(False, f"{name}: {error}")
            continue
        found.done += 1
        bill = float(settle_down(base)["cost_usd"])
        found.check("escaped" not in ended, f"{name}: {ended.get('escaped')} escaped: {ended.get('what', '')[:120]}")
        found.check(bill <= CAP_USD, f"{name}: ${bill:.4f} billed under a cap of ${CAP_USD:g}")
        found.check(bill > 0, f"{name}: nothing was billed")
    found.seconds = time.monotonic() - began
    return found


def cap_in_any_order(examples: int = EXAMPLES) -> Finding:
    """Answers, faults, untrue usage, cancellations, kills and restarts in an order that hypothesis chooses."""
    from budget_drill import EVENTS, Event, caps, serving
    from budget_drill import Run as Calls
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    began, found = time.monotonic(), Finding("one cap in any order of events", of="orders")

    @settings(
        max_examples=examples, deadline=None, database=None, phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.lists(EVENTS, min_size=1, max_size=EVENTS_AT_MOST), st.sampled_from([None, 0.02]))
    def play(events: list[Event], reviewer_usd: float | None) -> None:
        with tempfile.TemporaryDirectory() as folder, serving() as server:
            bill = asyncio.run(Calls(Path(folder), server, **caps(0.1, reviewer_usd)).play(events))
        found.done += 1
        assert bill <= 0.1, f"${bill:.4f} billed under a cap of $0.1 after {events}"

    try:
        play()
    except AssertionError as error:
        found.problems.append(str(error)[:300])
    found.seconds = time.monotonic() - began
    return found
