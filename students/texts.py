"""Reads texts and writes answers line by line, as JSONL or CSV, so that neither has to fit into memory."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from graft.data.intake.limits import MAX_LINE
from graft.data.intake.parquet import parquet_rows, schema_of
from graft.data.intake.parts import Problems
from graft.schemas.errors import InputInvalid, Problem
from graft.schemas.sections import inert_cell
from graft.students.heads import Answer
from graft.students.rows import as_one_text

STDIN = "-"
_SPACE = re.compile(r"\s")


def read_texts(source: str, *, text_field: str = "text", response_field: str | None = None) -> Iterator[str]:
    """The texts of a CSV, JSONL or Parquet file, or of the lines of a .txt file or of standard input ("-"); blank lines
    are no texts. A `source` that is a text itself is the only one.

    With `response_field` that field follows below the text, as in a guard student's training rows. Raises InputInvalid
    with file and line for a missing file or field, an empty file, a value that is no text, or bytes that are not UTF-8.
    """
    if source == STDIN:
        yield from _some(_plain(sys.stdin.buffer, "standard input"), "standard input")
        return
    if is_text(source):
        yield source
        return
    path = Path(source)
    if path.suffix.lower() == ".txt" and path.is_file():
        with path.open("rb") as stream:
            yield from _some(_plain(stream, source), source)
        return
    readers = {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".ndjson": _jsonl, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise _bad(
            source, None, "", f"cannot read files of the kind {path.suffix!r}", "use .csv, .jsonl, .parquet or .txt"
        )
    if not path.is_file():
        raise _bad(source, None, "", "there is no such file", "correct the path, or - for lines of standard input")
    names = [text_field, response_field] if response_field else [text_field]
    yield from _some((_text(source, *record, text_field, response_field) for record in reader(path, names)), source)


def is_text(source: str) -> bool:
    """Return True if a command's argument is a text to label: it has a space and names no file."""
    return bool(_SPACE.search(source.strip())) and not _is_file(source)


def _is_file(source: str) -> bool:
    try:
        return Path(source).is_file()
    except (OSError, ValueError):  # too long for a name, or with a NUL byte
        return False


def _plain(stream: IO[bytes], source: str) -> Iterator[str]:
    return (line.rstrip("\r\n") for _, line in _lines(stream, source) if line.strip())


def write_answers(
    answers: Iterable[tuple[str, Answer]], stream: IO[str], *, format: str, labels: Sequence[str], all_shares: bool
) -> int:
    """Write one line per answer: text, label, probability and, with `all_shares`, every label's. Returns their number.

    A CSV cell that a spreadsheet would run as a formula gets an apostrophe before it.
    """
    return (_write_csv if format == "csv" else _write_jsonl)(answers, stream, labels, all_shares)


def _write_jsonl(answers: Iterable[tuple[str, Answer]], stream: IO[str], labels: Sequence[str], shares: bool) -> int:
    import orjson

    count = 0
    for text, answer in answers:
        row: dict[str, Any] = {"text": text, "label": answer.label, "probability": round(answer.probability, 6)}
        if shares:
            row["probabilities"] = dict(zip(labels, (round(p, 6) for p in answer.probabilities), strict=True))
        stream.write(orjson.dumps(row).decode() + "\n")
        count += 1
    return count


def _write_csv(answers: Iterable[tuple[str, Answer]], stream: IO[str], labels: Sequence[str], shares: bool) -> int:
    writer, count = csv.writer(_UnixLines(stream), lineterminator="\r\n"), 0
    for text, answer in answers:
        if not count:
            writer.writerow(["text", "label", "probability", *(f"p({label})" for label in labels if shares)])
        more = [f"{share:.6f}" for share in answer.probabilities] if shares else []
        writer.writerow([inert_cell(text), inert_cell(answer.label), f"{answer.probability:.6f}", *more])
        count += 1
    return count


class _UnixLines:
    """Ends the lines of a CSV writer with \
    : its own option would leave a lone \\r unquoted.
    """

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def write(self, line: str) -> None:
        """One row."""
        self.stream.write(line.removesuffix("\r\n") + "\n")


def _some(texts: Iterable[str], source: str) -> Iterator[str]:
    empty = True
    for text in texts:
        empty = False
        yield text
    if empty:
        raise _bad(source, None, "", "holds no texts", "one text a row; a CSV file needs a header")


def _text(source: str, line: int, record: Mapping[str, Any], name: str, response: str | None) -> str:
    for field in (name, response):
        value = record.get(field, "") if field else ""
        if field and field not in record:
            raise _missing(source, line, field, list(map(str, record)))
        if not isinstance(value, str) and not (value is None and field == response):
            kind = "null" if value is None else type(value).__name__
            raise _bad(source, line, field or "", f"{field} is not text but {kind}", "put it in quotes")
    return as_one_text(record[name], record.get(response) if response else None)


def _lines(stream: IO[bytes], source: str) -> Iterator[tuple[int, str]]:
    """(number, line with its end); a UTF-8 byte order mark is skipped."""
    for number, raw in enumerate(iter(lambda: stream.readline(MAX_LINE + 1), b""), start=1):
        if len(raw) > MAX_LINE:
            raise _bad(source, number, "", f"has more than {MAX_LINE:,} bytes", "write one text a line")
        if number == 1 and raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise _bad(source, 1, "", "is UTF-16, not UTF-8", "save the file as UTF-8")
        try:
            yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            what = f"is not UTF-8 at byte {error.start + 1} of the line"
            raise _bad(source, number, "", what, "save the file as UTF-8") from None


def _jsonl(path: Path, names: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    import orjson

    with path.open("rb") as stream:
        for number, line in _lines(stream, str(path)):
            if not line.strip():
                continue
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                what = f"is not valid JSON: {error.msg} (column {error.colno})"
                raise _bad(str(path), number, "", what, "write one JSON object a line") from None
            if not isinstance(record, dict):
                what = f"is not a JSON object but {type(record).__name__}"
                raise _bad(str(path), number, "", what, f'write an object, such as {{"{names[0]}": "…"}}')
            yield number, record


def _csv(path: Path, names: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open("rb") as stream:
        lines = (line for _, line in _lines(stream, str(path)))
        head = next(lines, "")
        marks = [mark for mark in ",;\t" if names[0] in _header(head, mark)]
        mark = marks[0] if marks else ","
        header = _header(head, mark)
        if head.strip() and (lacking := [name for name in names if name not in header]):
            raise _missing(str(path), 1, lacking[0], header)
        rows = csv.reader(lines, delimiter=mark, strict=True)
        while True:
            start = rows.line_num + 2
            try:
                cells = next(rows, None)
            except csv.Error as error:
                what = f"is not valid CSV: {error}"
                raise _bad(str(path), start, "", what, 'close the quotes; write a quote inside as ""') from None
            if cells is None:
                return
            if cells and len(cells) != len(header):
                what = f"has {len(cells)} columns, the header has {len(header)}"
                raise _bad(str(path), start, "", what, "put a text that holds a comma in double quotes")
            if cells:
                yield start, dict(zip(header, cells, strict=True))


def _header(line: str, mark: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=mark), [])]


def _parquet(path: Path, names: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    have = schema_of(path).names
    if lacking := [name for name in names if name not in have]:
        raise _missing(str(path), None, lacking[0], have)
    wrong = Problems()
    for row in parquet_rows(path, wrong, names):
        wrong.finish()
        yield row
    wrong.finish()


def _missing(source: str, line: int | None, name: str, have: Sequence[str]) -> InputInvalid:
    there = ", ".join(have[:12]) or "nothing"
    return _bad(source, line, name, f"field {name!r} is missing", f"name it with --text-field; the row has: {there}")


def _bad(source: str, line: int | None, field: str, what: str, fix: str) -> InputInvalid:
    return InputInvalid([Problem(source, line, field, what, fix)])
