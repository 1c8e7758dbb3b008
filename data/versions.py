"""Published versions: publish once, read for ever. A version's rows are copied, so that it is readable by itself."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, get_args

from data.arrow import from_table, to_table
from data.lake_schema import VersionRowRecord
from data.tags import tags
from schemas.base import content_hash, utc_now
from schemas.datasets import DatasetVersion, Origin, Row, Run, SplitName
from schemas.errors import GraftError, NotFound
from schemas.rows import GateResult
from schemas.versions import Drop

if TYPE_CHECKING:
    import duckdb
    import pandas as pd
    import pyarrow as pa

    from data.lake import Lake

SPLIT_ORDER: tuple[SplitName, ...] = get_args(SplitName)

MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2})?Z?)?", re.ASCII)
"""A day, or a time of a day, in a reference."""

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
    origin: Origin = "run",
    note: str = "",
) -> DatasetVersion:
    """Publishes rows as the dataset's next version, in one transaction. Returns the version that holds them.

    The rows of `carried`, an earlier version of the dataset, are copied into it, each with its own run and split; a row
    that both hold is taken from there. Carried rows that were recalled are left out. A version of the dataset
    with the same content is returned as it is, and nothing is written. `models` is model name to licence, of the
    carried rows too; `seeds` their number. Raises GraftError where there is no row, ValueError where an id occurs twice
    or `carried` is of another dataset.
    """
    if not rows:
        raise GraftError("there is no accepted row to publish", where=run.dataset, fix="see what was rejected and why")
    if len({row.id for row in rows}) < len(rows):
        raise ValueError("a row id occurs twice")
    if carried is not None and carried.dataset != run.dataset:
        raise ValueError(f"{carried.ref} is no version of {run.dataset}")
    old = _standing(lake, run.dataset, held_by(lake, carried))[0] if carried else []
    held = [*old, *_of_run(run, rows, {row.id for row, *_ in old})]
    facts = {"run_id": run.id, "models": dict(models), "seeds": seeds, "card": card, "partial": partial}
    return _write(lake, run.dataset, held, {**facts, "origin": origin, "note": note})


def derive(
    lake: Lake,
    parent: DatasetVersion,
    held: Sequence[Held],
    *,
    origin: Origin,
    note: str,
    card: str = "",
    drops: Sequence[GateResult] = (),
    dropped: Sequence[str] = (),
) -> DatasetVersion:
    """Publishes a version made from an earlier one: fewer, relabelled or edited rows. No model is asked.

    `held` are its rows with the run and candidate that each came from (`held_by(lake, parent)` gives the parent's);
    `dropped` are the ids of the parent's rows that it leaves out, `drops` the rule of each, in the same order. Run,
    models, seeds and whether it is partial are the parent's; its card says what was done unless `card` is given. A
    version of the dataset with the same content is returned as it is. Raises GraftError where no row is left.

    Rows that were recalled stay out, whichever version they are taken from.
    """
    held, withdrawn = _standing(lake, parent.dataset, held)
    drops, dropped = [*drops, *withdrawn.values()], [*dropped, *withdrawn]
    if not held:
        raise GraftError("no row is left to publish", where=parent.ref, fix="milder thresholds, or another version")
    fields = ("run_id", "models", "seeds", "partial")
    facts = {name: getattr(parent, name) for name in fields}
    told = card or f"{parent.card.rstrip()}\n\n## Derived from {parent.ref}\n\n{note}\n"
    record = {**facts, "card": told, "origin": origin, "note": note, "parent": parent.version}
    return _write(lake, parent.dataset, held, record, list(zip(dropped, drops, strict=True)))


def _standing(lake: Lake, dataset: str, held: Sequence[Held]) -> tuple[list[Held], dict[str, GateResult]]:
    """The rows that no recall withdraws, and those that one does: row id to why."""
    from data.recall import recalled_rows, withdrawal

    withdrawn = recalled_rows(lake, dataset, sorted({run_id for _, run_id, _ in held}))
    gone = {row.id: withdrawal(withdrawn[row.id]) for row, *_ in held if row.id in withdrawn}
    return [one for one in held if one[0].id not in gone], gone


def _write(
    lake: Lake,
    dataset: str,
    held: Sequence[Held],
    facts: Mapping[str, Any],
    drops: Sequence[tuple[str, GateResult]] = (),
) -> DatasetVersion:
    """One transaction: rows, version and drops, or nothing where there is such a version already."""
    digest = content_hash((row.text, row.response, row.label, row.split) for row, *_ in held)
    splits, labels = Counter(row.split for row, *_ in held), Counter(row.label for row, *_ in held)

    def work(connection: duckdb.DuckDBPyConnection) -> DatasetVersion | None:
        query = """
            SELECT (SELECT count(*) FROM lake.versions WHERE dataset = $1 AND content_hash = $2), (SELECT max(version)
            FROM (SELECT dataset, version FROM lake.versions UNION ALL SELECT dataset, version FROM lake.deletions)
            WHERE dataset = $1)"""
        same, last = connection.execute(query, [dataset, digest]).fetchall()[0]
        if same:
            return None
        made = DatasetVersion(
            dataset=dataset, version=(last or 0) + 1, content_hash=digest, rows=len(held),
            splits={name: splits[name] for name in SPLIT_ORDER if name in splits},
            labels=dict(sorted(labels.items())), snapshot=_next_snapshot(connection), created_at=utc_now(), **facts,
        )  # fmt: skip
        lake.insert("version_rows", _rows_table(made, held))
        lake.insert("versions", to_table(DatasetVersion, [made]))
        if drops:
            fields = ("gate", "rule", "score", "neighbour", "detail")
            lost = [
                Drop(dataset=dataset, version=made.version, row_id=row_id, **{f: getattr(result, f) for f in fields})
                for row_id, result in drops
            ]
            lake.insert("drops", to_table(Drop, lost))
        return made

    return lake.write(work) or _with_content(lake, dataset, digest)


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


def held_by(lake: Lake, found: DatasetVersion) -> list[Held]:
    """A version's rows, by id, with the run and candidate that each came from."""
    table = rows(lake, found).to_pylist()
    origins = [(row.pop("run_id"), row.pop("candidate_id")) for row in table]
    return [(Row.model_validate(row), *origin) for row, origin in zip(table, origins, strict=True)]


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
    """The version that a reference means.

    `name` and `name@latest` are the newest, `name@3` a number, `name@prod` a tag; `name@2026-11-20` and
    `name@2026-11-20T10:00` (UTC) the newest that was there at that time, a date meaning its end. Raises NotFound, which
    lists what there is.
    """
    name, _, which = ref.strip().partition("@")
    of_dataset = versions(lake, name)
    if not of_dataset:
        raise _unknown(lake, name)
    if which in ("", "latest"):
        return of_dataset[-1]
    found = _meant(lake, of_dataset, which)
    if found is not None:
        return found
    there = ", ".join(one.ref for one in of_dataset[-20:])
    named = ", ".join(f"{name}@{tag.tag} = @{tag.version}" for tag in tags(lake, name))
    fix = f"one of: {there}" + (f"; tags: {named}" if named else "; no tags")
    gone = _deleted(lake, name, which)
    raise NotFound(gone or f"{name} has no version {which!r}", where=ref, fix=fix)


def _deleted(lake: Lake, name: str, which: str) -> str:
    """Who deleted the version of that number, and when; empty where it never was."""
    query = 'SELECT "by", "at" FROM lake.deletions WHERE dataset = ? AND version = ?'
    found = lake.sql(query, [name, int(which)]).to_pylist() if which.isdecimal() and len(which) < 10 else []
    return f"{name}@{which} was deleted by {found[0]['by']} on {found[0]['at']:%Y-%m-%d}" if found else ""


def _meant(lake: Lake, of_dataset: Sequence[DatasetVersion], which: str) -> DatasetVersion | None:
    """The version of that number, time or tag."""
    if which.isdecimal():
        return next((found for found in of_dataset if str(found.version) == which), None)
    if MOMENT.fullmatch(which):
        end = _end_of(which)
        then = [found for found in of_dataset if end is not None and found.created_at < end]
        return then[-1] if then else None
    tagged = {tag.tag: tag.version for tag in tags(lake, of_dataset[0].dataset)}.get(which)
    return next((found for found in of_dataset if found.version == tagged), None)


def _end_of(moment: str) -> datetime | None:
    """The first moment after a day, minute or second in UTC; None where the calendar has no such one."""
    text = moment.removesuffix("Z")
    unit = {10: timedelta(days=1), 16: timedelta(minutes=1)}.get(len(text), timedelta(seconds=1))
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC) + unit
    except (ValueError, OverflowError):
        return None


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
