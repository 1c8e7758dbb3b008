"""Reads seeds and held-out files (CSV, JSONL, Parquet, rows in the recipe); names every broken line at once.

A recipe's held-out files are registered in the lake before any row is written.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from graft.data.intake.columns import likely
from graft.data.intake.limits import FLOOR, MAX_LINE, weight
from graft.data.intake.parquet import parquet_rows, schema_of
from graft.data.intake.parts import Problems
from graft.schemas.errors import InputInvalid, Problem
from graft.schemas.kinds import METHODS
from graft.schemas.load import resolve_path
from graft.schemas.problems import did_you_mean
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed

if TYPE_CHECKING:
    from graft.data.lake import Lake


log = logging.getLogger(__name__)

MAX_TEXT_CHARS = 100_000
MAX_FILE_BYTES = 512_000_000
MAX_PROBLEMS = 100
"""Most listed problems; the rest of a broken file is counted."""

FIRST_ROWS = 50
"""Rows whose columns are compared with the recipe's before any row is checked."""

Record = tuple[int, Mapping[str, Any]]
"""Line (or row, for Parquet), and its fields."""


def load_seeds(recipe: Recipe, folder: Path) -> list[Seed]:
    """The seeds of a recipe: its file first (relative to `folder`), then the rows written in it.

    The same text with the same label counts once. Raises InputInvalid naming every broken line.
    """
    settings, labels = recipe.seeds, recipe.task.names
    free = not recipe.task.labelled
    reader = _Reader(str(folder), labels, label_optional=free, block="seeds")
    names = (settings.text_field, settings.label_field, settings.response_field)
    if settings.path:
        reader.file = str(folder / settings.path)
        reader.read(folder / settings.path, names)
    reader.file = "recipe"
    for index, row in enumerate(settings.rows):
        record = {"text": row.text, "label": row.label, "response": row.response}
        reader.take(None, record, ("text", "label", "response"), f"seeds.rows.{index}.")
    if not reader.problems:
        reader.file = str(folder / settings.path) if settings.path else "recipe"
        method = METHODS.get(recipe.method.kind)
        if recipe.task.needed and not method.fills:
            kind, needed = recipe.method.kind, " and ".join(recipe.task.needed)
            what = f"{kind} writes texts and labels; rows for {recipe.task.kind} need {needed} too"
            reader.problem(None, "method.kind", what, "use the method pipeline, or graft import rows that have them")
        for found in method.check(recipe, reader.seeds()):
            reader.problem(None, ".".join(map(str, found.path)), found.what, found.fix)
    reader.finish("seeds")
    return reader.seeds()


def load_labelled(
    path: Path, text_field: str, label_field: str, labels: Sequence[str] | None, *, several: bool = False
) -> list[tuple[str, str]]:
    """(text, label) pairs of a held-out file, in its order; `labels` None takes any label.

    With `several` a row may have several labels, joined by `|`, or an empty cell, and each label is checked; the pair
    holds the original cell. Repeated rows are kept, so that a published test set is measured as it is. Errors as
    `load_seeds`.
    """
    reader = _Reader(str(path), labels, keep_repeats=True, several=several)
    reader.read(path, (text_field, label_field, ""))
    if not reader.rows and not reader.problems:
        reader.problem(None, "", "the file holds no rows", f"add rows with {text_field} and {label_field}")
    reader.finish("rows")
    return [(text, label) for text, label, _ in reader.rows]


def load_texts(path: Path, text_field: str) -> list[str]:
    """The texts of a held-out file, in its order, whatever its labels are. Errors as `load_seeds`."""
    reader = _Reader(str(path), None, label_optional=True, keep_repeats=True)
    reader.read(path, (text_field, "", ""))
    reader.finish("rows")
    return [text for text, *_ in reader.rows]


@dataclass
class _Reader:
    """Collects good rows and problems of one source after another."""

    file: str
    labels: Sequence[str] | None
    label_optional: bool = False
    keep_repeats: bool = False
    several: bool = False
    block: str = "student"
    """The recipe's block that names the columns."""
    rows: list[tuple[str, str, str | None]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    repeated: int = 0
    _seen: dict[str, tuple[str, str]] = field(default_factory=dict)
    _unlisted: int = 0

    def problem(self, line: int | None, name: str, what: str, fix: str) -> None:
        """Record one problem; beyond MAX_PROBLEMS they are only counted."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(self.file, line, name, what, fix))
        else:
            self._unlisted += 1

    def seeds(self) -> list[Seed]:
        """The good rows as seeds."""
        return [Seed.of(text, label, response) for text, label, response in self.rows]

    def finish(self, noun: str) -> None:
        """Raise the problems, or log the number of repeated rows."""
        if self._unlisted:
            last = self.problems[-1]
            more = Problem(last.file, None, "", f"and {self._unlisted} more problems", "correct those above first")
            self.problems.append(more)
        if self.problems:
            raise InputInvalid(self.problems)
        if self.repeated:
            log.info("%d repeated %s were merged", self.repeated, noun)

    def read(self, path: Path, names: tuple[str, str, str]) -> None:
        """All rows of one file, by its extension."""
        readers = {
            ".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".ndjson": _jsonl, ".parquet": _parquet, ".xlsx": _intake,
        }  # fmt: skip
        chosen = _intake if path.is_dir() else readers.get(path.suffix.lower())
        if chosen is None:
            fix = "use .csv, .jsonl, .parquet, .xlsx or a folder"
            self.problem(None, "", f"cannot read files of the kind {path.suffix!r}", fix)
        elif not path.exists():
            self.problem(None, "", "there is no such file", "correct the path; it is relative to the recipe's folder")
        elif path.stat().st_size > MAX_FILE_BYTES:
            self.problem(None, "", f"has {path.stat().st_size:,} bytes", f"give at most {MAX_FILE_BYTES:,} bytes")
        else:
            rows = chosen(self, path, names)
            first = list(islice(rows, FIRST_ROWS))
            if not self._other_columns([record for _, record in first], names):
                for line, record in chain(first, rows):
                    self.take(line, record, names)

    def _other_columns(self, records: Sequence[Mapping[str, Any]], names: tuple[str, str, str]) -> bool:
        """Record one problem if the file has no column of a required name: the settings to change, not every row."""
        have = list(dict.fromkeys(str(name) for record in records for name in record))
        needed = {"text": names[0]} if self.label_optional else {"text": names[0], "label": names[1]}
        missing = {role: name for role, name in needed.items() if name not in have}
        if not have or not missing:
            return False
        found = {role: likely(role, records, tuple(needed.values())) for role in missing}
        settings = [f"{self.block}.{role}_field: {found[role]}" for role in missing if found[role]]
        fix = f"set {' and '.join(settings)} in the recipe" if settings else f"name its columns in {self.block}"
        what = " and ".join(map(repr, missing.values()))
        listed = ", ".join(have[:12]) + (f" and {len(have) - 12} more" if len(have) > 12 else "")
        gone = f"columns {what} are missing" if len(missing) > 1 else f"column {what} is missing"
        self.problem(None, ", ".join(missing.values()), f"{gone}: the file has {listed}", fix)
        return True

    def take(self, line: int | None, record: Mapping[str, Any], names: tuple[str, str, str], at: str = "") -> None:
        """Check one record and keep it if it is valid."""
        before = len(self.problems) + self._unlisted
        text = self._text(line, record, names[0], at, needed=True)
        optional = self.label_optional or (self.several and names[1] in record)
        label = self._text(line, record, names[1], at, needed=not optional)
        response = self._text(line, record, names[2], at, needed=False) if names[2] else None
        for each in ([part.strip() for part in label.split("|")] if self.several else [label]) if label else ():
            if self.labels is not None and each not in self.labels:
                fix = f"{did_you_mean(each, self.labels)}the labels are: {', '.join(self.labels)}"
                self.problem(line, at + names[1], f"unknown label {each[:80]!r}", fix)
        if before == len(self.problems) + self._unlisted and text is not None:
            self._keep(line, text, label or "", response, at + names[0])

    def _keep(self, line: int | None, text: str, label: str, response: str | None, name: str) -> None:
        place = f"line {line} of {self.file}" if line else f"{self.file}, {name}"
        earlier = self._seen.setdefault(text, (label, place))
        if earlier[1] == place or (earlier[0] == label and self.keep_repeats):
            self.rows.append((text, label, response))
        elif earlier[0] == label:
            self.repeated += 1
        else:
            what = f"the same text has label {label!r} here and {earlier[0]!r} in {earlier[1]}"
            self.problem(line, name, what, "keep the row with the right label and remove the other")

    def _text(self, line: int | None, record: Mapping[str, Any], name: str, at: str, needed: bool) -> str | None:
        value = record.get(name)
        if value is None or value == "" or (isinstance(value, str) and not value.strip()):
            if needed and name not in record:
                have = ", ".join(map(str, list(record)[:12]))
                fix = f"{did_you_mean(name, map(str, record))}the row has: {have or 'nothing'}"
                self.problem(line, at + name, f"field {name!r} is missing", fix)
            elif needed:
                self.problem(line, at + name, f"{name} is empty", "write it, or remove the row")
            return None
        if not isinstance(value, str):
            self.problem(line, at + name, f"{name} is not text but {type(value).__name__}", "put it in quotes")
        elif "\0" in value:
            self.problem(line, at + name, f"{name} holds a NUL byte", "remove it; the file may not be plain text")
        elif len(value) > MAX_TEXT_CHARS:
            self.problem(line, at + name, f"{name} has {len(value):,} characters", f"give at most {MAX_TEXT_CHARS:,}")
        else:
            return value.strip()
        return None


def _decode(reader: _Reader, path: Path) -> tuple[str, set[int]]:
    """The file's text, and the lines that are not UTF-8 (each recorded as a problem)."""
    raw = path.read_bytes()
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        reader.problem(1, "", "is UTF-16, not UTF-8", "save the file as UTF-8")
        return "", set()
    try:
        return raw.decode("utf-8-sig"), set()
    except UnicodeDecodeError:
        bad = set()
    for number, line in enumerate(raw.split(b"\n"), start=1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            bad.add(number)
            reader.problem(number, "", f"is not UTF-8 at byte {error.start + 1} of the line", "save the file as UTF-8")
    return raw.decode("utf-8-sig", errors="replace"), bad


def _jsonl(reader: _Reader, path: Path, names: tuple[str, str, str]) -> Iterator[Record]:
    text, bad = _decode(reader, path)
    for number, line in enumerate(text.split("\n"), start=1):
        if number in bad or not line.strip():
            continue
        if len(line) > MAX_LINE or weight(line) > FLOOR // 4:
            what = f"has more than {MAX_LINE:,} characters, or millions of values"
            reader.problem(number, "", what, "remove the row")
            continue
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            what = f"is not valid JSON: {error.msg} (column {error.colno})"
            reader.problem(number, "", what, "write one JSON object a line, with double quotes")
            continue
        if isinstance(record, dict):
            yield number, record
        else:
            fix = f'write an object, such as {{"{names[0]}": "…", "{names[1]}": "…"}}'
            reader.problem(number, "", f"is not a JSON object but {type(record).__name__}", fix)


def _csv(reader: _Reader, path: Path, names: tuple[str, str, str]) -> Iterator[Record]:
    text, bad = _decode(reader, path)
    head = text.split("\n", 1)[0]
    fits = [mark for mark in ",;\t" if names[0] in next(csv.reader([head], delimiter=mark), [])]
    limit = csv.field_size_limit(MAX_LINE)
    try:
        yield from _csv_rows(
            reader, csv.reader(io.StringIO(text, newline=""), delimiter=(fits or [","])[0], strict=True), bad
        )
    finally:
        csv.field_size_limit(limit)


def _csv_rows(reader: _Reader, rows: Any, bad: set[int]) -> Iterator[Record]:
    header: list[str] | None = None
    start = 1
    while True:
        start = rows.line_num + 1
        try:
            cells: list[str] | None = next(rows, None)
        except csv.Error as error:
            reader.problem(start, "", f"is not valid CSV: {error}", 'close the quotes; write a quote inside as ""')
            return
        if cells is None:
            return
        if header is None:
            header = [cell.strip() for cell in cells]
        elif cells and not bad.intersection(range(start, rows.line_num + 1)):
            if len(cells) == len(header):
                yield start, dict(zip(header, cells, strict=True))
            else:
                what = f"has {len(cells)} columns, the header has {len(header)}"
                reader.problem(start, "", what, "put a text that holds a comma in double quotes")


def _parquet(reader: _Reader, path: Path, names: tuple[str, str, str]) -> Iterator[Record]:
    wrong = Problems()
    try:
        have = schema_of(path).names
        if names[0] in have:
            yield from parquet_rows(path, wrong, names)
        else:
            fix = f"{did_you_mean(names[0], have)}the file has: {', '.join(have)}"
            reader.problem(None, names[0], f"column {names[0]!r} is missing", fix)
    except InputInvalid as error:
        reader.problems += error.problems
    reader.problems += wrong.listed


def _intake(reader: _Reader, path: Path, names: tuple[str, str, str]) -> Iterator[Record]:
    """An Excel file or a Hugging Face folder, read as `graft import` reads it; classes by their names."""
    from graft.data.intake import sources

    wrong = Problems()
    try:
        for part in sources.find(str(path)).parts:
            reader.file = part.file
            classes = part.names.get(names[1])
            for line, record in part.records(wrong, tuple(name for name in names if name)):
                value = record.get(names[1])
                if classes and isinstance(value, int) and 0 <= value < len(classes):
                    yield line, {**record, names[1]: classes[value]}
                else:
                    yield line, record
    except InputInvalid as error:
        reader.problems += error.problems
    reader.problems += wrong.listed


def register_evaluation_files(lake: Lake, recipe: Recipe, recipe_file: str | Path) -> list[str]:
    """Registers the recipe's own held-out files: `student.test` and `improve.steer_on`. Returns their names.

    From then on rows that repeat one of their texts are rejected. Raises InputInvalid if a file is unreadable.
    """
    named = [given for given in (recipe.student.test, recipe.improve.steer_on) if given]
    for given in named:
        register_file(lake, recipe.name, resolve_path(recipe_file, given), recipe.student.text_field)
    return named


def register_file(lake: Lake, dataset: str, path: Path, text_field: str) -> bool:
    """Registers one held-out file for a dataset. False: it was registered. Raises InputInvalid if it is unreadable."""
    return lake.register_test_file(dataset, path.name, load_texts(path, text_field))
