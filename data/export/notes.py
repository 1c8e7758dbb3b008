"""Text that describes an export: the lines of README.md, one log line, and manifest.json."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from graft.data.export.formats.base import Format, Source, Written
from graft.schemas.datasets import DatasetVersion

log = logging.getLogger(__name__)


def describe(source: Source, how: Format, splits: Sequence[str], made: Sequence[Written]) -> list[str]:
    """Return the notes of an export: a summary line, then one line per remark. Restricted rows are also logged."""
    query = """
        SELECT split, count(*) FILTER (restricted) AS restricted, count(*) AS n FROM lake.version_rows
        WHERE dataset = ? AND version = ? GROUP BY split"""
    found = source.found
    count = {row["split"]: row for row in source.lake.query(query, [found.dataset, found.version])}
    there = sum(count[name]["restricted"] for name in splits)
    rows = sum(file.rows or 0 for file in made)
    whole = sum(count[name]["n"] for name in splits) - (0 if source.restricted else there)
    line = f"Exported from {found.ref}: {rows:,} rows of {', '.join(splits)}; "
    lost = f"{there:,} restricted rows were left out." if there and not source.restricted else "none was left out."
    lines = [line + lost] if there or rows == whole else [line.removesuffix("; ") + "."]
    if there and source.restricted:
        included = f"{there:,} restricted rows are included, because --restricted was given"
        lines.append(f"{included}: their texts are harmful by design; keep them from other readers.")
    elif there:
        lines.append("Export with --restricted to include them.")
        lines += [
            _empty(how, name, count[name]["n"]) for name in splits if count[name]["n"] == count[name]["restricted"]
        ]
    if len(lines) > 1:
        log.warning("%s", " ".join(lines))
    if source.where != "true":
        lines.append("Only rows that match a filter are included: see `where` in manifest.json.")
    return [*lines, *how.notes]


def _empty(how: Format, split: str, rows: int) -> str:
    name = how.path(split, 0, 1, how.ending)
    return f"{name} is empty: all {rows:,} rows of the split {split} are restricted."


def readme(found: DatasetVersion, lines: Sequence[str]) -> str:
    """Return README.md: the version's card, then a description of this export."""
    notes = "\n\n".join(lines)
    return f"{found.card.rstrip()}\n\n## This export\n\n{notes}\n\nContent hash of the version: {found.content_hash}\n"


def manifest(
    found: DatasetVersion, format: str, options: Mapping[str, Any], splits: Sequence[str], made: Sequence[Written],
    graft: str,
) -> str:  # fmt: skip
    """Return manifest.json: the version, the options, and each file's hash, bytes and rows."""
    facts = {
        "dataset": found.dataset, "version": found.version, "content_hash": found.content_hash, "graft": graft,
        "format": format, "splits": list(splits), "options": dict(options), "rows": sum(one.rows or 0 for one in made),
        "files": [asdict(one) for one in made],
    }  # fmt: skip
    return json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
