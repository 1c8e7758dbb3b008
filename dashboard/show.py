"""Filters of the templates: how pages show numbers, prices, moments, and texts from models and strangers."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from graft.schemas.sections import ago, ahead, money, number, seconds, share, spelled


def shown(text: str | None) -> str:
    """A text as it may stand on a page: signs that reverse the writing are spelled out. Escaping is the template's."""
    return "–" if text is None else spelled(text)


def card(markdown: str) -> Markup:
    """A card as HTML. No HTML of its own, no link and no image comes through."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])
    return Markup(reader.render(shown(markdown)))


FILTERS: dict[str, Any] = {
    "shown": shown, "card": card, "number": number, "share": share, "money": money, "ago": ago, "ahead": ahead,
    "seconds": seconds,
}  # fmt: skip
"""What templates call them."""
