"""Traces a row from its id: seeds, prompts, models, scores, decision, price, versions and students."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from graft.data.arrow import from_rows, plain_rows
from graft.data.documents.kept import passages_of
from graft.data.lake_schema import VersionRowRecord
from graft.data.quality.judged import LOCAL
from graft.data.withdrawn import PROMPT_VERSION, Selector, direct, recalls, touched
from graft.schemas.calls import Call
from graft.schemas.datasets import Edit, Run
from graft.schemas.display import as_data
from graft.schemas.errors import NotFound
from graft.schemas.kinds import METHODS
from graft.schemas.rows import Candidate, Review
from graft.schemas.sections import HIDDEN
from graft.schemas.students import Student
from graft.schemas.tasks.base import Task, Words

if TYPE_CHECKING:
    from graft.data.lake import Lake

LEAST_PREFIX = 6
LAST = "\U0010ffff"
"""Greatest character: ids with a prefix lie between the prefix and the prefix plus this. A version's rows are sorted by
id in their files, so that most are skipped; `starts_with` reads them all (ten times as long on 5M rows)."""
TEXT_FIELDS = ("text", "response", "keywords", "summary")
PARAMETERS = ("temperature", "top_p", "max_tokens", "seed", "top_logprobs", "sample")
"""Numbers of a request; they quote nothing, so they are shown for restricted rows too."""
RUN_FIELDS = {"id", "dataset", "recipe_file", "code_version", "started_at", "status", "by"}
SHOWN_TO = 50
"""Most named rows that had the row as exemplar; all are counted."""
OWN_ROWS = "(the recipe itself)"


def explain(lake: Lake, row_id: str, *, restricted: bool = False) -> dict[str, Any]:
    """A row's whole history as plain values. A unique beginning of an id (6 characters or more) is enough.

    Of a candidate in several runs the newest counts. Keys: id, source, text, response, label, data, view (as it is
    shown), restricted, run, origin (where its words come from), slot, meant (name and text of its method's requests
    beyond the label), columns (name and text of what it was made of, beside those), exemplars, models, probability (the
    judges' mean for its label, None without probabilities), reviews (with `probability`), gates (with
    `neighbour_text`), decision, calls (with `parameters` and `prompt_version`), price_usd (None: unknown), published
    (the newest version's fields, if they differ), edits, recalls, drops (derived versions that left it out), versions,
    students, shown_to (rows that had it as exemplar), passages (those of documents that it rests on, each with
    document, file, start, end, hash, licence and text). A seed and an imported row have no slot, reviews, gates,
    decision or calls. Raises NotFound.

    Unless `restricted` is true, HIDDEN replaces all text that may quote a restricted text: of a restricted row all
    comments on it, of another row of a restricted task its calls, its passages and the restricted rows that it was
    shown or hit.
    """
    name = _whole_id(lake, row_id.strip())
    held = lake.query(
        "SELECT dataset, version, split, run_id, text, response, label, source, restricted, data FROM lake.version_rows"
        " WHERE id = ? ORDER BY dataset, version",
        [name],
    )
    held = plain_rows(VersionRowRecord, held)
    found = _newest(lake, name)
    history = _of_candidate(lake, found, restricted) if found else _of_given(lake, name, held)
    history["restricted"] = history["restricted"] or any(v["restricted"] for v in held)
    history |= {
        "published": _published(history, held),
        "edits": edits_of(lake, name),
        "recalls": recalls_of(lake, name, held),
        "drops": lost(lake, name),
    }
    task = _task(lake.run(history["run"]["id"]))
    history["passages"] = [
        one if restricted or not task.has_restricted else _hidden(one, "text")
        for one in passages_of(lake, history["data"] or {})
    ]
    if history["restricted"] and not restricted:
        history = _without_words(history)
    for one in (history, *([history["published"]] if history["published"] else [])):
        one["view"] = as_data(task.view(Words.of(one)))
    places = [{"dataset": v["dataset"], "version": v["version"], "split": v["split"]} for v in held]
    return {**history, "versions": places, "students": _students(lake, places), "shown_to": shown_to(lake, name)}


def words_of(stored: str | None) -> str:
    """The words of a stored request or reply, turn by turn; its JSON if it has another form."""
    try:
        found = json.loads(stored or "")
    except ValueError:
        return stored or ""
    if not isinstance(found, dict):
        return stored or ""
    turns = [
        f"{turn.get('role')}: {turn.get('content')}" for turn in found.get("messages") or () if turn.get("content")
    ]
    return "\n".join(turns) or str(found.get("prompt") or found.get("text") or stored)


def _published(history: dict[str, Any], held: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The newest version's fields of the row, if they differ from the candidate's: a person's edit, a masked number."""
    compared = ("text", "response", "label", "data")
    if not held or all(held[-1][name] == history[name] for name in compared):
        return None
    return {name: held[-1][name] for name in ("dataset", "version", *compared)}


def _whole_id(lake: Lake, prefix: str) -> str:
    if len(prefix) < LEAST_PREFIX:
        raise NotFound(f"{prefix!r} is too short", where="row id", fix=f"give {LEAST_PREFIX} characters of it or more")
    query = """
        SELECT DISTINCT id FROM (
            SELECT candidate_id AS id FROM lake.candidates WHERE candidate_id >= $1 AND candidate_id < $2
            UNION ALL SELECT id FROM lake.version_rows WHERE id >= $1 AND id < $2
            UNION ALL SELECT id FROM lake.seeds WHERE kind = 'seed' AND id >= $1 AND id < $2) ORDER BY 1 LIMIT 6"""
    found = [str(row["id"]) for row in lake.query(query, [prefix, prefix + LAST])]
    if prefix in found:
        return prefix
    if len(found) == 1:
        return found[0]
    if found:
        raise NotFound(f"{prefix!r} begins several rows", where="row id", fix=f"one of: {', '.join(found)}")
    near = lake.query("SELECT id FROM lake.version_rows ORDER BY jaro_similarity(id, ?) DESC, id LIMIT 3", [prefix])
    names = ", ".join(str(row["id"]) for row in near)
    raise NotFound(f"no row {prefix!r}", where="row id", fix=f"such as: {names}" if names else "graft run RECIPE")


def _newest(lake: Lake, name: str) -> Candidate | None:
    query = """
        SELECT c.run_id FROM lake.candidates c LEFT JOIN lake.runs r ON r.id = c.run_id
        WHERE c.candidate_id = ? ORDER BY r.started_at DESC NULLS LAST, c.run_id LIMIT 1"""
    run = lake.query(query, [name])
    return lake.candidate(str(run[0]["run_id"]), name) if run else None


def _of_candidate(lake: Lake, found: Candidate, restricted: bool) -> dict[str, Any]:
    slot = found.slot
    calls = called(lake, slot.run_id, found.id)
    answered = [call for call in calls if call["failure"] is None]
    prices = [call["price_usd"] for call in answered if call["price_usd"] is not None or not call["local"]]
    run = lake.run(slot.run_id)
    task = _task(run)
    kept_back = not restricted and task.has_restricted
    shown = [seed.model_dump(mode="json") for seed in slot.exemplars]
    if kept_back:
        secret = _restricted_texts(lake, slot.run_id, [seed.text for seed in slot.exemplars])
        shown = [
            _hidden(row, *TEXT_FIELDS) if task.restricts(row["label"]) or row["text"] in secret else row
            for row in shown
        ]
        calls = [_hidden(call, "request", "reply") for call in calls]
    source, file = ("synthetic", None) if slot.label else ("labelled", slot.payload.get("file"))
    return {
        "id": found.id,
        "source": source,
        **found.model_dump(mode="json", exclude={"id", "slot", "gates"}),
        "probability": found.soft_label.get(found.label, 0.0) if found.soft_label else None,
        "reviews": [
            {**review.model_dump(mode="json"), "probability": _probability(review, found.label)}
            for review in found.reviews
        ],
        "run": _run(run, slot.run_id),
        "origin": _origin(source, run, slot.run_id) | ({"file": file} if file else {}),
        "slot": slot.model_dump(mode="json", exclude={"exemplars"}),
        "meant": (meant := _meant(run, found)),
        "columns": _columns(found, {name for name, _ in meant}),
        "exemplars": shown,
        "gates": [
            {**gate.model_dump(mode="json"), "neighbour_text": _text_of(lake, slot.run_id, gate.neighbour, restricted)}
            for gate in found.gates
        ],
        "calls": calls,
        "price_usd": None if any(price is None for price in prices) else sum(price or 0.0 for price in prices),
        "local": bool(calls) and all(call["local"] for call in calls),
    }


def _probability(review: Review, label: str) -> float | None:
    """The probability that a judge gives a label; None if it gave no distribution."""
    given = {one.label: one.calibrated for one in review.distribution}
    return math.exp(given.get(label, -math.inf)) if given else None


def _meant(run: Run | None, found: Candidate) -> list[tuple[str, str]]:
    """The row's requests and notes, as its method describes them; numbers only if the method is not installed."""
    slot, notes = found.slot, found.notes
    kind = (run.recipe.get("method") or {}).get("kind") if run and (slot.payload or notes) else None
    if kind in METHODS.names:
        described: list[tuple[str, str]] = METHODS.get(kind).describe(slot, notes)
        return described
    return [(name, str(value)) for name, value in {**slot.payload, **notes}.items() if not isinstance(value, str)]


def _columns(found: Candidate, known: set[str]) -> list[tuple[str, str]]:
    """The columns that the row was made of, as its method noted them, besides the `known` ones."""
    noted = found.notes.get("columns")
    return [(name, str(text)) for name, text in noted.items() if name not in known] if isinstance(noted, dict) else []


def _task(run: Run | None) -> Task:
    return run.task if run else Task()


def _restricted_texts(lake: Lake, run_id: str, texts: list[str]) -> set[str]:
    """The texts among these that a restricted candidate of the run has: accepted rows become exemplars without a
    mark."""
    query = """
        SELECT DISTINCT text FROM lake.candidates
        WHERE run_id = ? AND restricted AND list_contains(?::VARCHAR[], text)"""
    return {str(row["text"]) for row in lake.query(query, [run_id, texts])}


def _hidden(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """The values with HIDDEN in place of those named; empty values stay empty."""
    put = {name: [HIDDEN] if isinstance(values[name], list) else HIDDEN for name in names if values.get(name)}
    return {**values, **put}


def _without_words(history: dict[str, Any]) -> dict[str, Any]:
    """The history of a restricted row with only ids, labels, figures and codes."""
    decision = history["decision"]
    return {
        **_hidden(history, *TEXT_FIELDS),
        **_hidden({name: history.get(name) for name in ("notes", "data")}, "notes", "data"),
        "slot": _hidden(history["slot"], "payload") if history["slot"] else None,
        "columns": [],
        "decision": _hidden(decision, "reason") if decision else None,
        "exemplars": [_hidden(seed, *TEXT_FIELDS) for seed in history["exemplars"]],
        "reviews": [_hidden(review, "comment", "answer", "failure") for review in history["reviews"]],
        "gates": [_hidden(gate, "detail", "neighbour_text") for gate in history["gates"]],
        "calls": [_hidden(call, "request", "reply") for call in history["calls"]],
        "passages": [_hidden(one, "text") for one in history["passages"]],
        "published": _hidden(history["published"], *TEXT_FIELDS, "data") if history["published"] else None,
        "edits": [
            _hidden(edit, "base_text", "text", "response", "note", "data", "base_data") for edit in history["edits"]
        ],
        "drops": [_hidden(drop, "detail") for drop in history["drops"]],
    }


def _of_given(lake: Lake, name: str, held: list[dict[str, Any]]) -> dict[str, Any]:
    """A row that no model made: a published seed or imported row, or a seed that was only shown."""
    row = held[-1] if held else _seed(lake, name)
    run = lake.run(row["run_id"])
    return {
        "id": name,
        **{key: row[key] for key in ("source", "text", "response", "label", "restricted")},
        "run": _run(run, row["run_id"]),
        "origin": _origin(row["source"], run, row["run_id"]),
        "data": row.get("data", {}),
        "slot": None,
        "decision": None,
        "price_usd": None,
        "local": False,
        "probability": None,
        "models": {},
        **{key: list[Any]() for key in ("meant", "columns", "exemplars", "reviews", "gates", "calls")},
    }


def _seed(lake: Lake, name: str) -> dict[str, Any]:
    """A seed in its newest run."""
    query = """
        SELECT s.* FROM lake.seeds s LEFT JOIN lake.runs r ON r.id = s.run_id
        WHERE s.id = ? AND s.kind = 'seed' ORDER BY r.started_at DESC NULLS LAST, s.run_id LIMIT 1"""
    row: dict[str, Any] = lake.query(query, [name])[0]
    return {**row, "source": "seed", "restricted": _task(lake.run(row["run_id"])).restricts(row["label"])}


def _run(run: Run | None, run_id: str) -> dict[str, Any]:
    if run is None:
        return {"id": run_id}
    return run.model_dump(mode="json", include=RUN_FIELDS)


def _text_of(lake: Lake, run_id: str, name: str, restricted: bool) -> str | None:
    """The text of the row that a gate hit: a seed or candidate of the run, or a published row; None if unknown.

    HIDDEN if any of these is restricted and `restricted` is false. (A window over this union now and then fails with
    an internal error in DuckDB 1.5.5, so Python looks through its few rows.)
    """
    if not name:
        return None
    query = """
        SELECT 1 AS place, text, restricted, label FROM lake.candidates WHERE run_id = $1 AND candidate_id = $2
        UNION ALL SELECT 2, text, NULL, label FROM lake.seeds WHERE run_id = $1 AND id = $2
        UNION ALL
        SELECT 3, any_value(text), bool_or(restricted), '' FROM lake.version_rows WHERE id = $2 HAVING count(*) > 0
        ORDER BY place"""
    found = lake.query(query, [run_id, name])
    if not found:
        return None
    task = _task(lake.run(run_id))  # a seed bears no mark: its label decides
    secret = any(task.restricts(row["label"]) if row["place"] == 2 else row["restricted"] for row in found)
    return HIDDEN if secret and not restricted else str(found[0]["text"])


def _students(lake: Lake, places: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Students that learned from a version that holds the row in its train split."""
    learned = {(place["dataset"], place["version"]) for place in places if place["split"] == "train"}
    every = from_rows(Student, lake.query("SELECT * FROM lake.students ORDER BY dataset, version, created_at, id"))
    trained = [student for student in every if (student.dataset, student.version) in learned]
    fields = {"id", "dataset", "version", "trained_on", "path", "created_at"}
    return [student.model_dump(mode="json", include=fields) for student in trained]


def called(lake: Lake, run_id: str, candidate_id: str) -> list[dict[str, Any]]:
    """A candidate's calls as plain values, oldest first, with `parameters`, `prompt_version` and `local` of each."""
    query = f"""
        SELECT *, {PROMPT_VERSION} AS prompt_version, {LOCAL} AS local FROM lake.calls
        WHERE run_id = ? AND candidate_id = ? ORDER BY "at", key"""
    found = lake.query(query, [run_id, candidate_id])
    beside = [{name: row.pop(name) for name in ("prompt_version", "local")} for row in found]
    return [
        {
            **call.model_dump(mode="json", exclude={"run_id", "candidate_id"}),
            "parameters": parameters(call.request),
            **more,
        }
        for call, more in zip(from_rows(Call, found), beside, strict=True)
    ]


def parameters(request: str) -> dict[str, Any]:
    """The sampling parameters of a request's JSON; none if it is unreadable."""
    try:
        body = json.loads(request)
    except ValueError:
        return {}
    given = body if isinstance(body, dict) else {}
    return {name: given[name] for name in PARAMETERS if isinstance(given.get(name), int | float)}


def _origin(source: str, run: Run | None, run_id: str) -> dict[str, Any]:
    """Source of a row's words: `source`, `file` (the seeds' or the imported one; None: unknown), `run`."""
    if run is None:
        return {"source": source, "file": None, "run": run_id}
    seeds = run.recipe.get("seeds") or {}
    own = OWN_ROWS if seeds.get("rows") else None
    file = run.recipe_file or seeds.get("path") if source == "imported" else seeds.get("path") or own
    return {"source": source, "file": file or None, "run": run_id}


def edits_of(lake: Lake, row_id: str) -> list[dict[str, Any]]:
    """People's decisions on a row, oldest first."""
    query = 'SELECT * FROM lake.edits WHERE row_id = ? ORDER BY "at", id'
    return [edit.model_dump(mode="json") for edit in from_rows(Edit, lake.query(query, [row_id]))]


def lost(lake: Lake, row_id: str) -> list[dict[str, Any]]:
    """The derived versions that left a row out, each with its parent, its origin, and the rule."""
    query = """
        SELECT d.*, v.parent, v.origin FROM lake.drops d
        LEFT JOIN lake.versions v ON v.dataset = d.dataset AND v.version = d.version
        WHERE d.row_id = ? ORDER BY d.dataset, d.version, d.gate"""
    found: list[dict[str, Any]] = lake.query(query, [row_id])
    return found


def recalls_of(lake: Lake, row_id: str, held: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Recalls that withdraw a row from a dataset that holds or held it, or whose run made it."""
    every = recalls(lake)
    if not every:
        return []
    query = """
        SELECT r.id, r.dataset FROM lake.candidates c JOIN lake.runs r ON r.id = c.run_id WHERE c.candidate_id = ?"""
    made = lake.query(query, [row_id])
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
    found: dict[str, Any] = lake.query(query, [SHOWN_TO, row_id])[0]
    return {**found, "ids": found["ids"] or []}
