"""What a format of export is: which columns each row becomes, in what kind of file, and what lies beside it.

To add one, make a `Format` and put it into the FORMATS of its family's file; write.py needs no change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from graft.data.export.where import ROW_COLUMNS, visible
from graft.schemas.datasets import DatasetVersion
from graft.schemas.tasks.base import Task

if TYPE_CHECKING:
    from graft.data.lake import Lake

Container = Literal["parquet", "jsonl", "csv", "lines"]
Kind = Literal["files", "training", "hub"]


class Params:
    """The values of one query: each is a numbered parameter, never a part of the query's text."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def add(self, value: Any) -> str:
        """Keeps the value and returns its placeholder."""
        self.values.append(value)
        return f"${len(self.values)}"


@dataclass(frozen=True)
class Source:
    """The rows of one export, and what the formats need to know of them."""

    lake: Lake
    found: DatasetVersion
    task: Task
    language: str
    licence: str
    tau: float
    has_response: bool
    restricted: bool
    columns: tuple[str, ...]
    where: str = "true"
    ask: bool = False
    plain: bool = False
    instruction: str = ""

    @property
    def labels(self) -> list[str]:
        """The version's labels, sorted: a label's place here is its number."""
        return sorted(self.found.labels)

    def chosen(self, params: Params, split: str, span: tuple[int, int] | None = None) -> str:
        """The split's rows as a SQL relation named `chosen`, with ordinal, run_id and candidate_id; `span` of ordinals.

        `where` was taken apart and put together again by where.py: nobody else's text is in the query.
        """
        found = self.found
        within = f" AND ordinal BETWEEN {params.add(span[0])} AND {params.add(span[1])}" if span else ""
        hidden = "" if self.restricted else " AND NOT restricted"
        columns = visible(ROW_COLUMNS, restricted=self.restricted or self.where == "true")
        return f"""(SELECT * FROM (
            SELECT {columns}, ordinal, run_id, candidate_id FROM lake.version_rows
            WHERE dataset = {params.add(found.dataset)} AND version = {params.add(found.version)}
            AND split = {params.add(split)}{hidden}{within}) AS chosen WHERE {self.where}) AS chosen"""


@dataclass(frozen=True)
class Written:
    """One file of the export. `path` is relative to its folder; `rows` is None for a file beside the rows."""

    path: str
    sha256: str
    bytes: int
    split: str = ""
    rows: int | None = None


Columns = Mapping[str, str]
"""Column of the file to its SQL expression over `chosen`."""


def split_name(split: str, shard: int, shards: int, suffix: str) -> str:
    """`train.jsonl`, or `train-00000-of-00004.jsonl` where there are shards."""
    return f"{split}.{suffix}" if shards == 1 else f"{split}-{shard:05}-of-{shards:05}.{suffix}"


@dataclass(frozen=True)
class Format:
    """One format: for people `name` and `says`; for write.py the rest.

    `rows` turns the relation `chosen` into another one of the same name, such as a row for each pair, whose order
    is `order`. `check` raises GraftError where the version cannot be written so. `beside` gives the text of further
    files. `joined` makes one file of the splits' files.
    """

    name: str
    kind: Kind
    says: str
    container: Container
    select: Callable[[Source, Params], Columns]
    suffix: str = ""
    compressions: Sequence[str] = ("none", "gzip", "zstd")
    rows: Callable[[Source, Params, str], str] = field(default=lambda source, params, chosen: chosen)
    order: str = ""
    path: Callable[[str, int, int, str], str] = split_name
    check: Callable[[Source], None] = field(default=lambda source: None)
    beside: Callable[[Source, Sequence[Written], Path], Mapping[str, str]] = field(default=lambda *given: {})
    head: Callable[[Source, Sequence[Written], Path], str] = field(default=lambda *given: "")
    joined: tuple[str, Callable[[Mapping[str, Path], Path], None]] | None = None
    notes: Sequence[str] = ()
    choosable: bool = False
    shardable: bool = True
    skips_empty: bool = False

    @property
    def ending(self) -> str:
        """The files' ending without that of a compression."""
        return self.suffix or self.container
