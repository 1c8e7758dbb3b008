"""Maintains the lake: merges small files, expires old snapshots, and deletes unreferenced files.

Every step is a separate transaction under the commit lock, so that writers wait at most for the merge of one file.
Files of a published version's snapshot are kept. An unused file is kept for an hour, because a reader may still open
it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from graft.schemas.base import Value, utc_now

if TYPE_CHECKING:
    import duckdb

    from graft.data.lake import Lake

GRACE = timedelta(hours=1)
"""Time that a file is kept after the last snapshot that refers to it has expired."""
ORPHAN_AGE = timedelta(days=1)
"""Minimum age of an orphan, a file that no snapshot ever referred to, left by a writer that died."""
PAUSE_S = 0.06
"""Pause between two steps, so that a writer that polls for the lock (every 50 ms) gets a turn."""
SNAPSHOTS_A_STEP = 1000
WHOLE = ("version_rows",)
"""Tables that are not merged: a version's rows have a separate file, which can be deleted with the version."""
SCHEDULED = "__ducklake_metadata_lake.main.ducklake_files_scheduled_for_deletion"
"""DuckLake's table of unused files, with the time since when."""


class TableFiles(Value):
    """The Parquet files of one table on disk, and their bytes."""

    table: str
    files: int
    bytes: int


class Maintenance(Value):
    """The result of a maintenance, or of its dry run."""

    before: tuple[TableFiles, ...]
    after: tuple[TableFiles, ...]
    merged: int
    """Small files merged into larger ones; on a dry run, the maximum."""
    rewritten: int
    """Files rewritten without their deleted rows."""
    expired: int
    """Expired snapshots."""
    kept: int
    """Old snapshots that were kept for versions."""
    removed: int
    """Deleted unused files."""
    orphans: int
    """Deleted files that no snapshot ever referred to."""
    waiting: int
    """Unused files that are younger than an hour: the next maintenance deletes them."""
    seconds: float
    dry_run: bool = False


def maintain(
    lake: Lake,
    *,
    older_than: timedelta = timedelta(days=30),
    grace: timedelta = GRACE,
    orphan_age: timedelta = ORPHAN_AGE,
    dry_run: bool = False,
) -> Maintenance:
    """Merge small files, expire old snapshots, and delete unused files.

    The snapshot of a published version and the newest snapshot never expire. Maintenance may be stopped at any moment:
    the lake stays readable, and the next maintenance continues. Raises as `Lake.write`.

    Args:
        lake: The lake.
        older_than: Minimum age of snapshots to expire.
        grace: Time that a file must have been unused.
        orphan_age: Minimum age of files that no snapshot ever referred to.
        dry_run: Change nothing.
    """
    began, before = time.monotonic(), disk(lake)
    rewritten = 0 if dry_run else _rewrite(lake)
    merged = sum(files - 1 for _, files in _mergeable(lake)) if dry_run else sum(_merge(lake))
    expired, kept = _expire(lake, utc_now() - older_than, dry_run=dry_run)
    removed = _clean(lake, utc_now() - grace, dry_run=dry_run)
    stray = "CALL ducklake_delete_orphaned_files('lake', dry_run => ?, older_than => ?)"
    orphans = len(_step(lake, stray, dry_run, utc_now() - orphan_age))
    waiting = int(lake.query(f"SELECT count(*) AS n FROM {SCHEDULED}")[0]["n"])
    return Maintenance(
        before=before, after=disk(lake), merged=merged, rewritten=rewritten, expired=expired, kept=kept,
        removed=removed, orphans=orphans, waiting=waiting, seconds=time.monotonic() - began, dry_run=dry_run,
    )  # fmt: skip


def disk(lake: Lake) -> tuple[TableFiles, ...]:
    """Return files and bytes under the lake's folder by table, largest first, including unused files."""
    found: dict[str, list[int]] = {}
    root = lake.home.lake / "files"
    for path in root.rglob("*.parquet"):
        try:
            size = path.stat().st_size
        except FileNotFoundError:  # another process is cleaning up too
            continue
        parts = path.relative_to(root).parts
        found.setdefault(parts[1] if len(parts) > 2 else "", []).append(size)
    all_of = [TableFiles(table=name, files=len(sizes), bytes=sum(sizes)) for name, sizes in found.items()]
    return tuple(sorted(all_of, key=lambda one: (-one.bytes, one.table)))


def _tables(lake: Lake) -> list[dict[str, int]]:
    found: list[dict[str, int]] = lake.query("SELECT * FROM ducklake_table_info('lake') ORDER BY table_name")
    return found


def _step(lake: Lake, query: str, *params: object) -> list[tuple[object, ...]]:
    """Run one CALL in a transaction under the lock; return its rows."""
    rows: list[tuple[object, ...]] = lake.write(lambda connection: connection.execute(query, list(params)).fetchall())
    time.sleep(PAUSE_S)
    return rows


def _rewrite(lake: Lake) -> int:
    """Rewrite files of which at least half the rows are deleted; return their number."""
    changed = [row["table_name"] for row in _tables(lake) if row["delete_file_count"]]
    return sum(
        len(_step(lake, "CALL ducklake_rewrite_data_files('lake', ?, delete_threshold => 0.5)", name))
        for name in changed
    )


def _mergeable(lake: Lake) -> list[tuple[str, int]]:
    """Tables with several files, and the number of files."""
    found = [(str(row["table_name"]), row["file_count"]) for row in _tables(lake)]
    return [(name, files) for name, files in found if files > 1 and name not in WHOLE]


def _merge(lake: Lake) -> Iterator[int]:
    """Yield the number of files merged by each step, one larger file per step; files added meanwhile are left."""
    query = "CALL ducklake_merge_adjacent_files('lake', ?, max_compacted_files => 1)"
    for table, files in _mergeable(lake):
        left = files
        while left > 0 and (rows := _step(lake, query, table)):
            merged = sum(int(str(row[2])) for row in rows)
            left -= max(1, merged)
            yield merged


def _expire(lake: Lake, before: datetime, *, dry_run: bool) -> tuple[int, int]:
    """Return the numbers of expired snapshots and of old snapshots kept for versions."""
    old = """
        SELECT snapshot_id, snapshot_id IN (SELECT snapshot FROM lake.versions WHERE snapshot IS NOT NULL) AS named
        FROM lake.snapshots() WHERE snapshot_time < ? AND snapshot_id < (SELECT max(snapshot_id) FROM lake.snapshots())
        ORDER BY snapshot_id"""

    def work(connection: duckdb.DuckDBPyConnection) -> tuple[int, int]:
        found = connection.execute(old, [before]).fetchall()
        free = [int(name) for name, named in found if not named][:SNAPSHOTS_A_STEP]
        if free:
            connection.execute("CALL ducklake_expire_snapshots('lake', versions => ?::UBIGINT[])", [free])
        return len(free), sum(named for _, named in found)

    if dry_run:
        found = lake.query(old, [before])
        return sum(not row["named"] for row in found), sum(row["named"] for row in found)
    total = 0
    while True:
        expired, kept = lake.write(work)
        total += expired
        if expired < SNAPSHOTS_A_STEP:
            return total, kept
        time.sleep(PAUSE_S)


def _clean(lake: Lake, before: datetime, *, dry_run: bool) -> int:
    """Delete files unused since before that time; return their number.

    DuckLake on SQLite compares times as text and therefore treats all of a day's files as older than any time of that
    day: while younger files of the day exist, only those of earlier days are deleted.
    """

    def work(connection: duckdb.DuckDBPyConnection) -> int:
        day = before.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        since = "schedule_start::TIMESTAMPTZ"
        young = f"SELECT count(*) FROM {SCHEDULED} WHERE {since} >= ? AND {since} < ?"
        found = connection.execute(young, [before, day + timedelta(days=1)]).fetchall()[0][0]
        cut = day - timedelta(seconds=1) if found else before
        query = "CALL ducklake_cleanup_old_files('lake', dry_run => ?, older_than => ?)"
        return len(connection.execute(query, [dry_run, cut]).fetchall())

    return lake.write(work)
