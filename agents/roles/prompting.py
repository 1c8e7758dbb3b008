"""Prompts are Jinja files in `prompts/`, one a step. Values are data, never templates.

A file is plain (`render("choice_chat", …)`) or holds every form of one question, picked by `form`: `system` and `user`
for tuned models, `completion` for base models. What is constant stands first, so that servers cache the prefix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined, Template
from jinja2.sandbox import SandboxedEnvironment

from graft.schemas.base import stable_hash
from graft.schemas.calls import Message
from graft.schemas.kinds import TASKS
from graft.schemas.models import ModelSpec

FOLDER = Path(__file__).parent / "prompts"
FRAGMENT_WORDS = 8

_TAGS = re.compile(r"<(?=\s*+(?:/\s*+)?(?:text|instruction|response|review|examples?)\s*+>)", re.IGNORECASE)
_CODE = re.compile(r"\{#.*?(?:#\}|\Z)|\{%.*?(?:%\}|\Z)|\{\{.*?(?:\}\}|\Z)", re.DOTALL)
_ENDS = re.compile(r"(?<=[.!?:;])\s|\n+")


def render(name: str, **values: Any) -> str:
    """The text of prompts/NAME.jinja with these values. Raises jinja2.UndefinedError where one is missing."""
    return _template(name).render(values)


def question(name: str, model: ModelSpec, **values: Any) -> dict[str, Any]:
    """One step's question in the model's style: `{"prompt": …}` or `{"messages": …}`, to be laid into a CallRequest.

    Raises jinja2.UndefinedError where a value is missing.
    """
    if model.style == "completion":
        return {"prompt": render(name, form="completion", **values).strip()}
    system, user = (render(name, form=form, **values).strip() for form in ("system", "user"))
    turns = [Message(role="system", content=system)] if system else []
    return {"messages": (*turns, Message(role="user", content=user))}


@cache
def prompts_version() -> str:
    """Hash of all prompt files: it changes when any word of any prompt does (16 hex digits)."""
    return stable_hash([[file.name, file.read_text(encoding="utf-8")] for file in _files()])


def fragments() -> tuple[str, ...]:
    """The fixed sentences of 8 words or more of the prompts that a row can meet: a text that holds one repeats them.

    The tasks' rubrics are among them. Seed preparation's prompts are left out: no row is made or judged by them, and
    their examples are ordinary texts.
    """
    rubrics = dict.fromkeys(one.meaning for task in TASKS.all().values() for one in task.rubric)
    return tuple(dict.fromkeys((*_fixed_sentences(), *_sentences(rubrics))))


@cache
def _fixed_sentences() -> tuple[str, ...]:
    files = [file for file in _files() if not file.name.startswith("seed_")]
    return _sentences(_CODE.sub("\n", file.read_text(encoding="utf-8")) for file in files)


def _sentences(texts: Iterable[str]) -> tuple[str, ...]:
    """The sentences of 8 words or more."""
    found: dict[str, None] = {}
    for text in texts:
        for piece in _ENDS.split(text):
            sentence = " ".join(piece.split()).strip("-*#<>,' ")
            if len(sentence.split()) >= FRAGMENT_WORDS:
                found.setdefault(sentence)
    return tuple(found)


def _files() -> list[Path]:
    return sorted(FOLDER.glob("*.jinja"))


def _fenced(text: str) -> str:
    """Text that cannot close the tag it stands in: the `<` of our own tags inside it becomes `‹`."""
    return _TAGS.sub("‹", text)


def _line(text: str, limit: int = 400) -> str:
    """Text on one line, cut to `limit` characters, so that it cannot look like a further entry of a list."""
    return " ".join(text.split())[:limit]


@cache
def _template(name: str) -> Template:
    found = _environment().get_template(f"{name.removesuffix('.jinja')}.jinja")
    found.globals = dict(found.globals)  # a chain of dicts otherwise, gone through at every rendering
    return found


@cache
def _environment() -> SandboxedEnvironment:
    environment = SandboxedEnvironment(
        loader=FileSystemLoader(FOLDER),
        auto_reload=False,  # else every call looks at the file's time
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(fenced=_fenced, line=_line)
    return environment
