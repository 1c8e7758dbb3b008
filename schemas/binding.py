"""A method's part of a recipe: the base of its settings, and the roles that the recipe may name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel, create_model

from graft.schemas.base import Value
from graft.schemas.kinds import METHODS, Kinds
from graft.schemas.models import LabelerSpec, RoleSpec
from graft.schemas.problems import Finding

DEFAULT_METHOD = "gra"
"""The method of a recipe without a method."""


LEAST_SCORE = 8.0
"""The least mean score (0 to 10) that counts as good if a method has none of its own: GRA's."""


class MethodSettings(Value):
    """Base of every method's settings. A subclass narrows `kind` to a Literal with its method's name as default."""

    kind: str

    @property
    def kinds(self) -> Sequence[tuple[Kinds[Any], str]]:
        """The family and name of further kinds that its rows depend on."""
        return ()

    @property
    def writing(self) -> frozenset[str]:
        """Roles whose words come into this recipe's rows, besides those that the method declares."""
        return frozenset()

    @classmethod
    def with_files(cls, block: Mapping[str, Any], read: Callable[[str], str]) -> tuple[dict[str, Any], list[Finding]]:
        """The recipe's block, as it is written, with the texts of the files that it names, and problems of these.

        `read` returns the text of a file by its path from the recipe's folder; it raises FieldErrors.
        """
        return dict(block), []


@dataclass(frozen=True)
class Role:
    """A role that a method declares.

    Args:
        spec: the fields that a recipe may set for it, with their defaults
        writes: whether its words come into the rows: an encoder cannot play it, and its models reach the student
    """

    spec: type[RoleSpec] = RoleSpec
    writes: bool = False


EVERY_RECIPES: Mapping[str, Role] = {"labeler": Role(LabelerSpec)}
"""Roles that a recipe may name whatever its method is: labelers are measured beside the student (`graft teacher`)."""


def bind_roles(given: Any, kind: str | None) -> dict[str, RoleSpec]:
    """Every role of the method with its fields; of all methods if `kind` is None, as the method itself is wrong."""
    bound = _roles_model(tuple(roles_of(kind).items())).model_validate(given)
    return {name: getattr(bound, name) for name in type(bound).model_fields}


def roles_of(kind: str | None) -> dict[str, Role]:
    """The roles that a recipe of this method may name; None: those of all methods."""
    methods = METHODS.all().values() if kind is None else (METHODS.get(kind),)
    return {**EVERY_RECIPES, **{name: role for method in methods for name, role in method.roles.items()}}


def writing_roles() -> tuple[str, ...]:
    """The roles of all methods whose words come into rows, in alphabetical order."""
    roles = (item for method in METHODS.all().values() for item in method.roles.items())
    return tuple(sorted({name for name, role in roles if role.writes}))


def least_scores() -> str:
    """SQL for the least mean score that a run accepts, by `recipe`, its JSON: its method's own, or LEAST_SCORE."""
    fields = ((name, method.least_score) for name, method in METHODS.all().items())
    cases = " ".join(
        f"WHEN '{name}' THEN CAST(json_extract_string(recipe, '$.method.{field}') AS DOUBLE)"
        for name, field in fields if field
    )  # fmt: skip
    kind = f"coalesce(json_extract_string(recipe, '$.method.kind'), '{DEFAULT_METHOD}')"
    return f"coalesce(CASE {kind} {cases} END, {LEAST_SCORE})"


def with_roles(schema: dict[str, Any], kind: str | None = None) -> dict[str, Any]:
    """The recipe's JSON Schema with the roles of one method, or of all if `kind` is None."""
    roles = {}
    for name, role in roles_of(kind).items():
        own = role.spec.model_json_schema()
        schema["$defs"] |= own.pop("$defs", {})
        schema["$defs"][role.spec.__name__] = own
        roles[name] = {"$ref": f"#/$defs/{role.spec.__name__}"}
    schema["properties"]["roles"] |= {"type": "object", "properties": roles, "additionalProperties": False}
    return schema


@cache
def _roles_model(roles: tuple[tuple[str, Role], ...]) -> type[BaseModel]:
    fields: dict[str, Any] = {name: (role.spec, role.spec()) for name, role in roles}
    return create_model("Roles", __base__=Value, **fields)
