"""How values are shown on pages: numbers, prices, moments, and texts that nobody vouches for."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from markupsafe import Markup

from graft.schemas.base import utc_now

TRICKS = {
    ord(c): f"⟨U+{ord(c):04X}⟩" for c in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"
}
"""Signs that turn the direction of writing, spelled out where a text is shown."""


def shown(text: str | None) -> str:
    """A text as it may stand on a page: signs that reverse the writing are spelled out. Escaping is the template's."""
    return "–" if text is None else text.translate(TRICKS).replace("\x00", "⟨NUL⟩")


def card(markdown: str) -> Markup:
    """A card as HTML. No HTML of its own, no link and no image comes through."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])
    return Markup(reader.render(shown(markdown)))


def number(value: float | int | None, digits: int = 0) -> str:
    """A number with thousands apart; a dash where it is not known."""
    return "–" if value is None else f"{value:,.{digits}f}"


def share(value: float | None, digits: int = 1) -> str:
    """A share as a percentage; a dash where it is not known."""
    return "–" if value is None else f"{value:.{digits}%}"


def money(value: float | None) -> str:
    """US dollars, or that nobody knows."""
    return "unknown" if value is None else f"${value:,.4f}"


def ago(moment: datetime | None) -> str:
    """How long ago, in the largest unit that fits."""
    if moment is None:
        return "–"
    return "just now" if (said := _amount((utc_now() - moment).total_seconds())) is None else f"{said} ago"


def ahead(moment: datetime | None) -> str:
    """In how long, in the largest unit that fits."""
    if moment is None:
        return "–"
    return "now" if (said := _amount((moment - utc_now()).total_seconds())) is None else f"in {said}"


def seconds(value: float | None) -> str:
    """A stretch of time: 0.24 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if value is None:
        return "–"
    if value < 10:
        return f"{value:.2f} s"
    if value < 60:
        return f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _amount(span_s: float) -> str | None:
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if span_s >= size:
            count = int(span_s // size)
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return None


FILTERS: dict[str, Any] = {
    "shown": shown, "card": card, "number": number, "share": share, "money": money, "ago": ago, "ahead": ahead,
    "seconds": seconds,
}  # fmt: skip
"""What templates call them."""
