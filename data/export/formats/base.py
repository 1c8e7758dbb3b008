"""Definition of an export format: the columns of each row, the file type, and the files beside it.

To add a format, create a `Format` and add it to the KINDS of its family's file, or give it to an entry point of another
distribution in the group `graft.exports`; write.py needs no change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from graft.data.export.where import ROW_COLUMNS, visible
from graft.schemas.datasets import DatasetVersion
from graft.schemas.errors import GraftError
from graft.schemas.kinds import EXPORTS
from graft.schemas.tasks.base import Task

if TYPE_CHECKING:
    from graft.data.lake import Lake

FORMULA = "^[\\s\\x00-\\x1f\\x{a0}\\x{200b}\\x{3000}\\x{feff}]*[=+\\-@＝＋－＠]|^[\\t\\r\\n]"
"""Cells that a spreadsheet would read as a formula, as a regular expression of DuckDB."""

Container = Literal["parquet", "jsonl", "csv", "lines"]


class Params:
    """The values of a query: each is a numbered parameter, never part of the query's text."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def add(self, value: Any) -> str:
        """Store the value and return its placeholder."""
        self.values.append(value)
        return f"${len(self.values)}"


def path_of(column: str) -> str:
    """The JSON path of a column within a row's `data`."""
    return '$."' + column.replace("\\", "\\\\").replace('"', '\\"') + '"'


HELD = "data_"
"""Before the name of a column of `data` that a row has by itself too: a row's `source` is not `data["source"]`."""


@dataclass(frozen=True)
class Source:
    """The rows of an export, and the facts that the formats need. `further` are the columns in the rows' `data`; one
    that is named like a row's own column has HELD before its name.
    """

    lake: Lake
    found: DatasetVersion
    task: Task
    language: str
    licence: str
    tau: float
    has_response: bool
    restricted: bool
    columns: tuple[str, ...]
    further: tuple[str, ...] = ()
    where: str = "true"
    ask: bool = False
    plain: bool = False
    instruction: str = ""

    def column(self, name: str, params: Params) -> str:
        """The SQL of a row's column; of one of `further` as JSON."""
        if name not in self.further:
            return name
        own = name.removeprefix(HELD)
        return f"json_extract(data, {params.add(path_of(own if own in ROW_COLUMNS else name))})"

    @property
    def labels(self) -> list[str]:
        """The version's labels, sorted: a label's index here is its number."""
        return sorted(self.found.labels)

    def chosen(self, params: Params, split: str, span: tuple[int, int] | None = None) -> str:
        """Return the split's rows as a SQL relation named `chosen`, with ordinal, run_id and candidate_id.

        `span` limits the ordinals. `where` was rebuilt by where.py, so the query contains no text written by a user.
        """
        found = self.found
        within = f" AND ordinal BETWEEN {params.add(span[0])} AND {params.add(span[1])}" if span else ""
        hidden = "" if self.restricted else " AND NOT restricted"
        columns = visible(ROW_COLUMNS, restricted=self.restricted or self.where == "true")
        return f"""(SELECT * FROM (
            SELECT {columns}, data, ordinal, run_id, candidate_id FROM lake.version_rows
            WHERE dataset = {params.add(found.dataset)} AND version = {params.add(found.version)}
            AND split = {params.add(split)}{hidden}{within}) AS chosen WHERE {self.where}) AS chosen"""


@dataclass(frozen=True)
class Written:
    """One file of the export. `path` is relative to its folder; `rows` is None for a file that holds no rows."""

    path: str
    sha256: str
    bytes: int
    split: str = ""
    rows: int | None = None


Columns = Mapping[str, str]
"""Column names of the file to SQL expressions over `chosen`."""


def split_name(split: str, shard: int, shards: int, suffix: str) -> str:
    """Return `train.jsonl`, or `train-00000-of-00004.jsonl` if there are several shards."""
    return f"{split}.{suffix}" if shards == 1 else f"{split}-{shard:05}-of-{shards:05}.{suffix}"


def turn(role: str, content: str) -> str:
    """Return the SQL of a conversation with one message."""
    return f"[{{'role': '{role}', 'content': {content}}}]"


def row_columns(source: Source, params: Params) -> Columns:
    """The whole row, for a format with `lines`."""
    return {name: name for name in ("id", "text", "response", "label", "data")}


@dataclass(frozen=True)
class Format:
    """An export format. `name` and `summary` are for people, the rest is for write.py.

    `lines` makes a function that turns each row, as `select` has it with `data` decoded, into the file's text; such a
    format is not compressed. `column` is the further column of the rows that it writes, which may be missing if
    `optional`. `rows` transforms the relation `chosen` into another of the same name, such as one row per pair, sorted
    by `order`. `check` raises GraftError if the version cannot be written in this format. `beside` returns the text of
    further files by name. `joined` merges the splits' files into one file of the given name. `instructed`:
    --instruction can put words before a text to classify. `pushable`: a hub accepts the folder.
    """

    name: str
    summary: str
    container: Container
    select: Callable[[Source, Params], Columns]
    suffix: str = ""
    compressions: Sequence[str] = ("none", "gzip", "zstd")
    column: str = ""
    rows: Callable[[Source, Params, str], str] = field(default=lambda source, params, chosen: chosen)
    order: str = ""
    lines: Callable[[Source], Callable[[dict[str, Any]], str] | None] = field(default=lambda source: None)
    path: Callable[[str, int, int, str], str] = split_name
    check: Callable[[Source], None] = field(default=lambda source: None)
    beside: Callable[[Source, Sequence[Written], Path], Mapping[str, str]] = field(default=lambda *given: {})
    head: Callable[[Source, Sequence[Written], Path], str] = field(default=lambda *given: "")
    joined: tuple[str, Callable[[Mapping[str, Path], Path], None]] | None = None
    notes: Sequence[str] = ()
    choosable: bool = False
    shardable: bool = True
    skips_empty: bool = False
    instructed: bool = False
    pushable: bool = False
    optional: bool = False

    @property
    def ending(self) -> str:
        """The files' suffix, without the suffix of a compression."""
        return self.suffix or self.container

    def check_rows(self, source: Source) -> None:
        """Raise GraftError if the version's rows cannot be written in this format."""
        if self.column and not self.optional and self.column not in source.further:
            what = f"its rows have no column {self.column!r}, which this format writes"
            raise GraftError(what, where=source.found.ref, fix=f"one of: {', '.join(formats_for(source.task))}")
        self.check(source)


def formats_for(task: Task) -> list[str]:
    """The formats that write the columns of a task's own, or else the one that writes any column."""
    found = [name for name, one in EXPORTS.all().items() if one.column in task.columns]
    return found or [name for name, one in EXPORTS.all().items() if one.choosable][-1:]
