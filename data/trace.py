"""Reverse questions: which rows a model, a prompt, a seed or a run touched, and in what part.

A prompt's version is not stored with a call. It is the hash of what the call's step and its fixed opening are: the
system message; without one the first paragraph; for a completion that chooses a label the labels that it chose among.
So a prompt that describes a label at its beginning has one version a label.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data.versions import versions
from schemas.datasets import DatasetVersion
from schemas.errors import NotFound
from schemas.versions import RecallKind

if TYPE_CHECKING:
    from data.lake import Lake

Places = dict[tuple[str, str], tuple[str, ...]]
"""(run id, candidate id) to how it was touched."""

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
"""SQL over the table `calls`: the version of a call's prompt, NULL where its request is not known."""

_WRITERS = """
    SELECT run_id, candidate_id, '{0}' AS how FROM lake.candidates
    WHERE list_contains(string_split(json_extract_string(models, '$.{0}'), ','), $1)"""
_BY_MODEL = f"""
    SELECT run_id, candidate_id, role AS how FROM lake.calls
    WHERE (model = $1 OR served_model = $1) AND failure IS NULL AND candidate_id <> ''
    UNION SELECT run_id, candidate_id, role FROM lake.reviews WHERE model = $1 AND failure = ''
    UNION {_WRITERS.format("generator")} UNION {_WRITERS.format("responder")}"""
_BY_PROMPT = f"""
    SELECT DISTINCT run_id, candidate_id, purpose AS how FROM lake.calls
    WHERE {PROMPT_VERSION} = $1 AND failure IS NULL AND candidate_id <> ''"""
_BY_RUN = "SELECT run_id, candidate_id, 'made by the run' AS how FROM lake.candidates WHERE run_id = $1"
_QUERIES = {"model": _BY_MODEL, "prompt": _BY_PROMPT, "run": _BY_RUN}


@dataclass(frozen=True)
class Selector:
    """What rows are asked for: all that this model, prompt version, seed, run or row id touched."""

    kind: RecallKind
    value: str


@dataclass(frozen=True)
class Touched:
    """A row of a version and how it was touched: roles of a model, steps of a prompt, or the part of a seed."""

    id: str
    dataset: str
    version: int
    split: str
    label: str
    text: str
    restricted: bool
    how: tuple[str, ...]


def trace(lake: Lake, selector: Selector, among: Sequence[DatasetVersion] | None = None) -> list[Touched]:
    """Rows of these versions (left out: the latest of every dataset) that were touched, by version and id.

    Raises NotFound where the lake knows no such model, prompt, seed, run or row.
    """
    places = touched(lake, selector)
    found: list[Touched] = []
    for one in latest(lake) if among is None else among:
        query = "SELECT * FROM lake.version_rows WHERE dataset = ? AND version = ? ORDER BY id"
        for row in lake.sql(query, [one.dataset, one.version]).to_pylist():
            how = places.get((row["run_id"], row["candidate_id"]), ()) or _direct(selector, row)
            if how:
                fields = ("id", "dataset", "version", "split", "label", "text", "restricted")
                found.append(Touched(**{name: row[name] for name in fields}, how=how))
    if not found and not places:
        _check_known(lake, selector)
    return found


def touched(lake: Lake, selector: Selector, run_ids: Sequence[str] | None = None) -> Places:
    """Candidates that were touched, of these runs or of all; empty where there are none."""
    if selector.kind == "row":
        query = "SELECT run_id, candidate_id, 'named' AS how FROM lake.candidates WHERE candidate_id = $1"
        found = lake.sql(query, [selector.value]).to_pylist()
    elif selector.kind == "seed":
        found = _by_seed(lake, selector.value)
    else:
        found = lake.sql(_QUERIES[selector.kind], [selector.value]).to_pylist()
    places: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for row in found:
        if run_ids is None or row["run_id"] in run_ids:
            places[row["run_id"], row["candidate_id"]].add(row["how"])
    return {place: tuple(sorted(how)) for place, how in places.items()}


def latest(lake: Lake) -> list[DatasetVersion]:
    """The latest version of every dataset, by name."""
    return list({found.dataset: found for found in versions(lake)}.values())


def known(lake: Lake, kind: RecallKind) -> list[dict[str, Any]]:
    """What can be asked for: `value`, `calls` and what it is (`detail`), most calls first; of runs and seeds no calls.

    Of prompts `detail` is the step alone, as their words may quote restricted rows.
    """
    queries = {
        "model": "SELECT model AS value, string_agg(DISTINCT role, ', ' ORDER BY role) AS detail, count(*) AS calls"
        " FROM lake.calls GROUP BY 1 ORDER BY calls DESC, value",
        "prompt": f"SELECT {PROMPT_VERSION} AS value, any_value(purpose) AS detail, count(*) AS calls FROM lake.calls"
        " GROUP BY 1 HAVING value IS NOT NULL ORDER BY calls DESC, value",
        "run": "SELECT id AS value, dataset AS detail, calls FROM lake.runs ORDER BY started_at DESC, id",
        "seed": "SELECT DISTINCT id AS value, kind AS detail, 0 AS calls FROM lake.seeds ORDER BY id",
        "row": "SELECT DISTINCT id AS value, dataset AS detail, 0 AS calls FROM lake.version_rows ORDER BY id",
    }
    found: list[dict[str, Any]] = lake.sql(queries[kind]).to_pylist()
    return found


def _direct(selector: Selector, row: dict[str, Any]) -> tuple[str, ...]:
    """How a row without a candidate, such as a seed or an imported one, is touched."""
    if selector.kind == "run":
        return ("of the run",) if row["run_id"] == selector.value else ()
    return ("itself",) if selector.kind in ("seed", "row") and row["id"] == selector.value else ()


def _by_seed(lake: Lake, seed: str) -> list[dict[str, Any]]:
    """Candidates that were shown the seed, then those shown an accepted one of these, and so on."""
    found: list[dict[str, Any]] = []
    wave, seen, step = {seed}, {seed}, 0
    while wave:
        shown = "SELECT run_id, candidate_id FROM lake.candidates WHERE list_has_any(exemplar_ids, ?::VARCHAR[])"
        how = "shown as exemplar" if step == 0 else f"by way of {step} accepted row{'s' if step > 1 else ''}"
        found += [{**row, "how": how} for row in lake.sql(shown, [sorted(wave)]).to_pylist()]
        wave = _became(lake, sorted(wave)) - seen
        seen |= wave
        step += 1
    return found


def _became(lake: Lake, seeds: Iterable[str]) -> set[str]:
    """Exemplars that are accepted rows which were shown one of these seeds: an accepted row is known by its words."""
    query = """
        SELECT DISTINCT s.id FROM lake.seeds s JOIN lake.candidates c
        ON c.text = s.text AND c.label = s.label AND c.response IS NOT DISTINCT FROM s.response
        WHERE s.kind = 'exemplar' AND c.status = 'accepted' AND list_has_any(c.exemplar_ids, ?::VARCHAR[])"""
    return {str(row["id"]) for row in lake.sql(query, [list(seeds)]).to_pylist()}


def _check_known(lake: Lake, selector: Selector) -> None:
    names = [str(row["value"]) for row in known(lake, selector.kind)]
    if selector.value not in names:
        there = ", ".join(names[:12]) + (" …" if len(names) > 12 else "")
        fix = f"one of: {there}" if there else "graft run RECIPE"
        raise NotFound(f"no {selector.kind} {selector.value!r} in the lake", where=f"--{selector.kind}", fix=fix)
