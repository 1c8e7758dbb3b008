"""Policy of `graft mcp`: who an agent is, and the caps and places that a person allowed when starting the server.

The server puts it into its environment, so that every process that it starts obeys it too. An agent's recipe cannot
change it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field

from graft.schemas.base import Value
from graft.schemas.errors import InputInvalid, Problem
from graft.schemas.home import PACKAGE
from graft.schemas.models import ModelSpec

VARIABLE = "GRAFT_AGENT"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
LONGEST_PATH = 1_024
_GLOB = re.compile(r"[*?\[]")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://\S+")
ASK = "ask the person who started graft mcp"


class Policy(Value):
    """Limits of an agent's work in one home. The caps hold for a day (UTC), over all calls, servers and processes."""

    by: str = Field(default="agent:unknown", description="recorded with runs, edits and reviews")
    usd: float = Field(default=0.0, ge=0, description="US dollars a day; 0: no hosted model")
    tokens: int = Field(default=200_000, ge=0, description="prompt and completion tokens a day")
    rows: int = Field(default=500, ge=0, description="accepted rows a day")
    roots: tuple[str, ...] = Field(default=(), description="folders whose files recipes may read")
    endpoints: tuple[str, ...] = Field(default=(), description="model servers besides those on this machine")
    keys: tuple[str, ...] = Field(default=(), description="environment variables that recipes may send as keys")

    def allows(self, path: Path) -> bool:
        """True if the file or folder, symlinks followed, is in a root or is a bundled recipe's."""
        whole = path.resolve()
        folders = [*map(Path, self.roots), PACKAGE / "recipes"]
        return any(whole.is_relative_to(folder.resolve()) for folder in folders)

    def allows_server(self, url: str) -> bool:
        """True if a model server is on this machine or allowed."""
        wanted = urlsplit(url)
        if wanted.hostname in LOOPBACK:
            return True
        return any(
            (one.scheme, one.hostname, one.port) == (wanted.scheme, wanted.hostname, wanted.port)
            for one in map(urlsplit, self.endpoints)
        )


def policy() -> Policy | None:
    """The policy of this process; None unless an agent's server started it. Raises ValidationError if it is broken."""
    given = os.environ.get(VARIABLE)
    return Policy.model_validate_json(given) if given else None


def by() -> str:
    """The agent for which this process works; empty: a person."""
    found = policy()
    return found.by if found else ""


def check_file(file: Path) -> None:
    """Raises InputInvalid if an agent may not read the file."""
    found = policy()
    if found is not None and not found.allows(file):
        raise InputInvalid([_outside(str(file), "", found)])


def check_data(file: Path, data: Mapping[str, Any]) -> None:
    """Raises InputInvalid if a text in an agent's recipe is an address, or a path outside the allowed folders."""
    found = policy()
    if found is None:
        return
    bases = (file.resolve().parent, Path.cwd())
    problems = list[Problem]()
    for field, text in _texts(data):
        if _URL.fullmatch(text) and not field.endswith(".base_url"):
            what = "an agent's recipe reads no address"
            problems.append(Problem(str(file), None, field, what, "give a file in an allowed folder"))
        elif _path(text) and any(_there(base, text) and not found.allows(_whole(base, text)) for base in bases):
            problems.append(_outside(str(file), field, found))
    if problems:
        raise InputInvalid(problems)


def check_models(models: Iterable[ModelSpec], where: str = "recipe") -> None:
    """Raises InputInvalid if an agent's recipe names a server, key, price or download that is not allowed."""
    found = policy()
    if found is None:
        return
    problems = [
        Problem(where, None, f"models.{model.name}.{field}", what, fix)
        for model in models
        for field, what, fix in _refused(model, found)
    ]
    if problems:
        raise InputInvalid(problems)


def _refused(model: ModelSpec, found: Policy) -> Iterator[tuple[str, str, str]]:
    if model.base_url and not found.allows_server(model.base_url):
        yield "base_url", "agents may not use this server", f"{ASK} to add --endpoint {model.base_url}"
    for variable in model.key_variables:
        if variable not in found.keys:
            yield "api_key_env", f"agents may not send {variable}", f"{ASK} to add --key {variable}"
    if model.provider == "litellm" and model.price is not None:
        yield "price", "an agent's recipe sets no price of a hosted model", "remove it: LiteLLM's price is used"
    if model.provider == "litellm" and not found.usd:
        yield (
            "provider",
            "agents may spend $0.00, so no hosted model",
            f"use a local model, or {ASK} to raise --max-usd",
        )
    if model.model.startswith("hf:"):
        yield "model", "agents download no models", f"use a built-in model, or {ASK} to download it to a file"


def _texts(value: Any, field: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a recipe's data with its field, except seeds and labels, which are no paths."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, Mapping):
        for name, one in value.items():
            path = f"{field}.{name}" if field else str(name)
            if path not in ("seeds.rows", "task.labels"):
                yield from _texts(one, path)
    elif isinstance(value, list | tuple):
        for index, one in enumerate(value):
            yield from _texts(one, f"{field}.{index}")


def _path(text: str) -> bool:
    return bool(text.strip()) and len(text) <= LONGEST_PATH and "\n" not in text and "\0" not in text


def _whole(base: Path, text: str) -> Path:
    """The path, up to the first wildcard."""
    return (base / Path(_GLOB.split(text, maxsplit=1)[0]).expanduser()).resolve()


def _there(base: Path, text: str) -> bool:
    """True if the text leads to something that exists: a word of a prompt does not."""
    try:
        whole = _whole(base, text)
        return whole.exists() or (bool(_GLOB.search(text)) and whole.parent.exists() and text.strip() != "*")
    except (OSError, RuntimeError, ValueError):
        return False


def _outside(file: str, field: str, found: Policy) -> Problem:
    fix = f"use a file in {', '.join(found.roots)}, or {ASK} to add --root"
    return Problem(file, None, field, "agents may not read this file", fix)
