"""`graft recipes`: the gallery of recipes that run as they are."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from graft.cli.options import JsonFlag

app = typer.Typer(invoke_without_command=True)
PAPER = re.compile(r"arXiv[: ](\d{4}\.\d{4,5})")
EMBEDDED = ("embedded", "encoder")
NameArg = Annotated[str, typer.Argument(help="a recipe of the gallery", metavar="NAME")]


@app.callback()
def recipes(context: typer.Context, json: JsonFlag = False) -> None:
    """List the gallery: recipes that run as they are, by name, as `graft run NAME`.

    Example:  graft recipes
    """
    if context.invoked_subcommand:
        return
    from graft.cli.show import as_json, console, table

    found = gallery()
    if json:
        as_json(found)
        return
    columns = ["recipe", "makes", "method", "models", "keys", "paper"]
    view = [
        [one["name"], one["makes"], one["method"], _short(one["models"]), "\n".join(one["keys"]), one["paper"]]
        for one in found
    ]  # fmt: skip
    table(f"{len(found)} recipes", columns, view, tight=True, whole=("recipe", "paper"))
    for what, verb in (("try one", "preview"), ("read it", "recipes show"), ("edit it", "recipes copy")):
        console().print(f"{what}:  graft {verb} NAME", markup=False)


@app.command()
def show(name: NameArg) -> None:
    """Print a recipe of the gallery.

    Example:  graft recipes show demo
    """
    typer.echo(_file(name).read_text(encoding="utf-8"), nl=False)


@app.command()
def copy(
    name: NameArg,
    out: Annotated[Path, typer.Option(help="folder to copy it to")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="replace existing files")] = False,
    json: JsonFlag = False,
) -> None:
    """Copy a recipe and the files that it names, to edit them.

    Example:  graft recipes copy demo --out my-recipes
    """
    from graft.cli.show import as_json, console
    from graft.flows.recipe_shelf import files_of
    from graft.schemas.errors import GraftError

    file = _file(name)
    pairs = [(file, out / file.name), *((file.parent / one, out / one) for one in files_of(file))]
    there = [str(target) for _, target in pairs if target.exists()]
    if there and not force:
        raise GraftError("this file exists", where=there[0], fix="give another --out, or --force to replace it")
    try:
        for source, target in pairs:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target, dirs_exist_ok=True) if source.is_dir() else shutil.copyfile(source, target)
    except OSError as error:
        where = str(error.filename or out)
        raise GraftError(error.strerror or "cannot be written", where=where, fix="give another --out") from error
    if json:
        as_json([str(target) for _, target in pairs])
        return
    more = f" and {len(pairs) - 1} files that it names" if len(pairs) > 1 else ""
    console().print(f"wrote {pairs[0][1]}{more}. Next:  graft preview {pairs[0][1]}", markup=False, soft_wrap=True)


def gallery() -> list[dict[str, Any]]:
    """Every bundled recipe by name: what it makes, task, method, models, keys that it needs, its paper."""
    from graft.schemas.load import PACKAGE_RECIPES

    return [_entry(file) for file in sorted(PACKAGE_RECIPES.glob("*.yaml"))]


def _entry(file: Path) -> dict[str, Any]:
    from graft.schemas.binding import DEFAULT_METHOD
    from graft.schemas.models import EMBEDDED_POOL
    from graft.schemas.plain_yaml import plain

    text = file.read_text(encoding="utf-8")
    data = plain(text)
    models = data.get("models") or [one.model_dump() for one in EMBEDDED_POOL]
    method, paper = (data.get("method") or {}).get("kind", DEFAULT_METHOD), PAPER.search(text)
    if inner := (data.get("method") or {}).get("top_up"):
        method += f" + {inner.get('kind', DEFAULT_METHOD)}"
    return {
        "name": file.stem, "makes": data.get("description", ""), "task": data["task"].get("kind", ""),
        "method": method, "models": [one["model"].rpartition("/")[2] for one in models],
        "embedded": all(one["provider"] in EMBEDDED for one in models), "keys": sorted(set(_keys(models))),
        "lacks": [one for one in ((data.get("seeds") or {}).get("path"),) if one and not (file.parent / one).exists()],
        "paper": paper[1] if paper else "", "file": str(file),
    }  # fmt: skip


def _short(models: list[str]) -> str:
    """The first model, without the words that say nothing here, and the number of others."""
    name = re.sub(r"-(?:instruct|v0\.\d|\d{8})\b", "", models[0].lower())
    return name + (f" +{len(models) - 1}" if len(models) > 1 else "")


def _keys(models: list[dict[str, Any]]) -> Iterator[str]:
    """The environment variables with keys that these models need."""
    for one in models:
        if one.get("api_key_env"):
            yield one["api_key_env"]
        elif one["provider"] == "litellm":
            yield f"{one['model'].partition('/')[0].upper()}_API_KEY"


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)


def _file(name: str) -> Path:
    from graft.schemas.errors import NotFound
    from graft.schemas.load import PACKAGE_RECIPES
    from graft.schemas.problems import did_you_mean

    names = sorted(file.stem for file in PACKAGE_RECIPES.glob("*.yaml"))
    if name not in names:
        fix = f"{did_you_mean(name, names)}one of {', '.join(names)}"
        raise NotFound(f"no recipe {name!r} in the gallery", fix=fix)
    return PACKAGE_RECIPES / f"{name}.yaml"
