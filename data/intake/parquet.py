"""Reads Parquet in pieces of bounded size: dictionaries stay packed until the size of their rows is known.

A dictionary page of one long text and a run of a million references to it take a few bytes. Texts are therefore read as
Arrow dictionaries, their unpacked size is computed from the lengths, and only then are rows made, one piece at a time.
The footer's sizes cannot be trusted; the page headers, which Arrow uses, are added up before anything is unpacked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from graft.data.intake.limits import VALUE, Allowance, readable
from graft.data.intake.parts import Problems, Record, invalid

BATCH = 4096
PIECE = 32_000_000
"""Maximum bytes of the rows that are made at once."""
MAX_ROW = 64_000_000
"""Maximum bytes of one row."""
_PAGE = 4096
"""Overhead in bytes charged per page, so that millions of empty pages are rejected."""
_HEADER = 1 << 16
_LARGEST_HEADER = 1 << 24
_WRITE = "rewrite the file, for example with pandas.DataFrame.to_parquet"


def schema_of(path: Path) -> Any:
    """Return a Parquet file's Arrow schema. Raises InputInvalid if it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            return file.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise invalid(str(path), f"is not a readable Parquet file: {str(error)[:120]}", "write it again") from error


def parquet_rows(path: Path, problems: Problems, wanted: Sequence[str] | None) -> Iterator[Record]:
    """Yield (row, fields), with rows counted from 1.

    Args:
        path: The Parquet file.
        problems: Receives invalid rows, and a damaged file.
        wanted: The columns to read; None reads all.

    Raises:
        InputInvalid: The file unpacks to more than its limit.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if wanted is None or name in wanted]
            texts, batch = _plan(path, file.metadata, columns)
        with pq.ParquetFile(path, read_dictionary=texts) as file:
            batches = file.iter_batches(batch_size=batch, columns=columns)
            yield from rows_of(batches, str(path), problems, Allowance.of(path))
    except (pa.ArrowException, OSError) as error:
        problems.source(str(path), f"cannot be read completely: {str(error)[:120]}", "write it again")


def rows_of(
    batches: Iterator[Any], name: str, problems: Problems, allowance: Allowance, wanted: Sequence[str] | None = None
) -> Iterator[Record]:
    """Yield (row, fields) of Arrow record batches; the size of each is charged before its rows are made."""
    row = 0
    for batch in batches:
        chosen = batch.select([c for c in batch.schema.names if c in wanted]) if wanted else batch
        for piece in _pieces(chosen, name, row, allowance):
            for record in _records(piece, name, row, problems):
                row += 1
                if record is not None:
                    yield row, record


def _pieces(batch: Any, name: str, row: int, allowance: Allowance) -> Iterator[Any]:
    """Split the batch into slices whose rows take at most PIECE bytes, or into single rows."""
    sizes = [_size(column, name) for column in batch.columns]
    size, values = sum(size for size, _ in sizes), sum(count for _, count in sizes)
    if size + VALUE * values <= PIECE:
        allowance.charge(size + 8 * values)
        yield batch
    elif batch.num_rows > 1:
        half = batch.num_rows // 2
        yield from _pieces(batch.slice(0, half), name, row, allowance)
        yield from _pieces(batch.slice(half), name, row + half, allowance)
    elif size + VALUE * values > MAX_ROW:
        raise invalid(f"{name}:{row + 1}", f"this row has more than {readable(MAX_ROW)}", "leave the row out")
    else:
        allowance.charge(size + 8 * values)
        yield batch


def _size(array: Any, name: str) -> tuple[int, int]:
    """(bytes, number of values) of an array once unpacked; a dictionary entry counts once per reference."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind, types = array.type, pa.types
    if isinstance(array, pa.ExtensionArray):
        return _size(array.storage, name)
    if types.is_dictionary(kind):
        if not _is_text(kind.value_type):
            inner, _ = _size(array.dictionary, name)
            return len(array) * max(8, inner), len(array)
        lengths = pc.take(pc.binary_length(array.dictionary), array.indices)
        return int(pc.sum(lengths).as_py() or 0), len(array)
    if _is_text(kind):
        return int(pc.sum(pc.binary_length(array)).as_py() or 0), len(array)
    if types.is_struct(kind) or types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        children = array.flatten() if types.is_struct(kind) else [array.flatten()]
    elif types.is_map(kind):
        children = [array.keys, array.items]
    elif types.is_nested(kind) or types.is_run_end_encoded(kind) or "view" in str(kind):
        raise invalid(name, f"contains the unsupported type {str(kind)[:80]}", "write the column as text")
    else:
        return len(array) * max(8, (getattr(kind, "bit_width", 64) + 7) // 8), len(array)
    sizes = [_size(child, name) for child in children]
    return sum(size for size, _ in sizes), len(array) + sum(count for _, count in sizes)


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    plain = types.is_string(kind) or types.is_large_string(kind)
    return bool(plain or types.is_binary(kind) or types.is_large_binary(kind))


def _records(piece: Any, name: str, row: int, problems: Problems) -> list[dict[str, Any] | None]:
    """The rows of a piece; a row whose text is not UTF-8 is recorded as a problem and becomes None."""
    import pyarrow as pa

    columns = [each.dictionary_decode() if pa.types.is_dictionary(each.type) else each for each in piece.columns]
    plain = pa.RecordBatch.from_arrays(columns, names=piece.schema.names)
    try:
        made: list[dict[str, Any] | None] = plain.to_pylist()
        return made
    except UnicodeDecodeError:
        made = []
    for at in range(plain.num_rows):
        try:
            made += plain.slice(at, 1).to_pylist()
        except UnicodeDecodeError:
            problems.row(name, row + at + 1, "", "is not UTF-8", "write the column as UTF-8 text", "bytes")
            made.append(None)
    return made


def _plan(path: Path, metadata: Any, columns: Sequence[str]) -> tuple[list[str], int]:
    """(columns to read as dictionaries, rows per batch), after adding up the headers of all pages.

    A value is never larger than its largest page. If dictionaries cannot be kept (DELTA_BYTE_ARRAY repeats the prefix
    of the previous text; fixed lengths), batches are made small enough for values of that size.
    """
    allowance, texts, batch = Allowance.of(path), list[str](), BATCH
    for place in range(metadata.num_columns):
        column = metadata.schema.column(place)
        if column.path.split(".")[0] not in columns:
            continue
        groups = [metadata.row_group(number).column(place) for number in range(metadata.num_row_groups)]
        with path.open("rb") as stream:
            largest, values = _pages(stream, groups, allowance, str(path))
        delta = any("DELTA" in encoding for group in groups for encoding in group.encodings)
        if column.physical_type == "BYTE_ARRAY" and not delta:
            texts.append(column.path)
        elif column.physical_type in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY"):
            if column.max_repetition_level and values * largest > allowance.limit:
                what = f"its column {column.path} has an encoding whose unpacked size cannot be bounded"
                raise invalid(str(path), what, _WRITE)
            batch = min(batch, max(1, PIECE // max(1, largest)))
    return texts, batch


def _pages(stream: Any, groups: Sequence[Any], allowance: Allowance, name: str) -> tuple[int, int]:
    """(bytes of the largest unpacked page, number of values) of one column's chunks, from its page headers."""
    largest = values = 0
    for group in groups:
        first = group.dictionary_page_offset
        at = min(first, group.data_page_offset) if first else group.data_page_offset
        end = at + group.total_compressed_size
        while at < end:
            try:
                fields, length = _header(stream, at)
                unpacked, packed = fields[2], fields[3]
                count = next((fields[place][1] for place in (5, 8, 7) if place in fields), 0)
                if min(unpacked, packed, count) < 0:
                    raise ValueError
            except (KeyError, IndexError, TypeError, ValueError):
                raise invalid(name, "is not a readable Parquet file: a page's header is damaged", _WRITE) from None
            allowance.charge(unpacked + 8 * count + _PAGE)
            largest, values = max(largest, unpacked), values + count
            at += length + packed
    return largest, values


def _header(stream: Any, at: int) -> tuple[dict[int, Any], int]:
    """Parse the page header at an offset (Thrift's compact protocol); return it and its length. Raises IndexError."""
    size = _HEADER
    while True:
        stream.seek(at)
        data = stream.read(size)
        try:
            return _struct(data, 0, 0)
        except IndexError:
            if len(data) < size or size >= _LARGEST_HEADER:
                raise
            size *= 16


def _struct(data: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    fields: dict[int, Any] = {}
    place = 0
    while (byte := data[at]) != 0:
        at += 1
        if byte >> 4:
            place += byte >> 4
        else:
            place, at = _number(data, at)
        kind = byte & 15
        if kind in (1, 2):
            fields[place] = kind == 1
        elif kind == 3:
            at += 1
        elif kind in (4, 5, 6):
            fields[place], at = _number(data, at)
        elif kind == 7:
            at += 8
        elif kind == 8:
            length, at = _varint(data, at)
            at += length
        elif kind == 12 and depth < 8:
            fields[place], at = _struct(data, at, depth + 1)
        else:
            raise ValueError(f"a page header has a value of the unknown type {kind}")
    return fields, at + 1


def _number(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at, value = at + 1, value | (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
