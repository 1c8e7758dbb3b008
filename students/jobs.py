"""A training as a file that several processes read: JOB.json, and its rows beside it as JSONL or Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from graft.schemas.base import Value
from graft.schemas.errors import InputInvalid, NotFound, Problem
from graft.schemas.students import StudentSettings
from graft.students.rows import TrainRow

_T = TypeVar("_T", bound=Value)


@dataclass(frozen=True)
class Job:
    """A training: arguments of `students.launch.train_classifier`. `batch_size` is smaller than the settings'."""

    rows: tuple[TrainRow, ...]
    validation: tuple[TrainRow, ...]
    labels: tuple[str, ...]
    settings: StudentSettings
    out: Path
    batch_size: int | None = None


class _JobFile(Value):
    """Contents of JOB.json; paths are relative to its folder."""

    rows: str
    validation: str | None = None
    labels: tuple[str, ...] = Field(min_length=2)
    settings: StudentSettings = StudentSettings()
    out: str
    batch_size: int | None = Field(default=None, ge=1)


class _JobRow(Value):
    """A line of the rows; other fields are refused."""

    text: str
    label: str
    soft: tuple[float, ...] | None = None
    labels: tuple[str, ...] = ()
    response: str = ""


def write_job(job: Job, folder: Path) -> None:
    """Write job.json, rows.jsonl and validation.jsonl into a folder."""
    for name, rows in (("rows", job.rows), ("validation", job.validation)):
        lines = (json.dumps(asdict(row), ensure_ascii=True) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    kept = _JobFile(
        rows="rows.jsonl", validation="validation.jsonl", labels=job.labels, settings=job.settings,
        out=str(job.out.resolve()), batch_size=job.batch_size,
    )  # fmt: skip
    (folder / "job.json").write_text(kept.model_dump_json(indent=1), encoding="utf-8")


def read_job(file: Path) -> Job:
    """A job and its rows. Raises NotFound if the file does not exist, InputInvalid if it cannot be used."""
    kept = _checked(_JobFile, _text(file), file, None)
    folder = file.parent
    validation = _rows(folder / kept.validation) if kept.validation else ()
    return Job(
        _rows(folder / kept.rows), validation, kept.labels, kept.settings, folder / kept.out, kept.batch_size
    )  # fmt: skip


def _rows(file: Path) -> tuple[TrainRow, ...]:
    found = [_checked(_JobRow, text, file, line) for line, text in _lines(file)]
    return tuple(TrainRow(row.text, row.label, row.soft, row.labels, row.response) for row in found)


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Number and JSON of each row."""
    if file.suffix != ".parquet":
        yield from ((n, line) for n, line in enumerate(_text(file).split("\n"), 1) if line.strip())
        return
    from pyarrow import ArrowException, parquet

    if not file.is_file():
        raise NotFound("no such file", where=str(file))
    try:
        rows: Sequence[dict[str, Any]] = parquet.read_table(file).to_pylist()
    except (ArrowException, OSError) as error:
        raise _refused(file, None, "", str(error)) from None
    for number, row in enumerate(rows, 1):
        yield number, json.dumps({name: value for name, value in row.items() if value is not None}, default=str)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFound("no such file", where=str(file)) from None
    except UnicodeDecodeError:
        raise _refused(file, None, "", "not UTF-8") from None


def _checked(kind: type[_T], text: str, file: Path, line: int | None) -> _T:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise _refused(file, line, ".".join(map(str, first["loc"])), first["msg"]) from None


def _refused(file: Path, line: int | None, field: str, what: str) -> InputInvalid:
    return InputInvalid([Problem(str(file), line, field, what, "docs/gpu.md shows a job file")])
