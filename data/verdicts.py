"""Verdicts of `graft teacher`, a JSON file each in GRAFT_HOME/teacher, and the held-out rows that they have seen."""

from __future__ import annotations

from collections.abc import Sequence

from graft.data.gates.shared.held_out import text_hash
from graft.schemas.base import stable_hash
from graft.schemas.durable import put
from graft.schemas.home import Home
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed
from graft.schemas.verdict import Verdict

Pairs = Sequence[tuple[str, str]]

NO_MATTER = {"weights", "price", "licence", "max_concurrency"}
"""Fields of a model that a verdict does not depend on; weights are filled in when a run starts."""


def verdict_key(recipe: Recipe, seeds: Sequence[Seed]) -> str:
    """Hash of what a verdict is about: task, seeds and models. Method, target and caps may follow its advice."""
    models = [model.model_dump(mode="json", exclude=NO_MATTER) for model in recipe.models]
    rows = sorted((seed.text, seed.label, seed.response or "") for seed in seeds)
    return stable_hash(recipe.task.model_dump(mode="json"), models, rows)[:12]


def save_verdict(home: Home, verdict: Verdict) -> None:
    """Store the verdict in place of an earlier one of the same key."""
    file = home.verdicts / f"{verdict.key}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".tmp")
    part.write_text(verdict.model_dump_json(), encoding="utf-8")
    put(part, file)


def verdicts_in(home: Home) -> list[Verdict]:
    """The stored verdicts, oldest first; files of another Graft are left out."""
    found = []
    for file in home.verdicts.glob("*.json"):
        try:
            found.append(Verdict.model_validate_json(file.read_bytes()))
        except (OSError, ValueError):
            continue
    return sorted(found, key=lambda one: one.at)


def verdict_of(home: Home, recipe: Recipe, seeds: Sequence[Seed]) -> Verdict | None:
    """The stored verdict on a recipe of this task, these seeds and models, if there is one."""
    key = verdict_key(recipe, seeds)
    return next((one for one in verdicts_in(home) if one.key == key), None)


def unseen(home: Home, rows: Pairs) -> tuple[list[tuple[str, str]], str]:
    """The held-out rows that no verdict has seen, and a note on the others, empty if there are none.

    If verdicts have seen every row, all are returned: the note says so.
    """
    used = {name for one in verdicts_in(home) for name in one.used}
    left = [row for row in rows if text_hash(row[0]) not in used] if used else list(rows)
    seen = len(rows) - len(left)
    if not seen:
        return left, ""
    if not left:
        return list(rows), f"graft teacher has seen all {seen} test rows: none could be left out"
    return left, f"{seen} of {len(rows)} test rows are left out: graft teacher has used them for its verdict"
