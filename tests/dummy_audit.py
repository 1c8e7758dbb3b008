"""An audit of another distribution: how many rows are longer than a limit."""

from __future__ import annotations

from pydantic import Field

from graft.data.audits import Audit, Material
from graft.schemas.base import Value
from graft.schemas.sections import Column, Section, Table


class Options(Value):
    """The length from which a text counts as long."""

    over: int = Field(default=20, ge=1, description="characters from which a text is long")


def run(material: Material, options: Options) -> dict[str, int]:
    """Label to its long rows."""
    found = {row.label: 0 for row in material.rows}
    for row in material.rows:
        found[row.label] += len(row.text) > options.over
    return found


def sections(found: dict[str, int]) -> list[Section]:
    """One table."""
    columns = (Column("label", "label"), Column("rows", "long rows", "number"))
    rows = [{"label": label, "rows": rows} for label, rows in found.items()]
    return [Section("long", "Long rows", f"{sum(found.values())} in all", tables=(Table("long", "", columns, rows),))]


KIND = Audit("rows that are long", run, sections, dict, Options)
