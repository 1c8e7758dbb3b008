"""Training-set files of a version: one a split, the same bytes each time, and the card beside them."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data.duck import is_full, quoted
from data.versions import SPLIT_ORDER, version
from schemas.datasets import DatasetVersion
from schemas.errors import GraftError, NotFound, StorageFull

if TYPE_CHECKING:
    from data.lake import Lake

log = logging.getLogger(__name__)

FORMATS = {"parquet": "FORMAT parquet, COMPRESSION zstd", "jsonl": "FORMAT json"}


def export(
    lake: Lake,
    ref: str,
    *,
    format: str,
    out: Path,
    splits: Sequence[str] | None = None,
    include_restricted: bool = False,
    overwrite: bool = False,
) -> list[Path]:
    """Writes `<split>.<format>` for each split, and README.md, into the folder `out`; returns the paths, README last.

    Restricted rows are left out unless `include_restricted` is true; README.md and one log line say how many there are.
    A split of nothing else gives an empty file. Each file is written under another name and renamed when it is whole.
    Raises NotFound, StorageFull, and GraftError for an unknown format or a file that is there already.
    """
    if format not in FORMATS:
        raise GraftError(f"no export format {format!r}", where="--format", fix=f"one of: {', '.join(FORMATS)}")
    found = version(lake, ref)
    chosen = _chosen(found, splits)
    targets = {name: out / f"{name}.{format}" for name in chosen}
    readme = out / "README.md"
    there = [path for path in (*targets.values(), readme) if path.exists()]
    if there and not overwrite:
        raise GraftError(f"{there[0]} is there already", where=found.ref, fix="another folder, or --overwrite")
    notes = _notes(lake, found, targets, include_restricted)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, path in targets.items():
            _copy(lake, found, name, path, format, include_restricted)
        _write(readme, _readme(found, notes))
    except OSError as error:
        raise _explained(error, out) from error
    if len(notes) > 1:
        log.warning("%s", " ".join(notes))
    return [*targets.values(), readme]


def _chosen(found: DatasetVersion, splits: Sequence[str] | None) -> list[str]:
    for name in splits or ():
        if name not in found.splits:
            raise NotFound(f"no split {name!r}", where=found.ref, fix=f"one of: {', '.join(found.splits)}")
    return [name for name in SPLIT_ORDER if name in (splits or found.splits)]


def _copy(lake: Lake, found: DatasetVersion, split: str, path: Path, format: str, restricted: bool) -> None:
    import duckdb

    staged = _staged(path)
    query = f"""
        COPY (SELECT id, text, {_response(lake, found)} label, source FROM lake.version_rows
              WHERE dataset = ? AND version = ? AND split = ? AND (? OR NOT restricted) ORDER BY id)
        TO {quoted(str(staged))} ({FORMATS[format]})"""
    try:
        lake.sql(query, [found.dataset, found.version, split, restricted])
        staged.replace(path)
    except duckdb.Error as error:
        raise _explained(error, path.parent) from error
    finally:
        staged.unlink(missing_ok=True)


def _response(lake: Lake, found: DatasetVersion) -> str:
    """The column `response`, where any row of the version has one."""
    query = "SELECT count(response) AS n FROM lake.version_rows WHERE dataset = ? AND version = ?"
    return "response," if lake.sql(query, [found.dataset, found.version]).to_pylist()[0]["n"] else ""


def _notes(lake: Lake, found: DatasetVersion, targets: Mapping[str, Path], restricted: bool) -> list[str]:
    """What is in the files, first in one line, then a line for each thing to know of restricted rows."""
    query = """
        SELECT split, count(*) FILTER (restricted) AS restricted, count(*) AS n FROM lake.version_rows
        WHERE dataset = ? AND version = ? GROUP BY split"""
    count = {row["split"]: row for row in lake.sql(query, [found.dataset, found.version]).to_pylist()}
    there = sum(count[name]["restricted"] for name in targets)
    written = sum(count[name]["n"] for name in targets) - (0 if restricted else there)
    line = f"Exported from {found.ref}: {written:,} rows of {', '.join(targets)}; "
    if not there:
        return [line + "none was left out."]
    if restricted:
        told = f"{there:,} restricted rows are included, because this export was asked for with --restricted"
        return [
            line + "none was left out.",
            f"{told}: their texts are harmful by design, keep them from other readers.",
        ]
    lines = [line + f"{there:,} restricted rows were left out.", "With --restricted an export holds them."]
    empty = [name for name in targets if count[name]["n"] == count[name]["restricted"]]
    rows = "{} is empty: all {:,} rows of the split {} are restricted."
    return lines + [rows.format(targets[name].name, count[name]["n"], name) for name in empty]


def _readme(found: DatasetVersion, notes: Sequence[str]) -> str:
    said = "\n\n".join(notes)
    return f"{found.card.rstrip()}\n\n## This export\n\n{said}\n\nContent hash of the version: {found.content_hash}\n"


def _write(path: Path, text: str) -> None:
    staged = _staged(path)
    try:
        staged.write_text(text, encoding="utf-8")
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def _staged(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def _explained(error: Exception, folder: Path) -> GraftError:
    if is_full(error):
        return StorageFull("no space left for the export", where=str(folder), fix="free some space and export again")
    return GraftError(f"the export cannot be written: {error}", where=str(folder), fix="a folder that you may write to")
