"""`graft rescreen`: run the gates over a published version again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graft.cli.options import JsonFlag, RefArg

if TYPE_CHECKING:
    from graft.schemas.sections import Table

WIDTH = 90
"""Characters shown of an example."""
SHOWN = 5


def rescreen(
    ref: RefArg,
    override: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, as gates.near_duplicate=0.7")] = None,
    test: Annotated[list[Path] | None, typer.Option("--test", help="held-out file that no row may repeat")] = None,
    text_field: Annotated[str, typer.Option(help="field of the --test files that holds the text")] = "text",
    test_cosine: Annotated[
        float, typer.Option(min=0, max=1, help="cosine from which a row repeats a held-out text")
    ] = 0.95,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show the rows that would be dropped; write nothing")
    ] = False,
    restricted: Annotated[bool, typer.Option("--restricted", help="show the text of restricted rows")] = False,
    json: JsonFlag = False,
) -> None:
    """Run every gate over a version again with other thresholds and publish the rows that pass. No model is called.

    The parent version keeps its rows; each dropped row is recorded with its rule.

    Example:  graft rescreen demo@2 --set gates.near_duplicate=0.7 --test held_out.jsonl --dry-run
    """
    from graft.cli.ops import read_overrides
    from graft.cli.show import as_json, console
    from graft.flows.rescreen import rescreen_version

    errors = console(stderr=True)
    done = rescreen_version(
        ref, read_overrides(override or []), dry_run=dry_run, tests=test or [], text_field=text_field,
        test_cosine=test_cosine, restricted=restricted, say=lambda line: errors.print(line, style="dim", markup=False),
    )  # fmt: skip
    summary = {**done.as_dict(), "dry_run": dry_run}
    if json:
        as_json(summary)
        return
    _print(summary, done.tables)


def _print(summary: dict[str, Any], tables: Sequence[Table]) -> None:
    from graft.cli.show import console, print_table, table

    out = console()
    if summary["rules"]:
        rows = [[r["gate"], r["rule"], f"{r['rows']:,}", _cut(r["example"])] for r in summary["rules"]]
        table(f"{summary['parent']}: {summary['dropped']:,} of {summary['rows']:,} rows dropped",
              ["gate", "rule", "rows", "an example"], rows, right=("rows",))  # fmt: skip
    if summary["clusters"]:
        rows = [[c["kind"], len(c["rows"]), _cut(c["example"])] for c in summary["clusters"][:SHOWN]]
        table(f"clusters of duplicates: {summary['clusters_found']:,}", ["alike in", "rows", "one of them"], rows,
              right=("rows",))  # fmt: skip
    for one in tables:
        if one.rows:
            print_table(replace(one, rows=[{**row, "text": _cut(row["text"])} for row in one.rows[:SHOWN]]))
    shown = {row.get("row_id") for one in tables for row in one.rows}
    others = Counter((one["gate"], one["rule"]) for one in summary["reported"] if one["row_id"] not in shown)
    for (name, rule), count in sorted(others.items()):
        out.print(f"{count:,} rows reported by {name}: {rule} (--json lists them)", markup=False)
    if summary["redacted"]:
        out.print(f"{len(summary['redacted']):,} rows redacted")
    for line in summary["notes"]:
        out.print(f"note: {line}", markup=False)
    kept = f"{summary['kept']:,} of {summary['rows']:,} rows"
    if summary["dry_run"]:
        out.print(f"dry run: {kept} would stay; nothing was written", markup=False)
    elif summary["published"]:
        out.print(f"published {summary['published']}: {kept}", markup=False)
    else:
        out.print(f"every row of {summary['parent']} passes: no new version was published", markup=False)


def _cut(text: str) -> str:
    """The text on one line, at most WIDTH characters, without control characters."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text[: 4 * WIDTH]).split())
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"
