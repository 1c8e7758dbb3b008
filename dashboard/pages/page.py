"""What a page is: an address, what answers it, and where it stands in the menu or among a dataset's tabs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

if TYPE_CHECKING:
    from graft.dashboard.context import PageContext

Spec = dict[str, Any]
"""A chart as Vega-Lite's specification."""


@dataclass(frozen=True)
class Page:
    """One address. A plain function runs on a thread, so that one page holds up no other.

    `menu` is its word in the menu, `tab` its word among the tabs of a dataset (its path then begins /datasets/{ref}).
    `plain` are the parameters with which another site may link here: they choose what is shown, and search nothing.
    With None no link from another site opens it. `posts` marks an address that changes something: it takes POST alone.
    """

    path: str
    name: str
    answer: Callable[[Request], Response] | Callable[[Request], Awaitable[Response]]
    menu: str = ""
    tab: str = ""
    posts: bool = False
    plain: tuple[str, ...] | None = ()


@dataclass(frozen=True)
class Chart:
    """A chart of a page, drawn from the same parameters on the page and as a file (`/charts/NAME.svg?…`).

    `draw` gives None where there is nothing to draw: no page has an empty chart. `label` says it to a screen reader.
    """

    name: str
    label: str
    draw: Callable[[PageContext, Mapping[str, str]], Spec | None]
