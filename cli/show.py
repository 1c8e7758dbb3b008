"""Output of results: JSON for programs, rich tables for people. Text from models is never parsed as markup."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from string import hexdigits
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from graft.flows.estimate import Estimate
    from graft.schemas.display import View
    from graft.schemas.sections import Section, Table
    from graft.schemas.tasks.base import Task

LONGEST_ID = 120
BAR = 20
"""Length of the longest bar, in blocks."""


def dumps(value: Any) -> str:
    """JSON with two-space indents; dates as ISO text."""
    import orjson

    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS, default=str).decode()


def as_json(value: Any) -> None:
    """Print JSON and nothing else."""
    sys.stdout.write(dumps(value) + "\n")


def without_seeds(recipe: dict[str, Any]) -> dict[str, Any]:
    """A run's recipe as a dict; in a restricted task's recipe "(restricted)" replaces the text of its rows."""
    from graft.schemas.tasks.base import stored_task

    task, (seeds, steering) = stored_task(recipe), (recipe.get(name) or {} for name in ("seeds", "steering"))
    if not task.has_restricted:
        return recipe
    shown = {**recipe}
    if seeds.get("rows"):
        shown["seeds"] = {**seeds, "rows": _hidden(seeds["rows"], task)}
    if steering:
        shown["steering"] = {
            **steering,
            "exemplars": _hidden(steering.get("exemplars", ()), task),
            "concepts": "(restricted)",
        }
    return shown


def _hidden(rows: Sequence[dict[str, Any]], task: Task) -> list[dict[str, Any]]:
    return [
        {**row, **{name: "(restricted)" for name in ("text", "response") if row.get(name)}}
        if task.restricts(row.get("label") or "")
        else row
        for row in rows
    ]


def console(*, stderr: bool = False) -> Console:
    """A rich console on standard output (or standard error, if JSON goes to standard output)."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def _is_id(cell: str) -> bool:
    """Return True for the id of a row, seed, student or run: a table never wraps it, so that it can be copied."""
    end = cell.replace("_", "-").rpartition("-")[2]
    return len(end) < len(cell) < LONGEST_ID and len(end) >= 8 and not set(end) - set(hexdigits.lower())


def table(
    title: str, columns: list[str], rows: list[list[Any]], *, right: tuple[str, ...] = (), tight: bool = False,
    whole: tuple[str, ...] = (),
) -> None:  # fmt: skip
    """Print a table. Cells are plain text. `tight` leaves out lines between columns, to fit 80 characters.

    Columns with ids, and those of `whole`, are never broken.
    """
    from rich.box import HEAVY_HEAD, SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    view = Table(
        title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD if tight else HEAVY_HEAD,
        pad_edge=not tight, padding=(0, 0 if tight else 1),
    )  # fmt: skip
    for place, column in enumerate(columns):
        ids = [str(row[place]) for row in rows if column in whole or _is_id(str(row[place]))]
        view.add_column(
            column, justify="right" if column in right else "left", overflow="fold", no_wrap=bool(ids),
            min_width=max(map(len, ids), default=None),
        )  # fmt: skip
    for row in rows:
        view.add_row(*(cell if isinstance(cell, Text) else Text("–" if cell is None else str(cell)) for cell in row))
    console().print(view)


def print_section(section: Section) -> None:
    """Print a section: its title with the text beside it, its facts, its tables, its notes."""
    from rich.text import Text

    from graft.schemas.sections import one_line

    mark, style = ("▲", "yellow") if section.unusual else ("·", "dim")
    text = f"  {mark} {one_line(section.text)}" if section.text else ""
    console().print()
    console().print(Text.assemble((one_line(section.title), "bold"), (text, style)))
    if section.facts:
        facts = [[one_line(fact.name), one_line(fact.text)] for fact in section.facts]
        table("", ["figure", "value"], facts, right=("value",))
    for one in section.tables:
        print_table(one)
    for note in section.notes:
        console().print(one_line(note), style="dim", markup=False)


def print_table(one: Table, *, tight: bool = False) -> None:
    """Print a table with its note; bars are scaled to the longest. `tight` as in `table`, and without bars."""
    from graft.schemas.sections import one_line

    heads: list[str] = []
    cells: list[list[Any]] = [[] for _ in one.rows]
    for column in one.columns:
        heads.append(column.title)
        barred = column.bar and not tight
        if barred:
            heads.append("")
        for row, line in zip(one.rows, cells, strict=True):
            line.append(one_line(column.text(row)))
            if barred:
                share = row[column.key] / one.longest(column) if column.barred(row) else 0.0
                line.append("█" * round(BAR * share))
    if one.rows:
        right = tuple(column.title for column in one.columns if column.right)
        table(one_line(one.title), heads, cells, right=right, tight=tight)
    if below := one.note if one.rows else one.empty:
        console().print(one_line(below), style="dim", markup=False)


def view_text(view: View, limit: int = 0) -> Text:
    """A row's view: titles dimmed, marked pieces underlined with their mark behind. `limit` characters of each part."""
    from rich.text import Text

    made = Text()
    for place, part in enumerate(view):
        made.append("\n" if place else "")
        made.append(f"{part.title}: " if part.title else "", style="dim")
        left = limit or sum(len(piece.text) for piece in part.pieces)
        for piece in part.pieces:
            made.append(piece.text[:left], style="underline" if piece.mark else "")
            made.append(f"[{piece.mark}]" if piece.mark and left else "", style="cyan")
            left = max(0, left - len(piece.text))
        made.append("" if left or len(part.text) <= limit or not limit else "…")
    return made


def estimate_table(figures: Estimate) -> None:
    """Print the estimate of a recipe, followed by its assumptions."""
    from rich.text import Text

    from graft.schemas.money import money

    rows = [
        [step.purpose, step.model, f"{step.calls:,}", f"{step.prompt_tokens:,}", f"{step.completion_tokens:,}",
         money(step.price_usd, step.local)]
        for step in figures.steps
    ]  # fmt: skip
    rows.append(
        ["total", "", f"{figures.calls:,}", f"{figures.prompt_tokens:,}", f"{figures.completion_tokens:,}",
         money(figures.price_usd, figures.local)]
    )  # fmt: skip
    numbers = ("calls", "prompt tokens", "completion tokens", "price")
    table(f"{figures.dataset}: {figures.rows:,} rows requested", ["step", "models", *numbers], rows, right=numbers)
    for line in figures.assumptions:
        console().print(Text.assemble("  ", ("·", "dim"), f" {line}"))
