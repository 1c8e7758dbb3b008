"""Parts of a row's history for `explain`: its source, its calls, and later events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from graft.data.arrow import from_table
from graft.data.withdrawn import PROMPT_VERSION, Selector, direct, recalls, touched
from graft.schemas.calls import Call
from graft.schemas.versions import Edit

if TYPE_CHECKING:
    from graft.data.lake import Lake

PARAMETERS = ("temperature", "top_p", "max_tokens", "seed", "top_logprobs", "sample")
"""Numbers of a request; they quote nothing, so they are shown for restricted rows too."""
SHOWN_TO = 50
"""Most named rows that had the row as exemplar; all are counted."""
OWN_ROWS = "(the recipe itself)"


def called(lake: Lake, run_id: str, candidate_id: str) -> list[dict[str, Any]]:
    """A candidate's calls as plain values, oldest first, each with its `parameters` and its `prompt_version`."""
    query = f"""
        SELECT *, {PROMPT_VERSION} AS prompt_version FROM lake.calls WHERE run_id = ? AND candidate_id = ?
        ORDER BY "at", key"""
    found = lake.sql(query, [run_id, candidate_id])
    calls = from_table(Call, found, drop=("prompt_version",))
    return [
        {
            **call.model_dump(mode="json", exclude={"run_id", "candidate_id"}),
            "parameters": parameters(call.request),
            "prompt_version": prompt,
        }
        for call, prompt in zip(calls, found.column("prompt_version").to_pylist(), strict=True)
    ]


def parameters(request: str) -> dict[str, Any]:
    """The sampling parameters of a request's JSON; none if it is unreadable."""
    try:
        body = json.loads(request)
    except ValueError:
        return {}
    given = body if isinstance(body, dict) else {}
    return {name: given[name] for name in PARAMETERS if isinstance(given.get(name), int | float)}


def origin_of(lake: Lake, source: str, run_id: str) -> dict[str, Any]:
    """Source of a row's words: `source`, `file` (the seeds' or the imported one; None: unknown), `run`."""
    run = lake.run(run_id)
    if run is None:
        return {"source": source, "file": None, "run": run_id}
    seeds = run.recipe.get("seeds") or {}
    own = OWN_ROWS if seeds.get("rows") else None
    file = run.recipe_file or seeds.get("path") if source == "imported" else seeds.get("path") or own
    return {"source": source, "file": file or None, "run": run_id}


def edits_of(lake: Lake, row_id: str) -> list[dict[str, Any]]:
    """People's decisions on a row, oldest first."""
    query = 'SELECT * FROM lake.edits WHERE row_id = ? ORDER BY "at", id'
    return [edit.model_dump(mode="json") for edit in from_table(Edit, lake.sql(query, [row_id]))]


def lost(lake: Lake, row_id: str) -> list[dict[str, Any]]:
    """The derived versions that left a row out, each with its parent, its origin, and the rule."""
    query = """
        SELECT d.*, v.parent, v.origin FROM lake.drops d
        LEFT JOIN lake.versions v ON v.dataset = d.dataset AND v.version = d.version
        WHERE d.row_id = ? ORDER BY d.dataset, d.version, d.gate"""
    found: list[dict[str, Any]] = lake.sql(query, [row_id]).to_pylist()
    return found


def recalls_of(lake: Lake, row_id: str, held: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Recalls that withdraw a row from a dataset that holds or held it, or whose run made it."""
    every = recalls(lake)
    if not every:
        return []
    query = """
        SELECT r.id, r.dataset FROM lake.candidates c JOIN lake.runs r ON r.id = c.run_id WHERE c.candidate_id = ?"""
    made = lake.sql(query, [row_id]).to_pylist()
    datasets = {row["dataset"] for row in (*held, *lost(lake, row_id), *made)}
    runs = {row["run_id"] for row in held} | {row["id"] for row in made}
    return [
        one.model_dump(mode="json")
        for one in every
        if one.dataset in datasets and _withdraws(lake, Selector(one.kind, one.value), row_id, runs)
    ]


def _withdraws(lake: Lake, selector: Selector, row_id: str, runs: set[str]) -> bool:
    if any(direct(selector, row_id, run_id) for run_id in (*runs, "")):
        return True
    return any(name == row_id for _, name in touched(lake, selector))


def shown_to(lake: Lake, row_id: str) -> dict[str, Any]:
    """Number of candidates that had a row as exemplar, how many of them are accepted, and the first ids."""
    query = """
        SELECT count(*) AS rows, count(*) FILTER (status = 'accepted') AS accepted,
               min(DISTINCT candidate_id, ?) AS ids
        FROM lake.candidates WHERE list_contains(exemplar_ids, ?)"""
    found: dict[str, Any] = lake.sql(query, [SHOWN_TO, row_id]).to_pylist()[0]
    return {**found, "ids": found["ids"] or []}
