"""`graft init`: a first recipe from four questions, or from flags."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graft.cli.options import JsonFlag

if TYPE_CHECKING:
    from graft.flows.first_recipe import Look
    from graft.schemas.tasks.base import Task


def init(
    file: Annotated[
        str | None, typer.Option(help="your texts, with labels or without: any file that graft import reads")
    ] = None,
    task: Annotated[str | None, typer.Option(help="kind of task, such as classification; default: guessed")] = None,
    labels: Annotated[
        str | None, typer.Option(help='a,b,c or "a=what it means,b=…"; default: those of the file')
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="a built-in model, a .gguf file, MODEL@http://host/v1, or provider/model")
    ] = None,
    policy: Annotated[str | None, typer.Option(help="of a guard: completes `a message that …`")] = None,
    text_column: Annotated[str | None, typer.Option(help="column of the texts; default: detected")] = None,
    label_column: Annotated[str | None, typer.Option(help='column of the labels; default: detected, "": none')] = None,
    name: Annotated[str | None, typer.Option("--name", "-n", help="name of the dataset; default: the file's")] = None,
    out: Annotated[Path | None, typer.Option(help="recipe to write; default: NAME.yaml here")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace an existing file")] = False,
    json: JsonFlag = False,
) -> None:
    """Write a commented recipe that validates, after a look at your file. Asks what flags leave out, on a terminal.

    Example:  graft init --file reviews.csv --labels "praise,complaint" --model gpt-4o-mini@https://api.openai.com/v1
    """
    from graft.agents.local.detect import model_spec
    from graft.cli.show import as_json, console
    from graft.flows.first_recipe import beside, compose, look_at, task_fields, write
    from graft.schemas.kinds import TASKS

    ask = sys.stdin.isatty() and sys.stdout.isatty() and not json
    say = console(stderr=json)
    if file is None and ask:
        file = _asked("Your texts: a file, with labels or without (none: leave empty)", "") or None
    look = look_at(file, text_column, label_column) if file else None
    if look:
        say.print(f"{file}: {look.summary()}", markup=False, highlight=False, soft_wrap=True)
    kind: type[Task] = TASKS.get(task or _task(look, ask))
    if "policy" in kind.import_options and not policy and ask:
        policy = _asked("Policy: a message that …", "")
    meant = _labels(kind, labels, look, ask)
    spec = model_spec(model) if model else _model(ask)
    slug = name or re.sub(r"[^a-z0-9._-]+", "-", Path(file).stem.lower() if file else "my-texts").strip("-._")[:64]
    target = out or Path.cwd() / f"{slug or 'my-texts'}.yaml"
    path = beside(Path(file), target.resolve().parent) if file else ""
    text = compose(slug or "my-texts", kind, task_fields(kind, meant, look, policy or ""), look, path, spec)
    write(target, text, force=force)
    if json:
        as_json({"recipe": str(target), "look": look.model_dump() if look else None})
        return
    say.print(
        f"wrote {target}, which is valid. Next:  graft preview {target}", markup=False, highlight=False, soft_wrap=True
    )


def _asked(question: str, default: str) -> str:
    """A line from the terminal; the default if it is empty."""
    return str(typer.prompt(question, default=default, show_default=bool(default))).strip()


def _task(look: Look | None, ask: bool) -> str:
    """The kind of task: guessed from the columns, confirmed on a terminal."""
    from graft.schemas.kinds import TASKS
    from graft.schemas.tasks.base import task_for

    guessed = task_for(("response",) if look and look.response and not look.labels else ("label",)).named()
    simple = [name for name, kind in TASKS.all().items() if not kind.needed]
    return _asked(f"Task ({', '.join(simple)})", guessed) if ask else guessed


def _labels(kind: type[Task], given: str | None, look: Look | None, ask: bool) -> dict[str, str]:
    """Label to meaning. Raises InputInvalid if labels are missing, or lack a meaning that is needed."""
    from graft.flows.first_recipe import labels_in
    from graft.schemas.errors import InputInvalid, Problem

    found = look.labels if look else {}
    if given is None and ask and not kind.sides:
        shown = ", ".join(found) if len(", ".join(found)) < 200 else f"the {len(found)} of your file"
        asked = _asked(f"{kind.label_noun.capitalize()}s, such as a, b or a=meaning, b=meaning", shown)
        given = None if asked == shown else asked
    meant = labels_in(given) if given else dict.fromkeys(found, "")
    fix = f'{kind.label_noun}s and their meaning: --labels "praise=the customer is happy,complaint=…"'
    if not meant and kind.labelled and not kind.sides:
        where = look.file if look else "--labels"
        raise InputInvalid([Problem(where, None, "", f"there are no {kind.label_noun}s", fix)])
    if not look and not all(meant.values()):
        what = "without a file every label needs a meaning"
        raise InputInvalid([Problem("--labels", None, "", what, fix)])
    lost = [name for name in found if meant and name not in meant and not kind.sides]
    if given and look and lost:
        what = f"the column {look.label!r} has {lost[0]!r} ({found[lost[0]]:,} rows), which --labels leaves out"
        raise InputInvalid([Problem(look.file, None, "", what, "add it, or give --label-column '' to label anew")])
    return meant


def _model(ask: bool) -> dict[str, Any]:
    """The first model found on this machine, or the one chosen on a terminal."""
    from graft.agents.local.detect import found_models, model_spec
    from graft.schemas.errors import ModelUnreachable

    try:
        found = found_models()
    except ModelUnreachable:
        if not ask:
            raise
        found = []
    if not ask:
        return found[0][1]
    for number, (said, _) in enumerate(found, 1):
        typer.echo(f"  {number}  {said}")
    chosen = _asked("Model: a number, MODEL@http://host/v1, or provider/model", "1" if found else "")
    if chosen.isdecimal() and 1 <= int(chosen) <= len(found):
        return found[int(chosen) - 1][1]
    return model_spec(chosen)
