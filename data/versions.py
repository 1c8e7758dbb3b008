"""Published versions: publish once, read for ever. A version's rows are copied, so that it is readable by itself."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, get_args

from data.arrow import from_table, to_table
from data.lake_schema import VersionRowRecord
from schemas.base import content_hash, utc_now
from schemas.datasets import DatasetVersion, Row, Run, SplitName
from schemas.errors import GraftError, NotFound

if TYPE_CHECKING:
    import duckdb
    import pandas as pd
    import pyarrow as pa

    from data.lake import Lake

SPLIT_ORDER: tuple[SplitName, ...] = get_args(SplitName)

Held = tuple[Row, str, str]
"""A row, the run that it came from, and its candidate: empty for a seed."""


def publish(
    lake: Lake,
    *,
    run: Run,
    rows: Sequence[Row],
    models: Mapping[str, str],
    seeds: int,
    card: str,
    partial: bool = False,
    carried: DatasetVersion | None = None,
) -> DatasetVersion:
    """Publishes rows as the dataset's next version, in one transaction. Returns the version that holds them.

    The rows of `carried`, an earlier version of the dataset, are copied into it, each with its own run and split; a row
    that both hold is taken from there. A version of the dataset with the same content is returned as it is, and nothing
    is written. `models` is model name to licence, of the carried rows too; `seeds` their number. Raises GraftError
    where there is no row, ValueError where an id occurs twice or `carried` is of another dataset.
    """
    if not rows:
        raise GraftError("there is no accepted row to publish", where=run.dataset, fix="see what was rejected and why")
    if len({row.id for row in rows}) < len(rows):
        raise ValueError("a row id occurs twice")
    held = [*(old := _carried(lake, run.dataset, carried)), *_of_run(run, rows, {row.id for row, *_ in old})]
    digest = content_hash((row.text, row.response, row.label, row.split) for row, *_ in held)
    splits, labels = Counter(row.split for row, *_ in held), Counter(row.label for row, *_ in held)

    def work(connection: duckdb.DuckDBPyConnection) -> DatasetVersion | None:
        """None: there is such a version already."""
        query = "SELECT count(*) FILTER (content_hash = ?), max(version) FROM lake.versions WHERE dataset = ?"
        same, last = connection.execute(query, [digest, run.dataset]).fetchall()[0]
        if same:
            return None
        made = DatasetVersion(
            dataset=run.dataset, version=(last or 0) + 1, run_id=run.id, content_hash=digest, rows=len(held),
            splits={name: splits[name] for name in SPLIT_ORDER if name in splits},
            labels=dict(sorted(labels.items())), models=dict(models), seeds=seeds, card=card, partial=partial,
            snapshot=_next_snapshot(connection), created_at=utc_now(),
        )  # fmt: skip
        lake.insert("version_rows", _rows_table(made, held))
        lake.insert("versions", to_table(DatasetVersion, [made]))
        return made

    return lake.write(work) or _with_content(lake, run.dataset, digest)


def _with_content(lake: Lake, dataset: str, digest: str) -> DatasetVersion:
    query = "SELECT * FROM lake.versions WHERE dataset = ? AND content_hash = ? ORDER BY version LIMIT 1"
    return from_table(DatasetVersion, lake.sql(query, [dataset, digest]))[0]


def _next_snapshot(connection: duckdb.DuckDBPyConnection) -> int:
    """The snapshot that this transaction's commit makes: under the commit lock nobody else can take it."""
    return int(connection.execute("SELECT id FROM lake.current_snapshot()").fetchall()[0][0]) + 1


def _of_run(run: Run, rows: Sequence[Row], held: set[str]) -> list[Held]:
    """The run's own rows but those that are held already."""
    fresh = [row for row in rows if row.id not in held]
    return [(row, run.id, row.id if row.source == "synthetic" else "") for row in fresh]


def _carried(lake: Lake, dataset: str, carried: DatasetVersion | None) -> list[Held]:
    """The rows of an earlier version with the run and candidate that each came from."""
    if carried is None:
        return []
    if carried.dataset != dataset:
        raise ValueError(f"{carried.ref} is no version of {dataset}")
    found = rows(lake, carried).to_pylist()
    origins = [(row.pop("run_id"), row.pop("candidate_id")) for row in found]
    return [(Row.model_validate(row), *origin) for row, origin in zip(found, origins, strict=True)]


def _rows_table(made: DatasetVersion, held: Sequence[Held]) -> pa.Table:
    ordered, count = sorted(held, key=lambda one: one[0].id), len(held)
    return to_table(
        VersionRowRecord,
        [row for row, *_ in ordered],
        dataset=[made.dataset] * count,
        version=[made.version] * count,
        ordinal=list(range(count)),
        run_id=[run_id for _, run_id, _ in ordered],
        candidate_id=[candidate_id for *_, candidate_id in ordered],
    )


def versions(lake: Lake, dataset: str | None = None) -> list[DatasetVersion]:
    """Published versions by dataset and number; of one dataset where it is named."""
    query = "SELECT * FROM lake.versions WHERE ?::VARCHAR IS NULL OR dataset = ? ORDER BY dataset, version"
    return from_table(DatasetVersion, lake.sql(query, [dataset, dataset]))


def version(lake: Lake, ref: str) -> DatasetVersion:
    """The version that `name`, `name@latest` or `name@3` means. Raises NotFound, which lists what there is."""
    name, _, number = ref.strip().partition("@")
    of_dataset = versions(lake, name)
    if not of_dataset:
        raise _unknown(lake, name)
    if number in ("", "latest"):
        return of_dataset[-1]
    for found in of_dataset:
        if str(found.version) == number:
            return found
    there = ", ".join(found.ref for found in of_dataset[-20:])
    raise NotFound(f"{name} has no version {number!r}", where=ref, fix=f"one of: {there}")


def _unknown(lake: Lake, name: str) -> NotFound:
    where = str(lake.home.root)
    names = [row["dataset"] for row in lake.sql("SELECT DISTINCT dataset FROM lake.versions ORDER BY 1").to_pylist()]
    if not names:
        return NotFound(f"no dataset {name!r}: nothing is published yet", where=where, fix="graft run RECIPE")
    near = difflib.get_close_matches(name, names, n=5) or names[:20]
    return NotFound(f"no dataset {name!r}", where=where, fix=f"one of: {', '.join(near)}")


def rows(lake: Lake, version: DatasetVersion, split: str | None = None) -> pa.Table:
    """A version's rows by id: id, text, response, label, split, source, restricted, run_id, candidate_id."""
    query = """
        SELECT id, text, response, label, split, source, restricted, run_id, candidate_id FROM lake.version_rows
        WHERE dataset = ? AND version = ? AND (?::VARCHAR IS NULL OR split = ?) ORDER BY ordinal"""
    return lake.sql(query, [version.dataset, version.version, split, split])


def load(lake: Lake, version: DatasetVersion, split: str | None = None) -> pd.DataFrame:
    """The same rows as a pandas frame with Arrow types."""
    import pandas as pd

    frame: pd.DataFrame = rows(lake, version, split).to_pandas(types_mapper=pd.ArrowDtype)
    return frame


def published_texts(lake: Lake, dataset: str, exclude_run: str = "") -> list[tuple[str, str, str]]:
    """(row id, text, label) of every row that another run published in this dataset, each once, by id."""
    query = """
        SELECT id, text, label FROM lake.version_rows WHERE dataset = ? AND run_id <> ?
        GROUP BY ALL ORDER BY id, label, text"""
    table = lake.sql(query, [dataset, exclude_run])
    return [(row["id"], row["text"], row["label"]) for row in table.to_pylist()]
