"""Usage of each model in each role: calls, tokens, price, failures, latency."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from graft.data.quality.judged import PRICED
from graft.data.quality.words import ratio, rounded
from graft.data.spending.model import ModelUse
from graft.data.spending.scope import Filters, calls, candidates, dollars, each, params, rows

if TYPE_CHECKING:
    from graft.data.lake import Lake

UNREADABLE = ("malformed", "schema_unmet", "empty")
REFUSED = ("refusal",)

_MORE = """
    max(failure) AS code, max(prompt_tokens) AS prompt, max(completion_tokens) AS completion,
    max(cached_tokens) AS known, count(*) FILTER (cached) AS again, max(attempts) AS attempts,
    min(latency_s) FILTER (NOT cached AND failure IS NULL) AS latency"""


def _known(column: str) -> str:
    return f"""CASE WHEN count(*) FILTER ({column} IS NULL AND answered) = 0
                    THEN coalesce(sum({column}) FILTER (answered), 0)::BIGINT END"""


def by_model(lake: Lake, **filters: Unpack[Filters]) -> list[ModelUse]:
    """Return each model in each role, most expensive first (unknown prices before all).

    `price_1000_usd` adds up over models: it is each model's share of the price of 1,000 accepted candidates. See
    `data.spending.scope` for filters.
    """
    given = params(filters)
    query = f"""
        SELECT model, role, count(*) AS calls, sum(again)::BIGINT AS cached,
               count(*) FILTER (NOT answered) AS failed, histogram(code) FILTER (NOT answered) AS failures,
               {_known("prompt")} AS prompt, {_known("completion")} AS completion, sum(known)::BIGINT AS known,
               {PRICED} AS price, count(*) FILTER (answered AND attempts > 1) AS retried,
               quantile_cont(latency, 0.5) AS p50, quantile_cont(latency, 0.95) AS p95
        FROM ({calls(_MORE)}) GROUP BY model, role
        ORDER BY price DESC NULLS FIRST, calls DESC, model, role"""
    found = rows(lake, query, given)
    accepted = rows(
        lake, f"SELECT count(*) AS n FROM ({candidates(filters, 'status')}) WHERE status = 'accepted'", given
    )[0]["n"]
    uses = []
    for row in found:
        failures = dict(sorted(row["failures"] or []))
        price = dollars(row["price"])
        uses.append(
            ModelUse(
                model=row["model"], role=row["role"], calls=row["calls"], cached=row["cached"], failed=row["failed"],
                failures=failures, prompt_tokens=row["prompt"], completion_tokens=row["completion"],
                cached_tokens=row["known"], price_usd=price, price_1000_usd=each(price, accepted, 1000),
                unreadable=_share(failures, UNREADABLE, row["calls"]), refused=_share(failures, REFUSED, row["calls"]),
                retried=row["retried"], p50_s=rounded(row["p50"]), p95_s=rounded(row["p95"]),
            )
        )  # fmt: skip
    return uses


def _share(failures: dict[str, int], codes: tuple[str, ...], of: int) -> float | None:
    return ratio(sum(failures.get(code, 0) for code in codes), of)
