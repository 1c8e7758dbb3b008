"""`graft label`: labels for a person's own texts, by a recipe that it writes for them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from graft.cli.options import JsonFlag
from graft.schemas.errors import InputInvalid, Problem

MARK = "# Written by graft label; edit it freely, then: graft run {} ({})\n"
EXAMPLE = 'such as --labels "praise,complaint,question"'
MIN_LABELS = 2
HASH = re.compile(r"\((\w{16})\)\n\Z")


def label(
    file: Annotated[str, typer.Argument(help="texts without labels: any file that graft import reads", metavar="FILE")],
    recipe: Annotated[
        str | None, typer.Option(help="recipe whose task, seeds, models and roles are used", metavar="RECIPE")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help='without a recipe: a,b,c or "a=what it means,b=…"', metavar="LABELS")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", "-n", help="name of the dataset")] = None,
    column: Annotated[str | None, typer.Option(help="column of the texts; default: detected")] = None,
    most: Annotated[int | None, typer.Option(min=1, help="texts to label: those that represent all best")] = None,
    order: Annotated[
        str | None, typer.Option(help="diverse (default), given, or uncertain: also what a quick student finds hard")
    ] = None,
    margin_of_error: Annotated[
        float | None,
        typer.Option("--margin-of-error", help="stop once a quick student's held-out accuracy is this sure: 0.05"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="without a recipe: a built-in model, a .gguf file, MODEL@http://host/v1, or provider/model"),
    ] = None,
    top_up: Annotated[
        bool, typer.Option("--top-up", help="fill labels short of target.rows_per_label by the recipe's own method")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Make a dataset of your own texts: models label them, doubtful ones wait for you in the review queue.

    Writes a recipe beside the one given, or in this folder, and runs it. The same command continues or repeats nothing.

    Example:  graft label reviews.csv --labels "praise,complaint,question" --most 500
    """
    from graft.cli.run import run_recipe
    from graft.cli.show import console
    from graft.flows.first_recipe import labels_in

    asked = {"text_column": column, "most": most, "order": order, "margin_of_error": margin_of_error}
    clauses = None if labels is None else labels_in(labels)
    target, of = prepare(file, recipe, clauses, name, model, asked, top_up=top_up)
    console(stderr=json).print(f"texts: column {of!r} of {file}; recipe: {target}", markup=False, highlight=False)
    code = run_recipe(str(target), {}, train=False, export=None, json=json)
    if code:
        raise typer.Exit(code)


def prepare(
    file: str, recipe: str | None, labels: Mapping[str, str] | None, name: str | None, model: str | None,
    asked: Mapping[str, Any], *, top_up: bool,
) -> tuple[Path, str]:  # fmt: skip
    """Write the recipe that labels a file; returns its path, and the column of the texts.

    `asked` are fields of the method; None leaves the default. Raises InputInvalid before anything is written.
    """
    from graft.data.intake.texts import open_texts

    if (recipe is None) == (labels is None):
        what = "give either a recipe or labels" if recipe else "the labels are missing"
        raise InputInvalid([Problem("--labels", None, "", what, f"{EXAMPLE}, or --recipe RECIPE")])
    _, mapped = open_texts(file, asked.get("text_column"))
    given = {field: value for field, value in asked.items() if value is not None}
    if recipe:
        target, made = _derived(recipe, name, Path(file), given, top_up=top_up)
    else:
        target, made = _small(labels or {}, name, Path(file), given, model)
    _write(target, made)
    return target, "+".join(mapped.text) or mapped.chat or ""


def _derived(
    name: str, dataset: str | None, file: Path, given: dict[str, Any], *, top_up: bool
) -> tuple[Path, dict[str, Any]]:
    """The recipe with the method that labels this file, and its path in the same folder."""
    from graft.flows.first_recipe import beside
    from graft.schemas.binding import DEFAULT_METHOD
    from graft.schemas.load import find_recipe, load_recipe
    from graft.schemas.plain_yaml import plain

    source = find_recipe(name)
    loaded = load_recipe(source)
    made: dict[str, Any] = plain(source.read_text(encoding="utf-8-sig"))
    before: dict[str, Any] = made.get("method") or {"kind": DEFAULT_METHOD}
    own: dict[str, Any] = {"kind": "label"}
    labels_already = before.get("kind") == own["kind"]
    roles = dict(made.get("roles") or {})
    if not labels_already:
        own |= {"top_up": before} if top_up else {}
        judges = (roles.get("reviewer") or {}).get("models")
        if judges and "labeler" not in roles:
            roles["labeler"] = {"models": judges}
    dataset = dataset or (loaded.name if labels_already else f"{loaded.name}-labelled")
    target = source.resolve().parent / f"{dataset}.yaml"
    method = {**(before if labels_already else own), **given, "texts": beside(file, target.parent)}
    return target, {**made, "name": dataset, "method": method, **({"roles": roles} if roles else {})}


def _small(
    clauses: Mapping[str, str], dataset: str | None, file: Path, given: dict[str, Any], model: str | None
) -> tuple[Path, dict[str, Any]]:
    """A recipe of these labels and one model, and its path in the present folder."""
    from graft.agents.local.detect import found_models, model_spec
    from graft.flows.first_recipe import beside
    from graft.schemas.tasks.base import ImportedRows, task_for

    if len(clauses) < MIN_LABELS:
        raise InputInvalid(
            [Problem("--labels", None, "", f"{', '.join(clauses)!r} is one label", f"two or more, {EXAMPLE}")]
        )
    task = task_for(("label",))
    fields = task.of_rows(ImportedRows(labels=list(clauses), answered=False, restricted=False, policy=""))
    named = [{**entry, "description": clauses[entry["name"]]} for entry in fields["labels"]]
    dataset = dataset or re.sub(r"[^a-z0-9._-]+", "-", file.stem.lower()).strip("-._")[:64] or "texts"
    spec = model_spec(model) if model else found_models()[0][1]
    target = Path.cwd() / f"{dataset}.yaml"
    return target, {
        "name": dataset,
        "task": {"kind": task.named(), "labels": named},
        "method": {"kind": "label", "texts": beside(file, target.parent), **given},
        "models": [spec],
        "limits": {"candidates": 1_000_000},
    }


def _write(target: Path, made: dict[str, Any]) -> None:
    """Write the recipe. A file that a person wrote or edited is kept: GraftError if it differs."""
    import yaml

    from graft.schemas.base import stable_hash
    from graft.schemas.errors import GraftError

    body = yaml.safe_dump(made, sort_keys=False, allow_unicode=True, width=110)
    if target.exists():
        head, _, old = target.read_text(encoding="utf-8").partition("\n")
        known = HASH.search(head + "\n")
        if old != body and not (known and known[1] == stable_hash(old)):
            raise GraftError(
                "this recipe exists and has other settings", where=str(target),
                fix=f"run it as it is: graft run {target.name}; or give another --name",
            )  # fmt: skip
    target.write_text(MARK.format(target.name, stable_hash(body)) + body, encoding="utf-8")
