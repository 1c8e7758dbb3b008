"""Read a recipe from YAML and report all problems at once: file, line, field, problem, fix."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from graft.schemas import agent
from graft.schemas.base import SLUG_PATTERN, stable_hash
from graft.schemas.binding import DEFAULT_METHOD, with_roles
from graft.schemas.errors import GraftError, InputInvalid, Problem
from graft.schemas.home import PACKAGE, Home
from graft.schemas.kinds import METHODS
from graft.schemas.plain_yaml import MAX_BYTES, MAX_NODES, PlainLoader
from graft.schemas.problems import Explainer, Finding, did_you_mean, field_error
from graft.schemas.problems import Path as FieldPath
from graft.schemas.recipe import Recipe

SUFFIXES = (".yaml", ".yml")
_HELD: dict[str, dict[str, Any]] = {}
"""Recipes that are no files, by the name that `hold` gave them."""
PACKAGE_RECIPES = PACKAGE / "recipes"

PROMPT_SUFFIXES = (".jinja", ".jinja2", ".j2", ".txt", ".md")
"""Endings of a file under `prompts`; any value without one, or of several lines, is the template itself."""

_SYNTAX_FIXES = {
    "mapping values are not allowed": "put texts with a colon in quotes; check the indentation",
    "found character '\\t'": "indent with spaces, not with tabs",
    "found character": "put the text in quotes",
    "expected a single document": "keep one recipe in a file: remove the line ---",
    "found undefined alias": "define the anchor (&name) before it is used (*name)",
    "while scanning a quoted": "close the quotes",
    "expected <block end>": "align entries of one block in the same column",
}


def load_recipe(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Load the recipe in a file, with `overrides` (dotted field to value).

    Raises InputInvalid with every problem, in the order of the file's lines.
    """
    file = Path(path)
    given = _HELD.get(str(file))
    document = _Document(str(file) if given is None else file.name, lines=given is None)
    if given is None:
        agent.check_file(file)
    data = document.parse(_read(file)) if given is None else deepcopy(given)
    for field, value in (overrides or {}).items():
        document.override(data, field, value)
    agent.check_data(file, data)
    data, of_files = _with_files(file, data)
    findings, recipe = [*_cross_checks(file, data), *_read_prompts(file, data), *of_files], None
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as invalid:
        errors = [dict(error) for error in invalid.errors(include_url=False)]
        findings = [*explained(errors, data), *findings]
    problems = [*document.problems, *(document.problem(finding) for finding in findings)]
    if problems or recipe is None:
        raise InputInvalid(sorted(problems, key=lambda problem: (problem.line or 0, problem.field)))
    return recipe


def hold(recipe: Mapping[str, Any] | Recipe) -> str:
    """Name under which this process finds a recipe that is no file (`find_recipe`, `load_recipe`).

    `recipe` is a recipe or its fields, as a file has them. Relative paths start in `Recipe.folder`, else in the present
    folder. Raises InputInvalid if the fields are no plain data.
    """
    folder = recipe.folder if isinstance(recipe, Recipe) else None
    data = _plain_data(recipe)
    name = data.get("name") if isinstance(data, dict) else None
    shown = name if isinstance(name, str) and re.fullmatch(SLUG_PATTERN, name) else "recipe"
    try:
        file = (folder or Path.cwd()) / f"({shown} {stable_hash(data, length=8)})"
    except (TypeError, ValueError) as error:
        fix = "use texts, numbers, true, false, null, lists and dicts, as in a recipe's file"
        raise InputInvalid(
            [Problem("recipe", None, "", f"holds a value that is no plain data: {error}", fix)]
        ) from None
    if not isinstance(data, dict):
        what = f"a recipe is a path, a name, a dict or a Recipe, not {type(recipe).__name__}"
        raise InputInvalid([Problem("recipe", None, "", what, "such as {'name': …, 'task': …, 'seeds': …}")])
    _HELD[str(file)] = data
    return str(file)


def held(name: str) -> bool:
    """Return True if the name is one that `hold` gave: there is no such file."""
    return name in _HELD


def _plain_data(value: Any) -> Any:
    """Pydantic values, paths and tuples in a recipe's fields as a file would hold them."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {name: _plain_data(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_data(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def explained(errors: Sequence[Mapping[str, Any]], data: Mapping[str, Any]) -> list[Finding]:
    """Pydantic's errors of a recipe's data, as sentences with fixes."""
    return Explainer(recipe_json_schema(_method_in(data))).explain_all(errors, data)


def recipe_json_schema(kind: str | None = None) -> dict[str, Any]:
    """The JSON Schema of recipes, for completion and checks in editors.

    Args:
        kind: includes only this method's roles; None: the roles of all methods
    """
    schema = with_roles(Recipe.model_json_schema(), kind)
    for definition in schema["$defs"].values():
        if "const" in definition.get("properties", {}).get("kind", {}):
            definition["required"] = ["kind", *definition.get("required", [])]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Graft recipe"}


def resolve_path(recipe_file: str | Path, path: str) -> Path:
    """A path of a recipe as an absolute one; a relative path starts from the recipe's folder."""
    return Path(recipe_file).resolve().parent / Path(path)


def find_recipe(name: str) -> Path:
    """The file of a recipe by its path, or by its name in ./recipes, the home's recipes (of pages) or the bundled ones.

    Raises InputInvalid that lists the existing recipes.
    """
    given = Path(name)
    if name in _HELD or given.is_file():
        return given
    if len(given.parts) == 1:
        for folder in _shelves():
            for file in (folder / name, *(folder / f"{name}{suffix}" for suffix in SUFFIXES)):
                if file.is_file() and file.suffix in SUFFIXES:
                    return file
    raise InputInvalid([_no_file(given)])


def recipe_names() -> list[str]:
    """The names that `find_recipe` knows, in alphabetical order."""
    return sorted({file.stem for folder in _shelves() for file in _recipes_in(folder)})


def _recipes_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("[!.]*") if file.suffix in SUFFIXES)


def _shelves() -> list[Path]:
    try:
        own = [Home.find(create=False).recipes]
    except GraftError:  # a home that cannot be used is reported by the verb that needs one
        own = []
    return list(dict.fromkeys((Path.cwd() / "recipes", *own, PACKAGE_RECIPES)))


def _no_file(file: Path) -> Problem:
    what = "is a folder, not a recipe" if file.is_dir() else "there is no such file"
    folders = [file if file.is_dir() else file.parent, *_shelves()]
    found = {entry.stem: entry for folder in folders for entry in _recipes_in(folder)}
    listing = f"recipes that exist: {', '.join(sorted(found))}" if found else "no recipe was found: write one"
    return Problem(str(file), None, "", what, did_you_mean(file.stem, found) + listing)


def _read(file: Path) -> str:
    if not file.is_file():
        raise InputInvalid([_no_file(file)])
    try:
        raw = file.read_bytes()
    except OSError as error:
        fix = "make the file readable"
        raise InputInvalid([Problem(str(file), None, "", f"cannot be read: {error.strerror}", fix)]) from error
    if len(raw) > MAX_BYTES:
        fix = "move the seeds to a file of their own and name it in seeds.path"
        raise InputInvalid([Problem(str(file), None, "", f"has {len(raw):,} bytes, too large for a recipe", fix)])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputInvalid([Problem(str(file), line, "", "is not UTF-8 text", "save the file as UTF-8")]) from error
    if not text.strip():
        raise InputInvalid([Problem(str(file), 1, "", "the file is empty", "start from recipes/demo.yaml")])
    return text


class _Document:
    """A YAML file as plain data, with the line of every field, and YAML problems."""

    def __init__(self, file: str, *, lines: bool = True) -> None:
        self.file, self.problems, self._has_lines = file, list[Problem](), lines
        self._lines: dict[FieldPath, int] = {}
        self._overridden: set[FieldPath] = set()
        self._open: set[int] = set()
        self._nodes = 0

    def parse(self, text: str) -> dict[str, Any]:
        """The data. Raises InputInvalid if the syntax is broken or the top is not a block of fields."""
        loader: Any = None
        try:
            loader = PlainLoader(text)
            node = loader.get_single_node()
            data = self._value(loader, node, ()) if node is not None else None
        except yaml.YAMLError as error:
            raise InputInvalid([*self.problems, _syntax(self.file, error)]) from error
        except RecursionError as error:
            problem = Problem(self.file, None, "", "is nested too deeply", "flatten it: a recipe needs five levels")
            raise InputInvalid([problem]) from error
        finally:
            if loader is not None:
                loader.dispose()
        if not isinstance(data, dict):
            what = "the file holds no fields" if data is None else "the top of the file is not a block of fields"
            raise InputInvalid([Problem(self.file, 1, "", what, "start from recipes/demo.yaml: name:, task:, seeds:")])
        return data

    def override(self, data: dict[str, Any], field: str, value: Any) -> None:
        """Set one dotted field; a path through a value that is not a block is a problem."""
        steps: FieldPath = tuple(int(step) if step.isdigit() else step for step in field.split("."))
        node: Any = data
        for step in steps[:-1]:
            if isinstance(node, dict):
                if node.get(step) is None:
                    node[step] = {}
                node = node[step]
            elif isinstance(node, list) and isinstance(step, int) and step < len(node):
                node = node[step]
            else:
                node = None
        last = steps[-1]
        self._overridden.add(steps)
        keyed = isinstance(node, dict)
        if keyed or (isinstance(node, list) and isinstance(last, int) and last < len(node)):
            node[last] = value
        else:
            self.problems.append(Problem(self.file, None, field, "cannot be overridden", "name a field of the recipe"))

    def problem(self, finding: Finding) -> Problem:
        """The finding with its file and the line of its field, or of the nearest enclosing field."""
        path, line = finding.path, None
        given = any(path[: len(steps)] == steps for steps in self._overridden)
        for length in range(len(path), -1, -1):
            line = line or self._lines.get(path[:length])
        field = ".".join(str(step) for step in path)
        what = f"{finding.what} (given as an override)" if given else finding.what
        nowhere = given or not self._has_lines
        return Problem(self.file, None if nowhere else line or 1, field, what, finding.fix)

    def _value(self, loader: Any, node: yaml.Node, path: FieldPath) -> Any:
        self._nodes += 1
        if id(node) in self._open or self._nodes > MAX_NODES:
            raise yaml.MarkedYAMLError(problem="an alias repeats itself without end", problem_mark=node.start_mark)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(loader, node, path)
            if isinstance(node, yaml.SequenceNode):
                for index, item in enumerate(node.value):
                    self._lines[(*path, index)] = item.start_mark.line + 1
                return [self._value(loader, item, (*path, index)) for index, item in enumerate(node.value)]
            return self._scalar(loader, node)
        finally:
            self._open.discard(id(node))

    def _scalar(self, loader: Any, node: yaml.Node) -> Any:
        try:
            return loader.construct_object(node)
        except (ValueError, OverflowError) as error:
            raise yaml.MarkedYAMLError(problem=f"cannot be read: {error}", problem_mark=node.start_mark) from error

    def _mapping(self, loader: Any, node: yaml.MappingNode, path: FieldPath) -> dict[str, Any]:
        first: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else ""
            if name in first and name != "<<":
                field = ".".join(str(step) for step in (*path, name))
                what = f"{name!r} is given twice (first in line {first[name]})"
                self.problems.append(Problem(self.file, line, field, what, "keep one of the two"))
            first.setdefault(name, line)
        loader.flatten_mapping(node)
        result: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be one word", problem_mark=key.start_mark)
            self._lines[(*path, key.value)] = key.start_mark.line + 1
            result[key.value] = self._value(loader, value, (*path, key.value))
        return result


def _syntax(file: str, error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    pieces = [str(part) for part in (getattr(error, "context", None), getattr(error, "problem", None)) if part]
    message = ", ".join(pieces) or str(error).splitlines()[0]
    fix = next((fix for part, fix in _SYNTAX_FIXES.items() if part in message), "check indentation, colons and quotes")
    return Problem(file, mark.line + 1 if mark else None, "", f"is not valid YAML: {message}", fix)


def _cross_checks(file: Path, data: Mapping[str, Any]) -> list[Finding]:
    """Checks of the whole recipe and its folder, on raw data, so that they work on broken recipes too."""
    return [*_files_exist(file, data), *_labels_have_seeds(data)]


def _method_in(data: Mapping[str, Any]) -> str | None:
    """The method that a recipe's raw data names; None if it is unknown."""
    kind = _block(data, "method").get("kind", DEFAULT_METHOD)
    return kind if isinstance(kind, str) and kind in METHODS.names else None


def _with_files(file: Path, data: dict[str, Any]) -> tuple[dict[str, Any], list[Finding]]:
    """The recipe's data with the texts of files that its method's block names, and problems of these files."""
    kind, block = _method_in(data), data.get("method")
    if kind is None or not isinstance(block, dict):
        return data, []

    def read(path: str) -> str:
        found = resolve_path(file, path)
        try:
            return found.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            what = f"no file {path!r} beside the recipe" if not found.is_file() else f"{path!r} cannot be read: {error}"
            raise field_error((), what, "give the path of a UTF-8 text file, from the recipe's folder") from None

    method, found = METHODS.get(kind).Settings.with_files(block, read)
    return {**data, "method": method}, [Finding(("method", *one.path), one.what, one.fix) for one in found]


def _block(data: Any, name: str) -> Mapping[str, Any]:
    block = data.get(name) if isinstance(data, Mapping) else None
    return block if isinstance(block, Mapping) else {}


def _files_exist(file: Path, data: Mapping[str, Any]) -> list[Finding]:
    findings = []
    for section, field in (("seeds", "path"), ("student", "test"), ("improve", "steer_on")):
        given = _block(data, section).get(field)
        if not isinstance(given, str) or not given:
            continue
        path = resolve_path(file, given)
        if path.is_file():
            continue
        folder = path.parent
        near = (
            sorted(one.name for one in folder.iterdir() if one.is_file() and one.name[0] != ".")
            if folder.is_dir()
            else []
        )
        listing = f"that folder has: {', '.join(near[:8])}" if near else f"{folder} has no such file"
        what = f"no file {given!r} beside the recipe"
        findings.append(Finding((section, field), what, did_you_mean(path.name, near) + listing))
    return findings


def _read_prompts(file: Path, data: Mapping[str, Any]) -> list[Finding]:
    """Put the text of each file under `prompts` in the place of its name, so that the recipe holds its prompts."""
    findings, prompts = list[Finding](), _block(data, "prompts")
    for name, given in prompts.items():
        if not isinstance(given, str) or not given.endswith(PROMPT_SUFFIXES) or "\n" in given or "{" in given:
            continue
        path = resolve_path(file, given)
        try:
            text = path.read_text(encoding="utf-8") if path.stat().st_size <= MAX_BYTES else given
        except (OSError, ValueError):  # bytes that are no UTF-8 are a ValueError
            what = "is not UTF-8 text" if path.is_file() else "is not there"
            near = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
            fix = f"{did_you_mean(path.name, near)}graft prompts show {name} prints a template to start from"
            findings.append(Finding(("prompts", name), f"the file {given!r} {what}", fix))
            text = "-"
        prompts[name] = text  # type: ignore[index]
    return findings


def _labels_have_seeds(data: Mapping[str, Any]) -> list[Finding]:
    """Labels without a seed, if all seeds are in the recipe itself; `data.seeds` checks seeds in files."""
    seeds, task = _block(data, "seeds"), _block(data, "task")
    rows, labels = seeds.get("rows"), task.get("labels")
    method = _method_in(data)
    if seeds.get("path") or not rows or not isinstance(rows, list) or not isinstance(labels, list):
        return []
    if method is None or not METHODS.get(method).needs_seeds:
        return []
    seen = {row.get("label") for row in rows if isinstance(row, dict) and isinstance(row.get("label"), str)}
    target = _block(data, "target")
    findings = []
    for index, label in enumerate(labels):
        name = label.get("name") if isinstance(label, dict) else None
        wanted = _block(target, "labels").get(str(name), target.get("rows_per_label", 1))
        if isinstance(name, str) and name not in seen and wanted != 0:
            what, fix = f"label {name!r} has no seed", f"add a row with label: {name} under seeds.rows"
            findings.append(Finding(("task", "labels", index), what, fix))
    return findings
