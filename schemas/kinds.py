"""Kinds: exchangeable implementations, found by name.

A family's own kinds are the modules of one folder, and a module's name is its kind's name: `agents/methods/gra.py` is
the method `gra`. A module holds its kind as `KIND`; shared code is in `base.py` or in a package beside them. Other
distributions add kinds by entry points in the family's group (`graft.methods`): the kind itself, or a module that holds
it.
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from types import ModuleType
from typing import Any, Generic, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from graft.schemas.errors import NotFound
from graft.schemas.home import PACKAGE
from graft.schemas.problems import FieldErrors, Finding, did_you_mean

T = TypeVar("T")


@dataclass(frozen=True)
class Plugin:
    """A kind of another distribution. `problem` is the reason for which it cannot be used; empty if it can."""

    family: str
    name: str
    distribution: str
    version: str
    problem: str = ""


@dataclass(eq=False)  # hashable: a family stands in annotations
class Kinds(Generic[T]):
    """The kinds of one family, loaded when they are used.

    Args:
        family: plural, such as "methods": the entry points' group is `graft.<family>`
        folder: the folder of the family's own kinds, under the package, such as "agents/methods"
        needs: attributes that a plugin's kind must have
        several: a module holds several kinds, each with a `name`, as `KINDS`
    """

    family: str
    folder: str
    needs: tuple[str, ...] = ()
    several: bool = False
    _loaded: dict[str, T] = field(default_factory=dict, repr=False)
    _plugins: dict[str, Plugin] | None = field(default=None, repr=False)

    @property
    def own(self) -> tuple[str, ...]:
        """The names of Graft's own kinds, in alphabetical order."""
        return tuple(sorted(self._shared if self.several else self._modules))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all usable kinds: Graft's own, then plugins'."""
        return (*self.own, *(name for name, plugin in self.plugins.items() if not plugin.problem))

    @property
    def noun(self) -> str:
        """One kind of the family in words, such as "method"."""
        return re.sub("ies$", "ys", self.family)[:-1]

    @property
    def plugins(self) -> Mapping[str, Plugin]:
        """Every plugin of the family by its name, also unusable ones. Of two with one name the second, in the order of
        their distributions, is unusable, and its key names its distribution.
        """
        if self._plugins is None:
            self._plugins = {}
            for point in sorted(entry_points(group=f"graft.{self.family}"), key=lambda one: (one.name, _maker(one))):
                first = self._plugins.get(point.name)
                key = f"{point.name} ({_maker(point)[0]})" if first else point.name
                self._plugins[key] = self._plugin(point, first)
        return self._plugins

    def get(self, name: str) -> T:
        """The kind of that name. Raises NotFound with the available names."""
        if name not in self._loaded:
            if name in self.own:
                self._loaded[name] = self._shared[name] if self.several else self._module(name).KIND
            elif name not in self.plugins or self.plugins[name].problem:
                problem = self.plugins[name].problem if name in self.plugins else ""
                fix = f"{did_you_mean(name, self.names)}use one of {', '.join(self.names)}"
                raise NotFound(f"no {self.noun} {name!r}" + (f": {problem}" if problem else ""), fix=fix)
        return self._loaded[name]

    def all(self) -> dict[str, T]:
        """Every usable kind, by its name."""
        return {name: self.get(name) for name in self.names}

    def refuse(self, name: str, problem: str) -> None:
        """Mark a plugin as unusable: its family found a conflict with others."""
        self._plugins = {**self.plugins, name: replace(self.plugins[name], problem=problem)}
        self._loaded.pop(name, None)

    @cached_property
    def _modules(self) -> list[str]:
        found = pkgutil.iter_modules([str(PACKAGE / self.folder)])
        return [one.name for one in found if not one.ispkg and one.name != "base"]

    def _module(self, name: str) -> ModuleType:
        return import_module(f"graft.{self.folder.replace('/', '.')}.{name}")

    @cached_property
    def _shared(self) -> dict[str, T]:
        """Own kinds whose modules hold several, by name."""
        return {kind.name: kind for module in self._modules for kind in self._module(module).KINDS}

    def _plugin(self, point: EntryPoint, first: Plugin | None) -> Plugin:
        """Load a plugin. Any exception of its code becomes its problem: one bad plugin stops no run."""
        problem = ""
        if point.name in self.own:
            problem = "the name belongs to one of Graft's own kinds"
        elif first:
            problem = f"the name belongs to the plugin of {first.distribution}: remove one of the two"
        else:
            try:
                found: Any = point.load()
                kind = found.KIND if isinstance(found, ModuleType) else found
                lacking = [name for name in self.needs if not hasattr(kind, name)]
                if lacking:
                    problem = f"it has no {', '.join(lacking)}"
                else:
                    self._loaded[point.name] = kind
            except Exception as error:  # whatever a plugin's code raises
                problem = f"{type(error).__name__}: {error}"
        return Plugin(self.family, point.name, *_maker(point), problem)


def _maker(point: EntryPoint) -> tuple[str, str]:
    """The name and version of an entry point's distribution."""
    return (point.dist.name, point.dist.version) if point.dist else ("", "")


@dataclass(frozen=True)
class OfKind:
    """Binds a pydantic field to the kind that its value names, as in `task: Annotated[Task, OfKind(TASKS)]`.

    A value is a block with `kind`, which the kind's own class reads, or a finished value of the annotated class. Errors
    have the types and contexts of a discriminated union, but no tag in their locations. A value is written with all
    fields of its own class, and the JSON Schema is the union of all kinds that can be used.

    Args:
        kinds: the family
        settings: the attribute of a kind that is its pydantic class; "" where the kind itself is that class
        fits: whether a kind may stand in this field; by default every kind may
    """

    kinds: Kinds[Any]
    settings: str = ""
    fits: Callable[[Any], bool] = lambda kind: True

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Called by pydantic for the annotated field."""

        def bind(value: Any) -> Any:
            return value if isinstance(value, source) else self._class(value).model_validate(value)

        written = core_schema.simple_ser_schema("any")  # by the value's own class, not by the annotated one
        return core_schema.no_info_plain_validator_function(bind, serialization=written)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Called by pydantic: the kinds are looked up each time."""
        every = {name: self._settings_of(name).__pydantic_core_schema__ for name in sorted(self._names)}
        return handler(core_schema.tagged_union_schema(every, "kind"))

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(name for name in self.kinds.names if self.fits(self.kinds.get(name)))

    def _settings_of(self, name: str) -> Any:
        kind = self.kinds.get(name)
        return getattr(kind, self.settings) if self.settings else kind

    def _class(self, value: Any) -> Any:
        """The class for a raw value. Raises the errors of a discriminated union, or FieldErrors for a broken plugin."""
        if not isinstance(value, Mapping):
            raise PydanticKnownError("model_attributes_type")
        if "kind" not in value:
            raise PydanticKnownError("union_tag_not_found", {"discriminator": "'kind'"})
        name, names = value["kind"], self._names
        if isinstance(name, str) and name in names:
            return self._settings_of(name)
        plugin = self.kinds.plugins.get(name) if isinstance(name, str) else None
        if plugin:
            what = f"kind {name!r} of {plugin.distribution or 'a plugin'} cannot be used: {plugin.problem}"
            raise FieldErrors([Finding(("kind",), what, "repair or remove the plugin; graft plugins lists all")])
        expected = ", ".join(repr(one) for one in sorted(names))
        raise PydanticKnownError(
            "union_tag_invalid", {"discriminator": "'kind'", "tag": str(name), "expected_tags": expected}
        )


METHODS: Kinds[Any] = Kinds("methods", "agents/methods", needs=("kind", "Settings", "roles", "run_slot"))
TASKS: Kinds[Any] = Kinds("tasks", "schemas/tasks", needs=("categories", "restricts", "rubric"))
STEPS: Kinds[Any] = Kinds("steps", "agents/methods/columns", needs=("model_fields", "shape", "paths", "run"))
GATES: Kinds[Any] = Kinds("gates", "data/gates", ("Settings", "cost", "version", "scope", "enabled", "make", "longest"))
AUDITS: Kinds[Any] = Kinds("audits", "data/audits", needs=("run", "sections", "data", "options"))
STUDENTS: Kinds[Any] = Kinds("students", "students/kinds", ("train", "lies_in", "Settings"))
OBJECTIVES: Kinds[Any] = Kinds("objectives", "students/objectives")
STAGES: Kinds[Any] = Kinds("stages", "students/instruct/stages")
POLICIES: Kinds[Any] = Kinds("policies", "students/steer")
EXPORTS: Kinds[Any] = Kinds("exports", "data/export/formats", needs=("name", "select", "container"), several=True)
FAMILIES: tuple[Kinds[Any], ...] = (
    METHODS, STEPS, TASKS, GATES, AUDITS, STUDENTS, OBJECTIVES, STAGES, POLICIES, EXPORTS,
)  # fmt: skip
"""Every family, for `graft plugins`. A room gives its own family a type where it hands it on."""


def code_version(used: Iterable[tuple[Kinds[Any], str]] = ()) -> str:
    """The versions of the code that does a piece of work, such as `0.1.0 + graft-haiku 1.0`.

    Args:
        used: the kinds that do it, each with its family: plugins among them are named

    Returns:
        Graft's version, or "source" where it is not installed; then each plugin's distribution and version
    """
    try:
        own = version("graft-factory")
    except PackageNotFoundError:
        own = "source"
    plugins = [family.plugins[name] for family, name in used if name in family.plugins and name not in family.own]
    return " + ".join((own, *sorted({f"{one.distribution} {one.version}" for one in plugins})))
