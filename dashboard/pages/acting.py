"""Run, stop, resume and extend: a run's buttons, which start the verbs of the command line as work of their own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from graft.dashboard.context import Form, Page, PageContext, context_of, posted
from graft.schemas.errors import GraftError, NotFound
from graft.schemas.live import read_live

if TYPE_CHECKING:
    from graft.flows.background import Progress
    from graft.schemas.datasets import Run

MOST_MORE = 1_000_000
FIXES = {
    "budget": "Raise limits.money_usd or limits.tokens in the recipe, then resume.",
    "time": "Raise limits.minutes in the recipe, then resume.",
    "candidates": "Raise limits.candidates in the recipe, then run it again.",
    "yield": "Most candidates are rejected: read the reasons below, then change the prompts, the models or the method.",
    "user": "A person stopped it. Resume continues with the next row.",
}
"""Advice by the reason for which a run stopped."""


def known(context: PageContext, run_id: str) -> Run:
    """The run. Raises NotFound."""
    found = context.lake.run(run_id)
    if found is None:
        raise NotFound("no such run", where="runs", fix="choose one from the list of runs")
    return found


def work_of(context: PageContext, run: Run) -> Progress | None:
    """The work that a page started for this run most recently; None if a terminal or a schedule did."""
    from graft.flows.background import works

    now = read_live(context.home, run.id)
    for one in works(context.home, "run"):
        made = (one.result or {}).get("run", {}).get("id")
        if made == run.id or (now is not None and now.pid == one.work.pid):
            return one
    return None


def run_of(context: PageContext, work: Progress) -> str:
    """The id of the run that this work makes, as soon as there is one; else empty."""
    from graft.flows.stopping import running

    if work.result:
        return str(work.result["run"]["id"])
    return next((one.run_id for one in running(context.home) if one.pid == work.work.pid), "")


def trouble(run: Run, work: Progress | None) -> tuple[str, ...]:
    """The reason why a run ended short or failed, and its fix; empty if it reached its target or is running."""
    if run.status == "running" or (run.status == "finished" and not run.shortfall):
        return ()
    if work is not None and work.state == "failed" and work.lines:
        return work.lines
    missing = sum(run.shortfall.values())
    first = f"The run stopped before its target ({run.stopped_by or run.status})"
    return (
        f"{first}: {missing:,} rows are missing." if missing else f"{first}.",
        FIXES.get(run.stopped_by, "Its finished calls are in the journal: resume pays no call twice."),
    )


def recipe_text(run: Run) -> str:
    """The recipe of the run as YAML, without defaults and without its seeds' texts."""
    import yaml
    from pydantic import ValidationError

    from graft.schemas.recipe import Recipe

    try:
        data: dict[str, Any] = Recipe.model_validate(run.recipe).model_dump(mode="json", exclude_defaults=True)
    except ValidationError:  # an older Graft wrote it
        data = dict(run.recipe)
    seeds = data.get("seeds")
    if isinstance(seeds, dict) and seeds.get("rows"):
        data["seeds"] = {**seeds, "rows": f"{len(seeds['rows']):,} rows"}
    return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100))


def again(context: PageContext, run: Run) -> tuple[str, ...]:
    """The arguments of `graft run` that continue this run. Raises GraftError if its recipe is gone."""
    from graft.data.versions import versions
    from graft.schemas.load import find_recipe, load_recipe

    if not run.recipe_file or not Path(run.recipe_file).is_file():
        fix = "put the recipe back, or continue it in a terminal"
        raise GraftError("the recipe's file is gone", where=run.recipe_file or run.id, fix=fix)
    file, now, then = run.recipe_file, load_recipe(find_recipe(run.recipe_file)), run.recipe
    target, words = then.get("target", {}), [file]
    if target.get("labels", {}) != now.target.labels:
        of_dataset = [one for one in versions(context.lake, run.dataset) if one.run_id != run.id]
        rows = max(of_dataset, key=lambda one: one.version).rows if of_dataset else 0
        more = sum(target["labels"].values()) - rows
        words += ["--more", str(more)] if more > 0 else []
    elif target.get("rows_per_label") not in (None, now.target.rows_per_label):
        words += ["--rows-per-label", str(target["rows_per_label"])]
    if then.get("seed") not in (None, now.seed):
        words += ["--seed", str(then["seed"])]
    return tuple(words)


@posted
def stop(request: Request, form: Form) -> Response:
    """Stop a run as `graft stop` does (POST): its finished work is committed."""
    from graft.flows.background import end
    from graft.flows.stopping import stop as stop_run

    context = context_of(request)
    found = known(context, request.path_params["run_id"])
    work = work_of(context, found)
    if work is not None and work.state == "running":
        end(context.home, work.work.id, context.door.person(request))
    else:
        stop_run(context.home, found.id)
    return RedirectResponse(f"/runs/{found.id}", 303)


@posted
def resume(request: Request, form: Form) -> Response:
    """Continue a run that was stopped, failed or fell short (POST)."""
    context = context_of(request)
    return _begun(request, again(context, known(context, request.path_params["run_id"])))


@posted
def extend(request: Request, form: Form) -> Response:
    """Start the run's recipe with more rows than the latest version has (POST)."""
    context, more = context_of(request), form.get("more", "").strip()
    if not more.isdecimal() or not 1 <= int(more) <= MOST_MORE:
        raise GraftError(f"{more[:20]!r} is no number of rows", where="more", fix=f"write 1 to {MOST_MORE:,}")
    found = known(context, request.path_params["run_id"])
    again(context, found)  # the recipe is still there
    return _begun(request, (found.recipe_file, "--more", more))


@posted
def start(request: Request, form: Form) -> Response:
    """Run a recipe that the pages know (POST)."""
    from graft.dashboard.pages.preview import recipes_of

    recipe = form.get("recipe", "")
    if recipe not in recipes_of(context_of(request)):
        raise NotFound(f"no recipe {recipe[:80]!r}", where="recipe", fix="choose one of the list")
    return _begun(request, (recipe,))


def _begun(request: Request, arguments: tuple[str, ...]) -> Response:
    from graft.flows.background import begin

    context = context_of(request)
    work = begin(context.home, "run", arguments, context.door.person(request))
    return RedirectResponse(f"/runs?of={work.id}", 303)


PAGES = (
    Page("/runs/start", "run-start", start, posts=True),
    Page("/runs/{run_id}/stop", "run-stop", stop, posts=True),
    Page("/runs/{run_id}/resume", "run-resume", resume, posts=True),
    Page("/runs/{run_id}/more", "run-more", extend, posts=True),
)
