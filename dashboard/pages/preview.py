"""Preview: a few rows of a recipe before its run, with every review and rejection, and the projection to the target."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from graft.dashboard.context import Form, Page, PageContext, context_of, posted
from graft.schemas.errors import GraftError, NotFound
from graft.schemas.sections import Column, Table

if TYPE_CHECKING:
    from graft.flows.background import Progress

MOST_ROWS = 50


def previews(request: Request) -> Response:
    """Show the form, the chosen preview, and the list of earlier ones."""
    from graft.data.explain import words_of
    from graft.flows.background import progress, works
    from graft.flows.preview import read_preview

    context, name = context_of(request), request.query_params.get("of", "")
    found = progress(context.home, name) if name else None
    earlier = works(context.home, "preview")
    made = read_preview(found.result) if found and found.result else None
    section = made.section() if made else None
    return context.page(
        request, "preview.html.jinja", "Preview", recipes=recipes_of(context), found=found, section=section, made=made,
        chosen=found.work.arguments[0] if found else request.query_params.get("recipe", ""), most=MOST_ROWS,
        words=words_of, own=own_recipes(context), tables=(_earlier(earlier), *(section.tables if section else ())),
    )  # fmt: skip


def recipes_of(context: PageContext) -> list[str]:
    """The recipes that a page may name: those by name, and the files of this home's runs."""
    from graft.schemas.load import recipe_names

    files = dict.fromkeys(run.recipe_file for run in context.lake.runs() if run.recipe_file)
    return [*recipe_names(), *(file for file in files if Path(file).is_absolute() and Path(file).is_file())]


def own_recipes(context: PageContext) -> list[str]:
    """Names of the recipes that were written on the page New."""
    return sorted(file.stem for file in context.home.recipes.glob("[!.]*.yaml"))


def _earlier(found: list[Progress]) -> Table:
    columns = (
        Column("recipe", "recipe", link="url"), Column("state", "state", "status"), Column("by", "started by"),
        Column("at", "started", "ago"), Column("seconds", "took", "seconds"),
    )  # fmt: skip
    rows = [
        {"recipe": one.work.arguments[0], "url": f"/preview?of={one.work.id}", "state": one.state, "by": one.work.by,
         "at": one.work.at, "seconds": one.seconds}
        for one in found
    ]  # fmt: skip
    return Table("previews", "Earlier previews", columns, rows, empty="")


@posted
def start(request: Request, form: Form) -> Response:
    """Start a preview (POST)."""
    from graft.flows.background import begin

    context, recipe, rows = context_of(request), form.get("recipe", ""), form.get("rows", "5")
    if recipe not in recipes_of(context):
        raise NotFound(f"no recipe {recipe[:80]!r}", where="recipe", fix="choose one of the list")
    if not rows.isdecimal() or not 1 <= int(rows) <= MOST_ROWS:
        raise GraftError(f"{rows[:20]!r} is no number of rows", where="rows", fix=f"write 1 to {MOST_ROWS}")
    work = begin(context.home, "preview", (recipe, "--rows", rows), context.door.person(request))
    return RedirectResponse(f"/preview?of={work.id}", 303)


@posted
def stop(request: Request, form: Form) -> Response:
    """Stop a preview (POST): its finished calls stay in the journal."""
    from graft.flows.background import end

    context, name = context_of(request), form.get("of", "")
    end(context.home, name, context.door.person(request))
    return RedirectResponse(f"/preview?of={name}", 303)


PAGES = (
    Page("/preview", "preview", previews, menu="Preview", plain=("of", "recipe")),
    Page("/preview/start", "preview-start", start, posts=True),
    Page("/preview/stop", "preview-stop", stop, posts=True),
)
