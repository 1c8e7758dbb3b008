"""Judgements and yield: agreement, severity, routes, calibration and price; counted in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from graft.data.quality.model import (
    Bin,
    Calibration,
    LabelYield,
    ModelYield,
    Reviewer,
    Reviews,
    Spending,
    Yields,
)
from graft.data.quality.words import DIGITS, Held, one, ratio, rounded
from graft.schemas.money import HERE, LOOPBACK

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from graft.data.lake import Lake

ALPHA_ROWS = 10_000
SCORED = "role <> 'adjudicator' AND mean IS NOT NULL"
_PANEL = "list_filter(reviews, lambda r: r.role <> 'adjudicator' AND r.mean IS NOT NULL)"
PANEL = (
    f"""CASE WHEN len(list_distinct([r.model for r in {_PANEL}])) > 1 THEN list_avg([r.mean for r in {_PANEL}]) END"""
)
"""The mean of a candidate's panel: all its SCORED reviews. NULL if one model alone gave them. A model's
severity is the mean offset of its SCORED reviews from it."""

Level = Literal["interval", "nominal"]
Gold = Sequence[tuple[str, str]]
"""(row id or text, label)."""


def runs_of(lake: Lake, rows: Held) -> list[str]:
    """The runs with candidates in the lake that the version's rows come from."""
    query = """
        SELECT DISTINCT run_id FROM lake.candidates SEMI JOIN
        (SELECT run_id FROM lake.version_rows WHERE dataset = ? AND version = ?) USING (run_id) ORDER BY 1"""
    found = lake.sql(query, [rows.version.dataset, rows.version.version])
    return [str(name) for name in found.column("run_id").to_pylist()]


def reviews(lake: Lake, rows: Held, runs: list[str], missing: dict[str, str]) -> Reviews | None:
    """Agreement and routes over all candidates of the runs. None if no model scored one."""
    table = f"{rows.name}_reviews"
    try:
        lake.sql(
            f"""
            CREATE TEMP TABLE {table} AS
            SELECT hash(run_id, candidate_id) AS unit, md5_number_lower(candidate_id) AS pick, label, r.model AS model,
                   r.role AS role, r.mean AS mean, r.flags AS flags, panel
            FROM (SELECT run_id, candidate_id, coalesce(nullif(intended_label, ''), label) AS label,
                         unnest(reviews) AS r, {PANEL} AS panel
                  FROM lake.candidates WHERE list_contains(?::VARCHAR[], run_id)) WHERE r.failure = ''""",
            [runs],
        )
        scored = one(lake, f"SELECT count(*) AS n FROM {table} WHERE {SCORED}")["n"]
        flagged = one(lake, f"SELECT count(*) AS n FROM {table} WHERE flags <> '{{}}'")["n"]
        if not scored and not flagged:
            missing["reviews"] = "no model scored a candidate of its runs"
            return None
        return _reviews(lake, table, runs, missing)
    finally:
        lake.sql(f"DROP TABLE IF EXISTS {table}")


def _reviews(lake: Lake, table: str, runs: list[str], missing: dict[str, str]) -> Reviews:
    row = one(
        lake,
        """SELECT count(*) AS n, count(*) FILTER (status = 'accepted') AS accepted,
                  count(*) FILTER (route = 'adjudicated') AS adjudicated,
                  count(*) FILTER (route = 'adjudicated' AND status <> 'accepted') AS overturned,
                  count(labelling) AS labelled,
                  count(*) FILTER (json_extract_string(labelling, '$.relabelled') = 'true') AS relabelled
           FROM lake.candidates WHERE list_contains(?::VARCHAR[], run_id)""",
        [runs],
    )
    if not row["adjudicated"]:
        missing["reviews.overturned"] = "no candidate went to an adjudicator"
    if not row["labelled"]:
        missing["reviews.relabelled"] = "its method does not label rows anew"
    alpha, units = _alpha(lake, table, _SCORES, "interval", missing, "reviews.alpha")
    flags, flag_units = _alpha(lake, table, _FLAGS, "nominal", missing, "reviews.alpha_flags")
    return Reviews(
        candidates=row["n"],
        accepted=round(row["accepted"] / row["n"], DIGITS),
        adjudicated=round(row["adjudicated"] / row["n"], DIGITS),
        overturned=ratio(row["overturned"], row["adjudicated"]),
        relabelled=ratio(row["relabelled"], row["labelled"]),
        alpha=alpha,
        alpha_candidates=units,
        alpha_flags=flags,
        alpha_flags_units=flag_units,
        reviewers=_reviewers(lake, table, missing),
    )


def pointer(column: str) -> str:
    """SQL for the JSON pointer to the key in a column, whatever its characters."""
    return f"'/' || replace(replace({column}, '~', '~0'), '/', '~1')"


_SCORES = (
    "SELECT unit, any_value(pick) AS pick, model, round(avg(mean), 1) AS value FROM {table} WHERE "
    + SCORED
    + " GROUP BY unit, model"
)
_FLAGS = (
    "SELECT hash(unit, flag) AS unit, any_value(pick) AS pick, model,"
    f" max(CAST(json_extract_string(flags, {pointer('flag')}) AS DOUBLE)) AS value"
    " FROM (SELECT unit, pick, model, flags, unnest(json_keys(flags)) AS flag FROM {table}"
    "       WHERE role <> 'adjudicator' AND flags <> '{{}}') GROUP BY unit, flag, model"
)
"""(unit, pick, model, value): one model's answer on one unit."""


def _alpha(
    lake: Lake, table: str, answers: str, level: Level, missing: dict[str, str], figure: str
) -> tuple[float | None, int]:
    """Krippendorff's alpha over units that two models or more judged, ALPHA_ROWS of them at most; and their number."""
    query = f"""
        WITH answers AS MATERIALIZED ({answers.format(table=_some(lake, table))}),
        units AS (SELECT unit FROM answers GROUP BY unit HAVING count(*) > 1 ORDER BY any_value(pick), unit
                  LIMIT {ALPHA_ROWS})
        SELECT unit, model, value FROM answers SEMI JOIN units USING (unit) ORDER BY unit, model"""
    found = lake.sql(query)
    import numpy as np

    units, columns = np.unique(found.column("unit").to_numpy(), return_inverse=True)
    models, lines = np.unique(np.array(found.column("model").to_pylist(), dtype=object), return_inverse=True)
    if not len(units):
        missing[figure] = f"no {'flag' if level == 'nominal' else 'candidate'} was judged by two models"
        return None, 0
    answered = np.full((len(models), len(units)), np.nan)
    answered[lines, columns] = found.column("value").to_numpy()
    value, why = alpha_of(answered, level)
    if value is None:
        missing[figure] = why
    return value, len(units)


def _some(lake: Lake, table: str) -> str:
    """The reviews, or of very many the part with the lowest hash: enough for ALPHA_ROWS units."""
    most = 8 * ALPHA_ROWS / max(1, one(lake, f"SELECT count(*) AS n FROM {table}")["n"])
    return table if most >= 1 else f"(FROM {table} WHERE pick < {int(most * 2**64)}::UBIGINT)"


def alpha_of(answers: NDArray[np.float64], level: Level) -> tuple[float | None, str]:
    """(alpha, "") of answers, models by units with NaN for none; (None, reason) if it cannot be computed."""
    import numpy as np

    if len(np.unique(answers[~np.isnan(answers)])) < 2:
        return None, "all judgements are the same: alpha is not defined"
    try:
        import krippendorff
    except ImportError:
        return None, "krippendorff is not installed: pip install 'graft-factory[audit]'"
    return round(float(krippendorff.alpha(reliability_data=answers, level_of_measurement=level)), DIGITS), ""


def _reviewers(lake: Lake, table: str, missing: dict[str, str]) -> tuple[Reviewer, ...]:
    """Mean, severity and bias of each judging model; the panel of a candidate is all models that scored it."""
    query = f"""
        WITH scored AS (SELECT * FROM {table} WHERE {SCORED}),
        offsets AS MATERIALIZED (SELECT model, label, mean - panel AS off FROM scored WHERE panel IS NOT NULL),
        severity AS (SELECT model, avg(off) AS severity FROM offsets GROUP BY model),
        bias AS (SELECT model, map_from_entries(list((label, off - severity) ORDER BY label)) AS bias FROM
                 (SELECT model, label, avg(off) AS off FROM offsets GROUP BY model, label) JOIN severity USING (model)
                 GROUP BY model)
        SELECT model, count(*) AS reviews, avg(mean) AS mean, any_value(severity) AS severity, any_value(bias) AS bias
        FROM scored LEFT JOIN severity USING (model) LEFT JOIN bias USING (model) GROUP BY model ORDER BY model"""
    found = lake.query(query)
    if any(row["severity"] is None for row in found):
        missing["reviews.severity"] = "a model that judged alone has no panel to be compared with"
    return tuple(
        Reviewer(
            model=row["model"],
            reviews=int(row["reviews"]),
            mean=round(row["mean"], DIGITS),
            severity=rounded(row["severity"]),
            bias={label: round(off, DIGITS) for label, off in row["bias"] or ()},
        )
        for row in found
    )


def calibration(lake: Lake, rows: Held, gold: Gold, missing: dict[str, str]) -> Calibration:
    """Labels and their confidence against the gold file; a row is matched by its id, else by its whole text."""
    query = """
        CREATE TEMP TABLE {name} AS
        WITH gold AS MATERIALIZED (SELECT unnest(?::VARCHAR[]) AS key, unnest(?::VARCHAR[]) AS gold),
        named AS (SELECT key, any_value(gold) AS gold FROM gold GROUP BY key HAVING count(DISTINCT gold) = 1),
        matched AS (SELECT r.run_id, r.candidate_id, r.label, coalesce(a.gold, b.gold) AS gold FROM lake.version_rows r
            LEFT JOIN named a ON a.key = r.id LEFT JOIN named b ON b.key = r.text
            WHERE r.dataset = ? AND r.version = ? AND coalesce(a.gold, b.gold) IS NOT NULL)
        SELECT m.label = m.gold AS hit,
               CAST(json_extract_string(c.soft_label, {pointer}) AS DOUBLE) AS soft,
               c.mean / 10 AS score
        FROM matched m LEFT JOIN lake.candidates c ON c.run_id = m.run_id AND c.candidate_id = m.candidate_id
            AND m.candidate_id <> ''"""
    name = f"{rows.name}_gold"
    keys, labels = [key for key, _ in gold], [label for _, label in gold]
    try:
        lake.sql(
            query.format(name=name, pointer=pointer("m.label")),
            [keys, labels, rows.version.dataset, rows.version.version],
        )
        query = f"SELECT count(*) AS n, count(*) FILTER (hit) AS hits, count(soft) AS soft FROM {name}"
        row = one(lake, query)
        column, by = ("soft", "soft labels") if row["soft"] else ("score", "mean score over 10")
        bins = _bins(lake, name, column)
        brier = one(lake, f"SELECT avg(pow({column} - hit::INT, 2)) AS b FROM {name}")["b"]
    finally:
        lake.sql(f"DROP TABLE IF EXISTS {name}")
    scored = sum(part.rows for part in bins)
    if not row["n"]:
        missing["calibration.accuracy"] = "the gold file names no row of the version"
    if not scored:
        missing["calibration.ece"] = missing["calibration.brier"] = "no matched row has a soft label or a score"
    off = sum(part.rows * abs(part.confidence - part.accuracy) for part in bins)
    return Calibration(
        gold=len(gold),
        matched=row["n"],
        accuracy=ratio(row["hits"], row["n"]),
        scored=scored,
        by=by if scored else "",
        ece=ratio(off, scored),
        brier=rounded(brier),
        bins=bins,
    )


def _bins(lake: Lake, name: str, column: str) -> tuple[Bin, ...]:
    query = f"""
        SELECT least(9, floor({column} * 10)) / 10 AS low, count(*) AS n, avg({column}) AS confidence,
               avg(hit::INT) AS accuracy FROM {name} WHERE {column} IS NOT NULL GROUP BY 1 ORDER BY 1"""
    return tuple(
        Bin(
            low=round(row["low"], 1),
            rows=int(row["n"]),
            confidence=round(row["confidence"], DIGITS),
            accuracy=round(row["accuracy"], DIGITS),
        )
        for row in lake.query(query)
    )


LOCAL = f"""(provider IN {HERE} OR (run_id, model) IN (
    SELECT (run, one ->> '$.name') FROM (
        SELECT id AS run, unnest(json_extract(recipe, '$.models[*]')) AS one FROM lake.runs)
    WHERE one ->> '$.provider' = 'openai'
        AND regexp_matches(one ->> '$.base_url', '{LOOPBACK.pattern}')
        AND coalesce((one ->> '$.price.input')::DOUBLE, 0) + coalesce((one ->> '$.price.output')::DOUBLE, 0) = 0))"""
"""SQL: whether a call's model is local, by the rule of `schemas.money.is_local`."""

PRICED = """CASE WHEN count(*) FILTER (price IS NULL AND answered AND NOT local) = 0
    AND (count(price) > 0 OR count(*) FILTER (answered) = 0) THEN coalesce(sum(price), 0) END"""
"""The price of answered calls; NULL (unknown) if one of theirs is. Local calls without a price add nothing."""

PARTLY = """coalesce(bool_and(local), false) AS local, coalesce(sum(price), 0) AS least"""
"""Whether all calls were local, and the sum of the known prices."""

TOKENS = """CASE WHEN count(*) FILTER (tokens IS NULL AND answered) = 0 THEN coalesce(sum(tokens), 0)::BIGINT END"""
"""The tokens of answered calls; NULL if a server did not report them."""


def calls_once(where: str, unit: str = "run_id, key", more: str = "max(candidate_id) AS candidate_id") -> str:
    """SQL: the calls that match `where`, each once per unit, at its original price; with `more` columns.

    Columns: the unit's, role, model, price, local, answered, tokens (NULL if a server did not report them), more.
    """
    return f"""
        SELECT {unit}, min(role) AS role, min(model) AS model, max(price_usd) AS price, bool_and({LOCAL}) AS local,
               bool_or(failure IS NULL) AS answered, max(prompt_tokens) + max(completion_tokens) AS tokens, {more}
        FROM lake.calls WHERE {where} GROUP BY {unit}"""


def yields(lake: Lake, rows: Held, runs: list[str], missing: dict[str, str]) -> Yields:
    """Candidates, accepted ones and prices of the runs; each call once, at its original price."""
    name = f"{rows.name}_calls"
    try:
        lake.sql(f"CREATE TEMP TABLE {name} AS {calls_once('list_contains(?::VARCHAR[], run_id)')}", [runs])
        spent = lake.query(f"""
            SELECT role, model, count(*) AS calls, count(*) FILTER (NOT answered) AS failed, {TOKENS} AS tokens,
                   {PRICED} AS price, {PARTLY} FROM {name} GROUP BY role, model ORDER BY role, model""")
        priced = one(lake, f"SELECT count(*) AS calls, {PRICED} AS price, {PARTLY} FROM {name}")
        labels = _label_yields(lake, name, runs)
    finally:
        lake.sql(f"DROP TABLE IF EXISTS {name}")
    if any(row["tokens"] is None for row in spent):
        missing["yields.tokens"] = "a server did not report them"
    accepted = sum(one.accepted for one in labels)
    price = rounded(priced["price"]) if priced["calls"] else None
    if price is None:
        missing["yields.price_usd"] = "a model's price is not known" if priced["calls"] else "the lake holds no calls"
    if any(one.price_usd is None for one in labels):
        missing["yields.labels.price_usd"] = "no call names a candidate of the label, or a price is not known"
    return Yields(
        candidates=sum(one.candidates for one in labels),
        accepted=accepted,
        price_usd=price,
        local=priced["local"],
        least_usd=rounded(priced["least"]) or 0.0,
        row_price_usd=None if price is None else ratio(price, accepted),
        labels=labels,
        models=_model_yields(lake, runs),
        spending=tuple(
            Spending(role=row["role"], model=row["model"], calls=row["calls"], failed=row["failed"],
                     tokens=row["tokens"], price_usd=rounded(row["price"]), local=row["local"])
            for row in spent
        ),
    )  # fmt: skip


def _label_yields(lake: Lake, calls: str, runs: list[str]) -> tuple[LabelYield, ...]:
    query = f"""
        WITH priced AS (SELECT run_id, candidate_id, sum(price) AS price,
                               bool_or(price IS NULL AND answered AND NOT local) AS unknown,
                               bool_and(local) AS local FROM {calls}
                        WHERE candidate_id <> '' GROUP BY run_id, candidate_id)
        SELECT coalesce(nullif(intended_label, ''), nullif(label, ''), '(no label)') AS label, count(*) AS n,
               count(*) FILTER (status = 'accepted') AS accepted,
               CASE WHEN count(*) FILTER (unknown) = 0 AND count(unknown) > 0 THEN coalesce(sum(price), 0) END AS price,
               coalesce(bool_and(local), false) AS local
        FROM lake.candidates LEFT JOIN priced USING (run_id, candidate_id)
        WHERE list_contains(?::VARCHAR[], run_id) GROUP BY 1 ORDER BY 1"""
    return tuple(
        LabelYield(
            label=row["label"],
            candidates=int(row["n"]),
            accepted=int(row["accepted"]),
            price_usd=rounded(row["price"]),
            local=row["local"],
            row_price_usd=None if row["price"] is None else ratio(row["price"], row["accepted"]),
        )
        for row in lake.query(query, [runs])
    )


def _model_yields(lake: Lake, runs: list[str]) -> tuple[ModelYield, ...]:
    query = """
        SELECT coalesce(json_extract_string(models, '$.generator'), '(given texts)') AS model, count(*) AS n,
               count(*) FILTER (status = 'accepted') AS accepted
        FROM lake.candidates WHERE list_contains(?::VARCHAR[], run_id) GROUP BY 1 ORDER BY 1"""
    found: list[dict[str, Any]] = lake.query(query, [runs])
    return tuple(
        ModelYield(model=row["model"], candidates=int(row["n"]), accepted=int(row["accepted"])) for row in found
    )
