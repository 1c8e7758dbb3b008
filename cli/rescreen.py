"""The verb that runs the gates over a published version again: dropped rows, duplicates, probable label errors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from graft.cli.options import JsonFlag, RefArg

WIDTH = 90
"""Characters of an example that are shown."""
SHOWN = 5


def rescreen(
    ref: RefArg,
    override: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, as gates.near_duplicate=0.7")] = None,
    test: Annotated[list[Path] | None, typer.Option("--test", help="a held-out file that no row may repeat")] = None,
    text_field: Annotated[str, typer.Option(help="the field of --test files that holds the text")] = "text",
    test_cosine: Annotated[float, typer.Option(min=0, max=1, help="cosine from which a held-out text is met")] = 0.95,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what would go, write nothing")] = False,
    restricted: Annotated[bool, typer.Option("--restricted", help="show the words of restricted rows")] = False,
    json: JsonFlag = False,
) -> None:
    """Run every gate over a version again, with other thresholds, and publish what stays. No model is called.

    The parent keeps its rows; each row left out is noted with its rule.

    Example:  graft rescreen demo@2 --set gates.near_duplicate=0.7 --test held_out.jsonl --dry-run
    """
    from graft.cli.ops import read_overrides
    from graft.cli.show import as_json, console
    from graft.flows.rescreen import rescreen_version

    said = console(stderr=True)
    done = rescreen_version(
        ref, read_overrides(override or []), dry_run=dry_run, tests=test or [], text_field=text_field,
        test_cosine=test_cosine, restricted=restricted, say=lambda line: said.print(line, style="dim", markup=False),
    )  # fmt: skip
    told = {**done.as_dict(), "dry_run": dry_run}
    if json:
        as_json(told)
        return
    _print(told)


def _print(told: dict[str, Any]) -> None:
    from graft.cli.show import console, table

    out = console()
    if told["rules"]:
        rows = [[r["gate"], r["rule"], f"{r['rows']:,}", _cut(r["example"])] for r in told["rules"]]
        table(f"{told['parent']}: {told['dropped']:,} of {told['rows']:,} rows dropped",
              ["gate", "rule", "rows", "an example"], rows, right=("rows",))  # fmt: skip
    if told["clusters"]:
        rows = [[c["kind"], len(c["rows"]), _cut(c["example"])] for c in told["clusters"][:SHOWN]]
        table(f"clusters of duplicates: {told['clusters_found']:,}", ["alike in", "rows", "one of them"], rows,
              right=("rows",))  # fmt: skip
    if told["label_errors"]:
        rows = [[e["given"], e["likely"], f"{e['share']:.0%}", _cut(e["text"])] for e in told["label_errors"][:SHOWN]]
        table(f"label errors found: {len(told['label_errors']):,}", ["label", "probably", "share", "text"], rows,
              right=("share",))  # fmt: skip
    others = [one for one in told["reported"] if one["rule"] != "label_error"]
    if others:
        out.print(f"{len(others):,} rows reported as out of distribution or of low margin (--json lists them)")
    if told["redacted"]:
        out.print(f"{len(told['redacted']):,} rows redacted")
    for line in told["notes"]:
        out.print(f"note: {line}", markup=False)
    kept = f"{told['kept']:,} of {told['rows']:,} rows"
    if told["dry_run"]:
        out.print(f"dry run: {kept} would stay, nothing was written", markup=False)
    elif told["published"]:
        out.print(f"published {told['published']}: {kept}", markup=False)
    else:
        out.print(f"{told['parent']} stands: every row passes, nothing new was published", markup=False)


def _cut(text: str) -> str:
    """The text in one line, WIDTH characters at most, without control characters."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text[: 4 * WIDTH]).split())
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"
