"""Settings: the home in use and why, models and key variables, disk usage by part, and `graft clean`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from graft.dashboard.context import Form, Page, PageContext, context_of, posted
from graft.schemas.errors import GraftError
from graft.schemas.sections import Column, Table, disk_size

if TYPE_CHECKING:
    from graft.flows.clean import Freeable, PartUse
    from graft.schemas.models import ModelSpec


def settings(request: Request) -> Response:
    """Show home, version, models, key variables, disk usage, and what can be freed."""
    from graft.flows.background import progress
    from graft.flows.clean import freeable, usage
    from graft.schemas.kinds import code_version

    context, name = context_of(request), request.query_params.get("of", "")
    found, models = freeable(context.home), list(_models(context))
    return context.page(
        request, "settings.html.jinja", "Settings", place=context.home, version=code_version(),
        work=progress(context.home, name) if name else None, size=disk_size,
        total=sum(one.bytes for one in found if not one.asked),
        tables=(_model_table(context, models), _key_table(models), _use_table(usage(context.home)), _free_table(found)),
    )  # fmt: skip


def _models(context: PageContext) -> Iterator[tuple[str, ModelSpec]]:
    """Each model with the recipe that names it: those of the home's runs, then those of the recipes by name."""
    from graft.schemas.load import recipe_names
    from graft.schemas.recipe import Recipe

    seen = set[str]()
    for run in context.lake.runs(limit=200):
        try:
            found = Recipe.stored(run.recipe).models
        except (GraftError, ValueError):  # a recipe of another Graft
            continue
        yield from ((run.dataset, one) for one in found if not _twice(one, seen))
    for name in recipe_names():
        yield from ((name, one) for one in _of_recipe(name) if not _twice(one, seen))


def _twice(model: ModelSpec, seen: set[str]) -> bool:
    key = f"{model.provider} {model.model} {model.base_url}"
    known = key in seen
    seen.add(key)
    return known


@lru_cache(maxsize=100)
def _of_recipe(name: str) -> tuple[ModelSpec, ...]:
    from graft.schemas.load import find_recipe, load_recipe

    try:
        return tuple(load_recipe(find_recipe(name)).models)
    except GraftError:
        return ()


def _place(context: PageContext, model: ModelSpec) -> tuple[str, str]:
    """Where a model runs or lies, and whether it is there."""
    from graft.agents.local.files import BUILT_IN, check_installed, encoder_folder

    if model.is_student:
        folder = context.home.student(model.model)
        return str(folder), "ready" if folder.is_dir() else "missing"
    if model.provider == "encoder":
        wheel = encoder_folder()
        return str(wheel or "its wheel"), "ready" if wheel else "not installed"
    if model.provider == "embedded":
        problem, joined = check_installed(model, context.home), BUILT_IN.get(model.model)
        inside = joined is not None and joined.parts > 0 and (context.home.models / joined.filename).is_file()
        place = f"models/{joined.filename}" if joined and inside else "its wheel" if joined else model.model
        return place, "not installed" if problem else "ready"
    missing = [name for name in model.key_variables if not os.environ.get(name)]
    return model.base_url or model.provider, "key is not set" if missing else "not checked"


def _model_table(context: PageContext, models: list[tuple[str, ModelSpec]]) -> Table:
    columns = (
        Column("model", "model"), Column("place", "where"), Column("state", "state"), Column("licence", "licence"),
        Column("recipe", "named by"),
    )  # fmt: skip
    rows = []
    for recipe, model in models:
        place, state = _place(context, model)
        rows.append({"model": model.model, "place": place, "state": state, "licence": model.licence or "unknown",
                     "recipe": recipe})  # fmt: skip
    note = "not checked: a server's model is called by a run or by graft doctor RECIPE, never by this page"
    return Table("models", "Models", columns, rows, note=note)


def _key_table(models: list[tuple[str, ModelSpec]]) -> Table:
    names = dict[str, list[str]]()
    for _, model in models:
        for variable in model.key_variables:
            names.setdefault(variable, []).append(model.name)
    rows: list[dict[str, Any]] = [
        {"name": name, "set": "set" if os.environ.get(name) else "not set", "models": ", ".join(dict.fromkeys(users))}
        for name, users in sorted(names.items())
    ]
    columns = (Column("name", "variable", "code"), Column("set", "in this dashboard"), Column("models", "for"))
    return Table("keys", "Keys", columns, rows, empty="No model of these recipes needs a key.",
                 note="set a variable before graft dashboard starts; values are never shown or stored")  # fmt: skip


def _use_table(found: list[PartUse]) -> Table:
    columns = (
        Column("part", "part"), Column("size", "size"), Column("about", "holds"),
    )  # fmt: skip
    rows = [{**one.model_dump(), "size": disk_size(one.bytes)} for one in found]
    return Table("usage", "Disk usage", columns, rows, empty="The home is empty.")


def _free_table(found: list[Freeable]) -> Table:
    columns = (
        Column("part", "part"), Column("size", "size"), Column("why", "why"), Column("path", "path", "code"),
        Column("asked", "needs"),
    )  # fmt: skip
    rows = [{**one.model_dump(), "size": disk_size(one.bytes), "asked": one.asked or "–"} for one in found]
    return Table("freeable", "Can be freed", columns, rows, empty="Nothing can be freed.")


@posted
def clean(request: Request, form: Form) -> Response:
    """Start `graft clean --yes` (POST)."""
    from graft.flows.background import begin

    context = context_of(request)
    work = begin(context.home, "clean", ("--yes",), context.door.person(request))
    return RedirectResponse(f"/settings?of={work.id}", 303)


PAGES = (
    Page("/settings", "settings", settings, menu="Settings", plain=("of",)),
    Page("/settings/clean", "settings-clean", clean, posts=True),
)
