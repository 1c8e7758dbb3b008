"""Tags: names for versions, such as `prod`. The newest row of a tag counts; version 0 removes it."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING

from graft.data.arrow import from_rows, to_table
from graft.data.duck import execute
from graft.schemas.base import SLUG_PATTERN, utc_now
from graft.schemas.datasets import Tag
from graft.schemas.errors import GraftError, NotFound

if TYPE_CHECKING:
    import duckdb

    from graft.data.lake import Lake
    from graft.schemas.datasets import DatasetVersion

TAKEN = ("latest",)
"""Reserved names in a reference."""


def tags(lake: Lake, dataset: str) -> list[Tag]:
    """Return the current tags of a dataset, by name."""
    query = """
        SELECT * FROM lake.tags WHERE dataset = ? QUALIFY row_number() OVER (PARTITION BY tag ORDER BY "at" DESC) = 1
        ORDER BY tag"""
    return [tag for tag in from_rows(Tag, lake.query(query, [dataset])) if tag.version]


def set_tag(lake: Lake, found: DatasetVersion, tag: str, *, by: str) -> Tag:
    """Set a tag to this version, moving it if it is set already.

    Raises GraftError if the name is not a valid tag (`latest`, a number, a date, or not a slug), NotFound if the
    version has been deleted.
    """
    _check(tag, found.ref)
    return _write(lake, Tag(dataset=found.dataset, tag=tag, version=found.version, by=by, at=utc_now()))


def remove_tag(lake: Lake, dataset: str, tag: str, *, by: str) -> Tag:
    """Remove a tag and return its last value. Raises NotFound if it is not set."""
    there = {one.tag: one for one in tags(lake, dataset)}
    if tag not in there:
        fix = f"one of: {', '.join(there)}" if there else f"{dataset} has no tags"
        raise NotFound(f"{dataset} has no tag {tag!r}", where=dataset, fix=fix)
    _write(lake, Tag(dataset=dataset, tag=tag, version=0, by=by, at=utc_now()))
    return there[tag]


def insert_later(lake: Lake, connection: duckdb.DuckDBPyConnection, tag: Tag) -> Tag:
    """Insert a tag's row within a `write`, dated after all earlier rows of the tag even if the clock went back."""
    query = 'SELECT max("at") FROM lake.tags WHERE dataset = ? AND tag = ?'
    last = execute(connection, query, [tag.dataset, tag.tag]).fetchall()[0][0]
    if last is not None and last >= tag.at:
        tag = tag.model_copy(update={"at": last + timedelta(microseconds=1)})
    lake.insert("tags", to_table(Tag, [tag]))
    return tag


def _write(lake: Lake, tag: Tag) -> Tag:
    def work(connection: duckdb.DuckDBPyConnection) -> Tag:
        query = "SELECT count(*) FROM lake.versions WHERE dataset = ? AND version = ?"
        if tag.version and not execute(connection, query, [tag.dataset, tag.version]).fetchall()[0][0]:
            raise NotFound(f"{tag.dataset}@{tag.version} no longer exists", where=tag.dataset)
        return insert_later(lake, connection, tag)

    return lake.write(work)


def _check(tag: str, where: str) -> None:
    if tag in TAKEN:
        raise GraftError(
            f"{tag} always means the newest version and cannot be set", where=where, fix="choose another name"
        )
    if not re.fullmatch(SLUG_PATTERN, tag) or not any(letter.isalpha() for letter in tag) or tag[:4].isdecimal():
        fix = "lower-case letters, digits, dot, dash, underscore, with a letter, no year in front: prod, v2-checked"
        raise GraftError(f"{tag!r} cannot be a tag", where=where, fix=fix)
