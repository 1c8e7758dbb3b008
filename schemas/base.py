"""The base of every Graft value: frozen, strict about unknown keys, cheap to make."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

SLUG_PATTERN = r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$"

Slug = Annotated[str, Field(pattern=SLUG_PATTERN, description="lower-case letters, digits, dot, dash, underscore")]

OFF = BeforeValidator(lambda value: "off" if value is False else value)
"""For a choice that has "off", as in `Annotated[Literal["off", "reject"], OFF]`: YAML reads a bare `off` as false."""

STUDENT_PATTERN = r"^st_[A-Za-z0-9_-]{1,64}$"


class Value(BaseModel):
    """A frozen value that passes between rooms; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


def stable_hash(*parts: Any, length: int = 16) -> str:
    """Hex digest of JSON-able parts: the same on every machine, Python and run.

    Keys are sorted, so two dicts that compare equal hash alike. `length` counts hex digits (4 bits each).
    """
    payload = orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(payload, digest_size=32).hexdigest()[:length]


def content_hash(rows: Iterable[Any]) -> str:
    """Hash of a collection that does not depend on the order of its rows."""
    digest = hashlib.sha256()
    for line in sorted(stable_hash(row, length=64) for row in rows):
        digest.update(line.encode())
    return digest.hexdigest()


def utc_now() -> datetime:
    """The present moment, always with its zone."""
    return datetime.now(UTC)
