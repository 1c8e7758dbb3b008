"""The pages. Each file here defines `PAGES` and `CHARTS`; list it in MODULES, in the menu's order."""

from __future__ import annotations

from graft.dashboard.context import Chart, Page
from graft.dashboard.pages import (
    changes,
    charts,
    datasets,
    home,
    judged,
    map,
    models,
    people,
    report,
    review,
    row,
    rows,
    runs,
    schedules,
    students,
)

MODULES = (
    home, runs, datasets, report, judged, map, changes, people, rows, row, review, students, models, schedules, charts,
)  # fmt: skip

PAGES: tuple[Page, ...] = tuple(page for module in MODULES for page in module.PAGES)
CHARTS: dict[str, Chart] = {chart.name: chart for module in MODULES for chart in getattr(module, "CHARTS", ())}
