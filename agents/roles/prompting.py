"""Renders prompts: Jinja files in `prompts/`, one per step. Values are data, never templates.

A file is plain (`render("choice_chat", …)`) or holds every form of one question, picked by `form`: `system` and `user`
for tuned models, `completion` for base models. Constant parts stand first, so that servers cache the prefix. A recipe
may replace a prompt (`replaced`, from `Recipe.prompts`; own_prompts.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined, Template
from jinja2.sandbox import SandboxedEnvironment

from graft.agents.roles.own_prompts import one_line, render_own
from graft.schemas.base import stable_hash
from graft.schemas.calls import Message
from graft.schemas.models import ModelSpec
from graft.schemas.tasks.base import Criterion

FOLDER = Path(__file__).parent / "prompts"
FRAGMENT_WORDS = 8
NONE: Mapping[str, str] = MappingProxyType({})
"""No replaced prompt."""

_TAGS = re.compile(r"<(?=\s*+(?:/\s*+)?(?:text|instruction|response|review|examples?)\s*+>)", re.IGNORECASE)
_CODE = re.compile(r"\{#.*?(?:#\}|\Z)|\{%.*?(?:%\}|\Z)|\{\{.*?(?:\}\}|\Z)", re.DOTALL)
_ENDS = re.compile(r"(?<=[.!?:;])\s|\n+")


def render(name: str | Path, replaced: Mapping[str, str] = NONE, /, **values: Any) -> str:
    """The text of prompts/NAME.jinja, of the file at a path, or of its replacement, with these values.

    Raises jinja2.UndefinedError where a value is missing, CallFailed if a replacement cannot be rendered.
    """
    key = name_of(name)
    return render_own(key, replaced[key], values) if key in replaced else _template(name).render(values)


def question(
    name: str | Path, model: ModelSpec, replaced: Mapping[str, str] = NONE, /, **values: Any
) -> dict[str, Any]:
    """One step's question in the model's style: `{"prompt": …}` or `{"messages": …}`, to be laid into a CallRequest.

    Raises jinja2.UndefinedError where a value is missing, CallFailed if a replacement cannot be rendered.
    """
    if model.style == "completion":
        return {"prompt": render(name, replaced, form="completion", **values).strip()}
    system, user = (render(name, replaced, form=form, **values).strip() for form in ("system", "user"))
    turns = [Message(role="system", content=system)] if system else []
    return {"messages": (*turns, Message(role="user", content=user))}


def name_of(prompt: str | Path) -> str:
    """The name of a prompt, as a recipe that replaces it says: its file's name without the ending."""
    return _file(prompt).stem if isinstance(prompt, Path) else prompt.removesuffix(".jinja")


def originals(prompts: Iterable[str | Path]) -> dict[str, str]:
    """The templates of these prompts by name, as they are without a recipe."""
    return {name_of(prompt): _file(prompt).read_text(encoding="utf-8") for prompt in prompts}


@cache
def prompts_version(prompts: tuple[str | Path, ...]) -> str:
    """Hash of these prompts: it changes when any word of one does (16 hex digits)."""
    return stable_hash(sorted([file.name, file.read_text(encoding="utf-8")] for file in map(_file, prompts)))


@cache
def fragments(
    prompts: tuple[str | Path, ...], rubric: tuple[Criterion, ...] = (), replaced: tuple[tuple[str, str], ...] = (),
    added: tuple[str, ...] = (),
) -> tuple[str, ...]:  # fmt: skip
    """Fixed sentences of 8 words or more of the prompts that a row can meet: a text that contains one repeats the
    prompt.

    A task's rubric is among them, replaced prompts in place of ours, and prompts that a method takes from the recipe
    (`added`). Seed preparation's prompts are left out: no row is made or judged by them, and their examples are
    ordinary texts.
    """
    files, own = sorted(map(_file, prompts)), dict(replaced)
    texts = [own.get(file.stem) or file.read_text(encoding="utf-8") for file in files if file.stem[:5] != "seed_"]
    fixed = [_CODE.sub("\n", text) for text in texts]
    found: dict[str, None] = {}
    for text in (*fixed, *(one.meaning for one in rubric), *(_CODE.sub("\n", text) for text in added)):
        for piece in _ENDS.split(text):
            sentence = " ".join(piece.split()).strip("-*#<>,' ")
            if len(sentence.split()) >= FRAGMENT_WORDS:
                found.setdefault(sentence)
    return tuple(found)


def _file(prompt: str | Path) -> Path:
    """The file of a prompt of ours, by name, or of a plugin's, by path."""
    return prompt if isinstance(prompt, Path) else FOLDER / f"{prompt.removesuffix('.jinja')}.jinja"


def _fenced(text: str) -> str:
    """Text that cannot close its enclosing tag: the `<` of our own tags inside it becomes `‹`."""
    return _TAGS.sub("‹", text)


@cache
def _template(name: str | Path) -> Template:
    file = _file(name)
    found = _environment(file.parent).get_template(file.name)
    found.globals = dict(found.globals)  # a chain of dicts otherwise, gone through at every rendering
    return found


@cache
def _environment(folder: Path) -> SandboxedEnvironment:
    environment = SandboxedEnvironment(
        loader=FileSystemLoader(folder),
        auto_reload=False,  # else every call looks at the file's time
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(fenced=_fenced, line=one_line)
    return environment
