"""`graft prompts`: the prompts of a method, and their templates as a start for replacements."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from graft.cli.options import JsonFlag

app = typer.Typer(invoke_without_command=True)
RecipeOption = Annotated[
    str | None, typer.Option("--recipe", "-r", help="prompts of this recipe's method, with its replacements")
]


@app.callback()
def prompts(context: typer.Context, recipe: RecipeOption = None, json: JsonFlag = False) -> None:
    """List the prompts of a recipe's method by role; without a recipe those of every method.

    Example:  graft prompts --recipe demo
    """
    if context.invoked_subcommand:
        return
    from graft.agents.roles.own_prompts import own_hash, purpose_of, role_of
    from graft.cli.show import as_json, console, table

    found, own, _ = _prompts_of(recipe)
    rows = [
        {"role": role_of(name), "prompt": name, "for": purpose_of(text),
         "version": own_hash(name, own[name]) if name in own else ""}
        for name, text in sorted(found.items(), key=lambda item: role_of(item[0]))
    ]  # fmt: skip
    if json:
        as_json(rows)
        return
    view = [[row["role"], row["prompt"], row["for"], row["version"] or "Graft's"] for row in rows]
    table(f"prompts of {recipe or 'all methods'}", ["role", "prompt", "for", "version"], view)
    console().print("a template to start from:  graft prompts show NAME", markup=False)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="a prompt, such as text", metavar="NAME")],
    recipe: RecipeOption = None,
    json: JsonFlag = False,
) -> None:
    """Print a prompt's template, with the values that it may use; redirect it to a file and edit it.

    Example:  graft prompts show text > prompts/text.jinja
    """
    from graft.agents.roles.own_prompts import values_of
    from graft.cli.show import as_json
    from graft.schemas.errors import NotFound
    from graft.schemas.problems import did_you_mean

    found, own, rubric = _prompts_of(recipe)
    if name not in found:
        raise NotFound(f"no prompt {name!r}", fix=f"{did_you_mean(name, found)}one of {', '.join(sorted(found))}")
    values = values_of(name, found[name])
    shown = "review_rubric" if rubric and name == "review_response" else name
    template = own.get(name) or (found | _prompts_named(shown))[shown]
    if json:
        as_json({"prompt": name, "values": values, "template": template})
        return
    typer.echo(template if name in own else _with_values(template, values), nl=False)


def _prompts_of(recipe: str | None) -> tuple[dict[str, str], dict[str, str], bool]:
    """The originals by name, the recipe's replacements, and whether it has a rubric of its own."""
    from graft.agents.methods import method_of
    from graft.agents.roles.prompting import originals
    from graft.flows.plan import read_recipe
    from graft.schemas.kinds import METHODS

    if recipe is None:
        every = dict.fromkeys(one for method in METHODS.all().values() for one in getattr(method, "prompts", ()))
        return originals(every), {}, False
    _, loaded, _ = read_recipe(recipe)
    return originals(method_of(loaded).all_prompts(loaded)), loaded.prompts, bool(loaded.rubric)


def _prompts_named(name: str) -> dict[str, str]:
    from graft.agents.roles.prompting import FOLDER, originals

    return originals([name]) if (FOLDER / f"{name}.jinja").exists() else {}


def _with_values(template: str, values: dict[str, Any]) -> str:
    """The template, its values named in a comment behind the one that opens it."""
    lines = ["{# Values:", *(f"   {name}: {meaning}" for name, meaning in values.items())]
    lines.append("   Filters: line (one line, cut), fenced. `form` is system, user or completion. #}")
    opening, closed, rest = template.partition("#}\n")
    head = opening + closed if closed and template.startswith("{#") else ""
    return head + "\n".join(lines) + "\n" + (rest if head else template)
