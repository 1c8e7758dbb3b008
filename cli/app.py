"""The `graft` command: its verbs, and how errors are printed. Heavy libraries are imported inside a verb."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any, NoReturn

import typer

from graft.cli import (
    audit,
    batches,
    clean,
    export,
    init,
    intake,
    journal,
    label,
    make,
    mcp,
    models,
    ops,
    predict,
    preview,
    prompts,
    provenance,
    quality,
    read,
    recipes,
    rescreen,
    review,
    students,
    teacher,
    versions,
)
from graft.cli import map as maps

HELP = """A synthetic-data factory: small models generate, review and adjudicate; a student learns.

Start here:  graft run demo --train --export jsonl
"""

EXITS = """Exit codes: 0 done · 1 error · 2 invalid input · 3 model or key unreachable · 4 an extra is not installed ·
5 already running · 6 lake from a newer Graft · 7 stopped by a low yield · 8 not found · 9 no space · 130 interrupted"""

SETUP: dict[str, Any] = {
    "name": "graft", "help": HELP, "epilog": EXITS, "no_args_is_help": True, "add_completion": True,
    "rich_markup_mode": "rich", "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}  # fmt: skip
app = typer.Typer(**SETUP)

Verb = Callable[..., None]
MAKE: list[Verb] = [
    init.init, make.validate, make.schema, make.estimate, preview.preview, teacher.teacher, make.run, label.label,
    intake.bring_in,
]  # fmt: skip
LOOK: list[Verb] = [
    ops.dashboard, maps.draw, read.status, models.models, read.datasets, read.show, read.explain, export.export,
]  # fmt: skip
ANSWER: list[Verb] = [
    quality.quality, versions.diff, quality.report, audit.audit, rescreen.rescreen, provenance.trace,
    provenance.recall, provenance.lineage,
]  # fmt: skip
VERSIONS: list[Verb] = [versions.tag, review.review, versions.edit, versions.rebase, versions.delete]
STUDENTS: list[Verb] = [
    students.train, students.improve, students.students, students.compare, predict.export_student, predict.predict,
]  # fmt: skip
OPERATE: list[Verb] = [
    mcp.mcp, ops.up, ops.down, ops.schedule, ops.stop, ops.resume, batches.batches, versions.maintain, clean.clean,
    read.doctor, read.plugins,
]  # fmt: skip
NAMES: dict[Verb, str] = {intake.bring_in: "import", maps.draw: "map"}
"""Verbs whose name is a word of Python's."""

OLD_NAMES: dict[str, Verb] = {"gate": rescreen.rescreen, "go-on": ops.resume}
"""Names from earlier versions: they still work, but help does not list them."""

PANELS: dict[str, list[Verb]] = {
    "Make": MAKE, "Inspect and export": LOOK, "Quality and provenance": ANSWER, "Versions": VERSIONS,
    "Students": STUDENTS, "Operate": OPERATE,
}  # fmt: skip
SETTINGS: dict[Verb, dict[str, bool]] = {audit.audit: audit.UNKNOWN}
"""Verbs that parse some of their options themselves."""
COMMANDS = {export.export: export.ExportCommand}
"""Verbs whose help is made when it is shown."""
for panel, verbs in PANELS.items():
    for verb in verbs:
        app.command(
            NAMES.get(verb), cls=COMMANDS.get(verb), rich_help_panel=panel, context_settings=SETTINGS.get(verb)
        )(verb)
for old, verb in OLD_NAMES.items():
    app.command(old, hidden=True)(verb)


def _version(wanted: bool) -> None:
    if wanted:
        from graft.schemas.kinds import code_version

        typer.echo(f"graft {code_version()}")
        raise typer.Exit


VERSION = typer.Option("--version", callback=_version, is_eager=True, help="print the version and exit")


@app.callback(help=HELP)
def _options(version: Annotated[bool, VERSION] = False) -> None:
    pass


app.add_typer(prompts.app, name="prompts", rich_help_panel="Make")
app.add_typer(recipes.app, name="recipes", rich_help_panel="Make")
app.add_typer(journal.app, name="journal", rich_help_panel="Operate")


def main(ready: Callable[[], object] = lambda: None) -> None:
    """Run the command line; a GraftError becomes two lines and its exit code, never a traceback.

    `ready` is called once the verbs are set up, which takes a moment.
    """
    from graft.schemas.errors import GraftError, Interrupted, by_ctrl_c

    command = _command(sys.argv[1:])
    ready()
    try:
        command()
    except GraftError as error:
        sys.stderr.write(f"error: {error}\n")
        _leave(error.exit_code)
    except RuntimeError as error:
        if not by_ctrl_c(error):
            raise
        _leave(Interrupted.exit_code)
    except SystemExit as end:
        _leave(end.code)


def _command(words: Sequence[str]) -> Callable[[], object]:
    """The command line with the verb that is called, or with every verb: their parameters take 0.1 s."""
    for info in app.registered_commands:
        if words and words[0] == (info.name or typer.main.get_command_name(getattr(info.callback, "__name__", ""))):
            alone = typer.Typer(**SETUP)
            alone.registered_commands.append(info)
            return typer.main.get_group(alone)
    return typer.main.get_command(app)


def _leave(code: int | str | None) -> NoReturn:
    """End the process. Ctrl-C changes nothing from here on: Python's end takes a quarter of a second.

    Python would kill itself by SIGINT, instead of exiting with 130, if an earlier Ctrl-C hit an exec().
    """
    from graft.schemas.errors import Interrupted

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if code == Interrupted.exit_code:
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(Interrupted.exit_code)
    raise SystemExit(code) from None
