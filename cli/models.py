"""`graft models`: cost, failures, yield and agreement of each model in each role."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graft.cli.options import JsonFlag

if TYPE_CHECKING:
    from graft.data.spending import ModelUse, Worth

DAY = "a date such as 2026-11-01 (UTC)"


def models(
    dataset: Annotated[str | None, typer.Option(help="only the runs of this dataset")] = None,
    run: Annotated[str | None, typer.Option(help="only this run")] = None,
    since: Annotated[str | None, typer.Option(help=f"first day: {DAY}", metavar="DAY")] = None,
    until: Annotated[str | None, typer.Option(help=f"last day: {DAY}", metavar="DAY")] = None,
    json: JsonFlag = False,
) -> None:
    """Compare models by role: calls, tokens, price, failures, yield, agreement.

    Example:  graft models --dataset demo --since 2026-11-01
    """
    from graft.cli.show import as_json, console
    from graft.data.lake import Lake
    from graft.data.spending import by_model, worth
    from graft.data.spending.scope import Filters
    from graft.schemas.home import Home

    filters: Filters = {
        "dataset": dataset, "run_id": run, "since": _day(since, "--since"), "until": _day(until, "--until")
    }  # fmt: skip
    with Lake.open(Home.find(), read_only=True) as lake:
        _known(lake, dataset, run)
        uses = by_model(lake, **filters)
        judged = worth(lake, uses, **filters)
    if json:
        as_json({"models": [one.model_dump(mode="json") for one in uses],
                 "worth": [one.model_dump(mode="json") for one in judged]})  # fmt: skip
        return
    if not uses and not judged:
        console().print("no calls match these options. Make some:  graft run demo")
        return
    _use_table(uses)
    _writer_table([one for one in judged if one.candidates is not None])
    _judge_table([one for one in judged if one.reviews is not None])


def _day(text: str | None, where: str) -> date | None:
    from graft.schemas.errors import GraftError

    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise GraftError(f"{text!r} is not a date", where=where, fix="write it as 2026-11-01") from None


def _known(lake: Any, dataset: str | None, run: str | None) -> None:
    """Raise NotFound if the lake has no run of that dataset, or no such run."""
    from graft.schemas.errors import NotFound

    if dataset is not None and not lake.runs(dataset):
        raise NotFound(f"no run of a dataset {dataset!r}", where="--dataset", fix="graft status lists runs")
    if run is not None and lake.run(run) is None:
        raise NotFound(f"no run {run!r}", where="--run", fix="graft status lists runs")


def _use_table(uses: list[ModelUse]) -> None:
    from graft.cli.show import table
    from graft.schemas.sections import money

    numbers = ("calls", "cached", "tokens in", "out", "price", "per 1,000 rows")
    rows = [
        [use.role, use.model, _count(use.calls), _count(use.cached), _count(use.prompt_tokens),
         _count(use.completion_tokens), money(use.price_usd), _thousand(use.price_1000_usd, use.price_usd, 1)]
        for use in uses
    ]  # fmt: skip
    table("models: cost", ["role", "model", *numbers], rows, right=numbers, tight=True)
    numbers = ("failed", "unreadable", "refused", "retried", "p50 s", "p95 s")
    rows = [
        [use.role, use.model, _count(use.failed), _percent(use.unreadable), _percent(use.refused), _count(use.retried),
         _seconds(use.p50_s), _seconds(use.p95_s)]
        for use in uses
    ]  # fmt: skip
    table("models: replies", ["role", "model", *numbers], rows, right=numbers, tight=True)


def _writer_table(writers: list[Worth]) -> None:
    from graft.cli.show import table

    if not writers:
        return
    numbers = ("written", "accepted", "yield", "95%", "per 1,000", "refused", "repeats")
    rows = [
        [one.role, one.model, _count(one.candidates), _count(one.accepted), _percent(one.share), _between(one.interval),
         _thousand(one.row_price_usd, one.price_usd), _percent(one.refused), _percent(one.duplicates)]
        for one in writers
    ]  # fmt: skip
    title = "writers: yield, and the price of 1,000 accepted rows"
    table(title, ["role", "model", *numbers], rows, right=numbers, tight=True)


def _judge_table(judges: list[Worth]) -> None:
    from graft.cli.show import table

    if not judges:
        return
    numbers = ("reviews", "failed", "mean", "severity", "decision", "others", "per 1,000")
    rows = [
        [one.role, one.model, _count(one.reviews), _count(one.failed), _number(one.mean), _number(one.severity, "+"),
         _percent(one.agrees_decision), _percent(one.agrees_others), _thousand(one.review_price_usd, one.price_usd)]
        for one in judges
    ]  # fmt: skip
    title = "judges: scores, and agreement with the decision and with other judges"
    table(title, ["role", "model", *numbers], rows, right=numbers, tight=True)


def _count(value: int | None) -> str | None:
    return None if value is None else f"{value:,}"


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:.1%}"


def _between(ends: tuple[float, float] | None) -> str | None:
    return None if ends is None else f"{100 * ends[0]:.0f}–{100 * ends[1]:.0f}%"


def _number(value: float | None, sign: str = "") -> str | None:
    return None if value is None else f"{value:{sign}.2f}"


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"


def _thousand(each: float | None, price: float | None, times: int = 1000) -> str | None:
    """The price of a thousand: unknown if the price is unknown, None if there is nothing to divide by."""
    if each is None:
        return "unknown" if price is None else None
    return f"${each * times:,.4f}"
