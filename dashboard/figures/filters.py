"""Filters and orders of rows: each defines its form field, its chip above a list and its SQL."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from graft.data.review.items import REFUSED_BY
from graft.data.review.queues import MARGIN
from graft.schemas.datasets import RowSource
from graft.schemas.rows import Route

LONGEST = 1_000
"""Maximum length of a search query, in characters."""
MOST_TERMS = 20
MOST_IDS = 500
"""Maximum number of row ids in an address."""

Kind = Literal["words", "text", "number", "choice", "yes"]
Where = Literal["both", "rows", "rejected"]


@dataclass(frozen=True)
class Filter:
    """One filter. `condition` is SQL over `v` (a version's row) and `c` (its candidate), with one `?` for the value.

    `{r}` in it is `v` among rows and `c` among rejected candidates. `judged` marks a filter that needs the candidate.
    """

    name: str
    title: str
    condition: str
    kind: Kind = "text"
    judged: bool = False
    on: Where = "both"
    often: bool = False
    choices: tuple[str, ...] = ()
    hint: str = ""


GENERATOR = "list_contains(string_split(json_extract_string(c.models, '$.generator'), ','), ?)"
RELABELLED = "(c.intended_label <> '' AND {r}.label <> c.intended_label) = ?"

FILTERS: tuple[Filter, ...] = (
    Filter("words", "words", "", "words", often=True, hint='parcel "late again" -refund'),
    Filter("label", "label", "{r}.label = ?", "choice", often=True),
    Filter("split", "split", "v.split = ?", "choice", on="rows", often=True),
    Filter("gate", "stopped by", f"{REFUSED_BY} = ?", "choice", on="rejected", often=True),
    Filter("code", "decision", "c.code = ?", judged=True, hint="gate.near_duplicate"),
    Filter("route", "by", "c.route = ?", "choice", judged=True, choices=get_args(Route)),
    Filter("intended", "intended label", "c.intended_label = ?", "choice", judged=True),
    Filter("relabelled", "relabelled", RELABELLED, "yes", judged=True),
    Filter("model", "written by", GENERATOR, judged=True, hint="a model's name"),
    Filter("mean_from", "reviewers' mean from", "c.mean >= ?", "number", judged=True, hint="0 to 10"),
    Filter("mean_to", "reviewers' mean to", "c.mean <= ?", "number", judged=True, hint="0 to 10"),
    Filter("spread_from", "spread from", "c.spread >= ?", "number", judged=True),
    Filter("length_from", "characters from", "length({r}.text) >= ?", "number"),
    Filter("length_to", "characters to", "length({r}.text) <= ?", "number"),
    Filter("source", "source", "v.source = ?", "choice", on="rows", choices=get_args(RowSource)),
    Filter("restricted", "restricted", "{r}.restricted = ?", "yes"),
    Filter("run", "run", "{r}.run_id = ?", "choice"),
    Filter("ids", "chosen rows", "", hint="ids with commas between them"),
)
BY_NAME = {one.name: one for one in FILTERS}


@dataclass(frozen=True)
class Sort:
    """An order of rows: by `key`, or by id without a key. Rows without a value come last."""

    title: str
    key: str = ""
    down: bool = False
    judged: bool = False


SORTS: dict[str, Sort] = {
    "id": Sort("id"),
    "label": Sort("label", "{r}.label"),
    "longest": Sort("longest first", "length({r}.text)", down=True),
    "shortest": Sort("shortest first", "length({r}.text)"),
    "mean": Sort("lowest mean first", "c.mean", judged=True),
    "spread": Sort("highest spread first", "c.spread", down=True, judged=True),
    "margin": Sort("smallest margin first", MARGIN, judged=True),
}


@dataclass(frozen=True)
class RowQuery:
    """A request for rows. `values` are the active filters as written; `problems` lists the parts that were ignored."""

    rejected: bool
    sort: str
    values: dict[str, str] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def judged(self) -> bool:
        """True if rows must be joined to their candidates."""
        return SORTS[self.sort].judged or any(BY_NAME[name].judged for name in self.given)

    def where(self, only: list[str] | None = None) -> tuple[str, list[Any]]:
        """The SQL condition and its values. `only` are the ids of the rows that may match."""
        parts, params = ["true"], list[Any]()
        row = "c" if self.rejected else "v"
        for name, value in self.given.items():
            if name == "words":
                for text, unwanted in value:
                    condition_sql = " OR ".join(
                        f"coalesce(contains(lower({row}.{column}), lower(?)), false)" for column in ("text", "response")
                    )
                    parts.append(f"NOT ({condition_sql})" if unwanted else f"({condition_sql})")
                    params += [text, text]
                parts.append(f"NOT {row}.restricted")
            elif name == "ids":
                only = value if only is None else [one for one in only if one in set(value)]
            else:
                parts.append(BY_NAME[name].condition.format(r=row))
                params.append(value)
        if only is not None:
            parts.append(f"{row}.{'candidate_id' if self.rejected else 'id'} IN (SELECT unnest(?::VARCHAR[]))")
            params.append(only)
        return " AND ".join(parts), params


def row_query(query: Mapping[str, str]) -> RowQuery:
    """Parse the address. Invalid parts are ignored and listed in `problems`."""
    rejected, problems = query.get("rejected") == "1", list[str]()
    values, given = dict[str, str](), dict[str, Any]()
    for one in FILTERS:
        value_text = query.get(one.name, "").strip()
        if not value_text or one.on == ("rows" if rejected else "rejected"):
            continue
        value, problem = _read(one, value_text)
        if problem:
            problems.append(problem)
        else:
            values[one.name], given[one.name] = value_text, value
    sort = query.get("sort", "") or "id"
    if sort not in SORTS:
        problems.append(f"Rows cannot be sorted by {sort[:40]!r}; they are sorted by id.")
        sort = "id"
    return RowQuery(rejected, sort, values, given, tuple(problems))


def _read(one: Filter, text: str) -> tuple[Any, str]:
    """(value, "") of a filter, or (None, the reason why it is ignored)."""
    if one.kind == "number":
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        return (value, "") if math.isfinite(value) else (None, f"“{one.title}” needs a number, not {text[:40]!r}.")
    if one.kind == "yes":
        known = {"yes": True, "no": False}
        return (known[text], "") if text in known else (None, f"“{one.title}” needs yes or no, not {text[:40]!r}.")
    if one.name == "ids":
        ids = [part for part in (piece.strip() for piece in text.split(",")) if part]
        return (ids, "") if len(ids) <= MOST_IDS else (None, f"At most {MOST_IDS} rows can be chosen one by one.")
    if one.kind == "words":
        if problem := too_long(text):
            return None, problem
        terms = words(text)
        if len(terms) > MOST_TERMS:
            return (
                None,
                f"The search has {len(terms)} words; at most {MOST_TERMS} are allowed. Put a phrase in quotes.",
            )
        return (terms, "") if terms else (None, "The search has no word.")
    return text, ""


def too_long(text: str) -> str:
    """The reason for not running a search; empty if it can run."""
    if len(text) <= LONGEST:
        return ""
    return f"The search has {len(text):,} characters; at most {LONGEST:,} are allowed. It was ignored."


def words(text: str) -> list[tuple[str, bool]]:
    """Return the terms of a search, each with True if excluded: words, "phrases", -excluded, -"excluded phrases"."""
    found = re.findall(r'(-?)"([^"]+)"|(-?)([^\s"]+)', text)
    terms = [(phrase or word, bool(not_phrase or not_word)) for not_phrase, phrase, not_word, word in found]
    return [(" ".join(text.split()), unwanted) for text, unwanted in terms if text.strip()]
