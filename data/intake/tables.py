"""Readers of Parquet, Arrow, and remote files through DuckDB: records with row numbers."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from graft.data.intake.limits import Allowance
from graft.data.intake.parquet import parquet_rows, rows_of, schema_of
from graft.data.intake.parts import Part, Problems, Record, invalid

FETCHED = 64
"""Rows fetched from DuckDB at once."""
LONGEST = 50_000
"""Maximum bytes of a text in a remote file."""


def class_names(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """Return class names by column, from the schema metadata of the `datasets` library."""
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


def parquet_part(path: Path) -> Part:
    """Return the part of a Parquet file, with class names from its metadata."""

    def records(problems: Problems, wanted: tuple[str, ...] | None) -> Iterator[Record]:
        yield from parquet_rows(path, problems, wanted)

    return Part(str(path), records, names=class_names(schema_of(path).metadata))


def arrow_part(path: Path) -> Part:
    """Return the part of an Arrow file or stream, such as `datasets.save_to_disk` output."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as file:
            names = class_names(_stream(file).schema.metadata)
    except (pa.ArrowException, OSError) as error:
        raise invalid(str(path), f"is not a readable Arrow file: {str(error)[:120]}", "write it again") from error

    def records(problems: Problems, wanted: tuple[str, ...] | None) -> Iterator[Record]:
        try:
            with pa.memory_map(str(path)) as file:
                _check_messages(file, Allowance.of(path))
                yield from rows_of(iter(_stream(file)), str(path), problems, Allowance.of(path), wanted)
        except (pa.ArrowException, OSError) as error:
            problems.source(str(path), f"cannot be read completely: {str(error)[:120]}", "write it again")

    return Part(str(path), records, names=names)


def _stream(file: Any) -> Any:
    """Read record batches in the order in which they are stored; the file's own footer is ignored."""
    import pyarrow as pa

    file.seek(0)
    file.seek(8 if file.read(6) == b"ARROW1" else 0)
    return pa.ipc.open_stream(file)


def _check_messages(file: Any, allowance: Allowance) -> None:
    """Charge the unpacked sizes of an Arrow stream's compressed buffers, each of which starts with its size."""
    import pyarrow as pa

    _stream(file)
    file.seek(0)
    file.seek(8 if file.read(6) == b"ARROW1" else 0)
    try:
        for message in pa.ipc.MessageReader.open_stream(file):
            if message.type in ("record batch", "dictionary"):
                for size in _buffer_sizes(memoryview(message.metadata), message.body):
                    allowance.charge(size)
    except (struct.error, IndexError, StopIteration) as error:
        raise pa.ArrowInvalid("a message's metadata is damaged") from error


def _buffer_sizes(metadata: memoryview, body: Any) -> Iterator[int]:
    """Yield the unpacked sizes of a batch's buffers; none if it is not compressed (Arrow's Message.fbs)."""

    def number(kind: str, at: int) -> int:
        return int(struct.unpack_from("<" + kind, metadata, at)[0])

    def field(table: int, place: int) -> int:
        known = table - number("i", table)
        offset = number("H", known + 4 + 2 * place) if 4 + 2 * place < number("H", known) else 0
        return table + offset if offset else 0

    def below(at: int) -> int:
        return at + number("I", at)

    batch = below(field(below(0), 2))
    if number("B", field(below(0), 1)) == 2:
        batch = below(field(batch, 1))  # a dictionary's
    if not field(batch, 3):
        return
    buffers = below(field(batch, 2))
    data = memoryview(body)
    for place in range(number("I", buffers)):
        offset, length = struct.unpack_from("<qq", metadata, buffers + 4 + 16 * place)
        if length >= 8:
            yield max(length, int(struct.unpack_from("<q", data, offset)[0]))


def is_remote(source: str) -> bool:
    """Return True if the source is an address, such as s3://… or https://…, rather than a path."""
    scheme, found, _ = source.partition("://")
    return bool(found) and scheme.isalnum()


def remote_part(url: str) -> Part:
    """Return the part at an address, read by DuckDB according to the suffix. Reading raises GraftError offline."""
    end = urlsplit(url).path.lower().removesuffix(".gz")
    readers = {
        ".csv": "read_csv(?, all_varchar = true)", ".tsv": "read_csv(?, all_varchar = true)",
        ".jsonl": "read_json(?)", ".ndjson": "read_json(?)", ".json": "read_json(?)", ".parquet": "read_parquet(?)",
    }  # fmt: skip
    reader = next((call for suffix, call in readers.items() if end.endswith(suffix)), None)
    if reader is None:
        raise invalid(shown(url), "its path has no known suffix", f"it must end in {', '.join(readers)}")

    def records(problems: Problems, wanted: tuple[str, ...] | None) -> Iterator[Record]:
        import duckdb

        from graft.data.duck import quoted

        try:
            with duckdb.connect(":memory:", config={"memory_limit": "1GB"}) as connection:
                _load_httpfs(connection, url)
                connection.execute("SET enable_progress_bar = false")
                connection.execute("SET streaming_buffer_size = '1KB'")  # one vector of rows is held, or few
                have = connection.execute(f"DESCRIBE FROM {reader}", [url]).fetchall()
                chosen = ", ".join(_short(name, kind) for name, kind, *_ in have if not wanted or name in wanted)
                yield from _fetched(connection.execute(f"SELECT {chosen} FROM {reader}", [url]), shown(url))
        except duckdb.Error as error:
            what = str(error).splitlines()[0].replace(url, shown(url)).replace(quoted(url), "")[:200]
            raise invalid(
                shown(url), f"cannot be read: {what}", "check the address, permissions and connection"
            ) from error

    return Part(shown(url), records)


def _short(name: str, kind: str) -> str:
    """SQL of a column with texts limited to LONGEST bytes, because DuckDB holds thousands of rows at once."""
    column = '"' + name.replace('"', '""') + '"'
    if kind not in ("VARCHAR", "BLOB"):
        return column
    what = f"a text has more than {LONGEST:,} bytes: download the file, and import that"
    length = "strlen" if kind == "VARCHAR" else "octet_length"
    return f"CASE WHEN {length}({column}) > {LONGEST} THEN error('{what}') ELSE {column} END AS {column}"


def _fetched(cursor: Any, name: str) -> Iterator[Record]:
    """Yield the rows of a query, fetched in small batches and charged."""
    names, allowance, row = [column[0] for column in cursor.description], Allowance(name, None), 0
    while rows := cursor.fetchmany(FETCHED):
        for values in rows:
            row += 1
            allowance.charge(sum(_weight(value) for value in values))
            yield row, dict(zip(names, values, strict=True))


def _weight(value: Any) -> int:
    if isinstance(value, list | dict):
        return 8 + sum(_weight(one) for one in (value.values() if isinstance(value, dict) else value))
    return 8 + len(value) if isinstance(value, str | bytes) else 8


def shown(url: str) -> str:
    """Return the address without user, password and query, which may hold keys."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"


def _load_httpfs(connection: Any, url: str) -> None:
    from graft.data.duck import load_extension
    from graft.schemas.errors import MissingExtra

    try:
        load_extension(connection, "httpfs")
    except MissingExtra as error:
        fix = f"{error.fix} (or go online once), or download the file and import that"
        raise MissingExtra(f"{error.what}: it reads addresses", where=shown(url), fix=fix) from error
