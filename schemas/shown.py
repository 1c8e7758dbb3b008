"""Values in a notebook: one line as text, a small table as HTML. Texts are escaped."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

TEXT_CHARS = 60


class Shown:
    """Base of a value that a notebook shows by its main figures."""

    def shown(self) -> Mapping[str, object]:
        """The main figures by name; None is left out."""
        raise NotImplementedError

    def __repr__(self) -> str:
        """One line."""
        facts = {name: value for name, value in self.shown().items() if value is not None}
        return f"{type(self).__name__}({', '.join(f'{name}={_short(value)}' for name, value in facts.items())})"

    def _repr_html_(self) -> str:
        """A table of two columns."""
        facts = {name: value for name, value in self.shown().items() if value is not None}
        return table(facts.items())


class History(dict[str, Any]):
    """A row's history: a dict that a notebook shows by label, text, decision, models and price."""

    def shown(self) -> Mapping[str, object]:
        """As Shown."""
        decision = self.get("decision") or {}
        reviews = [f"{one.get('model')}: {one.get('mean')}" for one in self.get("reviews") or () if one.get("mean")]
        return {
            "row": self.get("id"), "label": self.get("label"), "text": self.get("text"),
            "response": self.get("response"), "decision": decision.get("status"), "reason": decision.get("reason"),
            "reviews": "; ".join(reviews) or None, "calls": len(self.get("calls") or ()),
            "price_usd": self.get("price_usd"),
        }  # fmt: skip

    __repr__ = Shown.__repr__
    _repr_html_ = Shown._repr_html_


def table(rows: Any, head: tuple[str, ...] = ()) -> str:
    """An HTML table of rows of values."""
    top = "<tr>" + "".join(f"<th>{html.escape(one)}</th>" for one in head) + "</tr>" if head else ""
    body = "".join(
        "<tr>" + "".join(f"<td style='text-align:left'>{html.escape(_plain(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table>{top}{body}</table>"


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(one)}" for name, one in value.items())
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _short(value: object) -> str:
    text = _plain(value) if isinstance(value, Mapping | float | int) else repr(value)
    return text if len(text) <= TEXT_CHARS else text[: TEXT_CHARS - 1] + "…"
