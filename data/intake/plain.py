"""Readers of CSV, TSV, JSONL and JSON: records with line numbers."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from graft.data.intake.decode import find_encoding, is_sound, lines, open_text
from graft.data.intake.limits import FLOOR, MAX_LINE, Allowance, unpacked, weight
from graft.data.intake.parts import Part, Problems, Record, Source, invalid, split_of

MARKS = ",\t;|"
SAMPLE = 20
MAX_JSON_BYTES = 1_000_000_000


def encoding_of(path: Path, requested: str | None, source: Source) -> tuple[str, bool]:
    """Return (encoding, whether lines may violate it): the requested encoding, else the detected one.

    A notice about an unusual encoding is added to the source.
    """
    if requested:
        try:
            "".encode(requested)
        except LookupError:
            raise invalid(
                str(path), f"unknown encoding {requested!r}", "such as utf-8, cp1252, latin-1, utf-16"
            ) from None
        return requested, True
    name, mixed, notice = find_encoding(path)
    if notice:
        source.notices.append(f"{path.name} {notice}")
    return name, mixed


def csv_part(path: Path, source: Source, *, encoding: str | None, delimiter: str | None, header: bool) -> Part:
    """Return the part of a delimited file. The detected delimiter splits its first records into equally many cells."""
    name, mixed = encoding_of(path, encoding, source)
    mark = delimiter or _delimiter(path, name)

    def records(problems: Problems, _: tuple[str, ...] | None) -> Iterator[Record]:
        limit = csv.field_size_limit(MAX_LINE)
        try:
            with open_text(path, name) as file:
                yield from _csv(file, str(path), mark, header, mixed, problems)
        except UnicodeDecodeError as error:
            problems.source(str(path), f"is not {name} at byte {error.start}", "set its encoding with --encoding")
        finally:
            csv.field_size_limit(limit)

    return Part(str(path), records)


def _delimiter(path: Path, encoding: str) -> str:
    best, score = ",", 1
    for mark in "\t,;|" if ".tsv" in path.name.lower() else MARKS:
        widths = []
        with open_text(path, encoding) as file:
            try:
                for cells in csv.reader(lines(file, str(path)), delimiter=mark):
                    if cells:
                        widths.append(len(cells))
                    if len(widths) == SAMPLE:
                        break
            except (csv.Error, UnicodeDecodeError):
                continue
        first = widths[0] if widths else 0
        alike = sum(width == first for width in widths)
        if first > 1 and alike * first > score and alike * 2 > len(widths):
            best, score = mark, alike * first
    return best


def _csv(file: Any, name: str, mark: str, header: bool, mixed: bool, problems: Problems) -> Iterator[Record]:
    rows = csv.reader(lines(file, name), delimiter=mark, strict=True)
    columns: list[str] | None = None
    while True:
        start = rows.line_num + 1
        try:
            cells: list[str] | None = next(rows, None)
        except csv.Error as error:
            if not _bad_csv(name, start, rows.line_num, str(error), problems):
                return
            continue
        if cells is None:
            return
        if not cells:
            continue
        if columns is None:
            columns = _header(cells, header, name, problems)
            if header:
                continue
        if len(cells) != len(columns):
            what = f"has {len(cells)} columns, the header has {len(columns)}"
            problems.row(
                name, start, "", what, "quote any text that contains the delimiter with double quotes", "columns"
            )
        elif mixed and not all(map(is_sound, cells)):
            problems.row(name, start, "", "cannot be decoded", "save the file in one encoding, such as UTF-8", "bytes")
        else:
            yield start, dict(zip(columns, cells, strict=True))


def _bad_csv(name: str, start: int, end: int, error: str, problems: Problems) -> bool:
    """Record invalid CSV. Returns False if the rest of the file was swallowed with it."""
    if "unexpected end" in error:
        what = f"a quote opened here is never closed: lines {start} to {end} are one field"
        problems.source(name, what, 'close it; write a quote inside a text as ""', line=start)
        return False
    if "field limit" in error:
        what = f"a field that starts here has more than {MAX_LINE:,} characters"
        problems.source(name, what, "check for an unclosed quote, or leave the long text out", line=start)
        return False
    problems.row(name, start, "", f"is not valid CSV: {error}", 'write a quote inside a quoted text as ""', "quotes")
    return True


def _header(cells: list[str], header: bool, name: str, problems: Problems) -> list[str]:
    if not header:
        return [f"column{n}" for n in range(1, len(cells) + 1)]
    columns = [cell.strip() for cell in cells]
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        problems.source(name, f"the header has {twice[0]!r} twice", "give each column its own name", line=1)
    return columns


def jsonl_part(path: Path, source: Source, *, encoding: str | None) -> Part:
    """Return the part of a JSONL file, with one JSON object per line."""
    name, _ = encoding_of(path, encoding, source)

    def records(problems: Problems, _: tuple[str, ...] | None) -> Iterator[Record]:
        with open_text(path, name) as file:
            file.reconfigure(newline="\n")
            for number, line in enumerate(lines(file, str(path)), start=1):
                if not line.strip():
                    continue
                if weight(line) > FLOOR // 4:
                    fix = "leave the row out, or write its values as text"
                    problems.row(str(path), number, "", "contains millions of values", fix, "json")
                    continue
                if not is_sound(line):
                    fix = "save the file in one encoding, such as UTF-8"
                    problems.row(str(path), number, "", "cannot be decoded", fix, "bytes")
                    continue
                try:
                    record = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    what = f"is not valid JSON: {error.msg} (column {error.colno})"
                    problems.row(str(path), number, "", what, "write one JSON object per line", "json")
                    continue
                if isinstance(record, dict):
                    yield number, record
                else:
                    what = f"is not a JSON object but {type(record).__name__}"
                    problems.row(str(path), number, "", what, "write one JSON object per line", "json")

    return Part(str(path), records)


def json_parts(path: Path, source: Source, *, encoding: str | None) -> list[Part]:
    """Return the parts of a JSON file.

    The file is an array of objects, an object of equally long columns, or an object of splits, each an array of objects
    or of [text, label] pairs.
    """
    name, _ = encoding_of(path, encoding, source)
    with unpacked(path) as file:
        data = file.read(MAX_JSON_BYTES + 1)
    Allowance.of(path).charge(weight(data))
    if len(data) > MAX_JSON_BYTES:
        raise invalid(str(path), f"has more than {MAX_JSON_BYTES:,} bytes", "write it as JSONL: one object per line")
    try:
        found = orjson.loads(data.decode(name).lstrip("\ufeff"))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise invalid(f"{path}:{line}", f"is not {name}", "save it as UTF-8, or set --encoding") from None
    except orjson.JSONDecodeError as error:
        if error.lineno > 1 or b"\n" in data.strip():
            return [jsonl_part(path, source, encoding=encoding)]
        raise invalid(str(path), f"is not valid JSON: {error.msg} (column {error.colno})", "correct it") from None
    return _of_json(path, found)


def _of_json(path: Path, found: Any) -> list[Part]:
    if isinstance(found, dict) and found and all(isinstance(value, list) for value in found.values()):
        marks = {key: split_of(key.removeprefix("oos_")) for key in found}
        if all(marks.values()):
            return [
                Part(f"{path}#{key}", _from_list(f"{path}#{key}", found[key]), marks[key]) for key in found
            ]  # fmt: skip
        if len(found) == 1:
            return _of_json(path, next(iter(found.values())))
        if len({len(value) for value in found.values()}) == 1:
            columns = list(found)
            rows = [dict(zip(columns, values, strict=True)) for values in zip(*found.values(), strict=True)]
            return [Part(str(path), _from_list(str(path), rows))]
    if isinstance(found, list):
        return [Part(str(path), _from_list(str(path), found))]
    fix = "an array of objects, an object of splits (train, val, test), or an object of equally long columns"
    raise invalid(str(path), "this JSON is not a table", fix)


def _from_list(name: str, items: list[Any]) -> Any:
    def records(problems: Problems, _: tuple[str, ...] | None) -> Iterator[Record]:
        for number, item in enumerate(items, start=1):
            if isinstance(item, dict):
                yield number, item
            elif isinstance(item, list) and len(item) == 2:
                yield number, {"text": item[0], "label": item[1]}
            else:
                what = f"is neither an object nor a [text, label] pair but {type(item).__name__}"
                problems.row(name, number, "", what, "write objects, or pairs", "json")

    return records
