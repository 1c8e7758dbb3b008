"""`graft audit`: audit a version."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

UNKNOWN = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Typer passes unknown options on with the names; `chosen` parses them."""


def audit(
    ref: Annotated[str, typer.Argument(help="a dataset, or a version of it: demo, demo@2", metavar="VERSION")],
    names: Annotated[list[str] | None, typer.Argument(help="audits; all if none is named", metavar="[NAME]...")] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="AUDIT.OPTION=VALUE, as poison.share=0.05")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder for charts; default GRAFT_HOME/reports")] = None,
    restricted: Annotated[bool, typer.Option("--restricted", help="with restricted rows")] = False,
    json: Annotated[bool, typer.Option("--json", help="print JSON for programs")] = False,
) -> None:
    """Audit a version: shortcut words, planted bias, teacher hacking, and any audit of a plugin.

    An audit's own options may be given as --OPTION VALUE. An unknown name is an error that lists the known ones.

    Example:  graft audit demo poison --share 0.05
    """
    from graft.cli.ops import read_overrides
    from graft.cli.run import quiet_console
    from graft.cli.show import as_json, console, print_section
    from graft.data.lake import Lake
    from graft.flows.audit import audit as audit_version
    from graft.schemas.home import Home

    quiet_console()
    (ref, *wanted), options = chosen([ref, *(names or [])])
    with Lake.look(Home.find(create=False)) as lake:
        found = audit_version(
            lake, ref, wanted, {**options, **read_overrides(override or [])}, restricted=restricted, out=out
        )
    if json:
        as_json(found.as_dict())
        return
    for section in found.sections:
        print_section(section)
    for note in found.notes:
        console().print(note, markup=False)
    for picture in found.pictures:
        console().print(f"wrote {picture}", markup=False, soft_wrap=True)


def chosen(words: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Split the arguments into names (the version first, then audits) and options (`audit.option` to value).

    `--NAME` selects an audit too.

    Raises:
        BadParameter: an option that no audit has, an option without a value, or no version
    """
    from graft.schemas.kinds import AUDITS
    from graft.schemas.problems import did_you_mean

    owners: dict[str, tuple[str, Any]] = {}
    for name, kind in AUDITS.all().items():
        owners |= {field: (name, info) for field, info in kind.options.model_fields.items() if field not in owners}
    names, options, left = list[str](), dict[str, Any](), list(words)
    while left:
        word = left.pop(0)
        field, equals, value = word.removeprefix("--").partition("=")
        field = field.replace("-", "_")
        if not word.startswith("--"):
            names.append(word)
        elif field in AUDITS.names and not equals:
            names.append(field)
        elif field not in owners:
            known = [f"--{one.replace('_', '-')}" for one in (*owners, *AUDITS.names)]
            raise typer.BadParameter(
                f"no such option: {word}. {did_you_mean(word, known)}use one of {', '.join(known)}"
            )
        elif owners[field][1].annotation is bool and not equals:
            options[f"{owners[field][0]}.{field}"] = True
        elif not equals and not left:
            raise typer.BadParameter(f"{word} needs a value")
        else:
            options[f"{owners[field][0]}.{field}"] = value if equals else left.pop(0)
    if not names:
        raise typer.BadParameter("name a version, such as: graft audit demo")
    return names, options
