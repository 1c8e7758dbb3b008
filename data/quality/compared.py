"""A version beside another: divergence of labels and words, stability of lengths, each figure before and now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graft.data.quality.model import Balance, Change, Drift, Duplicates, Lengths, Wording
from graft.data.quality.words import DIGITS, Held, distinct, one, ratio

if TYPE_CHECKING:
    from graft.data.lake import Lake

EQUAL_ROWS = 20_000
LEAST = 1e-4
"""Least share of a bin in the stability index, so that its logarithm is finite."""

Counted = tuple[int, Balance, Lengths, Wording, Duplicates]
"""A version's number of rows and the compared groups."""


def drift(lake: Lake, now: Held, before: Held, counted: tuple[Counted, Counted], missing: dict[str, str]) -> Drift:
    """Differences of `now` from `before`; `counted` are the figures of both, in that order."""
    equal, *pairs = _equal(lake, now, before)
    words = [f"SELECT unnest(tokens) AS what FROM {rows.name}" for rows in (now, before)]
    labels = [f"SELECT label AS what FROM {rows.name}" for rows in (now, before)]
    tokens = _divergence(lake, *words)
    if tokens is None:
        missing["drift.tokens"] = "a version has no word"
    if None in pairs:
        missing["drift.distinct_2"] = "a version has no two words in a row"
    return Drift(
        against=before.version.ref,
        labels=_divergence(lake, *labels) or 0.0,
        tokens=tokens,
        chars_psi=_stability(lake, now, before, "chars"),
        words_psi=_stability(lake, now, before, "words"),
        equal_rows=equal,
        distinct_2=pairs[0],
        distinct_2_before=pairs[1],
        changes=changes(*counted),
    )


def changes(now: Counted, before: Counted) -> tuple[Change, ...]:
    """The figures of both versions, each once."""
    held = [_figures(*figures) for figures in (now, before)]
    return tuple(Change(figure=name, before=held[1][name], now=value) for name, value in held[0].items())


def _figures(
    rows: int, balance: Balance, lengths: Lengths, wording: Wording, duplicates: Duplicates
) -> dict[str, float | None]:
    return {
        "rows": float(rows),
        "label entropy (bits)": balance.entropy,
        "characters, mean": lengths.chars.mean,
        "characters, median": lengths.chars.p50,
        "words, mean": lengths.words.mean,
        "words, median": lengths.words.p50,
        "vocabulary": float(wording.vocabulary),
        "distinct-1": wording.distinct_1,
        "distinct-2": wording.distinct_2,
        "distinct-3": wording.distinct_3,
        "self-BLEU": wording.self_bleu,
        "exact duplicates": duplicates.exact,
        "near duplicates": duplicates.near,
    }


def _divergence(lake: Lake, now: str, before: str) -> float | None:
    """Jensen-Shannon divergence in bits of two multisets; None if one is empty."""
    query = f"""
        WITH a AS MATERIALIZED (SELECT what, count(*) AS n FROM ({now}) GROUP BY 1),
        b AS MATERIALIZED (SELECT what, count(*) AS n FROM ({before}) GROUP BY 1),
        shares AS (SELECT coalesce(a.n, 0) / (SELECT sum(n) FROM a) AS p, coalesce(b.n, 0) / (SELECT sum(n) FROM b) AS q
            FROM a FULL JOIN b USING (what))
        SELECT sum(CASE WHEN p > 0 THEN p * log2(2 * p / (p + q)) ELSE 0 END) / 2
             + sum(CASE WHEN q > 0 THEN q * log2(2 * q / (p + q)) ELSE 0 END) / 2 AS js FROM shares"""
    found = one(lake, query)["js"]
    return None if found is None else min(1.0, max(0.0, round(float(found), DIGITS)))


def _stability(lake: Lake, now: Held, before: Held, column: str) -> float:
    """Population stability index of a length: bins between the deciles of `before`, shares of LEAST at least."""
    cuts = one(
        lake,
        f"""SELECT list_sort(list_distinct(quantile_disc({column}, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])))
            AS cuts FROM {before.name}""",
    )["cuts"]
    binned = "SELECT len(list_filter(?::BIGINT[], lambda c: c < {column})) AS bin, count(*) AS n FROM {name} GROUP BY 1"
    query = f"""
        WITH a AS MATERIALIZED ({binned.format(column=column, name=now.name)}),
        b AS MATERIALIZED ({binned.format(column=column, name=before.name)}),
        shares AS (SELECT greatest({LEAST}, coalesce(a.n, 0) / (SELECT sum(n) FROM a)) AS p,
                          greatest({LEAST}, coalesce(b.n, 0) / (SELECT sum(n) FROM b)) AS q
                   FROM a FULL JOIN b USING (bin))
        SELECT sum((p - q) * ln(p / q)) AS psi FROM shares"""
    return max(0.0, round(float(one(lake, query, [cuts, cuts])["psi"]), DIGITS))


def _equal(lake: Lake, now: Held, before: Held) -> tuple[int, float | None, float | None]:
    """Distinct-2 on as many rows of both versions as the smaller has (at most EQUAL_ROWS), and their number."""
    count = min(now.version.rows, before.version.rows, EQUAL_ROWS)
    query = "(SELECT tokens FROM {name} ORDER BY pick, id LIMIT {count})"
    found = [distinct(lake, query.format(name=rows.name, count=count), 2) for rows in (now, before)]
    return count, ratio(*found[0]), ratio(*found[1])
