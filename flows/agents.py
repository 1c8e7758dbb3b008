"""An agent's rows: a run reserves its target against the rows that a person allows agents a day (`graft mcp`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graft.agents.gateway.charges import Charges, agents_day, charged, path_in
from graft.agents.gateway.ledger import MONEY, TOKENS
from graft.agents.methods import method_of
from graft.data.lake import Lake
from graft.flows.batches import at_most
from graft.schemas.agent import ASK, Policy, policy
from graft.schemas.errors import GraftError
from graft.schemas.home import Home
from graft.schemas.recipe import Recipe

ROWS = "rows"


@contextmanager
def rows_reserved(home: Home, lake: Lake, run_id: str, recipe: Recipe, file: Path) -> Iterator[None]:
    """Reserve the rows that a run still wants, and count those that it made at the end; a pilot's rows are free.

    Raises GraftError if they exceed the rest of the day's rows. Does nothing in a person's process.
    """
    found = policy()
    if found is None or home.main is not None:
        yield
        return
    before = _accepted(lake, run_id)
    wanted = sum(method_of(recipe).wanted(recipe).values()) + len(at_most(recipe, file))
    needed = max(0, min(wanted, recipe.limits.candidates) - before)
    charges, made = Charges(path_in(home.journal.parent), agents_day()), 0
    try:
        if not charges.extend({ROWS: needed}, {}, {ROWS: found.rows}):
            left = max(0, int(found.rows - charges.before.get(ROWS, 0)))
            what = f"the run wants {needed:,} more rows; of {found.rows:,} a day for agents {left:,} are left"
            raise GraftError(what, where=str(file), fix=f"lower target.rows_per_label, or {ASK} to raise --max-rows")
        try:
            yield
        finally:
            made = max(0, _accepted(lake, run_id) - before)
    finally:
        charges.close({ROWS: made})


def left_today(home: Home, found: Policy) -> dict[str, dict[str, float]]:
    """Each cap with what is left of it today."""
    used = charged(path_in(home.journal.parent), agents_day())
    caps = {"usd": (found.usd, MONEY), "tokens": (found.tokens, TOKENS), "rows": (found.rows, ROWS)}
    return {name: {"cap": cap, "left": max(0, round(cap - used.get(key, 0), 6))} for name, (cap, key) in caps.items()}


def _accepted(lake: Lake, run_id: str) -> int:
    query = "SELECT count(*) AS rows FROM lake.candidates WHERE run_id = ? AND status = 'accepted'"
    return int(lake.query(query, [run_id])[0]["rows"])
