"""Agreement of people and judges as tables, for the terminal and the pages."""

from __future__ import annotations

from graft.data.review.model import AgainstPeople, Agreement
from graft.schemas.sections import Column, Table


def people_tables(found: Agreement) -> tuple[Table, Table]:
    """Pairs of people, and the rows on which they differ; a page adds each row's `href`."""
    pairs = (
        Column("a", "person"), Column("b", "and"), Column("rows", "shared rows", "number"),
        Column("equal", "equal", "number"), Column("kappa", "Cohen's kappa", "number", digits=3),
    )  # fmt: skip
    differ = [
        {"row": one.row_id, "said": ", ".join(f"{who}: {said}" for who, said in sorted(one.said.items()))}
        for one in found.differ
    ]
    return (
        Table("pairs", "People with each other", pairs, [one.model_dump() for one in found.pairs]),
        Table("differ", "Rows on which people differ", (Column("row", "row", "code", link="href"),
              Column("said", "decisions")), differ),
    )  # fmt: skip


def judges_table(judges: AgainstPeople) -> Table:
    """Judges, gates and decisions beside people's decisions."""
    columns = (
        Column("kind", "judge"), Column("name", "name"), Column("rows", "rows", "number"),
        Column("share", "agrees", "share", of="rows"), Column("low", "95% from", "share", measured="rows"),
        Column("high", "to", "share", measured="rows"),
        Column("false_accepts", "false accepts", "number"), Column("false_rejects", "false rejects", "number"),
    )  # fmt: skip
    rows = [{**one.model_dump(), "low": one.interval[0], "high": one.interval[1]} for one in judges.judges]
    title = f"Judges on {judges.rows:,} rows that people decided"
    return Table("judges", title, columns, rows, note="false accepts: it accepted rows that people rejected")
