"""Usage and value of models: tokens, price, failures, yield; by model, day, dataset and run."""

from __future__ import annotations

from graft.data.spending.model import (
    DatasetUse,
    DayUse,
    Failure,
    ModelUse,
    RunFigures,
    Stretch,
    Total,
    Worth,
)
from graft.data.spending.models import Spent, by_model, spent, worth
from graft.data.spending.runs import (
    PARTS,
    by_dataset,
    by_day,
    compare_runs,
    errors,
    month,
    over_run,
    runs_by_dataset,
    total,
)

__all__ = [
    "PARTS", "DatasetUse", "DayUse", "Failure", "ModelUse", "RunFigures", "Spent", "Stretch", "Total", "Worth",
    "by_dataset", "by_day", "by_model", "compare_runs", "errors", "month", "over_run", "runs_by_dataset", "spent",
    "total", "worth",
]  # fmt: skip
