"""Kinds: the several ways to do one thing, found by name without naming them.

A family's own kinds are the modules of one folder, and a module's name is its kind's name: `agents/methods/gra.py` is
the method `gra`. A module holds its kind as `KIND`; whatever the modules share lies in `base.py` or in a package beside
them. Other distributions add kinds by entry points in the family's group (`graft.methods`): the kind itself, or a
module that holds it.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Generic, TypeVar

from graft.schemas.errors import NotFound
from graft.schemas.home import PACKAGE
from graft.schemas.problems import did_you_mean

T = TypeVar("T")


@dataclass(frozen=True)
class Plugin:
    """A kind of another distribution. `problem` says why it cannot be used; empty where it can."""

    family: str
    name: str
    distribution: str
    version: str
    problem: str = ""


@dataclass
class Kinds(Generic[T]):
    """The kinds of one family, loaded when they are used.

    Args:
        family: plural, such as "methods": the entry points' group is `graft.<family>`
        folder: where the family's own kinds lie, under the package, such as "agents/methods"
        needs: attributes that a plugin's kind must have
    """

    family: str
    folder: str
    needs: tuple[str, ...] = ()
    _loaded: dict[str, T] = field(default_factory=dict, repr=False)
    _plugins: dict[str, Plugin] | None = field(default=None, repr=False)

    @property
    def own(self) -> tuple[str, ...]:
        """The names of Graft's own kinds, in alphabetical order."""
        found = pkgutil.iter_modules([str(PACKAGE / self.folder)])
        return tuple(sorted(one.name for one in found if not one.ispkg and one.name != "base"))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all kinds that can be used: Graft's own, then plugins'."""
        return (*self.own, *(name for name, plugin in self.plugins.items() if not plugin.problem))

    @property
    def plugins(self) -> Mapping[str, Plugin]:
        """Every plugin of the family by its name, also those that cannot be used."""
        if self._plugins is None:
            self._plugins = {}
            for point in sorted(entry_points(group=f"graft.{self.family}"), key=lambda point: point.name):
                self._plugins.setdefault(point.name, self._plugin(point))
        return self._plugins

    def get(self, name: str) -> T:
        """The kind of that name. Raises NotFound with the names that there are."""
        if name not in self._loaded:
            if name in self.own:
                module = import_module(f"graft.{self.folder.replace('/', '.')}.{name}")
                self._loaded[name] = module.KIND
            elif name not in self.plugins or self.plugins[name].problem:
                problem = self.plugins[name].problem if name in self.plugins else ""
                fix = f"{did_you_mean(name, self.names)}use one of {', '.join(self.names)}"
                raise NotFound(f"no {self.family} kind {name!r}" + (f": {problem}" if problem else ""), fix=fix)
        return self._loaded[name]

    def all(self) -> dict[str, T]:
        """Every kind that can be used, by its name."""
        return {name: self.get(name) for name in self.names}

    def _plugin(self, point: EntryPoint) -> Plugin:
        """Load a plugin. Any exception of its code becomes its problem: one bad plugin stops no run."""
        problem = ""
        if point.name in self.own:
            problem = "the name belongs to one of Graft's own kinds"
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
        made_by = point.dist
        return Plugin(
            self.family, point.name, made_by.name if made_by else "", made_by.version if made_by else "", problem
        )


METHODS: Kinds[Any] = Kinds("methods", "agents/methods")
TASKS: Kinds[Any] = Kinds("tasks", "schemas/tasks")
GATES: Kinds[Any] = Kinds("gates", "data/gates")
AUDITS: Kinds[Any] = Kinds("audits", "data/audits")
OBJECTIVES: Kinds[Any] = Kinds("objectives", "students/objectives")
POLICIES: Kinds[Any] = Kinds("policies", "students/steer")
EXPORTS: Kinds[Any] = Kinds("exports", "data/export")
FAMILIES: tuple[Kinds[Any], ...] = (METHODS, TASKS, GATES, AUDITS, OBJECTIVES, POLICIES, EXPORTS)
"""Every family, for `graft plugins`. A room gives its own family a type where it hands it on."""
