"""A lake with a big dataset in it, made by SQL alone: what the data workbench is measured on.

    GRAFT_HOME=/tmp/big python benchmarks/big_lake.py --rows 1000000 --candidates

Dataset `big` has ten labels, three splits and texts of 5 to 25 words whose frequencies follow Zipf's law; one row in a
hundred repeats an earlier text, one in fifty differs from an earlier text by its last word. Every value follows from
the seed, so that two lakes of the same arguments hold the same rows.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from graft.schemas.base import utc_now
from graft.schemas.datasets import DatasetVersion, Run
from graft.schemas.home import Home
from graft.schemas.rows import Seed

if TYPE_CHECKING:
    import duckdb

    from graft.data.lake import Lake

DATASET = "big"
LABELS = ("account", "complaint", "delivery", "exchange", "greeting", "payment", "product", "refund", "return", "store")
VOCABULARY = 30_000
STEMS = (
    "order", "parcel", "refund", "store", "shoe", "price", "card", "email", "colour", "size", "coat", "code", "point",
    "night", "day", "week", "box", "label", "bag", "invoice", "cart", "gift", "stock", "lamp", "desk", "chair", "sock",
    "mug", "plate", "return",
)  # fmt: skip
CHUNK = 250_000
"""Rows an INSERT: what DuckDB sorts and nests at once stays small."""

_WORD = (
    "$stems[1 + (rank % len($stems))] || CASE WHEN rank < len($stems) THEN '' ELSE (rank // len($stems))::VARCHAR END"
)

BASE = """
    CREATE OR REPLACE TEMP TABLE big_texts AS
    WITH vocabulary AS MATERIALIZED (
        SELECT list(word ORDER BY rank) AS words
        FROM (SELECT range AS rank, {word} AS word FROM range({size})))
    SELECT i, origin, near, list_transform(
        range(5 + (hash(origin, 1, $seed) % 21)::BIGINT),
        lambda k: words[1 + floor(pow({size}, ((hash(origin, k, 2, $seed) % 1000000007) / 1000000007.0)) - 1)::BIGINT])
        AS said
    FROM (SELECT range AS i,
          CASE WHEN range > 100 AND hash(range, 3, $seed) % 100 < 3 THEN (hash(range, 4, $seed) % range)::BIGINT
               ELSE range END AS origin,
          hash(range, 3, $seed) % 100 BETWEEN 1 AND 2 AND range > 100 AS near
          FROM range($from, $to)), vocabulary
"""
"""Of a hundred rows one copies an earlier row's text (origin), two copy it but for the last word (near)."""

ROWS = """
    INSERT INTO lake.version_rows BY NAME
    SELECT printf('c_%013x', i) AS id,
           array_to_string(CASE WHEN near THEN list_append(said[:-2], 'again' || i % 97) ELSE said END, ' ') AS text,
           NULL::VARCHAR AS response,
           $labels[1 + least(hash(origin, 5, $seed) % 11, 9)::BIGINT] AS label,
           CASE hash(i, 6, $seed) % 10 WHEN 0 THEN 'validation' WHEN 1 THEN 'test' ELSE 'train' END AS split,
           'synthetic' AS source, false AS restricted, 'big' AS dataset, $version::BIGINT AS version, i AS ordinal,
           'big-run-' || $version AS run_id, CASE WHEN $candidates THEN printf('c_%013x', i) ELSE '' END
               AS candidate_id, '{}' AS data
    FROM big_texts
"""
"""`store`, the last label, gets two shares of eleven: an unbalanced label to be seen."""

CANDIDATES = """
    INSERT INTO lake.candidates BY NAME
    WITH judged AS (
        SELECT r.*, hash(ordinal, 7, $seed) % 100 AS luck, (hash(ordinal, 8, $seed) % 2001)::DOUBLE / 1000 AS low,
               (hash(ordinal, 9, $seed) % 1001)::DOUBLE / 1000 AS noise,
               ordinal >= $rows AS lost FROM ({source}) r)
    SELECT run_id, id AS candidate_id, '0.0.' || ordinal // 1000 AS batch_id, 'sl' || id[2:] AS slot_id,
           (ordinal % 8)::BIGINT AS shard, 0::BIGINT AS round, ordinal AS index, label AS slot_label,
           ordinal AS slot_seed, '' AS slot_group, 0::BIGINT AS part, '{{}}' AS payload, NULL AS steer,
           text, NULL AS response, label, label AS intended_label, []::VARCHAR[] AS keywords, '' AS summary,
           '{{"generator":"' || CASE WHEN luck % 3 = 0 THEN 'gemma' ELSE 'smollm2' END
               || '","reviewer":"minilm,smollm2"}}' AS models,
           ['s_' || label] AS exemplar_ids,
           json_object(label, 0.6 + noise / 4, 'other', 0.4 - noise / 4)::VARCHAR AS soft_label,
           NULL AS labelling, '{{}}' AS notes, '{{}}' AS data, false AS restricted,
           CASE WHEN lost THEN 'rejected' ELSE 'accepted' END AS status,
           CASE WHEN lost THEN 'low_mean' WHEN luck < 8 THEN 'adjudicated' ELSE 'agreed' END AS route,
           CASE WHEN lost THEN 'rejected.low_mean' WHEN luck < 8 THEN 'accepted.adjudicated' ELSE 'accepted.agreed' END
               AS code,
           'made by benchmarks/big_lake.py' AS reason,
           CASE WHEN lost THEN 3 + low ELSE 8.5 + noise - low / 4 END AS mean, low / 4 AS spread,
           2::BIGINT AS asked, 0::BIGINT AS saved,
           [{review_1}, {review_2}] AS reviews,
           []::STRUCT(gate VARCHAR, rule VARCHAR, passed BOOLEAN, score DOUBLE, neighbour VARCHAR, detail VARCHAR)[]
               AS gates
    FROM judged
"""

REVIEW = """{{'stage': 'content', 'role': 'reviewer', 'model': '{model}', 'flags': '{{}}',
    'scores': '{{"fit":' || round({score}, 2) || '}}', 'mean': round({score}, 2), 'comment': '',
    'distribution': []::STRUCT("label" VARCHAR, raw DOUBLE, calibrated DOUBLE)[], 'answer': label,
    'call_key': 'k{model}' || id, 'failure': ''}}"""
SCORES = {
    "minilm": "least(10, CASE WHEN lost THEN 3 + low ELSE 8.5 + noise END)",
    "smollm2": "least(10, CASE WHEN lost THEN 2.5 + low + noise ELSE 8.5 + noise - low / 2 END)",
}

CALLS = """
    INSERT INTO lake.calls BY NAME
    SELECT 'k{model}' || candidate_id AS key, run_id, candidate_id, '{role}' AS role, '{purpose}' AS purpose,
           '{model}' AS model, 'embedded' AS provider, NULL AS served_model, NULL AS revision, '{{}}' AS request,
           NULL AS reply, NULL AS failure, (80 + slot_seed % 40)::BIGINT AS prompt_tokens,
           12::BIGINT AS completion_tokens,
           0::BIGINT AS cached_tokens, {price}::DOUBLE AS price_usd, 0.05 AS latency_s, 1::BIGINT AS attempts,
           false AS cached, $at::TIMESTAMPTZ AS at
    FROM lake.candidates WHERE run_id = 'big-run-' || $version AND {condition}
"""
KINDS = (
    ("gemma", "generator", "generate.text", "0.00001", "slot_seed % 3 = 0"),
    ("smollm2", "generator", "generate.text", "0.00002", "slot_seed % 3 <> 0"),
    ("minilm", "reviewer", "review.text", "0.0", "true"),
)
"""model, role, purpose, price in US dollars a call, which candidates."""


def fill(home: Home, *, rows: int = 1_000_000, versions: int = 1, candidates: bool = False, seed: int = 0) -> None:
    """Makes dataset `big` of `rows` rows in `versions` versions, in the lake of this home (made if absent).

    Each version is a run's; version n > 1 has the rows of version 1 but for a tenth, which it draws anew. `candidates`
    adds every row's candidate, one rejected candidate in five, reviews by two models and their calls. Raises GraftError
    on a lake that has the dataset already.
    """
    from graft.data.lake import Lake
    from graft.schemas.errors import GraftError

    with Lake.open(home) as lake:
        if lake.sql("SELECT 1 FROM lake.versions WHERE dataset = ?", [DATASET]).num_rows:
            raise GraftError(f"there is a dataset {DATASET} already", where=str(home.lake), fix="another GRAFT_HOME")
        for number in range(1, versions + 1):
            lake.write(partial(_rows, rows=rows, version=number, candidates=candidates, seed=seed))
            if candidates:
                lake.write(partial(_candidates, rows=rows, version=number, seed=seed))
            _version(lake, rows, number)


def _texts(connection: duckdb.DuckDBPyConnection, start: int, end: int, seed: int) -> None:
    query = BASE.format(word=_WORD, size=VOCABULARY)
    connection.execute(query, {"stems": list(STEMS), "seed": seed, "from": start, "to": end})


def _chunks(rows: int) -> list[tuple[int, int]]:
    return [(start, min(start + CHUNK, rows)) for start in range(0, rows, CHUNK)]


def _rows(connection: duckdb.DuckDBPyConnection, rows: int, version: int, candidates: bool, seed: int) -> None:
    """A version's rows; a later version draws its last tenth with another seed."""
    kept = rows if version == 1 else rows - rows // 10
    parts = [(*part, seed) for part in _chunks(kept)]
    parts += [(kept + a, kept + b, seed + version) for a, b in _chunks(rows - kept)]
    for start, end, drawn in parts:
        _texts(connection, start, end, drawn)
        given = {"labels": list(LABELS), "seed": drawn, "version": version, "candidates": candidates}
        connection.execute(ROWS, given)
    connection.execute("DROP TABLE big_texts")


def _candidates(connection: duckdb.DuckDBPyConnection, rows: int, version: int, seed: int) -> None:
    """The rows' candidates, and as many rejected ones as a fifth of them, with the texts of the first rows."""
    held = (
        "SELECT run_id, id, ordinal, label, text FROM lake.version_rows WHERE dataset = 'big' AND version = $version"
        " AND ordinal >= $from AND ordinal < $to"
    )
    lost = (
        "SELECT run_id, printf('c_f%012x', ordinal) AS id, ordinal + $rows AS ordinal, label,"
        " text || ' perhaps' AS text"
        " FROM lake.version_rows WHERE dataset = 'big' AND version = $version AND ordinal >= $from AND ordinal < $to"
    )
    reviews = {
        f"review_{place}": REVIEW.format(model=model, score=score)
        for place, (model, score) in enumerate(SCORES.items(), start=1)
    }
    for source, count in ((held, rows), (lost, rows // 5)):
        for start, end in _chunks(count):
            given = {"seed": seed, "rows": rows, "version": version, "from": start, "to": end}
            connection.execute(CANDIDATES.format(source=source, **reviews), given)
    for model, role, purpose, price, condition in KINDS:
        query = CALLS.format(model=model, role=role, purpose=purpose, price=price, condition=condition)
        connection.execute(query, {"version": version, "at": utc_now()})


def _version(lake: Lake, rows: int, number: int) -> None:
    """The record of the version and of its run, and the run's seeds: one a label."""
    from graft.data.arrow import to_table

    run_id = f"big-run-{number}"
    counted = {
        column: {
            row[column]: int(row["n"])
            for row in lake.query(
                f"SELECT {column}, count(*) AS n FROM lake.version_rows WHERE dataset = ? AND version = ?"
                f" GROUP BY 1 ORDER BY 1",
                [DATASET, number],
            )
        }
        for column in ("label", "split")
    }
    made = DatasetVersion(
        dataset=DATASET, version=number, run_id=run_id, content_hash=f"big-{rows}-{number}", rows=rows,
        splits=counted["split"], labels=counted["label"],
        models={"gemma": "Gemma Terms of Use", "smollm2": "Apache-2.0"}, seeds=len(LABELS),
        card="# big\n\nMade by benchmarks/big_lake.py.", created_at=utc_now(),
    )  # fmt: skip
    run = Run(id=run_id, dataset=DATASET, recipe={}, status="finished", started_at=utc_now(), code_version="bench",
              version=number)  # fmt: skip
    lake.save_run(run)
    seeds = [Seed(id=f"s_{label}", text=f"a question about my {label} in the store", label=label) for label in LABELS]
    lake.add_seeds(run_id, seeds)
    lake.write(lambda _: lake.insert("versions", to_table(DatasetVersion, [made])))


def main() -> None:
    """Fill the lake of GRAFT_HOME."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--versions", type=int, default=1)
    parser.add_argument("--candidates", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    begun = time.perf_counter()
    fill(Home.find(), rows=given.rows, versions=given.versions, candidates=given.candidates, seed=given.seed)
    print(f"{given.rows:,} rows in {given.versions} version(s), {time.perf_counter() - begun:.1f} s")


if __name__ == "__main__":
    main()
