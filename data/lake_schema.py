"""The lake's tables: one record model per table, and the conversion between candidates and records.

A candidate is one row with its reviews and gate results as lists of structs, because a commit costs about 8 ms of CPU
per table; the views `reviews`, `gate_results` and `decisions` show them as tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, JsonValue

from graft.data.arrow import plain_rows, sql_columns, to_table
from graft.schemas.base import Value
from graft.schemas.calls import Call
from graft.schemas.datasets import DatasetVersion, Deletion, Drop, Edit, Recall, Row, Run, Tag
from graft.schemas.rows import Candidate, Data, Decision, GateResult, Labelling, Review, Route, Seed, Status, Steer
from graft.schemas.steering import Improvement
from graft.schemas.students import Evaluation, InstructEvaluation, Student

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

SCHEMA_VERSION = 9
"""Incremented when a table changes. A lake with a higher number than the code's is refused; one with a lower number
gets the missing columns (`ADDED`) and tables (`TABLES`)."""


class MetaRecord(Value):
    """A fact about the lake itself, such as its schema version."""

    key: str
    value: str


class BatchRecord(Value):
    """A committed batch: its presence means that its rows are stored."""

    run_id: str
    batch_id: str
    candidates: int
    calls: int
    at: datetime


class SeedRecord(Seed):
    """A seed of a run, or an accepted row that was shown to a generator as an exemplar."""

    run_id: str
    kind: Literal["seed", "exemplar"]


class CandidateRecord(Value):
    """A candidate with its slot and decision flattened into columns."""

    run_id: str
    candidate_id: str
    batch_id: str
    slot_id: str
    shard: int
    round: int
    index: int
    slot_label: str
    slot_seed: int
    slot_group: str
    part: int
    payload: dict[str, JsonValue]
    steer: Steer | None
    text: str
    response: str | None
    label: str
    intended_label: str
    keywords: tuple[str, ...]
    summary: str
    models: dict[str, str]
    exemplar_ids: tuple[str, ...]
    soft_label: dict[str, float]
    labelling: Labelling | None
    notes: dict[str, JsonValue]
    data: Data
    restricted: bool
    status: Status
    route: Route
    code: str
    reason: str
    mean: float | None
    spread: float | None
    asked: int
    saved: int
    reviews: tuple[Review, ...]
    gates: tuple[GateResult, ...]


class VersionRowRecord(Row):
    """One row of a published version; readable without the run that made it. `candidate_id` is empty for a seed."""

    dataset: str
    version: int
    ordinal: int
    run_id: str
    candidate_id: str


class TestFileRecord(Value):
    """A file used by an evaluation of a dataset. `hash` covers its texts, in order."""

    dataset: str
    hash: str
    name: str
    rows: int
    registered_at: datetime


class TestTextRecord(Value):
    """Hashes by which a held-out text is recognized; the text itself is not stored. `row` counts from 1."""

    file_hash: str
    row: int
    text_hash: str
    sketch: tuple[int, ...]
    grams: tuple[int, ...]


class RunDocument(Value):
    """A document that a run took passages from."""

    run_id: str
    name: str
    file: str
    hash: str
    characters: int
    passages: int
    licence: str


class DocumentText(Value):
    """A document's text, once for all runs."""

    hash: str
    text: str


TABLES: dict[str, type[BaseModel]] = {
    "meta": MetaRecord,
    "runs": Run,
    "seeds": SeedRecord,
    "batches": BatchRecord,
    "candidates": CandidateRecord,
    "calls": Call,
    "versions": DatasetVersion,
    "version_rows": VersionRowRecord,
    "students": Student,
    "evaluations": Evaluation,
    "instruct_evaluations": InstructEvaluation,
    "improvements": Improvement,
    "test_files": TestFileRecord,
    "test_texts": TestTextRecord,
    "documents": RunDocument,
    "document_texts": DocumentText,
    "tags": Tag,
    "edits": Edit,
    "drops": Drop,
    "recalls": Recall,
    "deletions": Deletion,
}

DECISION = tuple(Decision.model_fields)
PLAIN = (
    "text", "response", "label", "intended_label", "keywords", "summary", "models", "soft_label", "labelling",
    "notes", "data", "restricted",
)  # fmt: skip
SLOT = ("shard", "round", "index", "part", "payload", "steer")

TEACHERS = (
    'STRUCT("model" VARCHAR, "shots" BIGINT, "rows" BIGINT, "answered" BIGINT, "accuracy" DOUBLE, "interval" DOUBLE[],'
    ' "macro_f1" DOUBLE, "student_accuracy" DOUBLE, "prompt_tokens" BIGINT, "completion_tokens" BIGINT,'
    ' "price_usd" DOUBLE, "p50_s" DOUBLE, "p95_s" DOUBLE)[]'
)

ADDED: dict[int, dict[str, dict[str, str]]] = {
    2: {
        "candidates": {
            "slot_group": "VARCHAR DEFAULT ''", "part": "BIGINT DEFAULT 0", "mix": "VARCHAR", "aim": "VARCHAR",
            "labelling": "VARCHAR", "prefilled": "BOOLEAN", "reviews.element.answer": "VARCHAR DEFAULT ''",
        },
        "runs": {"neighbours": "VARCHAR DEFAULT '{}'"},
    },
    3: {
        "evaluations": {
            "interval": "DOUBLE[]", "majority": "DOUBLE", "ece": "DOUBLE", "ece_scaled": "DOUBLE",
            "temperature": "DOUBLE", "auprc": "DOUBLE", "positive": "VARCHAR DEFAULT ''", "threshold": "DOUBLE",
            "false_refusals": "DOUBLE", "accuracies": "DOUBLE[]",
        },
    },
    4: {
        "candidates": {"steer": "VARCHAR"},
        "evaluations": {"micro_f1": "DOUBLE", "teachers": TEACHERS},
        "students": {"tokens_per_second": "DOUBLE", "peak_share": "DOUBLE"},
    },
    5: {
        "versions": {"parent": "BIGINT", "origin": "VARCHAR DEFAULT 'run'", "note": "VARCHAR DEFAULT ''"},
    },
    6: {
        "edits": {
            "undoes": "VARCHAR DEFAULT ''", "queue": "VARCHAR DEFAULT ''", "blind": "BOOLEAN DEFAULT 'false'",
            "seconds": "DOUBLE",
        },
    },
    7: {
        "candidates": {"payload": "VARCHAR DEFAULT '{}'", "notes": "VARCHAR DEFAULT '{}'"},
    },
    8: {
        "candidates": {"data": "VARCHAR DEFAULT '{}'"},
        "version_rows": {"data": "VARCHAR DEFAULT '{}'"},
        "edits": {"data": "VARCHAR", "base_data": "VARCHAR"},
    },
    9: {
        "runs": {"by": "VARCHAR DEFAULT ''"},
    },
}  # fmt: skip
"""Columns added by each schema version: table to column to SQL type. Missing tables (version 1 has no edits) are
created whole, and the views are always recreated."""


MOVED: dict[int, dict[str, tuple[str, tuple[str, ...]]]] = {
    7: {
        "candidates": (
            "payload = coalesce(mix, aim, '{}'), notes = CASE WHEN prefilled IS NULL THEN '{}'"
            " ELSE json_object('prefilled', prefilled) END",
            ("mix", "aim", "prefilled"),
        ),
    },
}
"""Schema version to the columns that others replaced: table to what they are set to, and to the columns that go."""


def _unnested(column: str, model: type[BaseModel]) -> str:
    fields = ", ".join(f'item."{name}"' for name in model.model_fields)
    return (
        f"SELECT run_id, candidate_id, ordinal, {fields} FROM (SELECT run_id, candidate_id, unnest({column}) AS item,"
        f" generate_subscripts({column}, 1) - 1 AS ordinal FROM lake.candidates)"
    )


VIEWS: dict[str, str] = {
    "reviews": _unnested("reviews", Review),
    "gate_results": _unnested("gates", GateResult),
    "decisions": f"SELECT run_id, candidate_id, {', '.join(DECISION)} FROM lake.candidates",
}


def identifier(column: str) -> str:
    """Return a column's quoted SQL name, part by part; `interval`, for example, is a keyword."""
    return ".".join(f'"{part}"' for part in column.split("."))


def migrate(connection: duckdb.DuckDBPyConnection, found: int) -> None:
    """Upgrade a lake of schema version `found` within a transaction; rows are kept."""
    query = "SELECT table_name FROM duckdb_tables() WHERE database_name = 'lake'"
    there = {str(row[0]) for row in connection.execute(query).fetchall()}
    for version in range(found + 1, SCHEMA_VERSION + 1):
        for table, columns in ADDED[version].items():
            for column, kind in columns.items() if table in there else ():
                connection.execute(f"ALTER TABLE lake.{table} ADD COLUMN {identifier(column)} {kind}")
                if kind.endswith("[]"):  # DuckLake has no defaults of lists
                    connection.execute(f"UPDATE lake.{table} SET {identifier(column)} = []")
        for table, (change, gone) in MOVED.get(version, {}).items():
            if table in there:
                connection.execute(f"UPDATE lake.{table} SET {change}")
                for column in gone:
                    connection.execute(f"ALTER TABLE lake.{table} DROP COLUMN {identifier(column)}")
    for table, model in TABLES.items():
        connection.execute(f"CREATE TABLE IF NOT EXISTS lake.{table} ({sql_columns(model)})")
    for name, query in VIEWS.items():
        connection.execute(f"CREATE OR REPLACE VIEW lake.{name} AS {query}")
    connection.execute("UPDATE lake.meta SET value = ? WHERE key = 'schema_version'", [str(SCHEMA_VERSION)])


def candidates_table(run_id: str, batch_ids: Sequence[str], candidates: Sequence[Candidate]) -> pa.Table:
    """Return rows of the table `candidates`, one per candidate, each with the id of its batch."""
    slots = [c.slot for c in candidates]
    decisions = [c.decision for c in candidates]
    return to_table(
        CandidateRecord,
        candidates,
        run_id=[run_id] * len(candidates),
        candidate_id=[c.id for c in candidates],
        batch_id=batch_ids,
        slot_id=[s.id for s in slots],
        slot_group=[s.group for s in slots],
        **{name: [getattr(s, name) for s in slots] for name in SLOT},
        slot_label=[s.label for s in slots],
        slot_seed=[s.seed for s in slots],
        exemplar_ids=[[e.id for e in s.exemplars] for s in slots],
        **{name: [getattr(d, name) for d in decisions] for name in DECISION},
    )


def assemble(candidates: Sequence[dict[str, Any]], exemplars: Mapping[str, Seed]) -> list[Candidate]:
    """Rebuild candidates from their rows, in order. Exemplars missing from `exemplars` are left out."""
    return [_assembled(row, exemplars) for row in plain_rows(CandidateRecord, candidates)]


def _assembled(row: dict[str, Any], exemplars: Mapping[str, Seed]) -> Candidate:
    slot = {
        "id": row["slot_id"],
        "run_id": row["run_id"],
        "label": row["slot_label"],
        "seed": row["slot_seed"],
        "exemplars": tuple(exemplars[e] for e in row["exemplar_ids"] if e in exemplars),
        "group": row["slot_group"],
        **{key: row[key] for key in SLOT},
    }
    return Candidate.model_validate(
        {
            "id": row["candidate_id"],
            "slot": slot,
            "reviews": row["reviews"],
            "gates": row["gates"],
            "decision": {key: row[key] for key in DECISION},
            **{key: row[key] for key in PLAIN},
        }
    )
