"""Verbs that make a dataset: validate, schema, estimate, run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from graft.cli.options import JsonFlag

RecipeArg = Annotated[
    str, typer.Argument(help="path of a recipe, or the name of a recipe in recipes/", metavar="RECIPE")
]


def validate(
    recipe: RecipeArg,
    online: Annotated[
        bool, typer.Option("--online", help="also check that every endpoint answers and has its model; sends no prompt")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Check a recipe and its seeds. Every problem is listed with file, line, field and fix.

    Example:  graft validate recipes/demo.yaml --online
    """
    import asyncio

    from graft.agents.methods import method_of
    from graft.cli.show import as_json, console
    from graft.flows.estimate import document_lines
    from graft.flows.given import library_of
    from graft.flows.plan import read_recipe
    from graft.schemas.errors import InputInvalid, ModelUnreachable

    try:
        file, loaded, seeds = read_recipe(recipe)
    except InputInvalid as invalid:
        if json:
            as_json({"valid": False, "problems": [vars(problem) for problem in invalid.problems]})
            raise typer.Exit(invalid.exit_code) from None
        raise
    if online:
        from graft.cli.doctor import check_models

        problems = [problem for _, problem in asyncio.run(check_models(loaded)) if problem]
        if problems:
            fix = "start the server or install the model, or correct `models` in the recipe"
            raise ModelUnreachable("; ".join(problems), where=recipe, fix=fix)
    labels, library = loaded.task.names, library_of(loaded, file)
    if json:
        figures = {"name": loaded.name, "labels": len(labels), "seeds": len(seeds)}
        if library.documents:
            figures |= {"documents": len(library.documents), "passages": len(library.passages)}
        as_json({"valid": True, **figures})
        return
    rows = sum(method_of(loaded).wanted(loaded).values())
    wanted = f"{rows} rows requested" if rows else "as many rows as its texts yield"
    console().print(
        f"[green]valid[/green]  {loaded.name}: {loaded.method.kind} over {len(labels)} labels, {len(seeds)} seeds, "
        f"{wanted}, {len(loaded.models)} models"
    )
    for line in document_lines(library):
        console().print(f"  · {line}", markup=False, soft_wrap=True)


def schema(out: Annotated[Path | None, typer.Option(help="file to write; default: standard output")] = None) -> None:
    """Write the JSON Schema of recipes, for completion and checks in editors.

    Example:  graft schema --out recipes/recipe.schema.json
    """
    from graft.cli.show import as_json, console, dumps
    from graft.schemas.load import recipe_json_schema

    if out is None:
        as_json(recipe_json_schema())
        return
    out.write_text(dumps(recipe_json_schema()) + "\n", encoding="utf-8")
    console().print(f"wrote {out}; to use it, begin a recipe with this line:  # yaml-language-server: $schema={out}")


def estimate(recipe: RecipeArg, json: JsonFlag = False) -> None:
    """Estimate a recipe's calls, tokens and price before anything is spent.

    Example:  graft estimate demo
    """
    from graft.cli.show import as_json, estimate_table
    from graft.flows.estimate import estimate_recipe

    figures = estimate_recipe(recipe)
    if json:
        as_json(figures.model_dump(mode="json"))
    else:
        estimate_table(figures)


def run(
    recipe: RecipeArg,
    rows_per_label: Annotated[int | None, typer.Option(min=1, help="overrides target.rows_per_label")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="overrides the recipe's seed: makes other rows")] = None,
    money_usd: Annotated[float | None, typer.Option(min=0, help="overrides limits.money_usd")] = None,
    minutes: Annotated[float | None, typer.Option(min=0.01, help="overrides limits.minutes")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="draw a new random seed, as a schedule does")] = False,
    more: Annotated[
        int | None,
        typer.Option(min=1, help="so many accepted rows more than the latest version has, spread as the target is"),
    ] = None,
    train: Annotated[bool, typer.Option("--train", help="train the student on the result")] = False,
    export: Annotated[str | None, typer.Option(help="export the result in a format of: graft export --help")] = None,
    json: JsonFlag = False,
) -> None:
    """Make the dataset of a recipe and publish it as a version. Running it again repeats no finished work.

    With --more 50 the target is raised to the rows of the dataset's latest version and 50 more: a new run, whose
    earlier calls come from the journal.

    Example:  graft run demo --train --export jsonl
    """
    from graft.cli.run import run_recipe

    overrides: dict[str, Any] = {
        "rows_per_label": rows_per_label, "seed": seed, "money_usd": money_usd, "minutes": minutes, "fresh": fresh,
        "more": more,
    }  # fmt: skip
    code = run_recipe(recipe, overrides, train=train, export=export, json=json)
    if code:
        raise typer.Exit(code)
