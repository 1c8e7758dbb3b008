"""Figures of the rows' own shape, as their task measures it: spans a row, turns a conversation, grades."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from graft.data.arrow import plain_rows
from graft.data.lake_schema import VersionRowRecord
from graft.data.quality.model import Counts, Shape, Spread
from graft.data.quality.words import DIGITS
from graft.schemas.datasets import DatasetVersion
from graft.schemas.sections import Column, Section, Table
from graft.schemas.tasks.base import Words

if TYPE_CHECKING:
    from graft.data.lake import Lake

ROWS = 20_000
MOST = 30
"""Most values listed of a measure."""
CUT = 100
"""Characters by which values are distinguished."""


def shape(lake: Lake, version: DatasetVersion) -> Shape | None:
    """The measures of the version's task over at most `ROWS` rows, without restricted ones, whose words it might quote.

    None if the task measures nothing.
    """
    run = lake.run(version.run_id)
    if run is None or not run.task.checked:
        return None
    query = """
        SELECT text, response, label, data FROM lake.version_rows WHERE dataset = ? AND version = ? AND NOT restricted
        ORDER BY md5_number_lower(id), id LIMIT ?"""
    rows = plain_rows(VersionRowRecord, lake.query(query, [version.dataset, version.version, ROWS]))
    numbers: dict[str, list[float]] = {}
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        for name, values in run.task.measures(Words.of(row)).items():
            for value in values:
                if isinstance(value, str):
                    counts.setdefault(name, Counter())[value[:CUT]] += 1
                else:
                    numbers.setdefault(name, []).append(float(value))
    return Shape(
        rows=len(rows),
        numbers={name: _spread(values) for name, values in numbers.items()},
        counts=tuple(
            Counts(name=name, different=len(count), total=count.total(),
                   most=dict(sorted(count.items(), key=lambda one: (-one[1], one[0]))[:MOST]))
            for name, count in counts.items()
        ),
    )  # fmt: skip


def _spread(values: list[float]) -> Spread:
    import numpy as np

    p5, p50, p95 = (round(float(one), DIGITS) for one in np.percentile(values, [5, 50, 95]))
    return Spread(mean=round(float(np.mean(values)), DIGITS), p5=p5, p50=p50, p95=p95)


def section(found: Shape) -> Section:
    """The figures as tables: one of the numbers, one for each counted value."""
    columns = (Column("name", "measure"), *(Column(key, key, "figure") for key in ("mean", "p5", "p50", "p95")))
    numbers: list[dict[str, Any]] = [{"name": name, **spread.model_dump()} for name, spread in found.numbers.items()]
    tables = [Table("quality-shape", "", columns, numbers)] if numbers else []
    for one in found.counts:
        heads = (
            Column("value", one.name),
            Column("count", "number", "number"),
            Column("share", "share", "share", bar=True),
        )
        rows = [{"value": value, "count": count, "share": count / one.total} for value, count in one.most.items()]
        note = f"the {len(one.most)} most frequent of {one.different:,}" if one.different > len(one.most) else ""
        tables.append(Table(f"quality-{_slug(one.name)}", one.name, heads, rows, note=note))
    text = f"as the task measures {found.rows:,} rows"
    return Section("shape", "Shape of the rows", text, tables=tuple(tables))


def _slug(name: str) -> str:
    return "-".join(name.lower().split())
