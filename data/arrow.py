"""Arrow tables from pydantic models, and models from rows: the only module that maps fields to column types.

str, int, float, bool and datetime become plain columns; a tuple of scalars a list; a tuple of models a list of structs
(of the same rules); everything else (dicts, unions, single models) a JSON string. Optional fields are nullable.

Arrow is imported (0.2 s) only where a table is made. Arrays are made from buffers, because `pyarrow.array` imports
pandas (0.25 s, 43 MB) even for a list.
"""

from __future__ import annotations

import itertools
import types
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import orjson
from pydantic import BaseModel

if TYPE_CHECKING:
    import pyarrow as pa

M = TypeVar("M", bound=BaseModel)

SCALARS: dict[Any, str] = {str: "VARCHAR", int: "BIGINT", float: "DOUBLE", bool: "BOOLEAN", datetime: "TIMESTAMPTZ"}
NUMBERS = {"BIGINT": "q", "DOUBLE": "d", "TIMESTAMPTZ": "q", "OFFSET": "i"}
"""SQL type to the type code of `array.array`; OFFSET is the 32-bit type of a list's ends."""
ZERO: dict[str, Any] = {"VARCHAR": "", "TIMESTAMPTZ": datetime(1970, 1, 1, tzinfo=UTC)}
MICROSECOND = timedelta(microseconds=1)
LARGEST = 2**31 - 1
"""Bytes of text in one array."""


@dataclass(frozen=True)
class Column:
    """Storage of one field: SQL type, nullable or not, JSON, list or structs (and of which model)."""

    name: str
    sql: str
    nullable: bool
    form: Literal["plain", "list", "json", "structs"]
    model: type[BaseModel] | None = None


@lru_cache(maxsize=64)
def columns_of(model: type[BaseModel]) -> tuple[Column, ...]:
    """The columns of a model, in field order."""
    return tuple(_column(name, info.annotation) for name, info in model.model_fields.items())


@lru_cache(maxsize=64)
def arrow_schema(model: type[BaseModel]) -> pa.Schema:
    """The Arrow schema that a table of this model has."""
    import pyarrow as pa

    return pa.schema([pa.field(c.name, _arrow_type(c), nullable=c.nullable) for c in columns_of(model)])


def to_table(model: type[BaseModel], values: Sequence[Any], **given: Sequence[Any]) -> pa.Table:
    """One row a value. A column is read from the values' attribute of that name, or taken from `given`.

    Lone surrogates, which are no text, become question marks. Raises AttributeError if a column has no source.
    """
    import pyarrow as pa

    schema, arrays = arrow_schema(model), []
    for column, field in zip(columns_of(model), schema, strict=True):
        raw = given[column.name] if column.name in given else [getattr(value, column.name) for value in values]
        arrays.append(_array(column, field.type, raw))
    return pa.Table.from_arrays(arrays, schema=schema)


def from_rows(model: type[M], rows: Iterable[dict[str, Any]], *, drop: Iterable[str] = ()) -> list[M]:
    """The validated models in rows (see `Lake.query`), without the columns named in `drop`."""
    return [model.model_validate(row) for row in plain_rows(model, rows, drop=drop)]


def plain_rows(
    model: type[BaseModel], rows: Iterable[dict[str, Any]], *, drop: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """The rows with their JSON columns decoded in place, without the columns named in `drop`."""
    found, dropped = list(rows), tuple(drop)
    for row in found:
        for name in dropped:
            row.pop(name, None)
        _decode(model, row)
    return found


def _decode(model: type[BaseModel], row: dict[str, Any]) -> None:
    for column in columns_of(model):
        value = row.get(column.name)
        if value is None:
            continue
        if column.form == "json":
            row[column.name] = orjson.loads(value)
        elif column.model is not None:
            for item in value:
                _decode(column.model, item)


def sql_columns(model: type[BaseModel]) -> str:
    """The column definitions of CREATE TABLE, names quoted."""
    return ", ".join(f'"{c.name}" {c.sql}{"" if c.nullable else " NOT NULL"}' for c in columns_of(model))


def _column(name: str, annotation: Any) -> Column:
    inner, nullable = _without_none(annotation)
    scalar = _scalar(inner)
    if scalar is not None:
        return Column(name, scalar, nullable, "plain")
    args = get_args(inner)
    if get_origin(inner) is tuple and len(args) == 2 and args[1] is Ellipsis:
        item = _scalar(args[0])
        if item is not None:
            return Column(name, f"{item}[]", nullable, "list")
        if isinstance(args[0], type) and issubclass(args[0], BaseModel):
            fields = ", ".join(f'"{c.name}" {c.sql}' for c in columns_of(args[0]))
            return Column(name, f"STRUCT({fields})[]", nullable, "structs", args[0])
    return Column(name, "VARCHAR", nullable or inner is Any, "json")


def _without_none(annotation: Any) -> tuple[Any, bool]:
    if get_origin(annotation) is Annotated:
        return _without_none(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        rest = [arg for arg in get_args(annotation) if arg is not type(None)]
        if len(rest) == 1 and len(rest) < len(get_args(annotation)):
            return _without_none(rest[0])[0], True
    return annotation, False


def _scalar(annotation: Any) -> str | None:
    inner = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if get_origin(inner) is Literal and all(isinstance(value, str) for value in get_args(inner)):
        return "VARCHAR"
    return SCALARS.get(inner) if isinstance(inner, type) else None


def _arrow_type(column: Column) -> Any:
    import pyarrow as pa

    if column.model is not None:
        return pa.list_(pa.struct(list(arrow_schema(column.model))))
    plain = {"VARCHAR": pa.string(), "BIGINT": pa.int64(), "DOUBLE": pa.float64(), "BOOLEAN": pa.bool_(),
             "TIMESTAMPTZ": pa.timestamp("us", "UTC")}[column.sql.removesuffix("[]")]  # fmt: skip
    return pa.list_(plain) if column.form == "list" else plain


def _array(column: Column, kind: Any, raw: Sequence[Any]) -> Any:
    values: list[Any] = list(raw)
    if column.form in ("list", "structs"):
        return _lists(column, kind, values)
    if column.form == "json":
        values = [None if value is None else _json(value) for value in values]
    try:
        return _plain(column.sql, kind, values)
    except UnicodeEncodeError:
        return _plain(column.sql, kind, _sound(values))


def _lists(column: Column, kind: Any, lists: list[Any]) -> Any:
    """Lists of scalars, or of models as structs field by field: three times as fast as through dicts."""
    import pyarrow as pa

    items = [item for one in lists if one is not None for item in one]
    ends = list(itertools.accumulate((len(one) if one is not None else 0 for one in lists), initial=0))
    starts: list[int | None] = [None if one is None else start for one, start in zip(lists, ends, strict=False)]
    inside: Any
    if column.model is None:
        inside = _array(Column(column.name, column.sql.removesuffix("[]"), False, "plain"), kind.value_type, items)
    else:
        inner, fields = columns_of(column.model), list(kind.value_type)
        children = [
            _array(one, field.type, [getattr(item, one.name) for item in items])
            for one, field in zip(inner, fields, strict=True)
        ]
        inside = pa.StructArray.from_arrays(children, fields=fields)
    return pa.ListArray.from_arrays(_plain("OFFSET", pa.int32(), [*starts, ends[-1]]), inside, type=kind)


def _plain(sql: str, kind: Any, values: list[Any]) -> Any:
    """An array of scalars, from buffers. Raises UnicodeEncodeError for a lone surrogate."""
    import pyarrow as pa

    count, valid = len(values), None
    if None in values:
        valid = _bits([value is not None for value in values])
        zero = ZERO.get(sql, 0)
        values = [zero if value is None else value for value in values]
    if sql == "BOOLEAN":
        buffers = [valid, _bits(values)]
    elif sql == "VARCHAR":
        narrow = all(map(str.isascii, values))
        texts = values if narrow else [value.encode() for value in values]
        ends = list(itertools.accumulate(map(len, texts), initial=0))
        if ends[-1] > LARGEST:
            return pa.array(values, kind)  # it divides the text over several arrays
        data = "".join(values).encode() if narrow else b"".join(texts)
        buffers = [valid, pa.py_buffer(array("i", ends)), pa.py_buffer(data)]
    else:
        if sql == "TIMESTAMPTZ":
            values = [(value - ZERO[sql]) // MICROSECOND for value in values]
        buffers = [valid, pa.py_buffer(array(NUMBERS[sql], values))]
    return pa.Array.from_buffers(kind, count, buffers)


def _bits(values: list[bool]) -> Any:
    """Eight values a byte, the first one lowest."""
    import numpy as np
    import pyarrow as pa

    return pa.py_buffer(np.packbits(np.array(values, dtype=bool), bitorder="little"))


def _json(value: Any) -> str:
    try:
        return orjson.dumps(value, default=_model).decode()
    except TypeError:  # orjson: str is not valid UTF-8: surrogates not allowed
        return orjson.dumps(_sound(value), default=_model).decode()


def _model(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _sound(value: Any) -> Any:
    """The same value with every lone surrogate replaced."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_sound(key): _sound(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_sound(item) for item in value]
    return value
