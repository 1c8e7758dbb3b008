"""Publishes versions, once and for ever. A version's rows are copied, so that it is readable by itself."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, get_args

from graft.data.arrow import from_rows, to_table
from graft.data.arrow import plain_rows as decoded
from graft.data.duck import execute
from graft.data.lake_schema import VersionRowRecord
from graft.data.tags import tags
from graft.data.withdrawn import recalls, withdrawn
from graft.schemas.base import content_hash, utc_now
from graft.schemas.datasets import DatasetVersion, Drop, Origin, Row, Run, SplitName
from graft.schemas.errors import GraftError, NotFound
from graft.schemas.rows import GateResult

if TYPE_CHECKING:
    import duckdb
    import pandas as pd
    import pyarrow as pa

    from graft.data.lake import Lake

SPLIT_ORDER: tuple[SplitName, ...] = get_args(SplitName)

MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2})?Z?)?", re.ASCII)
"""A day or time in a reference."""

Held = tuple[Row, str, str]
"""A row, its run, and its candidate: empty for a seed."""

Card = Callable[[Sequence[Row]], str]
"""Writes a card for the published rows."""


class NothingLeft(GraftError):
    """No row is left to publish."""


def publish(
    lake: Lake,
    *,
    run: Run,
    rows: Sequence[Row],
    models: Mapping[str, str],
    seeds: int,
    card: str | Card,
    partial: bool = False,
    carried: DatasetVersion | None = None,
    origin: Origin = "run",
    note: str = "",
) -> DatasetVersion:
    """Publishes rows as the dataset's next version, in one transaction. Returns the version that holds them.

    Rows that a recall withdraws are left out inside that transaction, so that no concurrent recall is missed; a run's
    version that loses rows this way is partial. The rows of `carried`, an earlier version of the dataset, are copied,
    each with its own run and split; a row in both is taken from there. If the dataset has a version with the same
    content, that version is returned and nothing is written.

    Args:
        lake: open for writing
        run: the run that made the rows
        rows: the run's own rows
        models: model name to licence, of the carried rows too
        seeds: their number
        card: its text, or a function from the run's published rows to it
        partial: whether rows are missing from the target
        carried: an earlier version of the same dataset
        origin: the kind of event that made the version
        note: why it was made, in a line

    Raises:
        NothingLeft: there is no row, or recalls withdraw all of them
        ValueError: an id occurs twice, or `carried` is of another dataset
    """
    if not rows:
        raise NothingLeft("no accepted row to publish", where=run.dataset, fix="see what was rejected and why")
    own = {row.id for row in rows}
    if len(own) < len(rows):
        raise ValueError("a row id occurs twice")
    if carried is not None and carried.dataset != run.dataset:
        raise ValueError(f"{carried.ref} is no version of {run.dataset}")
    old = held_by(lake, carried) if carried else []
    fresh = [(row, run.id, row.id if row.made else "") for row in rows]

    def facts(held: Sequence[Held]) -> dict[str, Any]:
        standing = [row for row, *_ in held if row.id in own]
        fewer = origin in ("run", "trial") and len(standing) < len(rows)
        text = card if isinstance(card, str) else card(standing)
        return {"run_id": run.id, "models": dict(models), "seeds": seeds, "card": text, "partial": partial or fewer}

    draft = Draft(run.dataset, [*old, *fresh], origin, note, facts)
    return lake.write(lambda connection: insert_version(lake, connection, draft))


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
    """Publishes a version made from an earlier one: fewer, relabelled or edited rows. No model is called.

    `held` are its rows with the run and candidate that each came from (`held_by(lake, parent)` gives the parent's);
    `dropped` are the ids of the parent's rows that it leaves out, `drops` the rule of each, in the same order. Run,
    models, seeds and whether it is partial are the parent's; its card describes the change unless `card` is given. An
    existing version with the same content is returned. Raises NothingLeft if no row is left.

    Rows that a recall withdraws stay out, whatever their version: they are left out, and recorded as drops, inside the
    publishing transaction.
    """
    draft = derivation(parent, held, origin, note, card, list(zip(dropped, drops, strict=True)))
    return lake.write(lambda connection: insert_version(lake, connection, draft))


def derivation(
    parent: DatasetVersion,
    held: Sequence[Held],
    origin: Origin,
    note: str,
    card: str = "",
    drops: Sequence[tuple[str, GateResult]] = (),
) -> Draft:
    """The draft of a derived version; see `derive`."""
    facts: dict[str, Any] = {name: getattr(parent, name) for name in ("run_id", "models", "seeds", "partial")}
    facts["card"] = card or f"{parent.card.rstrip()}\n\n## Derived from {parent.ref}\n\n{note}\n"
    return Draft(parent.dataset, held, origin, note, lambda _: facts, parent, drops)


@dataclass(frozen=True)
class Draft:
    """A version before it is published. Of rows with one id in `held` the first counts; `facts` gives, of the rows that
    no recall withdraws, the other fields of the record.
    """

    dataset: str
    held: Sequence[Held]
    origin: Origin
    note: str
    facts: Callable[[Sequence[Held]], Mapping[str, Any]]
    parent: DatasetVersion | None = None
    drops: Sequence[tuple[str, GateResult]] = ()


def insert_version(lake: Lake, connection: duckdb.DuckDBPyConnection, draft: Draft) -> DatasetVersion:
    """Write rows, version and drops of a draft, inside a `write`; nothing if such a version exists.

    Committed recalls are applied here: the commit lock lets no other transaction in before this one's end.
    """
    gone = withdrawn(lake, draft.dataset, [(row.id, run_id, candidate) for row, run_id, candidate in draft.held])
    standing = [one for one in draft.held if (one[0].id, one[1]) not in gone]
    held = list({one[0].id: one for one in reversed(standing)}.values())
    if not held:
        raise _nothing_left(draft, gone)
    digest = content_hash(row.content for row, *_ in held)
    twin = _twin(lake, draft, digest, held)
    if twin is not None:
        return twin
    splits, labels = Counter(row.split for row, *_ in held), Counter(row.label for row, *_ in held)
    made = DatasetVersion(
        dataset=draft.dataset, version=_last_number(connection, draft.dataset) + 1, content_hash=digest, rows=len(held),
        splits={name: splits[name] for name in SPLIT_ORDER if name in splits},
        labels=dict(sorted(labels.items())), snapshot=_next_snapshot(connection), created_at=utc_now(),
        origin=draft.origin, note=draft.note, parent=draft.parent.version if draft.parent else None,
        **draft.facts(held),
    )  # fmt: skip
    lake.insert("version_rows", _rows_table(made, held))
    lake.insert("versions", to_table(DatasetVersion, [made]))
    drops = [*draft.drops, *((row_id, why) for (row_id, _), why in gone.items())] if draft.parent else []
    if drops:
        fields = ("gate", "rule", "score", "neighbour", "detail")
        lost = [
            Drop(dataset=draft.dataset, version=made.version, row_id=row_id, **{f: getattr(result, f) for f in fields})
            for row_id, result in drops
        ]
        lake.insert("drops", to_table(Drop, lost))
    return made


def _nothing_left(draft: Draft, gone: Mapping[tuple[str, str], GateResult]) -> NothingLeft:
    where = draft.parent.ref if draft.parent else draft.dataset
    if not gone:
        return NothingLeft("no row is left to publish", where=where, fix="milder thresholds, or another version")
    why = next(iter(gone.values())).detail
    return NothingLeft(
        f"no row is left to publish: recalls withdraw all {len(gone)} of them ({why})",
        where=where,
        fix="make rows of another origin; docs/provenance.md explains recalls",
    )


def _twin(lake: Lake, draft: Draft, digest: str, held: Sequence[Held]) -> DatasetVersion | None:
    """A version with the same content, to return in place of a new one.

    Never one with a withdrawn row: the same words may have another origin. For a recall only the newest: `latest` would
    otherwise still name the version that the recall replaces.
    """
    query = "SELECT * FROM lake.versions WHERE dataset = ? AND content_hash = ? ORDER BY version"
    found = from_rows(DatasetVersion, lake.query(query, [draft.dataset, digest]))
    if draft.origin == "recall":
        newest = lake.query("SELECT max(version) AS v FROM lake.versions WHERE dataset = ?", [draft.dataset])
        found = [one for one in found if one.version == newest[0]["v"]]
    same = {row.id for row, *_ in held}
    for one in found:
        if not recalls(lake, draft.dataset) or set(rows(lake, one).column("id").to_pylist()) <= same:
            return one
    return None


def _last_number(connection: duckdb.DuckDBPyConnection, dataset: str) -> int:
    """The highest number that a version of the dataset has or had."""
    query = """
        SELECT max(version) FROM (SELECT dataset, version FROM lake.versions UNION ALL
        SELECT dataset, version FROM lake.deletions) WHERE dataset = ?"""
    return int(execute(connection, query, [dataset]).fetchall()[0][0] or 0)


def _next_snapshot(connection: duckdb.DuckDBPyConnection) -> int:
    """The snapshot of this transaction's commit: under the commit lock no other can take it."""
    return int(connection.execute("SELECT id FROM lake.current_snapshot()").fetchall()[0][0]) + 1


def held_by(lake: Lake, found: DatasetVersion) -> list[Held]:
    """A version's rows, by id, with the run and candidate of each."""
    table = decoded(VersionRowRecord, plain_rows(lake, found))
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
    """Published versions by dataset and number; of one dataset if named."""
    query = "SELECT * FROM lake.versions WHERE ?::VARCHAR IS NULL OR dataset = ? ORDER BY dataset, version"
    return from_rows(DatasetVersion, lake.query(query, [dataset, dataset]))


def version(lake: Lake, ref: str) -> DatasetVersion:
    """The version that a reference means.

    `name` and `name@latest` are the newest (a trial only if all are trials), `name@3` a number, `name@prod` a tag;
    `name@2026-11-20` and `name@2026-11-20T10:00` (UTC) the newest at that time, a date meaning its end. Raises
    NotFound, which lists the alternatives.
    """
    name, _, which = ref.strip().partition("@")
    of_dataset = versions(lake, name)
    if not of_dataset:
        raise _unknown(lake, name)
    if which in ("", "latest"):
        return latest_of(of_dataset)
    found = _meant(lake, of_dataset, which)
    if found is not None:
        return found
    there = ", ".join(one.ref for one in of_dataset[-20:])
    named = ", ".join(f"{name}@{tag.tag} = @{tag.version}" for tag in tags(lake, name))
    fix = f"one of: {there}" + (f"; tags: {named}" if named else "; no tags")
    gone = _deleted(lake, name, which)
    raise NotFound(gone or f"{name} has no version {which!r}", where=ref, fix=fix)


def latest_of(some: Sequence[DatasetVersion]) -> DatasetVersion:
    """The newest of some versions of a dataset, oldest first: one that is no trial, if there is any."""
    return next((one for one in reversed(some) if one.origin != "trial"), some[-1])


def _deleted(lake: Lake, name: str, which: str) -> str:
    """The deletion of the version with that number: person and day; empty if it was never deleted."""
    query = 'SELECT "by", "at" FROM lake.deletions WHERE dataset = ? AND version = ?'
    found = lake.query(query, [name, int(which)]) if which.isdecimal() and len(which) < 10 else []
    return f"{name}@{which} was deleted by {found[0]['by']} on {found[0]['at']:%Y-%m-%d}" if found else ""


def _meant(lake: Lake, of_dataset: Sequence[DatasetVersion], which: str) -> DatasetVersion | None:
    """The version of that number, time or tag."""
    if which.isdecimal():
        return next((found for found in of_dataset if str(found.version) == which), None)
    if MOMENT.fullmatch(which):
        end = _end_of(which)
        then = [found for found in of_dataset if end is not None and found.created_at < end]
        return latest_of(then) if then else None
    tagged = {tag.tag: tag.version for tag in tags(lake, of_dataset[0].dataset)}.get(which)
    return next((found for found in of_dataset if found.version == tagged), None)


def _end_of(moment: str) -> datetime | None:
    """The first moment after a day, minute or second in UTC; None if the date is not in the calendar."""
    text = moment.removesuffix("Z")
    unit = {10: timedelta(days=1), 16: timedelta(minutes=1)}.get(len(text), timedelta(seconds=1))
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC) + unit
    except (ValueError, OverflowError):
        return None


def _unknown(lake: Lake, name: str) -> NotFound:
    where = str(lake.home.main or lake.home.root)
    names = [row["dataset"] for row in lake.query("SELECT DISTINCT dataset FROM lake.versions ORDER BY 1")]
    if not names:
        return NotFound(f"no dataset {name!r}: nothing is published yet", where=where, fix="graft run RECIPE")
    near = difflib.get_close_matches(name, names, n=5) or names[:20]
    return NotFound(f"no dataset {name!r}", where=where, fix=f"one of: {', '.join(near)}")


ROWS = """
    SELECT id, text, response, label, split, source, restricted, data, run_id, candidate_id FROM lake.version_rows
    WHERE dataset = ? AND version = ? AND {condition} ORDER BY ordinal"""
OF_SPLIT = ROWS.format(condition="(?::VARCHAR IS NULL OR split = ?)")
FIRST = ROWS.format(
    condition="""ordinal IN (SELECT unnest(min(ordinal, ?)) FROM lake.version_rows
                             WHERE dataset = ? AND version = ? GROUP BY label)"""
)


def rows(lake: Lake, version: DatasetVersion, split: str | None = None) -> pa.Table:
    """A version's rows by id: id, text, response, label, split, source, restricted, data (as JSON), run_id,
    candidate_id."""
    return lake.sql(OF_SPLIT, [version.dataset, version.version, split, split])


def plain_rows(lake: Lake, version: DatasetVersion) -> list[dict[str, Any]]:
    """The same without Arrow, a dict a row."""
    return lake.query(OF_SPLIT, [version.dataset, version.version, None, None])


def first_rows(lake: Lake, version: DatasetVersion, count: int) -> list[dict[str, Any]]:
    """The first rows of each label, at most `count`. No other row's text is read."""
    of = [version.dataset, version.version]
    return lake.query(FIRST, [*of, count, *of]) if count else []


def further_columns(lake: Lake, version: DatasetVersion) -> tuple[str, ...]:
    """The names of the columns in the rows' `data`, in alphabetical order."""
    query = """
        SELECT DISTINCT unnest(json_keys(data)) AS name FROM lake.version_rows
        WHERE dataset = ? AND version = ? AND data <> '{}' ORDER BY 1"""
    return tuple(row["name"] for row in lake.query(query, [version.dataset, version.version]))


def load(lake: Lake, version: DatasetVersion, split: str | None = None) -> pd.DataFrame:
    """The same rows as a pandas frame with Arrow types."""
    import pandas as pd

    frame: pd.DataFrame = rows(lake, version, split).to_pandas(types_mapper=pd.ArrowDtype)
    return frame


def published_texts(lake: Lake, dataset: str, exclude_runs: Collection[str] = ()) -> list[tuple[str, str, str]]:
    """(row id, text, label) of every row that another run published in this dataset, each once, by id."""
    query = """
        SELECT id, text, label FROM lake.version_rows WHERE dataset = ? AND NOT list_contains(?::VARCHAR[], run_id)
        GROUP BY ALL ORDER BY id, label, text"""
    rows = lake.query(query, [dataset, [*exclude_runs]])
    return [(row["id"], row["text"], row["label"]) for row in rows]
