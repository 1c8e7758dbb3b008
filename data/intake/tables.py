"""Parquet, Arrow, Excel, and what DuckDB reads from afar: records with their rows."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from data.intake.parts import Part, Problems, Record, invalid, split_of

BATCH = 4096


def class_names(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """Column to the names of its classes, from what the `datasets` library leaves in a schema."""
    try:
        found = orjson.loads((metadata or {}).get(b"huggingface", b"{}"))
        features = found["info"]["features"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return {}
    return {
        str(name): [str(each) for each in kind["names"]]
        for name, kind in features.items()
        if isinstance(kind, dict) and kind.get("_type") == "ClassLabel" and isinstance(kind.get("names"), list)
    }


def _rows(batches: Iterator[Any], name: str, problems: Problems, wanted: tuple[str, ...] | None) -> Iterator[Record]:
    row = 0
    for batch in batches:
        chosen = batch.select([c for c in batch.schema.names if c in wanted]) if wanted else batch
        try:
            records = chosen.to_pylist()
        except UnicodeDecodeError:
            records = []
            for at in range(chosen.num_rows):
                try:
                    records += chosen.slice(at, 1).to_pylist()
                except UnicodeDecodeError:
                    problems.row(name, row + at + 1, "", "is not UTF-8", "write the column as UTF-8 text", "bytes")
                    records.append(None)
        for record in records:
            row += 1
            if record is not None:
                yield row, record


def parquet_part(path: Path) -> Part:
    """A Parquet file; class names from its metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = class_names(file.schema_arrow.metadata)
    except (pa.ArrowException, OSError) as error:
        raise invalid(str(path), f"is not a readable Parquet file: {str(error)[:120]}", "write it again") from error

    def records(problems: Problems, wanted: tuple[str, ...] | None) -> Iterator[Record]:
        try:
            with pq.ParquetFile(path) as file:
                columns = [c for c in file.schema_arrow.names if c in wanted] if wanted else None
                yield from _rows(file.iter_batches(batch_size=BATCH, columns=columns), str(path), problems, wanted)
        except (pa.ArrowException, OSError) as error:
            problems.source(str(path), f"cannot be read to its end: {str(error)[:120]}", "write it again")

    return Part(str(path), records, names=names)


def arrow_part(path: Path) -> Part:
    """An Arrow file or stream, as `datasets.save_to_disk` writes it."""
    import pyarrow as pa

    def opened(file: Any) -> Any:
        try:
            return pa.ipc.open_stream(file)
        except pa.ArrowInvalid:
            file.seek(0)
            return pa.ipc.open_file(file)

    try:
        with pa.memory_map(str(path)) as file:
            names = class_names(opened(file).schema.metadata)
    except (pa.ArrowException, OSError) as error:
        raise invalid(str(path), f"is not a readable Arrow file: {str(error)[:120]}", "write it again") from error

    def records(problems: Problems, wanted: tuple[str, ...] | None) -> Iterator[Record]:
        try:
            with pa.memory_map(str(path)) as file:
                reader = opened(file)
                many = hasattr(reader, "num_record_batches")
                batches = (reader.get_batch(n) for n in range(reader.num_record_batches)) if many else iter(reader)
                yield from _rows(batches, str(path), problems, wanted)
        except (pa.ArrowException, OSError) as error:
            problems.source(str(path), f"cannot be read to its end: {str(error)[:120]}", "write it again")

    return Part(str(path), records, names=names)


def excel_parts(path: Path, sheet: str | None) -> list[Part]:
    """The sheet that is named, the only one that holds rows, or one a split where the sheets are called so."""
    from zipfile import BadZipFile

    try:
        with _book(path) as book:
            names = list(book.sheetnames)
            full = [name for name in names if any(any(c is not None for c in row) for row in _first(book[name]))]
    except (BadZipFile, KeyError, OSError, ValueError) as error:
        fix = "save it as .xlsx, or as CSV"
        raise invalid(str(path), f"is not a readable Excel file: {str(error)[:120]}", fix) from error
    if sheet is not None and sheet not in names:
        raise invalid(str(path), f"has no sheet {sheet!r}", f"its sheets: {', '.join(names)}")
    chosen = [sheet] if sheet is not None else full
    splits = {name: split_of(name) for name in chosen}
    if len(chosen) > 1 and not all(splits.values()):
        raise invalid(str(path), f"has {len(chosen)} sheets with rows: {', '.join(chosen)}", "name one: --sheet NAME")
    return [Part(f"{path}#{name}", _sheet(path, name), splits[name]) for name in chosen]


@contextlib.contextmanager
def _book(path: Path) -> Iterator[Any]:
    openpyxl: Any = importlib.import_module("openpyxl")  # heavy, and untyped
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of styles and extensions, which hold no rows
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    try:
        yield book
    finally:
        book.close()


def _first(sheet: Any) -> Iterator[Any]:
    return sheet.iter_rows(values_only=True, max_row=5) if hasattr(sheet, "iter_rows") else iter(())


def _sheet(path: Path, name: str) -> Any:
    def records(problems: Problems, _: tuple[str, ...] | None) -> Iterator[Record]:
        columns: list[str] | None = None
        with _book(path) as book:
            for number, cells in enumerate(book[name].iter_rows(values_only=True), start=1):
                if all(cell is None for cell in cells):
                    continue
                if columns is None:
                    columns = ["" if cell is None else str(cell).strip() for cell in cells]
                else:
                    yield number, {c: v for c, v in zip(columns, cells, strict=False) if c}

    return records


def is_remote(source: str) -> bool:
    """Whether the source is an address, such as s3://… or https://…, and no path."""
    scheme, found, _ = source.partition("://")
    return bool(found) and scheme.isalnum()


def remote_part(url: str) -> Part:
    """What DuckDB reads from an address, by the end of its path. Raises GraftError offline, with the fix."""
    end = urlsplit(url).path.lower().removesuffix(".gz")
    readers = {
        ".csv": "read_csv(?, all_varchar = true)", ".tsv": "read_csv(?, all_varchar = true)",
        ".jsonl": "read_json(?)", ".ndjson": "read_json(?)", ".json": "read_json(?)", ".parquet": "read_parquet(?)",
    }  # fmt: skip
    reader = next((call for suffix, call in readers.items() if end.endswith(suffix)), None)
    if reader is None:
        raise invalid(shown(url), "its path does not say what it is", f"it must end in {', '.join(readers)}")

    def records(problems: Problems, wanted: tuple[str, ...] | None) -> Iterator[Record]:
        import duckdb

        from data.duck import quoted

        try:
            with duckdb.connect(":memory:", config={"memory_limit": "1GB"}) as connection:
                _load_httpfs(connection, url)
                if wanted:
                    have = [row[0] for row in connection.execute(f"DESCRIBE FROM {reader}", [url]).fetchall()]
                    chosen = ", ".join('"' + c.replace('"', '""') + '"' for c in have if c in wanted)
                else:
                    chosen = "*"
                connection.execute(f"SELECT {chosen} FROM {reader}", [url])
                yield from _rows(iter(connection.to_arrow_reader(BATCH)), shown(url), problems, None)
        except duckdb.Error as error:
            what = str(error).splitlines()[0].replace(url, shown(url)).replace(quoted(url), "")[:200]
            raise invalid(shown(url), f"cannot be read: {what}", "check address, rights and connection") from error

    return Part(shown(url), records)


def shown(url: str) -> str:
    """The address without what may be a key: user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"


def _load_httpfs(connection: Any, url: str) -> None:
    from data.duck import load_extension
    from schemas.errors import MissingExtra

    try:
        load_extension(connection, "httpfs")
    except MissingExtra as error:
        fix = f"{error.fix} (or go online once), or download the file and import that"
        raise MissingExtra(f"{error.what}: it reads addresses", where=shown(url), fix=fix) from error
