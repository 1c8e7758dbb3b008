"""Usage of each model in each role, and its value: outcomes of writers' candidates, agreement of judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

from graft.data.quality.judged import PANEL, PARTLY, PRICED, SCORED
from graft.data.quality.words import ratio, rounded
from graft.data.spending.model import DatasetUse, ModelUse, Total, Worth
from graft.data.spending.runs import by_dataset, total
from graft.data.spending.scope import Filters, Params, calls, candidates, dollars, each, params, rows
from graft.schemas.binding import LEAST_SCORE, least_scores, writing_roles
from graft.schemas.decisions import codes_of
from graft.schemas.intervals import wilson

if TYPE_CHECKING:
    from graft.data.lake import Lake

UNREADABLE = ("malformed", "schema_unmet", "cut", "empty")
REFUSED = ("refusal",)

_MORE = """
    max(failure) AS code, max(prompt_tokens) AS prompt, max(completion_tokens) AS completion,
    max(cached_tokens) AS known, count(*) FILTER (cached) AS again, max(attempts) AS attempts,
    min(latency_s) FILTER (NOT cached AND failure IS NULL) AS latency"""
JUDGED = ("low_mean", "agreed", "adjudicated")
"""Routes that end by a candidate's scores; a gate or a failure is unrelated to the judges."""
TOLERANCE = 1e-9
"""As in the method's rule: a mean that reaches tau except for rounding passes."""


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
               {PRICED} AS price, {PARTLY}, count(*) FILTER (answered AND attempts > 1) AS retried,
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
                cached_tokens=row["known"], price_usd=price, local=row["local"],
                least_usd=dollars(row["least"]) or 0.0, price_1000_usd=each(price, accepted, 1000),
                unreadable=_share(failures, UNREADABLE, row["calls"]), refused=_share(failures, REFUSED, row["calls"]),
                retried=row["retried"], p50_s=rounded(row["p50"]), p95_s=rounded(row["p95"]),
            )
        )  # fmt: skip
    return uses


def _share(failures: dict[str, int], codes: tuple[str, ...], of: int) -> float | None:
    return ratio(sum(failures.get(code, 0) for code in codes), of)


def worth(lake: Lake, uses: Sequence[ModelUse] | None = None, **filters: Unpack[Filters]) -> list[Worth]:
    """Writers (such as the generator) by yield, then judges (such as a reviewer) by role and model.

    A judgement is a score above or below the run's tau, or a label; the decision agrees with it if the row was
    accepted, rejected or labelled accordingly. `uses` is the result of `by_model` for the same filters, if available.
    See `data.spending.scope` for filters.
    """
    if uses is None:
        uses = by_model(lake, **filters)
    prices = {(use.role, use.model): {"price_usd": use.price_usd, "local": use.local} for use in uses}
    given = params(filters)
    return [*_writers(lake, filters, given, prices), *_judges(lake, filters, given, prices)]


Prices = dict[tuple[str, str], dict[str, Any]]
NONE = {"price_usd": None}


def _writers(lake: Lake, filters: Filters, given: Params, prices: Prices) -> list[Worth]:
    parts = " UNION ALL ".join(
        f"SELECT '{role}' AS role, json_extract_string(models, '$.{role}') AS model, status, code FROM made"
        for role in writing_roles()
    )
    query = f"""
        WITH made AS MATERIALIZED ({candidates(filters, "models, status, code")})
        SELECT role, model, count(*) AS n, count(*) FILTER (status = 'accepted') AS accepted,
               count(*) FILTER (list_contains($5::VARCHAR[], code)) AS refused,
               count(*) FILTER (list_contains($6::VARCHAR[], code)) AS duplicates
        FROM ({parts}) WHERE model IS NOT NULL GROUP BY role, model ORDER BY role, accepted / n DESC, model"""
    return [
        Worth(
            role=row["role"], model=row["model"], candidates=row["n"], accepted=row["accepted"],
            share=ratio(row["accepted"], row["n"]), interval=wilson(row["accepted"], row["n"]),
            refused=ratio(row["refused"], row["n"]), duplicates=ratio(row["duplicates"], row["n"]),
            **(paid := prices.get((row["role"], row["model"]), NONE)),
            row_price_usd=each(paid["price_usd"], row["accepted"]),
        )
        for row in rows(lake, query, [*given, list(codes_of("refused")), list(codes_of("duplicate"))])
    ]  # fmt: skip


def _judges(lake: Lake, filters: Filters, given: Params, prices: Prices) -> list[Worth]:
    verdict_sql = """CASE WHEN r.failure <> '' THEN NULL WHEN r.stage = 'label' THEN nullif(r.answer, '')
                   WHEN r.mean IS NOT NULL THEN (r.mean >= tau)::VARCHAR END"""
    columns = f"""run_id, status = 'accepted' AS accepted, route, reviews, {PANEL} AS panel,
        nullif(json_extract_string(labelling, '$.label'), '') AS given"""
    query = f"""
        WITH made AS (
            SELECT c.*, coalesce(tau, $5) - {TOLERANCE} AS tau,
                   CASE WHEN list_contains($6::VARCHAR[], route) THEN accepted::VARCHAR END AS ended
            FROM ({candidates(filters, columns)}) c LEFT JOIN
            (SELECT id AS run_id, {least_scores()} AS tau FROM lake.runs)
            USING (run_id)),
        votes AS (SELECT panel, given, ended, [{{'model': r.model, 'role': r.role, 'mean': r.mean,
            'failed': r.failure <> '', 'label': r.stage = 'label', 'said': {verdict_sql}}} for r in reviews] AS votes
            FROM made),
        judged AS (
            SELECT one.model AS model, one.role AS role, one.mean AS mean, panel, one.failed AS failed,
                   one.said = CASE WHEN one.label THEN given ELSE ended END AS agrees,
                   [v.said = one.said for v in votes if v.model <> one.model AND v.label = one.label] AS others
            FROM (SELECT *, unnest(votes) AS one FROM votes))
        SELECT role, model, count(*) AS n, count(*) FILTER (failed) AS failed, avg(mean) AS mean,
               avg(mean - panel) FILTER ({SCORED}) AS severity, avg(agrees::INT) AS agrees,
               sum(list_sum(others::INT[])) AS same, sum(list_count(others)) AS others
        FROM judged GROUP BY role, model ORDER BY role, model"""
    return [_judge(row, prices) for row in rows(lake, query, [*given, LEAST_SCORE, list(JUDGED)])]


def _judge(row: dict[str, Any], prices: Prices) -> Worth:
    paid = prices.get((row["role"], row["model"]), NONE)
    return Worth(
        role=row["role"], model=row["model"], reviews=row["n"], failed=row["failed"], mean=rounded(row["mean"]),
        severity=rounded(row["severity"]), agrees_decision=rounded(row["agrees"]),
        agrees_others=ratio(row["same"], row["others"]), review_price_usd=each(paid["price_usd"], row["n"]), **paid,
    )  # fmt: skip


@dataclass(frozen=True)
class Spent:
    """All figures of a scope, for `graft models` and its page."""

    total: Total
    uses: list[ModelUse]
    worths: list[Worth]
    sets: list[DatasetUse]

    @property
    def candidates(self) -> int:
        """Of all datasets."""
        return sum(one.candidates for one in self.sets)

    @property
    def accepted(self) -> int:
        """Of all datasets."""
        return sum(one.accepted for one in self.sets)

    @property
    def share(self) -> float | None:
        """The accepted share of the candidates: their yield."""
        return ratio(self.accepted, self.candidates)

    @property
    def row_price_usd(self) -> float | None:
        """The price of an accepted candidate."""
        return each(self.total.price_usd, self.accepted)

    @property
    def silent(self) -> str:
        """Models whose server does not count tokens."""
        return ", ".join(dict.fromkeys(one.model for one in self.uses if one.prompt_tokens is None))


def spent(lake: Lake, **filters: Unpack[Filters]) -> Spent:
    """Return the totals, each model in each role, and each dataset. See `data.spending.scope` for filters."""
    uses = by_model(lake, **filters)
    return Spent(total(lake, **filters), uses, worth(lake, uses, **filters), by_dataset(lake, **filters))
