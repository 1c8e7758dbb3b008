"""Usage and value of models as tables, for the terminal and the pages."""

from __future__ import annotations

from collections.abc import Sequence

from graft.data.spending.model import ModelUse, Worth
from graft.data.spending.models import Spent
from graft.data.spending.scope import Filters, period
from graft.schemas.sections import Column, Table

MODEL = (Column("model", "model"), Column("role", "role"))


def total_table(found: Spent, filters: Filters) -> Table:
    """The totals of a scope, with its days in the title."""
    row = {
        **found.total.model_dump(), "candidates": found.candidates, "accepted": found.accepted, "share": found.share,
        "row_price_usd": found.row_price_usd,
    }  # fmt: skip
    columns = (
        Column("calls", "calls", "number"), Column("counted", "tokens", "number"),
        Column("price_usd", "price", "money"), Column("candidates", "candidates", "number"),
        Column("accepted", "accepted", "number"), Column("share", "yield", "share"),
        Column("row_price_usd", "an accepted row", "money"),
    )  # fmt: skip
    note = f"{found.silent} does not count tokens" if found.silent else ""
    return Table("total", f"Models and money, {period(filters)}", columns, [row], note=note)


def use_tables(uses: Sequence[ModelUse]) -> tuple[Table, Table]:
    """Usage and price of each model in each role, and the quality and speed of its replies."""
    rows = [
        {**one.model_dump(), "codes": ", ".join(f"{code} {count:,}" for code, count in one.failures.items()) or None}
        for one in uses
    ]
    usage = (
        *MODEL, Column("calls", "calls", "number"), Column("cached", "from journal", "number"),
        Column("prompt_tokens", "tokens in", "number"), Column("completion_tokens", "out", "number"),
        Column("cached_tokens", "from the server's cache", "number"), Column("price_usd", "price", "money"),
        Column("price_1000_usd", "of 1,000 rows", "money"),
    )  # fmt: skip
    replies = (
        *MODEL, Column("failed", "failed", "number"), Column("unreadable", "unreadable", "share"),
        Column("refused", "refused", "share"), Column("retried", "retried", "number"),
        Column("p50_s", "median", "seconds"), Column("p95_s", "95%", "seconds"), Column("codes", "failures"),
    )  # fmt: skip
    return (
        Table("uses", "Usage and price", usage, rows, note="from journal: read from the journal, not paid twice"),
        Table("replies", "Replies", replies, rows, note="unreadable: malformed, empty or invalid by its schema"),
    )


def worth_tables(worths: Sequence[Worth]) -> tuple[Table, Table]:
    """Writers with their yield, and judges with their agreement."""
    rows = [{**one.model_dump(), **dict(zip(("low", "high"), one.interval or (None, None), strict=True))}
            for one in worths]  # fmt: skip
    writers = (
        *MODEL, Column("candidates", "written", "number"), Column("accepted", "accepted", "number"),
        Column("share", "yield", "share", bar=True, of="candidates"),
        Column("low", "95% from", "share", measured="candidates"), Column("high", "to", "share", measured="candidates"),
        Column("row_price_usd", "a row", "money"), Column("refused", "refused", "share"),
        Column("duplicates", "repeats", "share"),
    )  # fmt: skip
    judges = (
        *MODEL, Column("reviews", "reviews", "number"), Column("failed", "failed", "number"),
        Column("mean", "mean score", "number", digits=2), Column("severity", "severity", "change", digits=2),
        Column("agrees_decision", "with the decision", "share", measured="reviews"),
        Column("agrees_others", "with the others", "share", measured="reviews"),
        Column("review_price_usd", "a review", "money"),
    )  # fmt: skip
    note = "severity: points from the mean of its panels, below 0 is severe; shares: agreement"
    return (
        Table("writers", "Writers", writers, [row for row in rows if row["candidates"] is not None],
              note="a row: price of the writer's own calls per accepted row; repeats: of another row"),
        Table("worth", "Judges", judges, [row for row in rows if row["reviews"] is not None], note=note),
    )  # fmt: skip
