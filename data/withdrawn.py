"""The rules of recalls: candidates that a model, prompt, seed or run touched, and rows that a recall withdraws.

A prompt's version is not stored with a call. It is the hash of the call's step and fixed opening: the system message;
without one the first paragraph; for a completion that chooses a label its choice of labels. So a prompt that describes
a label at its beginning has one version per label. A prompt that a recipe replaces has a version of its own (o_…),
which touches every candidate of its runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graft.data.arrow import from_rows
from graft.schemas.binding import writing_roles
from graft.schemas.datasets import Recall, RecallKind
from graft.schemas.rows import GateResult

if TYPE_CHECKING:
    from graft.data.lake import Lake

GATE = "recall"
"""The gate's name in the drops of a recall."""

Origin = tuple[str, str, str]
"""A row's id, its run, and its candidate: empty for a seed or an imported row."""

Places = dict[tuple[str, str], tuple[str, ...]]
"""(run id, candidate id) to the kind of contact."""

_JSON = "CASE WHEN json_valid(request) THEN request END"
_OPENING = f"""
    CASE WHEN json_extract_string({_JSON}, '$.messages[0].role') = 'system'
         THEN json_extract_string({_JSON}, '$.messages[0].content')
         WHEN json_extract_string({_JSON}, '$.messages[0].content') IS NOT NULL
         THEN split_part(json_extract_string({_JSON}, '$.messages[0].content'), chr(10) || chr(10), 1)
         WHEN coalesce(json_array_length({_JSON}, '$.choices'), 0) > 0
         THEN CAST(json_extract({_JSON}, '$.choices') AS VARCHAR)
         ELSE split_part(json_extract_string({_JSON}, '$.prompt'), chr(10) || chr(10), 1) END"""
PROMPT_VERSION = f"'p_' || left(md5(purpose || chr(31) || ({_OPENING})), 12)"
"""SQL over the table `calls`: the version of a call's prompt, NULL if its request is unknown."""

_WRITERS = """
    SELECT run_id, candidate_id, '{0}' AS how FROM lake.candidates
    WHERE list_contains(string_split(json_extract_string(models, '$.{0}'), ','), $1)"""
_BY_MODEL = """
    SELECT run_id, candidate_id, role AS how FROM lake.calls
    WHERE (model = $1 OR served_model = $1) AND failure IS NULL AND candidate_id <> ''
    UNION SELECT run_id, candidate_id, role FROM lake.reviews WHERE model = $1 AND failure = ''"""
OWN_PROMPTS = """
    SELECT DISTINCT r.id AS run_id, e.key AS name,
    'o_' || left(md5(e.key || chr(31) || json_extract_string(e.value, '$')), 12) AS value
    FROM lake.runs r, json_each(r.recipe, '$.prompts') e"""
"""Prompts that recipes replace (`prompts:`), with their versions: `agents.roles.own_prompts.own_hash`."""
_BY_PROMPT = f"""
    SELECT run_id, candidate_id, purpose AS how FROM lake.calls
    WHERE {PROMPT_VERSION} = $1 AND failure IS NULL AND candidate_id <> ''
    UNION SELECT c.run_id, c.candidate_id, 'own prompt ' || own.name FROM lake.candidates c
    JOIN ({OWN_PROMPTS}) own ON own.run_id = c.run_id AND own.value = $1"""
_BY_RUN = "SELECT run_id, candidate_id, 'made by the run' AS how FROM lake.candidates WHERE run_id = $1"
_BY_ROW = "SELECT run_id, candidate_id, 'named' AS how FROM lake.candidates WHERE candidate_id = $1"
_QUERIES = {"model": _BY_MODEL, "prompt": _BY_PROMPT, "run": _BY_RUN, "row": _BY_ROW}
_OF_RUNS = "SELECT * FROM ({}) WHERE $2::VARCHAR[] IS NULL OR list_contains($2::VARCHAR[], run_id)"


@dataclass(frozen=True)
class Selector:
    """Selector of rows: all that this model, prompt version, seed, run or row id touched."""

    kind: RecallKind
    value: str


def touched(lake: Lake, selector: Selector, run_ids: Collection[str] | None = None) -> Places:
    """Touched candidates, of these runs or of all; empty if there are none."""
    if selector.kind == "seed":
        found = _by_seed(lake, selector.value)
    else:
        some = None if run_ids is None else sorted(run_ids)
        query = _QUERIES[selector.kind]
        if selector.kind == "model":
            query = " UNION ".join((query, *(_WRITERS.format(role) for role in writing_roles())))
        found = lake.query(_OF_RUNS.format(query), [selector.value, some])
    places: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for row in found:
        if run_ids is None or row["run_id"] in run_ids:
            places[row["run_id"], row["candidate_id"]].add(row["how"])
    return {place: tuple(sorted(how)) for place, how in places.items()}


def direct(selector: Selector, row_id: str, run_id: str) -> tuple[str, ...]:
    """Contact of a row without a candidate, such as a seed or an imported row."""
    if selector.kind == "run":
        return ("of the run",) if run_id == selector.value else ()
    return ("itself",) if selector.kind in ("seed", "row") and row_id == selector.value else ()


def recalls(lake: Lake, dataset: str | None = None) -> list[Recall]:
    """Recalls, oldest first; of one dataset if named."""
    query = 'SELECT * FROM lake.recalls WHERE ?::VARCHAR IS NULL OR dataset = ? ORDER BY "at", id'
    return from_rows(Recall, lake.query(query, [dataset, dataset]))


def withdrawn(lake: Lake, dataset: str, rows: Sequence[Origin]) -> dict[tuple[str, str], GateResult]:
    """(row id, run id) to the reason for which a recall of the dataset withdraws the row, among these rows.

    Every publishing transaction filters its rows by this. Cheap if the dataset has no recall.
    """
    found: dict[tuple[str, str], GateResult] = {}
    run_ids = {run_id for _, run_id, _ in rows}
    for record in recalls(lake, dataset):
        selector = Selector(record.kind, record.value)
        places = touched(lake, selector, run_ids)
        for row_id, run_id, candidate_id in rows:
            how = places.get((run_id, candidate_id), ()) or direct(selector, row_id, run_id)
            if how:
                found.setdefault((row_id, run_id), _withdrawal(record, how))
    return found


def _withdrawal(record: Recall, how: Sequence[str]) -> GateResult:
    detail = f"{record.kind} {record.value} ({', '.join(how)}): {record.reason}"
    return GateResult(gate=GATE, rule=record.kind, passed=False, neighbour=record.id, detail=detail)


def _by_seed(lake: Lake, seed: str) -> list[dict[str, Any]]:
    """Candidates that had the seed as exemplar, then those that had an accepted one of these, and so on."""
    found: list[dict[str, Any]] = []
    wave, seen, step = {seed}, {seed}, 0
    while wave:
        shown = "SELECT run_id, candidate_id FROM lake.candidates WHERE list_has_any(exemplar_ids, ?::VARCHAR[])"
        how = "shown as exemplar" if step == 0 else f"by way of {step} accepted row{'s' if step > 1 else ''}"
        found += [{**row, "how": how} for row in lake.query(shown, [sorted(wave)])]
        wave = _became(lake, sorted(wave)) - seen
        seen |= wave
        step += 1
    return found


def _became(lake: Lake, seeds: Iterable[str]) -> set[str]:
    """Exemplars that are accepted rows made with one of these seeds: an accepted row is identified by its words."""
    query = """
        SELECT DISTINCT s.id FROM lake.seeds s JOIN lake.candidates c
        ON c.text = s.text AND c.label = s.label AND c.response IS NOT DISTINCT FROM s.response
        WHERE s.kind = 'exemplar' AND c.status = 'accepted' AND list_has_any(c.exemplar_ids, ?::VARCHAR[])"""
    return {str(row["id"]) for row in lake.query(query, [list(seeds)])}
