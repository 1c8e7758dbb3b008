"""Where a row comes from: from its id to the seeds, prompts, models, scores, decision, price, versions and students."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from data.arrow import from_table
from schemas.calls import Call
from schemas.errors import NotFound
from schemas.rows import Candidate
from schemas.students import Student

if TYPE_CHECKING:
    from data.lake import Lake

LEAST_PREFIX = 6


def explain(lake: Lake, row_id: str) -> dict[str, Any]:
    """A row's whole history as plain values. A unique beginning of an id (6 characters or more) is enough.

    Of a candidate that occurs in several runs the newest counts. Keys: id, source, text, response, label, restricted,
    run, slot, exemplars, models, reviews, gates (with `neighbour_text`), decision, calls, price_usd (None: unknown),
    versions, students. A published seed has no slot, reviews, gates, decision or calls. Raises NotFound.
    """
    name = _whole_id(lake, row_id.strip())
    held = lake.sql(
        "SELECT dataset, version, split, run_id, text, response, label, source, restricted FROM lake.version_rows"
        " WHERE id = ? ORDER BY dataset, version",
        [name],
    ).to_pylist()
    found = _newest(lake, name)
    history = _of_candidate(lake, found) if found else _of_seed(lake, name, held)
    places = [{"dataset": v["dataset"], "version": v["version"], "split": v["split"]} for v in held]
    return {**history, "versions": places, "students": _students(lake, places)}


def _whole_id(lake: Lake, prefix: str) -> str:
    if len(prefix) < LEAST_PREFIX:
        raise NotFound(f"{prefix!r} is too short", where="row id", fix=f"give {LEAST_PREFIX} characters of it or more")
    query = """
        SELECT DISTINCT id FROM (
            SELECT candidate_id AS id FROM lake.candidates WHERE starts_with(candidate_id, $1)
            UNION ALL SELECT id FROM lake.version_rows WHERE starts_with(id, $1)) ORDER BY 1 LIMIT 6"""
    found = [str(row["id"]) for row in lake.sql(query, [prefix]).to_pylist()]
    if prefix in found:
        return prefix
    if len(found) == 1:
        return found[0]
    if found:
        raise NotFound(f"{prefix!r} begins several rows", where="row id", fix=f"one of: {', '.join(found)}")
    near = lake.sql("SELECT id FROM lake.version_rows ORDER BY jaro_similarity(id, ?) DESC, id LIMIT 3", [prefix])
    names = ", ".join(str(row["id"]) for row in near.to_pylist())
    raise NotFound(f"no row {prefix!r}", where="row id", fix=f"such as: {names}" if names else "graft run RECIPE")


def _newest(lake: Lake, name: str) -> Candidate | None:
    query = """
        SELECT c.run_id FROM lake.candidates c LEFT JOIN lake.runs r ON r.id = c.run_id
        WHERE c.candidate_id = ? ORDER BY r.started_at DESC NULLS LAST, c.run_id LIMIT 1"""
    run = lake.sql(query, [name]).to_pylist()
    return lake.candidate(str(run[0]["run_id"]), name) if run else None


def _of_candidate(lake: Lake, found: Candidate) -> dict[str, Any]:
    slot = found.slot
    query = 'SELECT * FROM lake.calls WHERE run_id = ? AND candidate_id = ? ORDER BY "at", key'
    calls = from_table(Call, lake.sql(query, [slot.run_id, found.id]))
    prices = [call.price_usd for call in calls if call.failure is None]
    return {
        "id": found.id,
        "source": "synthetic",
        **found.model_dump(mode="json", exclude={"id", "slot", "gates"}),
        "run": _run(lake, slot.run_id),
        "slot": slot.model_dump(mode="json", exclude={"exemplars"}),
        "exemplars": [seed.model_dump(mode="json") for seed in slot.exemplars],
        "gates": [
            {**gate.model_dump(mode="json"), "neighbour_text": _text_of(lake, slot.run_id, gate.neighbour)}
            for gate in found.gates
        ],
        "calls": [call.model_dump(mode="json", exclude={"run_id", "candidate_id"}) for call in calls],
        "price_usd": None if any(price is None for price in prices) else sum(price or 0.0 for price in prices),
    }


def _of_seed(lake: Lake, name: str, held: list[dict[str, Any]]) -> dict[str, Any]:
    row = held[-1]
    return {
        "id": name,
        **{key: row[key] for key in ("source", "text", "response", "label", "restricted")},
        "run": _run(lake, row["run_id"]),
        "slot": None,
        "decision": None,
        "price_usd": None,
        "models": {},
        **{key: list[Any]() for key in ("exemplars", "reviews", "gates", "calls")},
    }


def _run(lake: Lake, run_id: str) -> dict[str, Any]:
    run = lake.run(run_id)
    if run is None:
        return {"id": run_id}
    return run.model_dump(mode="json", include={"id", "dataset", "recipe_file", "code_version", "started_at", "status"})


def _text_of(lake: Lake, run_id: str, name: str) -> str | None:
    """The text of the row that a gate hit: a seed or candidate of the run, or a published row; None where unknown."""
    if not name:
        return None
    query = """
        SELECT text FROM (
            SELECT 1 AS place, text FROM lake.candidates WHERE run_id = $1 AND candidate_id = $2
            UNION ALL SELECT 2, text FROM lake.seeds WHERE run_id = $1 AND id = $2
            UNION ALL SELECT 3, text FROM lake.version_rows WHERE id = $2) ORDER BY place LIMIT 1"""
    found = lake.sql(query, [run_id, name]).to_pylist()
    return str(found[0]["text"]) if found else None


def _students(lake: Lake, places: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Students that learned from a version that holds the row in its train split."""
    trained: list[Student] = []
    for place in places:
        if place["split"] == "train":
            same = "SELECT * FROM lake.students WHERE dataset = ? AND version = ? ORDER BY created_at, id"
            trained += from_table(Student, lake.sql(same, [place["dataset"], place["version"]]))
    fields = {"id", "dataset", "version", "trained_on", "path", "created_at"}
    return [student.model_dump(mode="json", include=fields) for student in trained]
