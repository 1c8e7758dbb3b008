"""Recipes that people write on pages, in the home's `recipes`: saved by name, put back, copied to be edited."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.flows.first_recipe import problems_of
from graft.flows.recipe_form import changed, plain_or_empty
from graft.schemas.base import stable_hash, utc_now
from graft.schemas.errors import GraftError, InputInvalid, NotFound
from graft.schemas.home import Home
from graft.schemas.load import find_recipe
from graft.schemas.plain_yaml import plain

SAVED = "# Saved on the page New by "


def save(home: Home, text: str, by: str, seen: str) -> Path:
    """Write the recipe to the home's `recipes`, under its name, and return the file. The text before it is kept beside.

    Args:
        home: of the dashboard
        text: the recipe
        by: person who saves it
        seen: `stamp` of the text that the person opened; empty: the recipe is new

    Raises:
        InputInvalid: the recipe is not valid; nothing was written.
        GraftError: another recipe has this name, or the recipe was changed meanwhile.
    """
    data = plain_or_empty(text)
    file = home.recipe(str(data.get("name", "")))
    file.parent.mkdir(parents=True, exist_ok=True)
    if problems := problems_of(file, text):
        raise InputInvalid(problems)
    before = file.read_text(encoding="utf-8") if file.is_file() else ""
    if not seen and (before or _taken(file)):
        fix = f"open it at /new?recipe={file.stem} to change it, or choose another name"
        raise GraftError("a recipe of this name exists", where=file.stem, fix=fix)
    if before and stamp(before) != seen:
        fix = "copy your text, open the recipe again and repeat your changes"
        raise GraftError("somebody changed this recipe meanwhile", where=file.stem, fix=fix)
    lines = [line for line in text.splitlines() if not line.startswith(SAVED)]
    head = f"{SAVED}{by}, {utc_now():%Y-%m-%d %H:%M} UTC"
    _replace(file, "\n".join([head, *lines]).rstrip() + "\n")
    if before:
        _replace(_before(file), before)
    return file


def stamp(text: str) -> str:
    """Hash that tells whether a stored text is still the one that a person opened."""
    return stable_hash(text, length=16)


def undo(home: Home, name: str) -> None:
    """Put back the text before the last save; a second call puts the later one back. Raises NotFound without one."""
    file = home.recipe(name)
    before = _before(file)
    if not before.is_file():
        raise NotFound("there is no earlier text", where=name, fix="a text is kept when another one replaces it")
    earlier, now = before.read_text(encoding="utf-8"), file.read_text(encoding="utf-8") if file.is_file() else ""
    _replace(file, earlier)
    _replace(before, now)


def saved(home: Home, name: str) -> tuple[str, bool]:
    """The text of a recipe of the home, and whether an earlier one can be put back. Raises NotFound."""
    file = home.recipe(name)
    if not file.is_file():
        raise NotFound(f"no recipe {name[:80]!r} was written on a page", where=str(home.recipes), fix="see /preview")
    return file.read_text(encoding="utf-8"), _before(file).is_file()


def copied(home: Home, name: str) -> str:
    """Copy a recipe and the files that it names to the home's `recipes`, under a name that is free, which is returned.

    Raises GraftError if a different file of the same name is there.
    """
    source = find_recipe(name)
    home.recipes.mkdir(parents=True, exist_ok=True)
    for one in files_of(source):
        target, theirs = home.recipes / one, source.parent / one
        if target.is_file() and not filecmp.cmp(theirs, target, shallow=False):
            raise GraftError("another file has this name", where=str(target), fix="rename it, then copy the recipe")
        target.parent.mkdir(parents=True, exist_ok=True)
        from_there = source.parent / one
        shutil.copytree(from_there, target, dirs_exist_ok=True) if from_there.is_dir() else shutil.copy(
            from_there, target
        )
    base = f"{source.stem[:54]}-copy"
    names = (base if number == 1 else f"{base}{number}" for number in range(1, 1_000))
    free = next(one for one in names if not _taken(home.recipe(one)) and not home.recipe(one).exists())
    _replace(home.recipe(free), changed(source.read_text(encoding="utf-8-sig"), "name", free, {}))
    return free


def files_of(file: Path) -> list[str]:
    """The files and folders beside a recipe that it names, wherever it names them."""
    data = plain(file.read_text(encoding="utf-8"))
    names = {text for text in _texts(data) if len(text) < 200 and "\n" not in text and not Path(text).is_absolute()}
    return sorted(one for one in names if one.strip("./") and ".." not in one and (file.parent / one).exists())


def _texts(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [text for one in value.values() for text in _texts(one)]
    if isinstance(value, list):
        return [text for one in value for text in _texts(one)]
    return [value] if isinstance(value, str) else []


def _taken(file: Path) -> bool:
    """True if the name finds another recipe: bundled, or of the working folder."""
    try:
        return find_recipe(file.stem).resolve() != file.resolve()
    except InputInvalid:
        return False


def _before(file: Path) -> Path:
    return file.with_name(f".{file.stem}.before")


def _replace(file: Path, text: str) -> None:
    beside = file.with_name(f".{file.name}.tmp")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(file)
    except OSError as error:
        fix = "free some space, or make the folder writable"
        raise GraftError(error.strerror or "cannot be written", where=str(file), fix=fix) from error
