"""Verbs of quality: `quality` prints a version's figures, `report` writes them as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graft.cli.options import JsonFlag, RefArg

if TYPE_CHECKING:
    from graft.data.quality import Quality


def quality(
    ref: RefArg,
    against: Annotated[str | None, typer.Option(help="version to measure drift against", metavar="REF")] = None,
    gold: Annotated[Path | None, typer.Option(help="CSV or JSON Lines: text (or id) and label of each row")] = None,
    embed: Annotated[bool, typer.Option("--embed/--no-embed", help="embed a sample for semantic figures")] = True,
    html: Annotated[Path | None, typer.Option(help="also write the report as one HTML file")] = None,
    restricted: Annotated[bool, typer.Option("--restricted", help="show the text of restricted rows")] = False,
    json: JsonFlag = False,
) -> None:
    """Report a version's balance, lengths, wording, duplicates, meaning, reviewers, yield, price and drift.

    Example:  graft quality demo --html demo.html
    """
    from graft.agents.local.encoder import find_embed
    from graft.cli.show import as_json, console, print_section
    from graft.data.lake import Lake
    from graft.data.quality import quality as report_on
    from graft.data.quality import sections
    from graft.data.versions import version
    from graft.schemas.home import Home

    entries = read_gold(gold) if gold else None
    encoder, skipped = find_embed() if embed else (None, "turned off by --no-embed")
    with Lake.look(Home.find(create=False)) as lake:
        found = version(lake, ref)
        other = version(lake, against) if against else None
        report = report_on(lake, found, embed=encoder, against=other, gold=entries, restricted=restricted)
    if skipped:
        report = report.model_copy(update={"missing": {**report.missing, "meaning": skipped}})
    if html:
        _write(html, report)
    if json:
        as_json(report.model_dump(mode="json"))
        return
    console().print(f"{report.ref}: {report.rows:,} rows", style="bold", markup=False)
    for section in sections(report):
        print_section(section)
    for line in report.sampled:
        console().print(f"sampled: {line}", style="dim", markup=False)
    if html:
        console().print(f"wrote {html}", markup=False, soft_wrap=True)


def read_gold(file: Path) -> list[tuple[str, str]]:
    """(row id or text, label) of each row of a CSV with a header, or of a JSON Lines file. Raises GraftError."""
    import csv
    import json

    from graft.schemas.errors import GraftError

    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix.lower() in (".jsonl", ".ndjson"):
            rows: list[Any] = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            rows = list(csv.DictReader(text.splitlines(keepends=True)))
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise GraftError(f"the gold file cannot be read: {error}", where=str(file), fix="CSV or JSON Lines") from error
    found = []
    for place, row in enumerate(rows, start=1):
        given = row if isinstance(row, dict) else {}
        key, label = given.get("id") or given.get("text"), given.get("label")
        if not isinstance(key, str) or not isinstance(label, str):
            raise GraftError(f"row {place} lacks text (or id) and label", where=str(file), fix="columns: text, label")
        found.append((key, label))
    return found


def _write(file: Path, report: Quality) -> None:
    from graft.data.quality import page
    from graft.schemas.errors import GraftError

    try:
        file.write_text(page(report), encoding="utf-8")
    except OSError as error:
        raise GraftError(f"the report cannot be written: {error.strerror}", where=str(file)) from error


def report(
    ref: RefArg,
    out: Annotated[Path | None, typer.Option(help="default: report-NAME-NUMBER.html", metavar="FILE")] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="open it in a browser")] = False,
    json: JsonFlag = False,
) -> None:
    """Write a version's report as one HTML file without scripts: card, quality, reviews, changes, students, models.

    Example:  graft report demo --out demo.html
    """
    from graft.cli.show import as_json, console
    from graft.dashboard.report import write_report
    from graft.schemas.home import Home

    file = write_report(Home.find(), ref, out)
    if json:
        as_json({"file": str(file), "bytes": file.stat().st_size})
    else:
        console().print(f"wrote {file}", markup=False, soft_wrap=True)
    if open_browser:
        import webbrowser

        webbrowser.open(file.resolve().as_uri())
