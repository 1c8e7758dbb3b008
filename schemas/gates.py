"""A recipe's block `gates`. Each of its fields belongs to the gate that declares it, in `data/gates/`."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar, cast

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, create_model, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from graft.schemas.base import OFF, Value
from graft.schemas.kinds import GATES

S = TypeVar("S", bound=Value)

Action = Annotated[Literal["off", "redact", "reject"], OFF]


class GateSettings(Value):
    """Checks after generation. Defaults fit short texts; every threshold is a field.

    The fields are those of every registered gate's `Settings`. They are bound when a recipe is read, not on import, so
    that fields of plugins are included.
    """

    if TYPE_CHECKING:

        def __init__(self, **fields: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...

    def __new__(cls, *args: Any, **fields: Any) -> GateSettings:  # noqa: D102
        return super().__new__(_bound(GATES.names) if cls.__base__ is Value else cls)

    def of(self, settings: type[S]) -> S:
        """One gate's own settings, as in `recipe.gates.of(Settings)`."""
        made: Any = settings.model_construct(**{name: getattr(self, name) for name in settings.model_fields})
        return cast("S", made)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """Run the gates' own validators over several fields."""
        for name in GATES.names:
            own: type[Value] = GATES.get(name).Settings
            own.model_validate({field: getattr(self, field) for field in own.model_fields})
        return self

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Called by pydantic: the base class validates and serialises as the class bound to the registered gates."""
        if cls.__base__ is not Value:
            return handler(source)
        return core_schema.no_info_plain_validator_function(
            lambda value: value if isinstance(value, GateSettings) else _bound(GATES.names).model_validate(value),
            serialization=core_schema.simple_ser_schema("any"),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Called by pydantic."""
        if cls.__base__ is not Value:
            return handler(schema)
        return {**handler(_bound(GATES.names).__pydantic_core_schema__), "default": GateSettings().model_dump()}


@lru_cache(maxsize=4)
def _bound(names: tuple[str, ...]) -> type[GateSettings]:
    """The class with the fields of these gates, in the order in which they run. Built-in gates come first in `names`: a
    plugin's field that another gate already has is an error.
    """
    owners: dict[str, str] = {}
    for name in names:
        own = GATES.get(name).Settings.model_fields
        if taken := [field for field in own if field in owners]:
            GATES.refuse(name, f"its field gates.{taken[0]} belongs to the gate {owners[taken[0]]}")
        else:
            owners |= dict.fromkeys(own, name)
    fields: dict[str, Any] = {}
    for kind in sorted(GATES.all().values(), key=lambda kind: kind.cost):
        fields |= {name: (info.annotation, info) for name, info in kind.Settings.model_fields.items()}
    made: type[GateSettings] = create_model(
        "GateSettings", __base__=GateSettings, __module__=__name__, __doc__=(GateSettings.__doc__ or "").split("\n")[0],
        **fields,
    )  # fmt: skip
    return made
