"""Sections: the contents of any report, independent of where it is shown.

The quality report, a method's report, an audit, a diff and a card are made of sections. Values stay bare (numbers,
shares from 0 to 1, US dollars, seconds, moments) until a renderer formats them. Every text is plain text that the
renderer escapes.

Renderers, one for each surface:

- terminal: `cli.show.print_section` and `print_table`
- card (Markdown): `data.card.section_markdown`
- dashboard page: macros `section` and `table` in `dashboard/templates/macros.html.jinja`
- HTML file: `data.sections_html.render`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from graft.schemas.money import money

Kind = Literal[
    "text", "code", "number", "change", "figure", "figure_change", "share", "money", "seconds", "ago", "ahead", "status"
]  # fmt: skip
"""Format of a value. `change` is a number with its sign; `figure` has at most four decimals, for columns of
several units; `share` is shown as a percentage; `money` is US dollars, and reads as `schemas.money`
writes it; `ago` and `ahead` are moments, shown as the time since or until then;
`code` and `status` are texts that a page sets apart."""
HIDDEN = "(restricted)"
"""Replaces the words of restricted rows unless they are requested."""
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""Beginnings of a cell that a spreadsheet runs as a formula."""
FEW = 20
"""Decisions below which a share is shown as its count, without a percentage or a chart."""
RIGHT: tuple[Kind, ...] = ("number", "change", "figure", "figure_change", "share", "money", "seconds")
"""Kinds whose cells are aligned to the right."""


@dataclass(frozen=True)
class Fact:
    """One figure with its name.

    Args:
        name: such as "rows" or "self-BLEU"
        value: bare, in the unit of its kind; None if it is not known
        digits: decimal places of a number or a percentage (0 for a share: one place)
        local: for money: whether only models on this machine made the calls
        least: for money that is not known: the sum of its known parts
        of: for a share: the number of decisions that it is of
    """

    name: str
    value: Any
    kind: Kind = "text"
    digits: int = 0
    local: bool = False
    least: float | None = None
    of: int | None = None

    @property
    def text(self) -> str:
        """The value as it is shown."""
        if self.kind == "money":
            return money(self.value, self.local, self.least)
        return share(self.value, of=self.of) if self.of is not None else readable(self.value, self.kind, self.digits)


@dataclass(frozen=True)
class Column:
    """One column of a table.

    A column of money reads two more values of a row if they are there: `local`, and `least_usd` for `price_usd`.

    Args:
        key: names the value in each row
        title: heads the column
        digits: decimal places of a number or a percentage (0 for a share: one place)
        link: key of a row's value that holds an address of the dashboard, used by pages only
        bar: True to draw a share or number as a bar beside it
        mark: key of a value that is marked on the bar, such as the one expected
        of: key of the number of decisions that a share is of: of fewer than `FEW` the cell shows the count
        measured: key of the number of decisions behind a value that is no count, such as the end of an interval: with
            fewer than `FEW` it is not shown
    """

    key: str
    title: str
    kind: Kind = "text"
    digits: int = 0
    link: str = ""
    bar: bool = False
    mark: str = ""
    of: str = ""
    measured: str = ""

    @property
    def right(self) -> bool:
        """True if cells are aligned to the right, as numbers are."""
        return self.kind in RIGHT

    def text(self, row: Mapping[str, Any]) -> str:
        """The cell as it is shown."""
        if self.kind == "money":
            least = row.get("least_usd") if self.key == "price_usd" else None
            return money(row[self.key], bool(row.get("local")), least)
        if self.few(row):
            return share(row[self.key], of=row[self.of]) if self.of else "–"
        return readable(row[self.key], self.kind, self.digits)

    def few(self, row: Mapping[str, Any]) -> bool:
        """True if the value is of fewer than `FEW` decisions."""
        behind = self.of or self.measured
        return bool(behind) and row[behind] is not None and row[behind] < FEW

    def barred(self, row: Mapping[str, Any]) -> bool:
        """True if the cell has a bar."""
        return self.bar and row[self.key] is not None and not self.few(row)

    def rank(self, row: Mapping[str, Any]) -> str:
        """The sort key of a page: the bare number or moment; empty for texts and unknown values."""
        value = row[self.key]
        if isinstance(value, datetime):
            return str(value.timestamp()) if self.kind in ("ago", "ahead") else ""
        return str(value) if self.right and value is not None else ""


@dataclass(frozen=True)
class Table:
    """Rows under columns.

    Args:
        name: a slug, unique on its page: the address of its CSV file
        title: the heading above it
        rows: by the columns' keys, values bare
        empty: shown if there are no rows
        note: one line below it
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: Sequence[Mapping[str, Any]]
    empty: str = ""
    note: str = ""

    def longest(self, column: Column) -> float:
        """The largest value of a column with bars, its marks included; 1 if there is none."""
        keys = [column.key, *([column.mark] if column.mark else [])]
        return max((row[key] or 0.0 for row in self.rows for key in keys), default=0.0) or 1.0


@dataclass(frozen=True)
class Section:
    """One part of a report.

    Args:
        name: a slug, unique in its report: its anchor on a page and its key in JSON
        title: its heading
        text: a few sentences, or the verdict in one line
        notes: explanations below it, such as why a figure is not known
        unusual: whether the text names something that needs attention
    """

    name: str
    title: str
    text: str = ""
    facts: tuple[Fact, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    unusual: bool = False

    @property
    def known(self) -> bool:
        """True if there is anything besides the text."""
        return bool(self.facts or self.tables)

    def as_data(self) -> dict[str, Any]:
        """Plain values for JSON: facts by name, tables as lists of rows by name."""
        return {
            "title": self.title,
            "text": self.text,
            "unusual": self.unusual,
            "facts": {fact.name: fact.value for fact in self.facts},
            "tables": {table.name: [dict(row) for row in table.rows] for table in self.tables},
            "notes": list(self.notes),
        }


def readable(value: Any, kind: Kind = "text", digits: int = 0) -> str:
    """A bare value as people read it. None is a dash, or "unknown" for money."""
    if kind == "money":
        return money(value)
    if value is None:
        return "–"
    match kind:
        case "number":
            return number(value, digits)
        case "change":
            return f"{value:+,.{digits}f}"
        case "figure":
            return f"{value:,.4f}".rstrip("0").rstrip(".")
        case "figure_change":
            return f"{value:+,.4f}".rstrip("0").rstrip(".")
        case "share":
            return share(value, digits or 1)
        case "seconds":
            return seconds(value)
        case "ago":
            return ago(value)
        case "ahead":
            return ahead(value)
        case _:
            return str(value)


def one_line(text: str) -> str:
    """The text on one line, without control and direction characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


TRICKS = {
    ord(c): f"⟨U+{ord(c):04X}⟩" for c in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"
} | {0: "⟨NUL⟩"}
"""Characters that change the direction of writing, spelled out where HTML shows a text."""


def spelled(text: str) -> str:
    """The text with direction and NUL characters spelled out, for HTML; escaping is the template's."""
    return text.translate(TRICKS)


def number(value: float | int | None, digits: int = 0) -> str:
    """A number with thousands apart; a dash if it is not known."""
    return "–" if value is None else f"{value:,.{digits}f}"


def share(value: float | None, digits: int = 1, of: int | None = None) -> str:
    """A share (0 to 1) as a percentage; a dash if it is not known. `of` fewer than `FEW` it is a count: 3 of 7."""
    if value is None:
        return "–"
    return f"{round(value * of):,} of {of:,}" if of is not None and of < FEW else f"{value:.{digits}%}"


def disk_size(count: int) -> str:
    """Bytes in decimal units: 690 MB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:,.1f} {unit}" if count < 10 * scale else f"{count / scale:,.0f} {unit}"
    return f"{count} B"


def seconds(value: float | None) -> str:
    """A duration: 0.24 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if value is None:
        return "–"
    if value < 10:
        return f"{value:.2f} s"
    if value < 60:
        return f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def ago(moment: datetime | None) -> str:
    """The time since a moment, in the largest unit that fits."""
    if moment is None:
        return "–"
    return "just now" if (span := _span((datetime.now(UTC) - moment).total_seconds())) is None else f"{span} ago"


def ahead(moment: datetime | None) -> str:
    """The time until a moment, in the largest unit that fits."""
    if moment is None:
        return "–"
    return "now" if (span := _span((moment - datetime.now(UTC)).total_seconds())) is None else f"in {span}"


def _span(span_s: float) -> str | None:
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if span_s >= size:
            count = int(span_s // size)
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return None


def inert_cell(text: str) -> str:
    """The text as a cell that a spreadsheet shows and does not run; exports do the same in SQL."""
    return f"'{text}" if text.startswith(FORMULA) else text
