"""Writes an export with DuckDB's COPY into a staging folder, then moves the complete files into place."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from graft.data.duck import is_full, named, quoted
from graft.data.export import notes
from graft.data.export.formats.base import HELD, Format, Params, Source, Written
from graft.data.export.where import ROW_COLUMNS, safe_where
from graft.data.fence import WRITING
from graft.data.versions import SPLIT_ORDER, further_columns, version
from graft.schemas.binding import LEAST_SCORE
from graft.schemas.datasets import DatasetVersion
from graft.schemas.errors import GraftError, NotFound, StorageFull
from graft.schemas.kinds import EXPORTS, METHODS, code_version
from graft.schemas.recipe import Recipe
from graft.schemas.tasks.base import Task, task_for

if TYPE_CHECKING:
    from graft.data.lake import Lake

MANIFEST, README = "manifest.json", "README.md"
COMPRESSIONS = {"none": "uncompressed", "gzip": "gzip", "zstd": "zstd"}
ENDINGS = {"none": "", "gzip": ".gz", "zstd": ".zst"}
MOST_SHARDS = 10_000


@dataclass(frozen=True)
class Cut:
    """Sharding and compression of the files."""

    shards: int | None
    shard_rows: int | None
    compression: str


def export(
    lake: Lake, ref: str, *, format: str, out: Path, splits: Sequence[str] | None = None,
    include_restricted: bool = False, overwrite: bool = False, where: str = "", columns: Sequence[str] | None = None,
    shards: int | None = None, shard_rows: int | None = None, compression: str | None = None, ask: bool = False,
    plain: bool = False, instruction: str = "", say: Callable[[str], None] = lambda text: None,
) -> list[Path]:  # fmt: skip
    """Write a version into a folder in one of the formats of `schemas.kinds.EXPORTS`.

    The same version and options give the same bytes. Files are moved into place only when all are complete,
    manifest.json last.

    Args:
        lake: The lake.
        ref: The version, such as demo@2.
        format: The format's name.
        out: The folder to write to.
        splits: The splits to write; None writes all.
        include_restricted: Include restricted rows; README.md and a log line state their number either way.
        overwrite: Replace an earlier export.
        where: A condition over ROW_COLUMNS.
        columns: Some of ROW_COLUMNS and of the columns in `data`, for formats with a choice of columns.
        shards: Files per split.
        shard_rows: Rows per file, instead of `shards`.
        compression: none, gzip or zstd; by default zstd for Parquet and none otherwise.
        ask: Put a question with the labels before a text to classify.
        plain: Write strings instead of chat turns, for formats in which TRL accepts both.
        instruction: Text to put before a text to classify, instead of the question.
        say: Receives a message for each file.

    Returns:
        The written paths, with manifest.json and README.md last.

    Raises:
        NotFound: There is no such version, split or format.
        StorageFull: The disk is full.
        GraftError: The options do not fit the format or the version, or the folder holds an export already.
    """
    how, found = format_of(format), version(lake, ref)
    chosen = _splits(found, splits)
    cut = _cut(how, shards, shard_rows, compression)
    source = _source(lake, found, how, columns, where, include_restricted, ask, plain,
                     instruction)  # fmt: skip
    how.check_rows(source)
    if how.lines(source) and cut.compression != "none":
        raise GraftError(f"{how.name} is not compressed for such rows", where="--compression", fix="omit it")
    _refuse_earlier(how, found, chosen, out, overwrite)
    options = {"where": where, "columns": list(columns or ()), "shards": shards, "shard_rows": shard_rows,
             "compression": cut.compression, "restricted": include_restricted, "ask": ask, "plain": plain,
             "instruction": instruction}  # fmt: skip
    with _staged(out) as stage:
        try:
            made = _rows(source, how, chosen, cut, stage, say)
            lines = notes.describe(source, how, chosen, made)
            made += _beside(source, how, made, stage, lines)
            code = code_version([(EXPORTS, format)])
            _text(stage / MANIFEST, notes.manifest(found, format, options, chosen, made, code))
            return _into_place(stage, out, made)
        except OSError as error:
            raise _explained(error, out) from error


def format_of(name: str) -> Format:
    """The format of that name. Raises NotFound with the available names."""
    found: Format = EXPORTS.get(name)
    return found


def _splits(found: DatasetVersion, splits: Sequence[str] | None) -> list[str]:
    for name in splits or ():
        if name not in found.splits:
            raise NotFound(f"no split {name!r}", where=found.ref, fix=f"one of: {', '.join(found.splits)}")
    return [name for name in SPLIT_ORDER if name in (splits or found.splits)]


def _cut(how: Format, shards: int | None, shard_rows: int | None, compression: str | None) -> Cut:
    packed = compression or ("zstd" if how.container == "parquet" else "none")
    if packed not in how.compressions:
        fix = f"one of: {', '.join(how.compressions)}"
        raise GraftError(f"{how.name} cannot be written with {packed!r}", where="--compression", fix=fix)
    if (shards or shard_rows) and not how.shardable:
        raise GraftError(f"{how.name} is one file", where="--shards", fix="omit it, or choose another --format")
    if shards is not None and shard_rows is not None:
        raise GraftError("--shards and --shard-rows exclude each other", fix="give only one of them")
    if (shards is not None and not 1 <= shards <= MOST_SHARDS) or (shard_rows is not None and shard_rows < 1):
        raise GraftError(
            "invalid number of files", where="--shards", fix=f"1 to {MOST_SHARDS:,} files, or at least 1 row per file"
        )
    return Cut(shards, shard_rows, packed)


def _source(
    lake: Lake, found: DatasetVersion, how: Format, columns: Sequence[str] | None, where: str, restricted: bool,
    ask: bool, plain: bool, instruction: str,
) -> Source:  # fmt: skip
    query = "SELECT count(response) AS n FROM lake.version_rows WHERE dataset = ? AND version = ?"
    has_response = bool(lake.query(query, [found.dataset, found.version])[0]["n"])
    further = tuple(f"{HELD}{name}" if name in ROW_COLUMNS else name for name in further_columns(lake, found))
    usual = ("id", "text", *(("response",) if has_response else ()), "label", *further, "source")
    known = (*ROW_COLUMNS, *further)
    if columns and not how.choosable:
        raise GraftError(f"the columns of {how.name} are fixed", where="--columns", fix="omit it")
    for name in columns or ():
        if name not in known:
            raise GraftError(f"no column {name!r}", where="--columns", fix=f"one of: {', '.join(known)}")
    run = lake.run(found.run_id)
    recipe = run.recipe if run else {}
    task = run.task if run else Task()
    if not task.kind:  # rows of no known task are read as an import would
        task = task_for(["response"] if has_response else []).unchecked(sorted(found.labels), task.language)
    if instruction and (not how.instructed or not task.labelled):
        what = "it has no effect: there is no text to classify"
        raise GraftError(what, where="--instruction", fix="use a chat format of a classification, or omit it")
    return Source(
        lake, found, task, language=task.language, licence=str(recipe.get("licence") or ""),
        tau=_least_accepted(recipe), has_response=has_response, restricted=restricted,
        columns=tuple(dict.fromkeys(columns or usual)), further=further,
        where=safe_where(where) if where else "true", ask=ask, plain=plain, instruction=instruction,
    )  # fmt: skip


def _least_accepted(recipe: Mapping[str, Any]) -> float:
    """The score below which an answer counts as wrong: that of the run's method, where its recipe can be read."""
    try:
        read = Recipe.stored(recipe)
    except ValidationError:
        return LEAST_SCORE
    return float(METHODS.get(read.method.kind).least_accepted(read))


def _refuse_earlier(how: Format, found: DatasetVersion, chosen: Sequence[str], out: Path, overwrite: bool) -> None:
    names = [MANIFEST, *(how.path(split, 0, 1, how.ending) for split in chosen), README]
    there = next((out / name for name in names if (out / name).exists()), None)
    if there and not overwrite:
        raise GraftError(f"{there} already exists", where=found.ref, fix="choose another folder, or add --overwrite")


# ---- rows


def _rows(
    source: Source, how: Format, chosen: Sequence[str], cut: Cut, stage: Path, say: Callable[[str], None]
) -> list[Written]:
    suffix = how.ending + ("" if how.container == "parquet" else ENDINGS[cut.compression])
    parts: dict[str, Path] = {}
    made: list[Future[Written]] = []
    with ThreadPoolExecutor(1) as hashing:
        for split in chosen:
            spans, in_order = _spans(source, how, split, cut)
            if how.skips_empty and not any(count for *_, count in spans):
                continue
            as_read = in_order and how.container != "parquet" and cut.compression == "none"
            order = "" if as_read else f" ORDER BY {how.order or 'ordinal'}"
            for shard, (first, last, count) in enumerate(spans):
                name = f".{split}.part" if how.joined else how.path(split, shard, len(spans), suffix)
                say(f"{how.joined[0] if how.joined else name}: {count:,} rows")
                span = (first, last) if len(spans) > 1 else None
                count = _copy(source, how, split, span, order, cut.compression, stage / name, count)
                parts[split] = stage / name
                made.append(hashing.submit(_written, stage / name, stage, split, count))
    done = [one.result() for one in made]
    return _joined(how, parts, stage, done) if how.joined else done


def _joined(how: Format, parts: Mapping[str, Path], stage: Path, done: Sequence[Written]) -> list[Written]:
    assert how.joined
    name, join = how.joined
    join(parts, stage / name)
    for part in parts.values():
        part.unlink()
    return [_written(stage / name, stage, "", sum(one.rows or 0 for one in done))]


def _spans(source: Source, how: Format, split: str, cut: Cut) -> tuple[list[tuple[int, int, int]], bool]:
    """(first ordinal, last ordinal, number of rows) of each file, and whether the lake stores the rows in order.

    Rows of one ordinal stay together. Lines already in order are streamed. All else is sorted: the blocks of compressed
    files would otherwise start wherever DuckDB's threads happened to begin, and the bytes would differ.
    """
    import numpy as np

    params = Params()
    relation = how.rows(source, params, source.chosen(params, split))
    rows = _query(source, f"SELECT ordinal FROM {relation}", params).column("ordinal").to_numpy()
    if not len(rows):
        return [(0, -1, 0)], True
    in_order = not how.order and bool((rows[1:] > rows[:-1]).all())
    counts = np.ones(len(rows), dtype=np.int64)
    if not in_order:
        rows, counts = np.unique(rows, return_counts=True)
    if cut.shard_rows:
        bounds = list(range(0, len(rows), cut.shard_rows))
    else:
        wanted = min(cut.shards or 1, len(rows))
        bounds = [len(rows) * shard // wanted for shard in range(wanted)]
    if len(bounds) > MOST_SHARDS:
        raise GraftError(f"a split would have {len(bounds):,} files", where="--shard-rows", fix="more rows per file")
    ends = [*bounds[1:], len(rows)]
    spans = [
        (int(rows[first]), int(rows[end - 1]), int(counts[first:end].sum()))
        for first, end in zip(bounds, ends, strict=True)
    ]
    return spans, in_order


def _copy(
    source: Source, how: Format, split: str, span: tuple[int, int] | None, order: str, compression: str, path: Path,
    count: int,
) -> int:  # fmt: skip
    """Write a file of `count` rows; returns the number of rows that the format has kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    params = Params()
    columns = how.select(source, params)
    relation = how.rows(source, params, source.chosen(params, split, span))
    columns_sql = ", ".join(f"{expression} AS {named(name)}" for name, expression in columns.items())
    packed = COMPRESSIONS[compression]
    options = {
        "parquet": f"FORMAT parquet, COMPRESSION {packed}",
        "jsonl": f"FORMAT json, COMPRESSION {packed}",
        "csv": f"FORMAT csv, HEADER, QUOTE '\"', ESCAPE '\"', FORCE_QUOTE *, COMPRESSION {packed}",
        "lines": f"FORMAT csv, HEADER false, QUOTE '', ESCAPE '', DELIMITER e'\\x01', COMPRESSION {packed}",
    }[how.container]
    convert = how.lines(source)
    made = path.with_name(f"{path.name}.rows") if convert else path
    query = f"COPY (SELECT {columns_sql} FROM {relation}{order}) TO {quoted(str(made))} ({options})"
    _query(source, query, params)
    return _convert(made, convert, path) if convert else count


def _convert(rows: Path, convert: Callable[[dict[str, Any]], str], path: Path) -> int:
    """Write the rows, JSON lines, as the format has them; returns the number of those that are not left out."""
    kept = 0
    with rows.open(encoding="utf-8", newline="\n") as lines, path.open("w", encoding="utf-8", newline="\n") as out:
        for line in lines:
            row = json.loads(line)
            text = convert({**row, "data": json.loads(row["data"])})
            out.write(text)
            kept += bool(text)
    rows.unlink()
    return kept


def _query(source: Source, query: str, params: Params) -> Any:
    """Run a query. An error caused by a filter may quote a row, so it is replaced with our own."""
    import duckdb

    lake = source.lake
    try:
        if source.where != "true":
            return lake.fences.sql(query, params.values, WRITING)
        return lake.sql(query, params.values)
    except duckdb.Error as error:
        if source.where != "true" and not is_full(error):
            what = "this filter fails on some row: it compares a text with a number"
            raise GraftError(what, where="--where", fix="compare texts with texts, and length(text) with n") from None
        raise _explained(error, source.lake.home.root) from error


# ---- files beside the rows, and into place


def _beside(source: Source, how: Format, made: Sequence[Written], stage: Path, lines: Sequence[str]) -> list[Written]:
    """Write the files beside the rows, README.md last."""
    head = how.head(source, made, stage)
    texts = {**how.beside(source, made, stage), README: head + notes.readme(source.found, lines)}
    for name, text in texts.items():
        _text(stage / name, text)
    return [_written(stage / name, stage) for name in texts]


def _text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _written(path: Path, stage: Path, split: str = "", rows: int | None = None) -> Written:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Written(path.relative_to(stage).as_posix(), digest, path.stat().st_size, split, rows)


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """A staging folder within `out` for this process; leftovers of killed processes are removed."""
    import psutil

    stage = out / f".graft-{os.getpid()}.part"
    try:
        for old in out.glob(".graft-*.part") if out.is_dir() else ():
            owner = old.name.removeprefix(".graft-").removesuffix(".part")
            if old == stage or not (owner.isdecimal() and psutil.pid_exists(int(owner))):
                shutil.rmtree(old)
        stage.mkdir(parents=True)
    except OSError as error:
        raise _explained(error, out) from error
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _into_place(stage: Path, out: Path, made: Sequence[Written]) -> list[Path]:
    """Move the files into place. The earlier manifest goes first: a folder without manifest.json is incomplete."""
    earlier = _named_by(out / MANIFEST)
    (out / MANIFEST).unlink(missing_ok=True)
    names = [one.path for one in made]
    names.insert(len(names) - 1, MANIFEST)
    for name in earlier - set(names):
        (out / name).unlink(missing_ok=True)
    for name in [*(name for name in names if name != MANIFEST), MANIFEST]:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (stage / name).replace(out / name)
    return [out / name for name in names]


def _named_by(manifest: Path) -> set[str]:
    """The files listed in an earlier manifest that exist within its folder."""
    try:
        names = [str(one["path"]) for one in json.loads(manifest.read_text(encoding="utf-8"))["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    inside = manifest.parent.resolve()
    return {name for name in names if (inside / name).resolve().is_relative_to(inside) and (inside / name).is_file()}


def _explained(error: Exception, folder: Path) -> GraftError:
    if isinstance(error, GraftError):
        return error
    if is_full(error):
        return StorageFull("no space left for the export", where=str(folder), fix="free some space and export again")
    return GraftError(
        f"the export cannot be written: {error}", where=str(folder), fix="choose a folder that you may write to"
    )
