"""The work of a recipe: run id, rounds, and shards of target rows. All of it follows from the recipe.

Reports of finished shards are JSON in GRAFT_HOME/runs/RUN/shards, so that a rerun skips them. Prefect's persisted
results are not used: such a file names its own serializer, possibly pickle, so that somebody else's home could run code
here. A report that is missing or unreadable costs a replay from the lake.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from graft.agents.methods import method_of
from graft.agents.roles.prompting import prompts_version
from graft.data.gates import rules
from graft.data.seeds import load_seeds
from graft.flows.given import check_source, library_of
from graft.schemas import agent
from graft.schemas.base import Value, stable_hash
from graft.schemas.home import Home
from graft.schemas.load import find_recipe, load_recipe
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed

RULES_VERSION = 6
"""Raise it when splitting or de-duplication changes for every recipe, so that a rerun makes a new run, not a mixture.
A method's own rules have `Method.version`."""


class ShardSpec(Value):
    """The accepted rows that one Prefect task makes, and the slots that it may open for each label."""

    round: int = Field(ge=0)
    shard: int = Field(ge=0)
    wanted: dict[str, int]
    caps: dict[str, int]


def run_id_of(recipe: Recipe, seeds: Sequence[Seed], *files: str) -> str:
    """The run's id: the dataset's name and a hash of everything that decides its rows.

    `files` are the hashes of further files that the rows come from (`given.digests`).
    """
    digest = recipe.fingerprint([seed.model_dump() for seed in seeds], *rules_of(recipe), *files)
    return f"{recipe.name}-{digest[:12]}"


def rules_of(recipe: Recipe) -> tuple[Any, ...]:
    """The versions of the rules that make a recipe's rows: general, method, prompts and gates."""
    method = method_of(recipe)
    inner = [(one.version, prompts_version(one.prompts)) for one in method.inner(recipe)]
    more = method.versions(recipe)
    return RULES_VERSION, method.version, prompts_version(method.prompts), rules(recipe), *inner, *more


def share(total: int, parts: int) -> list[int]:
    """Split `total` into `parts` whole shares that differ by at most one."""
    return [total // parts + (1 if part < total % parts else 0) for part in range(parts)]


def plan_rounds(recipe: Recipe, wanted: Mapping[str, int]) -> list[dict[str, int]]:
    """The rows that are still wanted of each label, spread over the rounds in which rows are written."""
    rounds = method_of(recipe).traits(recipe).rounds
    shares = {label: share(count, rounds) for label, count in wanted.items()} if rounds else {}
    return [{label: counts[index] for label, counts in shares.items()} for index in range(rounds)]


def plan_shards(recipe: Recipe, round_index: int, wanted: dict[str, int], candidates: int) -> list[ShardSpec]:
    """Spread a round's target rows and remaining candidates over shards of about `limits.shard_rows` rows."""
    total = sum(wanted.values())
    if total == 0:
        return []
    parts = max(1, math.ceil(total / recipe.limits.shard_rows))
    rows = {label: share(count, parts) for label, count in wanted.items()}
    caps = {label: share(math.floor(candidates * count / total), parts) for label, count in wanted.items()}
    return [
        ShardSpec(
            round=round_index,
            shard=part,
            wanted={label: counts[part] for label, counts in rows.items()},
            caps={label: counts[part] for label, counts in caps.items()},
        )
        for part in range(parts)
    ]


def plan_texts(begin: int, end: int, each: int) -> list[ShardSpec]:
    """The shards of a first round that label these given texts: each takes the next `each`, of which `begin` is a
    multiple."""
    parts = {at // each: min(each, end - at) for at in range(begin, end, each)}
    return [ShardSpec(round=0, shard=at, wanted={"": count}, caps={"": count}) for at, count in parts.items()]


def apply_overrides(
    rows_per_label: int | None, seed: int | None, money_usd: float | None, minutes: float | None
) -> dict[str, Any]:
    """A deployment's plain parameters as overrides of recipe fields (dotted name to value)."""
    given = {
        "target.rows_per_label": rows_per_label,
        "seed": seed,
        "limits.money_usd": money_usd,
        "limits.minutes": minutes,
    }
    return {field: value for field, value in given.items() if value is not None}


def fresh_seed(moment: str) -> int:
    """A random seed for a scheduled run: new for every run, equal when the run is retried."""
    return int(stable_hash("fresh", moment, length=7), 16)


def read_recipe(name: str, overrides: Mapping[str, Any] | None = None) -> tuple[Path, Recipe, list[Seed]]:
    """Load the file, recipe and seeds by path or bare name. Raises InputInvalid with every problem found."""
    file = find_recipe(name)
    recipe = load_recipe(file, overrides)
    agent.check_models(recipe.models, str(file))
    seeds = load_seeds(recipe, file.resolve().parent)
    check_source(recipe, file)
    library_of(recipe, file)
    return file, recipe, seeds


class Finished(Value):
    """The result of a finished shard; the fields of flows.streaming.ShardReport."""

    settled: int
    accepted: dict[str, int]
    stopped_by: str
    overshoot: int
    tried: dict[str, int]
    spent: list[str] = Field(default=[])


def report_file(home: Home, run_id: str, lake_id: str, spec: ShardSpec) -> Path:
    """The path of a shard's report; it depends on the lake."""
    return home.run(run_id) / "shards" / f"{stable_hash(lake_id, spec.model_dump())}.json"


def read_report(file: Path) -> dict[str, Any] | None:
    """The shard's report, or None if none can be read."""
    try:
        return Finished.model_validate_json(file.read_bytes()).model_dump()
    except (OSError, ValueError):
        return None


def keep_report(file: Path, report: dict[str, Any]) -> None:
    """Write the report atomically; on a full disk it is not written."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_suffix(".tmp")
        beside.write_text(Finished.model_validate(report).model_dump_json(), encoding="utf-8")
        beside.replace(file)
