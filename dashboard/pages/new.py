"""New: a recipe as a form beside its YAML, from a person's file or pasted texts; then a preview or a run of it."""

from __future__ import annotations

import filecmp
import json
import os
import re
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from graft.dashboard.context import Form, Page, PageContext, context_of, posted
from graft.schemas.errors import GraftError, InputInvalid, NotFound, Problem

if TYPE_CHECKING:
    from graft.flows.first_recipe import Look
    from graft.flows.recipe_form import Draft

LARGEST_FILE = 500_000_000
"""Maximum bytes of a person's file."""
ROWS = 5
"""Candidates of the preview that the page starts."""
OUTSIDE = re.compile(r"[^A-Za-z0-9._+-]+")


def new(request: Request) -> Response:
    """Show a new recipe, or one that was written here (`?recipe=NAME`)."""
    from graft.flows.recipe_form import Draft, begun, read
    from graft.flows.recipe_shelf import saved, stamp
    from graft.schemas.tasks.base import task_for

    context, name = context_of(request), request.query_params.get("recipe", "")
    if not _owned(context):
        return _page(request, Draft(text="", fields={}, problems=()), of="", seen="")
    if name:
        text, earlier = saved(context.home, name)
        draft = read(text, context.home.recipe(name))
        return _page(request, draft, of=name, seen=stamp(text), earlier=earlier)
    text = begun("my-texts", task_for(("label",)).named(), {}, None, "", _first_model())
    with TemporaryDirectory() as folder:  # a page that is looked at writes nothing into the home
        return _page(request, read(text, Path(folder) / "my-texts.yaml"), of="", seen="")


def _page(
    request: Request, draft: Draft, *, of: str, seen: str, earlier: bool = False, refused: str = "", status: int = 200
) -> Response:
    from graft.schemas.kinds import TASKS
    from graft.schemas.load import recipe_names

    context = context_of(request)
    simple = [name for name, kind in TASKS.all().items() if not kind.needed]
    answer = context.page(
        request, "new.html.jinja", of or "New dataset", draft=draft, of=of, seen=seen, earlier=earlier, tasks=simple,
        models=_models(), refused=refused, owned=_owned(context), rows=ROWS,
        keys=sorted(name for name in os.environ if name.endswith(("_API_KEY", "_TOKEN", "_KEY"))),
        gallery=recipe_names(),
    )  # fmt: skip
    answer.status_code = status
    return answer


def _models() -> dict[str, tuple[str, dict[str, Any]]]:
    """Models of this machine by the line that the form shows: words for people, and the entry of `models`."""
    from graft.agents.local.detect import found_models
    from graft.flows.recipe_form import line_of
    from graft.schemas.errors import ModelUnreachable

    try:
        return {line_of(spec): (words, spec) for words, spec in found_models()}
    except ModelUnreachable:
        return {}


def _first_model() -> dict[str, Any]:
    """The first model of this machine; without one an entry to be completed."""
    found = [spec for _, spec in _models().values()]
    return found[0] if found else {"name": "model", "provider": "litellm", "model": "provider/model"}


def _target(context: PageContext, name: str) -> Path:
    """The file that a recipe of this name would have; its folder is made."""
    context.home.recipes.mkdir(parents=True, exist_ok=True)
    try:
        return context.home.recipe(name or "my-texts")
    except NotFound:  # not yet a valid name: the recipe's own check says so
        return context.home.recipe("my-texts")


def _owned(context: PageContext) -> bool:
    """True if only the owner of this home is admitted: a recipe reads files and sends keys of this account."""
    return not (context.door.password or context.door.header)


def _check_owner(context: PageContext) -> None:
    if not _owned(context):
        fix = "write it in a terminal: graft init; the page Preview then starts it"
        raise GraftError("recipes are written only where the home's owner alone is admitted", where="/new", fix=fix)


def _drafted(context: PageContext, text: str, **more: Any) -> Response:
    """The text, fields and problems as JSON, for the page's script."""
    from graft.flows.recipe_form import plain_or_empty, read

    target = _target(context, str(plain_or_empty(text).get("name", "")))
    return JSONResponse({**read(text, target).model_dump(), **more})


def _told(error: GraftError) -> Response:
    """An error as JSON, as the list of problems that the page shows."""
    from graft.flows.recipe_form import shown

    one = Problem("", None, error.where, error.what, error.fix)
    return JSONResponse({"refused": shown(error.problems if isinstance(error, InputInvalid) else [one])}, 400)


@posted
def check(request: Request, form: Form) -> Response:
    """The YAML's fields and problems (POST); with `field` and `value` (JSON) after that field is changed."""
    from graft.flows.recipe_form import changed

    context, text = context_of(request), form.get("yaml", "")
    try:
        _check_owner(context)
        if field := form.get("field"):
            known = {line: spec for line, (_, spec) in _models().items()}
            text = changed(text, field, _value(form.get("value", '""')), known)
        return _drafted(context, text)
    except GraftError as error:
        return _told(error)


def _value(given: str) -> Any:
    try:
        value = json.loads(given)
    except ValueError:
        value = None
    named = isinstance(value, list) and all(
        isinstance(one, dict) and isinstance(one.get("name"), str) and isinstance(one.get("description", ""), str)
        for one in value
    )
    if not (isinstance(value, str) or named):
        raise InputInvalid([Problem("form", None, "value", "is no text or list of labels", "submit it from the page")])
    return value


@posted
def compose(request: Request, form: Form) -> Response:
    """Write the YAML anew for a file, its columns, or another task (POST); labels, model and target are kept."""
    from graft.flows.first_recipe import hold_out, look_at
    from graft.flows.recipe_form import begun, changed, plain_or_empty
    from graft.schemas.kinds import TASKS

    context, text = context_of(request), form.get("yaml", "")
    try:
        _check_owner(context)
        kind = form.get("kind", "")
        if kind not in TASKS.names or TASKS.get(kind).needed:
            raise NotFound(f"no task {kind[:40]!r}", where="task", fix="choose one of the list")
        file, models = form.get("file", ""), _models()
        whole = context.home.recipe_file(file) if file else None
        given = {field: form.get(f"{field}_column") for field in ("text", "label")}
        look = look_at(str(whole), given["text"] or None, given["label"]) if whole else None
        before = _kept(text)
        labels = before.pop("labels", {})
        labels = {} if look and look.labels else labels
        name = str(plain_or_empty(text).get("name") or "my-texts")
        if file and name == "my-texts":
            name = OUTSIDE.sub("-", Path(file).stem.lower()).strip("-._+").replace("+", "-")[:60] or name
        held = hold_out(look) if look and form.get("hold") else None
        used, path, test = (look_at(str(held[0])), held[0].name, f"files/{held[1].name}") if held else (look, file, "")
        made = begun(name, kind, labels, used, f"files/{path}", _first_model(), test)
        known = {line: spec for line, (_, spec) in models.items()}
        for field, value in before.items():
            made = changed(made, field, value, known)
        return _drafted(context, made, look=_shown(look, file, held[2] if held else 0) if look else None)
    except GraftError as error:
        return _told(error)


def _kept(text: str) -> dict[str, Any]:
    """The form's values of a text that another text is to keep."""
    from graft.flows.recipe_form import EXAMPLES, fields_of

    found = fields_of(text)
    named = {one["name"]: one["description"] for one in found.get("labels", ()) if one["name"] not in EXAMPLES}
    fields = ("task.text", "target.rows_per_label", "limits.money_usd", "model", "key")
    plain = {name: found.get(name) for name in fields}
    if plain["task.text"] == "a short text":
        plain.pop("task.text")
    return {"labels": named, **{name: str(value) for name, value in plain.items() if value not in (None, "")}}


def _shown(look: Look, file: str, held: int) -> dict[str, Any]:
    more = f"; {held:,} of them are held out to test the student" if held else ""
    return {
        "file": file, "summary": look.summary() + more, "columns": look.columns, "text": look.text, "label": look.label,
        "held": held,
    }  # fmt: skip


async def upload(request: Request) -> Response:
    """Keep a person's file among the home's recipes (POST): its bytes are the request's body, `name` is its name."""
    context = context_of(request)
    try:
        _check_owner(context)
        name = OUTSIDE.sub("-", Path(request.query_params.get("name", "")).name).strip("-.")[-100:] or "texts.txt"
        target = context.home.recipe_file(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        beside, size = target.with_name(f".{uuid.uuid4().hex}"), 0
        try:
            with beside.open("wb") as out:
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > LARGEST_FILE:
                        fix = "name the file in a recipe instead: graft init --file FILE"
                        raise GraftError(f"the file has more than {LARGEST_FILE:,} bytes", where=name, fix=fix)
                    out.write(chunk)
            return JSONResponse({"file": (await run_in_threadpool(_placed, beside, target)).name})
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        return _told(GraftError(error.strerror or "cannot be written", where="file", fix="free some space"))
    except GraftError as error:
        return _told(error)


def _placed(made: Path, target: Path) -> Path:
    """Move a file to its name; a number is added where another file has it. The same bytes are kept once."""
    for number in range(1, 1_000):
        place = target if number == 1 else target.with_name(f"{target.stem}-{number}{target.suffix}")
        try:
            os.link(made, place)
        except FileExistsError:
            if not filecmp.cmp(made, place, shallow=False):
                continue
        return place
    raise GraftError("a thousand files have this name", where=target.name, fix="rename the file")


@posted
def save(request: Request, form: Form) -> Response:
    """Save the recipe and, if the button says so, start its preview or its run (POST)."""
    from graft.flows.background import begin
    from graft.flows.recipe_form import plain_or_empty, read
    from graft.flows.recipe_shelf import save as save_recipe

    context, text, of = context_of(request), form.get("yaml", "").replace("\r\n", "\n"), form.get("of", "")
    _check_owner(context)
    person, then = context.door.person(request), form.get("then", "")
    renamed = of and str(plain_or_empty(text).get("name")) != of
    seen = "" if renamed else form.get("seen", "")
    try:
        name = save_recipe(context.home, text, person, seen).stem
    except (InputInvalid, NotFound) as error:
        what = "This is not saved yet: mend the problems." if isinstance(error, InputInvalid) else error.what
        draft = read(text, _target(context, of))
        return _page(request, draft, of=of, seen=form.get("seen", ""), refused=what, status=400)
    except GraftError as error:
        draft = read(text, _target(context, of))
        what = f"{error.where}: {error.what}. {error.fix[:1].upper()}{error.fix[1:]}."
        return _page(request, draft, of=of, seen=form.get("seen", ""), refused=what, status=400)
    if then == "preview":
        work = begin(context.home, "preview", (name, "--rows", str(ROWS)), person)
        return RedirectResponse(f"/preview?of={work.id}", 303)
    if then == "run":
        work = begin(context.home, "run", (name,), person)
        return RedirectResponse(f"/runs?of={work.id}", 303)
    return RedirectResponse(f"/new?recipe={name}", 303)


@posted
def undo(request: Request, form: Form) -> Response:
    """Put back the text before the last save (POST)."""
    from graft.flows.recipe_shelf import undo as put_back

    context, name = context_of(request), form.get("of", "")
    _check_owner(context)
    put_back(context.home, name)
    return RedirectResponse(f"/new?recipe={name}", 303)


@posted
def copy(request: Request, form: Form) -> Response:
    """Copy a recipe of the gallery, with its files, to be edited here (POST)."""
    from graft.flows.recipe_shelf import copied
    from graft.schemas.load import recipe_names

    context, name = context_of(request), form.get("recipe", "")
    _check_owner(context)
    if name not in recipe_names():
        raise NotFound(f"no recipe {name[:80]!r}", where="recipe", fix="choose one of the list")
    return RedirectResponse(f"/new?recipe={copied(context.home, name)}", 303)


PAGES = (
    Page("/new", "new", new, menu="New", plain=("recipe",)),
    Page("/new/check", "new-check", check, posts=True),
    Page("/new/compose", "new-compose", compose, posts=True),
    Page("/new/file", "new-file", upload, posts=True),
    Page("/new/save", "new-save", save, posts=True),
    Page("/new/undo", "new-undo", undo, posts=True),
    Page("/new/copy", "new-copy", copy, posts=True),
)
