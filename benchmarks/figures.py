"""A measured figure with what is to be reached, and the table of many."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One figure of one repeat. `reach` with `sign` (`>=`, `<=`) is the aim; `bare` the bare loop's in the same run."""

    name: str
    unit: str
    value: float
    sign: str = ""
    reach: float | None = None
    bare: float | None = None

    def reached(self, value: float) -> bool:
        """Return True if a value meets the aim; True where there is none."""
        if self.reach is None:
            return True
        return value >= self.reach if self.sign == ">=" else value <= self.reach


def shown(value: float, unit: str) -> str:
    """The value with as many digits as say something, and its unit."""
    text = f"{value:,.0f}" if abs(value) >= 1000 or (not unit and value == int(value)) else f"{value:.2f}"
    return f"{text}{'%' if unit == '%' else f' {unit}' if unit else ''}"


def table(repeats: Sequence[Sequence[Figure]]) -> str:
    """Markdown: of each figure the aim, the median, least and most over the repeats, and the bare loop's median."""
    lines = ["| figure | reach | median | least | most | bare loop | reached |", "|---|---:|---:|---:|---:|---:|---|"]
    by_name: dict[str, list[Figure]] = {}
    for figures in repeats:
        for figure in figures:
            by_name.setdefault(figure.name, []).append(figure)
    for name, found in by_name.items():
        one, values = found[0], [figure.value for figure in found]
        bare = [figure.bare for figure in found if figure.bare is not None]
        aim = (
            f"{'at least' if one.sign == '>=' else 'at most'} {shown(one.reach, one.unit)}"
            if one.reach is not None
            else ""
        )
        verdict = "" if one.reach is None else "yes" if one.reached(statistics.median(values)) else "**no**"
        cells = [
            name, aim, *(shown(value, one.unit) for value in (statistics.median(values), min(values), max(values))),
            shown(statistics.median(bare), one.unit) if bare else "", verdict,
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def machine() -> str:
    """The machine in words, with its load: figures under another load are other figures."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; load {load}"
