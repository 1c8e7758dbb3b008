"""Deletes a version: lists its dependants, and removes it from the lake in one transaction."""

from __future__ import annotations

import glob
from typing import TYPE_CHECKING

from graft.data.arrow import to_table
from graft.data.duck import execute
from graft.data.tags import insert_later, tags
from graft.data.vectors import forget
from graft.data.versions import rows, versions
from graft.data.withdrawn import recalls, withdrawn
from graft.schemas.base import Value, utc_now
from graft.schemas.datasets import Deletion, Tag
from graft.schemas.errors import GraftError, NotFound

if TYPE_CHECKING:
    import duckdb

    from graft.data.lake import Lake
    from graft.schemas.datasets import DatasetVersion


class Dependents(Value):
    """Objects that refer to a version. All except the tags remain when the version is deleted."""

    students: tuple[str, ...] = ()
    evaluations: int = 0
    improvements: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    derived: tuple[str, ...] = ()
    exports: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """True if nothing refers to the version."""
        return self == Dependents()


def dependents(lake: Lake, found: DatasetVersion) -> Dependents:
    """Return a version's students, their evaluations, loops, tags, derived versions and exported folders."""
    dataset, number = found.dataset, found.version
    students = [one.id for one in lake.students(dataset) if one.version == number]
    loops = lake.improvements()
    derived = lake.query(
        "SELECT version FROM lake.versions WHERE dataset = ? AND parent = ? ORDER BY version", [dataset, number]
    )
    pattern = f"{glob.escape(dataset)}-{number}-*"
    return Dependents(
        students=tuple(students),
        evaluations=_evaluations(lake, students),
        improvements=tuple(
            loop.id for loop in loops
            if any((r.dataset or loop.dataset, r.version) == (dataset, number) for r in loop.rounds)
        ),
        tags=tuple(tag.tag for tag in tags(lake, dataset) if tag.version == number),
        derived=tuple(f"{dataset}@{row['version']}" for row in derived),
        exports=tuple(str(path) for path in sorted(lake.home.exports.glob(pattern))),
    )  # fmt: skip


def _evaluations(lake: Lake, students: list[str]) -> int:
    chosen = "WHERE list_contains(?::VARCHAR[], student_id)"
    query = f"""
        SELECT (SELECT count(*) FROM lake.evaluations {chosen})
            + (SELECT count(*) FROM lake.instruct_evaluations {chosen}) AS n"""
    return int(lake.query(query, [students, students])[0]["n"])


def delete(lake: Lake, found: DatasetVersion, *, by: str, reason: str = "", force: bool = False) -> Deletion:
    """Delete a version and its rows, remove its tags and record the deletion, in one transaction.

    Its number is not reused; the run that published it may publish again. Candidates, students, evaluations and
    exported files remain; its embeddings are deleted. Raises GraftError if it has a tag, or if the newest version would
    then contain recalled rows (both unless `force`), NotFound if it was deleted already.
    """
    key = [found.dataset, found.version]
    made = Deletion(
        dataset=found.dataset, version=found.version, content_hash=found.content_hash, rows=found.rows,
        reason=reason, by=by, at=utc_now(),
    )  # fmt: skip

    def work(connection: duckdb.DuckDBPyConnection) -> Deletion:
        same = "WHERE dataset = ? AND version = ?"
        if not execute(connection, f"SELECT count(*) FROM lake.versions {same}", key).fetchall()[0][0]:
            raise NotFound(f"{found.ref} no longer exists", where=found.dataset, fix="graft datasets")
        named = [tag.tag for tag in tags(lake, found.dataset) if tag.version == found.version]
        if named and not force:
            fix = f"graft tag {found.dataset}@OTHER {named[0]}, or --force"
            raise GraftError(f"{found.ref} has the tag {', '.join(named)}", where=found.ref, fix=fix)
        if not force:
            _check_latest(lake, found)
        for table in ("version_rows", "versions", "drops"):
            execute(connection, f"DELETE FROM lake.{table} {same}", key)
        execute(connection, f"UPDATE lake.runs SET version = NULL {same}", key)
        for tag in named:
            insert_later(lake, connection, Tag(dataset=found.dataset, tag=tag, version=0, by=by, at=made.at))
        lake.insert("deletions", to_table(Deletion, [made]))
        return made

    done = lake.write(work)
    forget(lake.home, found.dataset, found.version)
    return done


def _check_latest(lake: Lake, found: DatasetVersion) -> None:
    """Check that the previous version, which becomes `latest`, contains no recalled row."""
    *_, before, newest = None, *versions(lake, found.dataset)
    if before is None or newest is None or newest.version != found.version or not recalls(lake, found.dataset):
        return
    held = rows(lake, before).select(["id", "run_id", "candidate_id"]).to_pylist()
    gone = withdrawn(lake, found.dataset, [(row["id"], row["run_id"], row["candidate_id"]) for row in held])
    if gone:
        raise GraftError(
            f"{found.dataset}@latest would be {before.ref} again, which contains {len(gone)} recalled rows",
            where=found.ref,
            fix=f"graft delete {before.ref} first; or --force, then repeat the recall",
        )
