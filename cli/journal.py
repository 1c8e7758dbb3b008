"""`graft journal`: size, pruning, export, check and repair of the journal of finished calls.

The lake lists the calls of a run and those that may be exported verbatim.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graft.cli.options import JsonFlag

if TYPE_CHECKING:
    from graft.data.lake import Lake

HELP = """The journal of finished model calls: size, prune, export, check.

Example:  graft journal size
"""
app = typer.Typer(no_args_is_help=True, help=HELP)

UNITS = {"h": 1 / 24, "d": 1.0, "w": 7.0}


@app.command()
def size(json: JsonFlag = False) -> None:
    """Print rows and bytes by age.

    Example:  graft journal size
    """
    from dataclasses import asdict

    from graft.agents.gateway import journal_store
    from graft.cli.show import as_json, console, table
    from graft.schemas.home import Home

    found = journal_store.size(Home.find(create=False).journal)
    if json:
        as_json(asdict(found))
        return
    rows = [[name, f"{share.rows:,}", amount(share.bytes)] for name, share in found.by_age.items()]
    rows.append(["all", f"{found.rows:,}", amount(sum(share.bytes for share in found.by_age.values()))])
    table("journal", ["age up to", "calls", "held"], rows, right=("calls", "held"))
    span = f"{found.oldest:%Y-%m-%d %H:%M} to {found.newest:%Y-%m-%d %H:%M} UTC" if found.oldest else "no calls yet"
    free = f", {amount(found.free_bytes)} of it free" if found.free_bytes else ""
    console().print(f"{amount(found.bytes)} on disk{free}; {span}\n{found.path}", markup=False, soft_wrap=True)


@app.command()
def prune(
    older_than: Annotated[str | None, typer.Option(help="age, such as 30d, 12h or 4w", metavar="AGE")] = None,
    run: Annotated[str | None, typer.Option(help="delete only calls of this run (graft status lists runs)")] = None,
    shared: Annotated[bool, typer.Option("--shared", help="also delete calls that another run used")] = False,
    vacuum: Annotated[bool, typer.Option("--vacuum", help="always compact the file")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show the calls that would be deleted; delete nothing")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="delete")] = False,
    json: JsonFlag = False,
) -> None:
    """Delete finished calls by age or by run. A later run that makes the same calls pays for them again.

    Example:  graft journal prune --older-than 30d --dry-run
    """
    from dataclasses import asdict

    from graft.agents.gateway import journal_store
    from graft.cli.show import as_json, console
    from graft.schemas.errors import GraftError
    from graft.schemas.home import Home

    if older_than is None and run is None:
        raise GraftError("which calls?", where="graft journal prune", fix="--older-than 30d, or --run RUN")
    home = Home.find()
    days = None if older_than is None else read_age(older_than)
    keys = None if run is None else keys_of_run(home, run, shared)
    found = journal_store.prune(home.journal, days, keys, vacuum=vacuum, dry_run=dry_run or not yes)
    if not (yes or dry_run):
        what = f"{found.rows:,} calls ({amount(found.bytes)}) would be deleted; nothing was deleted"
        raise GraftError(what, where=str(home.journal), fix="the same command with --yes")
    if json:
        as_json({**asdict(found), "dry_run": dry_run})
        return
    done = "would be deleted" if dry_run else "deleted"
    freed = f"; the file is {amount(found.freed_bytes)} smaller" if found.vacuumed else ""
    note = f"\n{found.note}" if found.note else ""
    console().print(f"{found.rows:,} calls ({amount(found.bytes)}) {done}{freed}{note}", markup=False, soft_wrap=True)


@app.command()
def export(
    out: Annotated[Path | None, typer.Option(help="file; default GRAFT_HOME/exports/journal.jsonl")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an existing file")] = False,
    restricted: Annotated[
        bool,
        typer.Option("--restricted", help="include calls of restricted tasks and calls that no run in the lake made"),
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Write finished calls to a JSONL file: key, at, request, reply. Prompts and replies are verbatim.

    Calls of a task with restricted rows are left out, because a prompt may quote such rows. So are calls that the lake
    does not know (from a killed run). --restricted includes both.

    Example:  graft journal export --out calls.jsonl
    """
    from dataclasses import asdict

    from graft.agents.gateway import journal_store
    from graft.cli.show import as_json, console
    from graft.schemas.home import Home

    home = Home.find()
    file = out or home.export(f"journal{'-restricted' if restricted else ''}.jsonl")
    only = None if restricted else open_keys(home)
    found = journal_store.export(home.journal, file, only=only, overwrite=overwrite)
    if json:
        as_json({**asdict(found), "restricted": restricted})
        return
    lines = [f"wrote {found.file}: {found.rows:,} calls, prompts and replies verbatim"]
    if restricted:
        lines.append("the file includes calls of restricted tasks (--restricted): protect it")
    if found.left_out:
        lines.append(f"{found.left_out:,} left out (restricted, or unknown to the lake); --restricted includes them")
    if found.damaged:
        lines.append(f"{found.damaged:,} are damaged and left out; see: graft journal check")
    console().print("\n".join(lines), markup=False, soft_wrap=True)


@app.command()
def check(
    repair: Annotated[
        bool, typer.Option("--repair", help="move damaged calls to another file and keep the good ones")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Check every page and every call of the journal; --repair repairs it. Exits with 1 if damage is left.

    A repair deletes nothing: damaged calls go to a .damaged-….jsonl file beside the journal, and a file that SQLite
    cannot read is kept as .broken-…. Both hold prompts and replies.

    Example:  graft journal check --repair
    """
    from dataclasses import asdict

    from graft.agents.gateway import journal_repair, journal_store
    from graft.cli.show import as_json, console
    from graft.schemas.home import Home

    path = Home.find().journal
    found = journal_store.check(path)
    mended = journal_repair.repair(path) if repair and not found.sound else None
    if json:
        as_json({**asdict(found), "sound": found.sound, "repaired": asdict(mended) if mended else None})
    else:
        lines = [f"{found.rows:,} calls read, {found.good:,} good: {found.path}"]
        lines += [f"  {count:,} damaged: {kind}" for kind, count in sorted(found.damage.items())]
        lines += [f"  SQLite reports: {line}" for line in found.sqlite]
        if mended:
            lines.append(f"repaired: {mended.kept:,} calls kept, {mended.moved:,} moved out")
            lines += [f"  {name}" for name in (mended.damaged_file, mended.broken_file) if name]
        elif not found.sound:
            lines.append("repair it:  graft journal check --repair")
        console().print("\n".join(lines), markup=False, soft_wrap=True)
    if not found.sound and mended is None:
        raise typer.Exit(1)


def amount(count: int) -> str:
    """Bytes with a unit, in powers of 1000."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1_000:
            break
        value, unit = value / 1_000, larger
    return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"


def read_age(text: str) -> float:
    """An age such as 30d, 12h or 4w in days; a bare number counts days. Raises GraftError if the text is no age."""
    from graft.schemas.errors import GraftError

    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)([hdw]?)", text.strip(), re.ASCII)
    if not found:
        raise GraftError(f"{text!r} is no age", where="--older-than", fix="such as 30d, 12h or 4w")
    return float(found[1]) * UNITS[found[2] or "d"]


def keys_of_run(home: Any, run_id: str, shared: bool) -> set[str]:
    """Keys of a run's calls; `shared` includes calls that another run used too. Raises NotFound."""
    from graft.data.lake import Lake
    from graft.schemas.errors import NotFound

    query = """
        SELECT key FROM lake.calls GROUP BY key
        HAVING bool_or(run_id = $1) AND ($2 OR bool_and(run_id = $1))"""
    with Lake.open(home, read_only=True) as lake:
        if lake.run(run_id) is None:
            known = ", ".join(run.id for run in lake.runs()[:5]) or "none yet"
            raise NotFound(f"no run {run_id!r}", where="--run", fix=f"one of these: {known} (graft status lists them)")
        return set(lake.sql(query, [run_id, shared]).column("key").to_pylist())


def open_keys(home: Any) -> set[str]:
    """Keys of calls that may be exported: the lake holds every run that used them, and no task is restricted."""
    from graft.data.lake import Lake

    query = """
        SELECT calls.key FROM lake.calls AS calls LEFT JOIN lake.candidates AS candidates
          ON candidates.run_id = calls.run_id AND candidates.candidate_id = calls.candidate_id
        GROUP BY calls.key
        HAVING bool_and(list_contains(?::VARCHAR[], calls.run_id) AND NOT coalesce(candidates.restricted, false))"""
    with Lake.open(home, read_only=True) as lake:
        return set(lake.sql(query, [_open_runs(lake)]).column("key").to_pylist())


def _open_runs(lake: Lake) -> list[str]:
    return [run.id for run in lake.runs() if not run.task.has_restricted]
