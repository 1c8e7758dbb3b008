"""Template filters: numbers, prices, moments, and untrusted texts."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from graft.schemas.sections import ago, ahead, money, number, seconds, share, spelled


def shown(text: str | None) -> str:
    """A text for a page, with direction characters spelled out. Templates escape it."""
    return "–" if text is None else spelled(text)


def card(markdown: str) -> Markup:
    """A card as HTML. HTML in its text, links and images are removed."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])
    return Markup(reader.render(shown(markdown)))


FILTERS: dict[str, Any] = {
    "shown": shown, "card": card, "number": number, "share": share, "money": money, "ago": ago, "ahead": ahead,
    "seconds": seconds,
}  # fmt: skip
"""Filters by their names in templates."""
