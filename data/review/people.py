"""People's decisions on a version's rows, the progress of its review, and agreement, computed in SQL."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import TYPE_CHECKING, Any

from graft.data.arrow import from_rows
from graft.data.decided import Decided
from graft.data.edits import DECISIONS, edits, fold, in_force, without_words
from graft.data.quality.judged import alpha_of
from graft.data.rescue import Rejected, rejected
from graft.data.review.model import (
    REJECTED,
    AgainstPeople,
    Agreement,
    Difference,
    Judge,
    Pair,
    Person,
    Progress,
    Standing,
)
from graft.data.seen import seen
from graft.schemas.binding import least_scores
from graft.schemas.datasets import Edit
from graft.schemas.intervals import wilson

if TYPE_CHECKING:
    from graft.data.lake import Lake
    from graft.schemas.datasets import DatasetVersion

_HELD = """
    SELECT id, text, response, label, restricted FROM lake.version_rows
    WHERE dataset = $1 AND version = $2 AND id IN (SELECT unnest($3::VARCHAR[]))"""


def decisions(lake: Lake, found: DatasetVersion, *, restricted: bool = False) -> tuple[Standing, ...]:
    """Return every decision and note in force in the version's dataset, newest first.

    Words of restricted rows are hidden unless `restricted`.
    """
    made = [edit for edit in in_force(edits(lake, found.dataset)) if edit.action != "skip"]
    held, outside = _places(lake, found, {edit.row_id for edit in made})
    return tuple(_standing(edit, held, outside, restricted) for edit in reversed(made))


def standing(lake: Lake, found: DatasetVersion, row_id: str, *, restricted: bool = False) -> list[Edit]:
    """Return the decisions and notes in force on a row, oldest first; a unique prefix of its id suffices.

    Words of a restricted row are hidden unless `restricted`. Raises NotFound.
    """
    row = seen(lake, found, row_id)
    query = 'SELECT * FROM lake.edits WHERE dataset = ? AND row_id = ? ORDER BY "at", id'
    made = in_force(from_rows(Edit, lake.query(query, [found.dataset, row.id])))
    hide = row.restricted and not restricted
    return [hidden(edit) if hide else edit for edit in made if edit.action != "skip"]


def progress(lake: Lake, found: DatasetVersion) -> Progress:
    """Return the numbers of decided and skipped rows, by person, and of decisions that wait for a version."""
    made = in_force(edits(lake, found.dataset))
    held, outside = _places(lake, found, {edit.row_id for edit in made})
    decided = {edit.row_id for edit in made if edit.action in DECISIONS}
    skipped = {edit.row_id for edit in made if edit.action == "skip"} - decided
    here = held.keys() | outside.keys()
    return Progress(
        ref=found.ref,
        rows=found.rows,
        decided=len(decided & held.keys()),
        outside=len(decided & outside.keys()),
        skipped=len(skipped & held.keys()),
        waiting=sum(_changes(wanted, held.get(row_id), row_id in outside) for row_id, wanted in fold(made).items()),
        people=_people(edit for edit in made if edit.row_id in here),
    )


def hidden(edit: Edit) -> Edit:
    """Return the edit without the words that may quote its row."""
    return edit.model_copy(update=without_words(dict(edit)))


def _places(lake: Lake, found: DatasetVersion, ids: set[str]) -> tuple[dict[str, dict[str, Any]], dict[str, Rejected]]:
    """The rows that the version contains, and those that its runs rejected."""
    params = [found.dataset, found.version, sorted(ids)]
    held = {row["id"]: row for row in lake.query(_HELD, params)} if ids else {}
    return held, rejected(lake, found, ids - held.keys())


def _standing(edit: Edit, held: dict[str, dict[str, Any]], outside: dict[str, Rejected], restricted: bool) -> Standing:
    row, candidate = held.get(edit.row_id), outside.get(edit.row_id)
    secret = bool(row["restricted"]) if row else candidate is None or candidate.restricted
    return Standing(
        edit=hidden(edit) if secret and not restricted else edit,
        held="accepted" if row else "rejected" if candidate else "absent",
        restricted=secret,
    )


def _changes(wanted: Decided, row: dict[str, Any] | None, rescuable: bool) -> bool:
    """Return True if the decisions on a row would change the version, ignoring conflicts."""
    if row is None:
        return rescuable and wanted.accept is not None
    if wanted.reject is not None:
        return True
    fields = ("text", "response", "label")
    return any(edit and getattr(edit, name) != row[name] for name in fields if (edit := getattr(wanted, name)))


def _people(made: Iterable[Edit]) -> tuple[Person, ...]:
    of_person: dict[str, list[Edit]] = {}
    for edit in made:
        of_person.setdefault(edit.by, []).append(edit)
    people: list[Person] = []
    for by, theirs in of_person.items():
        decided = {edit.row_id for edit in theirs if edit.action in DECISIONS}
        skipped = {edit.row_id for edit in theirs if edit.action == "skip"} - decided
        looked = [edit.seconds for edit in theirs if edit.seconds is not None and edit.action in DECISIONS]
        seconds = round(median(looked), 2) if looked else None
        people.append(Person(by=by, decided=len(decided), skipped=len(skipped), seconds=seconds))
    return tuple(sorted(people, key=lambda one: (-one.decided, one.by)))


DIGITS = 6
SHOWN = 1_000

_STANDING = """
    standing AS MATERIALIZED (
        SELECT * FROM lake.edits WHERE dataset = $1 AND list_contains($2::VARCHAR[], action)
        AND id NOT IN (SELECT undoes FROM lake.edits WHERE dataset = $1 AND action = 'undo'))"""
_VALUES = f"""
    WITH {_STANDING},
    first AS (SELECT * FROM standing
              QUALIFY row_number() OVER (PARTITION BY row_id, "by" ORDER BY "at", id) = 1),
    said AS MATERIALIZED (
        SELECT row_id, "by" AS who, action = 'reject' AS refused, blind, "at", id,
               CASE WHEN action = 'reject' THEN '' ELSE coalesce(label, base_label) END AS value
        FROM first WHERE row_id IN (SELECT row_id FROM first GROUP BY row_id HAVING count(*) > 1))"""
_ROWS = f"""
    {_VALUES}
    SELECT row_id, list(who ORDER BY who) AS people,
           list(CASE WHEN refused THEN $3 ELSE value END ORDER BY who) AS said,
           list(refused ORDER BY who) AS refused, count(DISTINCT (refused, value)) = 1 AS equal,
           count(*) FILTER (NOT blind) = arg_min(CAST(NOT blind AS BIGINT), ("at", id)) AS blind
    FROM said GROUP BY row_id ORDER BY row_id"""
_PAIRS = f"""
    {_VALUES},
    pairs AS (SELECT a.who AS a, b.who AS b, (a.refused, a.value) AS x, (b.refused, b.value) AS y
              FROM said a JOIN said b ON a.row_id = b.row_id AND a.who < b.who),
    counts AS (SELECT a, b, count(*) AS n, count(*) FILTER (x = y) AS same FROM pairs GROUP BY a, b),
    one AS (SELECT a, b, x AS v, count(*) AS n FROM pairs GROUP BY a, b, x),
    other AS (SELECT a, b, y AS v, count(*) AS n FROM pairs GROUP BY a, b, y),
    chance AS (SELECT a, b, sum(one.n * other.n) AS met FROM one JOIN other USING (a, b, v) GROUP BY a, b)
    SELECT a, b, n, same, coalesce(met, 0) / (n * n) AS expected FROM counts LEFT JOIN chance USING (a, b)
    ORDER BY n DESC, a, b"""


def agreement(lake: Lake, dataset: str) -> Agreement:
    """Return people's agreement on the rows of a dataset that two or more of them decided.

    Each person's first decision in force on a row counts: the resulting label, or `reject`.
    """
    params = [dataset, list(DECISIONS)]
    rows = lake.query(_ROWS, [*params, REJECTED])
    pairs = lake.query(_PAIRS, params)
    alpha, missing = _alpha(rows)
    return Agreement(
        rows=len(rows),
        equal=round(sum(row["equal"] for row in rows) / len(rows), DIGITS) if rows else None,
        people=tuple(sorted({who for row in rows for who in row["people"]})),
        pairs=tuple(Pair(a=row["a"], b=row["b"], rows=row["n"], equal=row["same"], kappa=_kappa(row)) for row in pairs),
        alpha=alpha,
        missing=missing,
        blind=sum(row["blind"] for row in rows),
        differ=tuple(
            Difference(row_id=row["row_id"], said=dict(zip(row["people"], row["said"], strict=True)))
            for row in [row for row in rows if not row["equal"]][:SHOWN]
        ),
    )


def _kappa(row: dict[str, Any]) -> float | None:
    """Cohen's kappa: the share of the agreement beyond chance."""
    same, expected = row["same"] / row["n"], float(row["expected"])
    return None if expected >= 1 else round((same - expected) / (1 - expected), DIGITS)


def _alpha(rows: list[dict[str, Any]]) -> tuple[float | None, str]:
    if not rows:
        return None, "no row was decided by two people"
    import numpy as np

    people = {who: place for place, who in enumerate(sorted({who for row in rows for who in row["people"]}))}
    values: dict[tuple[bool, str], int] = {}
    answers = np.full((len(people), len(rows)), np.nan)
    for column, row in enumerate(rows):
        for who, *pair in zip(row["people"], row["refused"], row["said"], strict=True):
            answers[people[who], column] = values.setdefault((pair[0], pair[1]), len(values))
    return alpha_of(answers, "nominal")


_JUDGES = f"""
    WITH {_STANDING},
    people AS MATERIALIZED (
        SELECT row_id AS candidate_id, arg_max(label, ("at", id)) FILTER (label IS NOT NULL) AS label,
               arg_max(action, ("at", id)) FILTER (action IN ('accept', 'reject')) AS verdict
        FROM standing GROUP BY row_id),
    made AS MATERIALIZED (
        SELECT c.run_id, c.candidate_id, c.status, c.route, c.label, c.reviews, c.gates, LEAST_SCORE AS tau,
               coalesce(p.label, c.label) = c.label
               AND CASE WHEN p.verdict IS NULL THEN c.status = 'accepted' ELSE p.verdict = 'accept' END AS stands
        FROM people p JOIN lake.candidates c USING (candidate_id) JOIN lake.runs r ON r.id = c.run_id
        WHERE r.dataset = $1 AND c.status <> 'failed'
        QUALIFY row_number() OVER (PARTITION BY candidate_id ORDER BY r.started_at DESC, c.run_id) = 1),
    reviews AS (SELECT candidate_id, label, tau, stands, unnest(reviews) AS r FROM made),
    gates AS (SELECT candidate_id, stands, unnest(gates) AS g FROM made),
    verdicts AS (
        SELECT r.role AS kind, r.model AS name, stands,
               CASE WHEN bool_or(r.stage = 'label') THEN bool_and(r.answer = label) FILTER (r.stage = 'label')
                    ELSE avg(r.mean) >= any_value(tau) END AS passed
        FROM reviews WHERE r.failure = '' AND (r.mean IS NOT NULL OR (r.stage = 'label' AND r.answer <> ''))
        GROUP BY candidate_id, stands, r.role, r.model
        UNION ALL SELECT 'gate', g.gate, stands, bool_and(g.passed) FROM gates GROUP BY candidate_id, stands, g.gate
        UNION ALL SELECT 'decision', 'all', stands, status = 'accepted' FROM made
        UNION ALL SELECT 'decision', route, stands, status = 'accepted' FROM made)
    SELECT kind, name, count(*) AS n, count(*) FILTER (passed) AS accepted, count(*) FILTER (passed = stands) AS agreed,
           count(*) FILTER (passed AND NOT stands) AS false_accepts,
           count(*) FILTER (NOT passed AND stands) AS false_rejects, (SELECT count(*) FROM made) AS decided
    FROM verdicts GROUP BY kind, name ORDER BY kind, n DESC, name"""


def against_people(lake: Lake, dataset: str) -> AgainstPeople:
    """Measure every judge, gate and final decision on the candidates of a dataset that people decided.

    People's newest decision in force counts. A row stands if they keep it under the label that the run assigned; edits
    of its words do not matter. A reviewer or adjudicator passes a row if its mean reaches the recipe's tau (8 by
    default), a labeler if it chose the row's label. The final decision is listed as `all`, and by the routes of the
    rows.
    """
    rows = lake.query(_JUDGES.replace("LEAST_SCORE", least_scores()), [dataset, list(DECISIONS)])
    counts = ("accepted", "agreed", "false_accepts", "false_rejects")
    return AgainstPeople(
        rows=rows[0]["decided"] if rows else 0,
        judges=tuple(
            Judge(
                kind=row["kind"], name=row["name"], rows=row["n"], **{name: row[name] for name in counts},
                share=round(row["agreed"] / row["n"], DIGITS), interval=wilson(row["agreed"], row["n"]),
            )
            for row in rows
        ),
    )  # fmt: skip
