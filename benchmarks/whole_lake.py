"""A whole lake, made by SQL alone: a million candidates, ten runs, twenty versions. What the dashboard is measured on.

    GRAFT_HOME=/tmp/whole python benchmarks/whole_lake.py --candidates 1000000 --versions 20

Dataset `big` (labels and texts as big_lake.py draws them). Each run adds rows and publishes a version; each second
version is derived from it by gates and leaves out one row in a thousand for good. The last run makes half of all
candidates. The versions hold some 5 million rows in all for a million candidates: twenty full copies would be 20
million, and no history looks like that. Of five candidates one is not accepted, by one of eight codes; run 2 has
restricted rows, run 4 the mixes and labellings of PromptMix. Three calls a candidate or so, students, edits, tags.
Every value but the times follows from the seed.
"""

from __future__ import annotations

import argparse
import sys
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from big_lake import DATASET, LABELS, _chunks, _texts

from graft.schemas.base import utc_now
from graft.schemas.datasets import DatasetVersion, Edit, EditAction, Origin, Run, Tag
from graft.schemas.home import Home
from graft.schemas.rows import Seed
from graft.schemas.students import ClassScore, Evaluation, Student, StudentSettings

if TYPE_CHECKING:
    import duckdb

    from graft.data.lake import Lake

FIRST, BEFORE_LAST = 0.06, 0.5
"""Shares of all candidates that the first run, and all runs but the last, have made."""
SEEDS_A_LABEL, EDITS, STUDENTS = 5, 300, 5
CALL_EVERY_S = 0.06
"""Seconds from one candidate of a run to the next."""
DAYS_A_RUN = 2.0
MIXED, SECRET = 4, 2
"""The run of PromptMix, and the run with restricted rows."""

DRAWN = """
    INSERT INTO whole_drawn
    SELECT i, 'c_' || left(md5(i || '.' || $seed), 16) AS id, $run AS run,
           array_to_string(CASE WHEN near THEN list_append(said[:-2], 'again' || i % 97) ELSE said END, ' ') AS text,
           $labels[1 + least(hash(origin, 5, $seed) % 11, 9)::BIGINT] AS label,
           CASE hash(i, 6, $seed) % 10 WHEN 0 THEN 'validation' WHEN 1 THEN 'test' ELSE 'train' END AS split,
           $run = $secret AND hash(i, 10, $seed) % 50 = 0 AS restricted,
           (hash(i, 7, $seed) % 100)::BIGINT AS luck, (hash(i, 8, $seed) % 2001)::DOUBLE / 1000 AS low,
           (hash(i, 9, $seed) % 1001)::DOUBLE / 1000 AS noise,
           CASE WHEN hash(i, 11, $seed) % 100 < $runs THEN 1 + (hash(i, 12, $seed) % ($runs * 10))::BIGINT END AS gone,
           CASE WHEN i % 5 < 4 THEN CASE WHEN luck < 8 THEN 'accepted.adjudicated' ELSE 'accepted.agreed' END
                ELSE list_extract(['rejected.low_mean', 'rejected.low_mean', 'rejected.adjudicated', 'rejected.flag',
                                   'gate.near_duplicate', 'gate.near_duplicate', 'gate.too_short', 'gate.email',
                                   'failed.malformed', 'failed.timeout'], 1 + luck // 10) END AS code
    FROM big_texts
"""
"""A candidate a row, in the order in which it was made. `gone`: the run whose derived version leaves it out."""

CANDIDATES = """
    INSERT INTO lake.candidates BY NAME
    WITH judged AS (
        SELECT *, split_part(code, '.', 1) AS head, code LIKE 'accepted%' AS kept,
               CASE WHEN luck % 3 = 0 THEN 'gemma' ELSE 'smollm2' END AS writer,
               list_extract($labels, 1 + (list_position($labels, label) + luck) % 10) AS other,
               CASE WHEN kept THEN least(10, 8.5 + noise) ELSE 3 + low END AS score_1,
               CASE WHEN kept THEN 8.5 + noise - low / 2 ELSE 2.5 + low + noise END AS score_2
        FROM whole_drawn WHERE run = $run AND i >= $from AND i < $to)
    SELECT 'big-run-' || run AS run_id, id AS candidate_id, '0.' || i % 8 || '.' || i // 1000 AS batch_id,
           'sl_' || id[3:] AS slot_id, i % 8 AS shard, 0::BIGINT AS round, i AS index, label AS slot_label,
           i AS slot_seed, '' AS slot_group, 0::BIGINT AS part,
           CASE WHEN run = $mixed THEN json_object('partner', other, 'alpha', 0.6 + 0.1 * (luck % 4), 'classes',
                json_array(label, other))::VARCHAR ELSE '{{}}' END AS payload,
           NULL AS steer, CASE WHEN head = 'failed' THEN '' ELSE text END AS text, NULL AS response,
           CASE WHEN run = $mixed AND luck % 7 = 0 THEN other ELSE label END AS label, label AS intended_label,
           []::VARCHAR[] AS keywords, '' AS summary,
           '{"generator":"' || writer || '","reviewer":"minilm,smollm2"}' AS models,
           ['s_' || label || '_' || luck % 5, 's_' || label || '_' || (luck + 1) % 5] AS exemplar_ids,
           json_object(label, 0.6 + noise / 4, other, 0.4 - noise / 4)::VARCHAR AS soft_label,
           CASE WHEN run = $mixed THEN json_object('by', 'labeler', 'candidates', json_array(label, other), 'label',
                CASE WHEN luck % 7 = 0 THEN other ELSE label END, 'relabelled', luck % 7 = 0, 'margin', 0.2 + noise / 2,
                'second', CASE WHEN luck % 7 = 0 THEN label ELSE other END, 'votes', false)::VARCHAR END AS labelling,
           '{{}}' AS notes, '{}' AS data, restricted,
           CASE head WHEN 'gate' THEN 'rejected' ELSE head END AS status,
           CASE WHEN head IN ('gate', 'failed') THEN head ELSE split_part(code, '.', 2) END AS route, code,
           'made by benchmarks/whole_lake.py' AS reason,
           CASE WHEN judged THEN round((score_1 + score_2) / 2, 3) END AS mean,
           CASE WHEN judged THEN round(abs(score_1 - score_2) / 2, 3) END AS spread,
           CASE WHEN judged THEN 2 ELSE 0 END::BIGINT AS asked, 0::BIGINT AS saved,
           CASE WHEN judged THEN [{review_1}, {review_2}] ELSE [] END AS reviews,
           CASE WHEN head = 'failed' THEN [] ELSE [{gate_1}, {gate_2}, {gate_3}] END AS gates
    FROM (SELECT *, head NOT IN ('gate', 'failed') AS judged FROM judged) AS made
"""

REVIEW = """{{'stage': 'content', 'role': 'reviewer', 'model': '{model}', 'flags': '{{}}',
    'scores': '{{"fit":' || round({score}, 2) || ',"clear":' || round({score}, 2) || '}}', 'mean': round({score}, 2),
    'comment': 'it says what a customer would say about ' || label,
    'distribution': []::STRUCT("label" VARCHAR, raw DOUBLE, calibrated DOUBLE)[], 'answer': label,
    'call_key': left(md5('review {model}' || id), 32), 'failure': ''}}"""
GATE = """{{'gate': '{gate}', 'rule': CASE WHEN {hit} THEN '{rule}' ELSE 'passed' END, 'passed': NOT ({hit}),
    'score': {score}, 'neighbour': {neighbour}, 'detail': ''}}"""
GATES = (
    {"gate": "length", "rule": "too_short", "hit": "code = 'gate.too_short'", "score": "NULL", "neighbour": "''"},
    {"gate": "personal", "rule": "email", "hit": "code = 'gate.email'", "score": "NULL", "neighbour": "''"},
    {
        "gate": "duplicate", "rule": "near_duplicate", "hit": "code = 'gate.near_duplicate'",
        "score": "0.5 + noise / 2",
        "neighbour": "CASE WHEN code = 'gate.near_duplicate' THEN 'c_' || left(md5((i // 2) || '.' || $seed), 16)"
        " ELSE '' END",
    },
)  # fmt: skip

CALLS = """
    INSERT INTO lake.calls BY NAME
    SELECT left(md5('{step} {model}' || id), 32) AS key, 'big-run-' || run AS run_id, id AS candidate_id,
           '{role}' AS role, '{purpose}' AS purpose, '{model}' AS model, 'openai' AS provider,
           '{model}' AS served_model, 'r1' AS revision,
           '{{"messages":[{{"role":"system","content":"You are careful. {role}."}},'
           || '{{"role":"user","content":"label: ' || label || ', text: ' || text || '"}}],"temperature":0.7,'
           || '"top_p":0.9,"max_tokens":64,"seed":' || i || '}}' AS request,
           CASE WHEN {failed} THEN NULL ELSE {reply} END AS reply, CASE WHEN {failed} THEN 'timeout' END AS failure,
           80 + i % 40 AS prompt_tokens, 12::BIGINT AS completion_tokens, 0::BIGINT AS cached_tokens,
           {price}::DOUBLE AS price_usd, 0.05 + low / 4 AS latency_s, 1::BIGINT AS attempts, luck = 50 AS cached,
           $begun::TIMESTAMPTZ + to_microseconds(((i - $from) * {every} * 1000000)::BIGINT) AS at
    FROM whole_drawn WHERE run = $run AND {condition}
"""
_JUDGED = "split_part(code, '.', 1) NOT IN ('gate', 'failed')"
KINDS: tuple[dict[str, str], ...] = (
    {"step": "write", "model": "gemma", "role": "generator", "purpose": "generate.text", "price": "0.00001",
     "reply": "text", "failed": "code = 'failed.timeout'", "condition": "luck % 3 = 0"},
    {"step": "write", "model": "smollm2", "role": "generator", "purpose": "generate.text", "price": "0.00002",
     "reply": "text", "failed": "code = 'failed.timeout'", "condition": "luck % 3 <> 0"},
    {"step": "review", "model": "minilm", "role": "reviewer", "purpose": "review.text", "price": "0",
     "reply": "label", "failed": "false", "condition": _JUDGED},
    {"step": "review", "model": "smollm2", "role": "reviewer", "purpose": "review.text", "price": "0.00001",
     "reply": "label", "failed": "luck = 51", "condition": _JUDGED},
    {"step": "adjudicate", "model": "gemma", "role": "adjudicator", "purpose": "adjudicate", "price": "0.00003",
     "reply": "label", "failed": "false", "condition": "code LIKE '%.adjudicated'"},
)  # fmt: skip

ROWS = """
    INSERT INTO lake.version_rows BY NAME
    SELECT id, text, NULL::VARCHAR AS response,
           CASE WHEN luck = 77 AND $version > 10 THEN 'product' ELSE label END AS label, split, 'synthetic' AS source,
           restricted, 'big' AS dataset, $version::BIGINT AS version, row_number() OVER () - 1 AS ordinal,
           'big-run-' || run AS run_id, id AS candidate_id, '{}' AS data
    FROM whole_sorted WHERE run <= $run AND coalesce(gone, 1000000) > $gone
"""
DROPS = """
    INSERT INTO lake.drops BY NAME
    SELECT 'big' AS dataset, $version::BIGINT AS version, id AS row_id, 'duplicate' AS gate, 'near_duplicate' AS rule,
           0.93 AS score, '' AS neighbour, 'nearer than the new threshold' AS detail
    FROM whole_sorted WHERE run <= $run AND gone = $run
"""


def fill_whole(home: Home, *, candidates: int = 1_000_000, versions: int = 20, seed: int = 0) -> None:
    """Makes the lake of this home: `versions` versions (an even number) of dataset `big` and the runs behind them.

    Raises GraftError on a lake that has the dataset already.
    """
    from graft.data.lake import Lake
    from graft.schemas.errors import GraftError

    runs, now = versions // 2, utc_now()
    with Lake.open(home) as lake:
        if lake.sql("SELECT 1 FROM lake.versions WHERE dataset = ?", [DATASET]).num_rows:
            raise GraftError(f"there is a dataset {DATASET} already", where=str(home.lake), fix="another GRAFT_HOME")
        ends = [0, *(_end(candidates, run, runs) for run in range(1, runs + 1))]
        lake.write(partial(_draw, ends=ends, seed=seed))
        for run in range(1, runs + 1):
            begun = now - timedelta(days=DAYS_A_RUN * (runs + 1 - run))
            span = {"run": run, "from": ends[run - 1], "to": ends[run]}
            lake.write(partial(_run_rows, span=span, seed=seed, begun=begun))
            lake.save_run(_run(lake, run, begun, span))
            lake.add_seeds(f"big-run-{run}", _seeds())
            for version in (2 * run - 1, 2 * run):
                lake.write(partial(_version_rows, run=run, version=version))
                _publish(lake, run, version, begun + timedelta(days=DAYS_A_RUN / 2, hours=version % 2))
        _people(lake, versions, seed)
        lake.write(lambda connection: _drop(connection))


def _end(candidates: int, run: int, runs: int) -> int:
    """The number of candidates at the end of this run."""
    if run == runs:
        return candidates
    return int(candidates * (FIRST + (BEFORE_LAST - FIRST) * (run - 1) / max(1, runs - 2)))


def _draw(connection: duckdb.DuckDBPyConnection, ends: list[int], seed: int) -> None:
    """Every candidate into a temporary table, and the accepted ones by id into another: a version holds them so."""
    connection.execute("SET threads = 2")
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE whole_drawn (i BIGINT, id VARCHAR, run BIGINT, text VARCHAR, label VARCHAR, split"
        " VARCHAR, restricted BOOLEAN, luck BIGINT, low DOUBLE, noise DOUBLE, gone BIGINT, code VARCHAR)"
    )
    runs = len(ends) - 1
    for run in range(1, runs + 1):
        for start, end in _chunks(ends[run] - ends[run - 1]):
            _texts(connection, ends[run - 1] + start, ends[run - 1] + end, seed)
            given = {"labels": list(LABELS), "seed": seed, "run": run, "runs": runs, "secret": SECRET}
            connection.execute(DRAWN, given)
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE whole_sorted AS SELECT * FROM whole_drawn WHERE code LIKE 'accepted%' ORDER BY id"
    )
    connection.execute("DROP TABLE big_texts")


def _run_rows(connection: duckdb.DuckDBPyConnection, span: dict[str, int], seed: int, begun: Any) -> None:
    """A run's candidates and calls."""
    reviews = {f"review_{n}": REVIEW.format(model=m, score=f"score_{n}") for n, m in ((1, "minilm"), (2, "smollm2"))}
    gates = {f"gate_{n}": GATE.format(**gate) for n, gate in enumerate(GATES, start=1)}
    query = CANDIDATES.replace('{"', '{{"').replace("\"}'", "\"}}'").format(**reviews, **gates)
    for start, end in _chunks(span["to"] - span["from"]):
        part = {"run": span["run"], "from": span["from"] + start, "to": span["from"] + end}
        connection.execute(query, {**part, "labels": list(LABELS), "mixed": MIXED, "seed": seed})
    for kind in KINDS:
        given = {"run": span["run"], "from": span["from"], "begun": begun}
        connection.execute(CALLS.format(**kind, every=CALL_EVERY_S), given)


def _version_rows(connection: duckdb.DuckDBPyConnection, run: int, version: int) -> None:
    derived = version % 2 == 0
    connection.execute(ROWS, {"run": run, "version": version, "gone": run if derived else run - 1})
    if derived:
        connection.execute(DROPS, {"run": run, "version": version})


def _run(lake: Lake, run: int, begun: Any, span: dict[str, int]) -> Run:
    run_id = f"big-run-{run}"
    spent = lake.query(
        "SELECT count(*) AS calls, count(*) FILTER (cached) AS cached, sum(prompt_tokens)::BIGINT AS prompt,"
        " sum(completion_tokens)::BIGINT AS completion, sum(price_usd) AS price FROM lake.calls WHERE run_id = ?",
        [run_id],
    )[0]
    seconds = (span["to"] - span["from"]) * CALL_EVERY_S
    counts, kind = lake.counts(run_id), "promptmix" if run == MIXED else "gra"
    recipe = {
        "name": DATASET, "task": {"kind": "classification", "labels": [{"name": n, "description": n} for n in LABELS]},
        "seeds": {"path": "seeds.jsonl"}, "method": {"kind": kind},
        "target": {"rows_per_label": counts["accepted"] // len(LABELS)},
    }  # fmt: skip
    return Run(
        id=run_id, dataset=DATASET, recipe=recipe, recipe_file="big.yaml", status="finished", started_at=begun,
        ended_at=begun + timedelta(seconds=seconds), code_version="bench", stopped_by="target", counts=counts,
        calls=spent["calls"], calls_cached=spent["cached"], prompt_tokens=spent["prompt"] or 0,
        completion_tokens=spent["completion"] or 0, price_usd=spent["price"], seconds=seconds, version=2 * run - 1,
    )  # fmt: skip


def _seeds() -> list[Seed]:
    return [
        Seed(id=f"s_{label}_{n}", text=f"a question about my {label} in store number {n}", label=label)
        for label in LABELS
        for n in range(SEEDS_A_LABEL)
    ]


def _publish(lake: Lake, run: int, number: int, at: Any) -> None:
    """The record of a version."""
    from graft.data.arrow import to_table

    counted = {
        column: {
            row["name"]: int(row["n"])
            for row in lake.query(
                f"SELECT {column} AS name, count(*) AS n FROM lake.version_rows WHERE dataset = ? AND version = ?"
                " GROUP BY 1 ORDER BY 1",
                [DATASET, number],
            )
        }
        for column in ("label", "split")
    }
    rows, origin, card = sum(counted["split"].values()), "run", f"# big\n\nMade by run {run}.\n\n" + CARD
    facts: dict[str, Any] = {"parent": None, "note": ""}
    if number % 2 == 0:
        origin, facts = "gates", {"parent": number - 1, "note": "a lower threshold for near duplicates"}
    made = DatasetVersion(
        dataset=DATASET, version=number, run_id=f"big-run-{run}", content_hash=f"big-{rows}-{number}", rows=rows,
        splits=counted["split"], labels=counted["label"],
        models={"gemma": "Gemma Terms of Use", "smollm2": "Apache-2.0", "minilm": "Apache-2.0"},
        seeds=len(LABELS) * SEEDS_A_LABEL, card=card, created_at=at, origin=_origin(origin), **facts,
    )  # fmt: skip
    lake.write(lambda _: lake.insert("versions", to_table(DatasetVersion, [made])))


CARD = "\n".join(
    ("| label | rows |", "|---|---:|", *(f"| {n} | many |" for n in LABELS), "", "Nobody checked these rows. " * 40)
)


def _origin(name: str) -> Origin:
    return "gates" if name == "gates" else "run"


def _people(lake: Lake, versions: int, seed: int) -> None:
    """Write the later parts: students and their evaluations, edits by two people, tags."""
    from graft.data.arrow import to_table

    now = utc_now()
    for n in range(STUDENTS):
        version = versions - 2 * (STUDENTS - 1 - n)
        student = Student(
            id=f"st_big_{n}", dataset=DATASET, version=version if version > 0 else 1, trained_on="version",
            settings=StudentSettings(), encoder_revision="r1", train_rows=1000 * (n + 1), device="cpu",
            seconds=60.0 + n, path=f"students/st_big_{n}", created_at=now - timedelta(days=STUDENTS - n),
        )  # fmt: skip
        lake.save_student(student)
        lake.save_evaluation(_evaluation(student.id, 0.8 + n / 50))
    rows = lake.query(
        "SELECT id, text, label FROM lake.version_rows WHERE dataset = ? AND version = ? ORDER BY hash(id, ?) LIMIT ?",
        [DATASET, versions, seed, EDITS],
    )
    actions: tuple[EditAction, ...] = ("accept", "reject", "relabel", "note", "edit")
    edits = [
        Edit(
            id=f"e_{n:06d}", dataset=DATASET, version=versions, row_id=row["id"], action=actions[n % 5],
            base_text=row["text"], base_label=row["label"], by=("anna", "ben")[n % 2],
            at=now - timedelta(minutes=EDITS - n), label="product" if n % 5 == 2 else None,
            text=row["text"] + " please" if n % 5 == 4 else None, note="unclear" if n % 5 == 3 else "",
        )
        for n, row in enumerate(rows)
    ]  # fmt: skip
    marks = [Tag(dataset=DATASET, tag=t, version=v, by="anna", at=now) for t, v in (("prod", versions - 1), ("old", 1))]
    lake.write(lambda _: lake.insert("edits", to_table(Edit, edits)))
    lake.write(lambda _: lake.insert("tags", to_table(Tag, marks)))


def _evaluation(student_id: str, accuracy: float) -> Evaluation:
    size = len(LABELS)
    right, wrong = round(100 * accuracy), (100 - round(100 * accuracy)) // (size - 1)
    scores = [ClassScore(label=n, precision=accuracy, recall=accuracy, f1=accuracy, support=100) for n in LABELS]
    return Evaluation(
        student_id=student_id, test_file="test.jsonl", test_hash="t_1", rows=100 * size, accuracy=accuracy,
        macro_f1=accuracy, classes=tuple(scores), labels=LABELS, interval=(accuracy - 0.02, accuracy + 0.02),
        confusion=tuple(tuple(right if a == b else wrong for b in range(size)) for a in range(size)), majority=0.18,
        ece=0.05,
    )  # fmt: skip


def _drop(connection: duckdb.DuckDBPyConnection) -> None:
    for name in ("whole_drawn", "whole_sorted"):
        connection.execute(f"DROP TABLE {name}")


def main() -> None:
    """Fill the lake of GRAFT_HOME, and say how long it took and how large it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=1_000_000)
    parser.add_argument("--versions", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    home, begun = Home.find(), time.perf_counter()
    fill_whole(home, candidates=given.candidates, versions=given.versions, seed=given.seed)
    size = sum(file.stat().st_size for file in home.lake.rglob("*") if file.is_file())
    print(f"{given.candidates:,} candidates, {time.perf_counter() - begun:.1f} s, {size / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()
