"""Prices in words: the one place that decides how an amount of US dollars reads, and which models cost none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

UNKNOWN = "unknown"
"""A price that is not known: a model has none in its recipe, or its server counts no tokens."""
LOCAL = "local"
"""The price of calls that only models on this machine answered."""
HERE = ("embedded", "encoder")
"""Providers that run on this machine."""
LOOPBACK = re.compile(r"^https?://(localhost|127[.][0-9.]+|\[::1\])(:|/|$)")
"""Addresses of servers on this machine, as recipes hold them; also a regular expression of DuckDB."""


def money(value: float | None, local: bool = False, least: float | None = None) -> str:
    """US dollars as people read them, with two to four decimal places; six for less than a tenth of a cent.

    Args:
        value: the amount; None if a price in it is not known
        local: whether only models on this machine made the calls; an amount of theirs reads "local"
        least: the sum of the known prices, if `value` is None; the amount then reads "at least $…"
    """
    if local and not value:
        return LOCAL
    if value is None:
        return f"at least {_dollars(least)}" if least else UNKNOWN
    return _dollars(value)


def _dollars(value: float) -> str:
    if not value:
        return "$0"
    whole, _, cents = f"{value:,.{4 if value >= 0.001 else 6}f}".partition(".")
    return f"${whole}.{cents.rstrip('0'):0<2}"


def is_local(model: Mapping[str, Any]) -> bool:
    """True for a model (fields of a recipe's `models`) on this machine that nobody charges for.

    An embedded model, an encoder, or a server at a loopback address that has no price, or a price of zero.
    `data.quality.judged.LOCAL` is the same rule in SQL.
    """
    if model.get("provider") in HERE:
        return True
    price = model.get("price") or {}
    paid = (price.get("input") or 0) + (price.get("output") or 0)
    return model.get("provider") == "openai" and not paid and bool(LOOPBACK.match(str(model.get("base_url") or "")))


def all_local(recipe: Mapping[str, Any]) -> bool:
    """True if a stored recipe has models, and all of them are local."""
    models = models_of(recipe)
    return bool(models) and all(is_local(one) for one in models)


def local_models(recipe: Mapping[str, Any]) -> frozenset[str]:
    """Names of a stored recipe's local models."""
    return frozenset(str(one.get("name")) for one in models_of(recipe) if is_local(one))


def models_of(recipe: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The models of a stored recipe, as far as it is readable."""
    found = recipe.get("models")
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list | tuple) else []
