"""Figures of the rows themselves, counted in SQL: balance, lengths, wording, duplicates.

A version's rows are read once into a temporary table: their words as 64-bit hashes, so that no text is held.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graft.data.quality.model import Balance, Duplicates, LabelShare, Lengths, Repeated, Spread, Wording
from graft.schemas.datasets import DatasetVersion
from graft.schemas.sections import HIDDEN

if TYPE_CHECKING:
    from graft.data.lake import Lake

DIGITS = 6
"""Figures are rounded, so that the order of additions by threads does not show."""
BLEU_ROWS = 200
NEAR_ROWS = 2_000
NEAR = 0.8
CAP = 200
"""Most rows that a sampled row is compared with through one shingle."""

_UNSPACED = r"([\x{0e00}-\x{0eff}\x{1000}-\x{109f}\x{1780}-\x{17ff}\x{3040}-\x{30ff}\x{3400}-\x{9fff}])"
FOLDED = (
    "CASE WHEN strlen({text}) = length({text})"
    " THEN regexp_extract_all(translate(lower({text}), '''`', ''), '[a-z0-9]+')"
    " ELSE regexp_extract_all(regexp_replace(translate(lower(nfc_normalize({text})), '''`’ʼ', ''), '{unspaced}',"
    r" ' \1 ', 'g'), '[\p{{L}}\p{{N}}\p{{M}}]+') END"
)
"""Apostrophes are removed (don't = dont); a letter of a script without spaces is a word. ASCII has a faster
expression."""


def words_sql(text: str) -> str:
    """SQL for the folded words of a text expression: a list of strings."""
    return FOLDED.format(text=f"({text})", unspaced=_UNSPACED)


@dataclass(frozen=True)
class Held:
    """A version's rows in a temporary table `name`.

    Columns: id, pick (the sampling order), label, split, chars, words, response_chars, restricted,
    tokens (word hashes of text and response), same (hash of the folded row).
    """

    name: str
    version: DatasetVersion


@contextlib.contextmanager
def held(lake: Lake, version: DatasetVersion) -> Iterator[Held]:
    """The version's rows in a temporary table, dropped at the end."""
    name = f"quality_{uuid.uuid4().hex}"
    terms = words_sql("CASE WHEN response IS NULL THEN text ELSE text || chr(10) || response END")
    query = f"""
        CREATE TEMP TABLE {name} AS
        SELECT id, pick, label, split, chars, response_chars, restricted, tokens, words,
               CASE WHEN len(tokens) > 0 THEN hash(tokens) ELSE hash(regexp_replace(whole, '\\s', '', 'g')) END AS same
        FROM (SELECT id, md5_number_lower(id) AS pick, label, split, length(text) AS chars,
                     length(response) AS response_chars, restricted,
                     list_transform({terms}, lambda w: hash(w)) AS tokens,
                     CASE WHEN response IS NULL THEN NULL ELSE len({words_sql("text")}) END AS own,
                     coalesce(own, len(tokens)) AS words, text || coalesce(response, '') AS whole
              FROM lake.version_rows WHERE dataset = ? AND version = ?)"""
    lake.sql(query, [version.dataset, version.version])
    try:
        yield Held(name, version)
    finally:
        lake.sql(f"DROP TABLE {name}")


def one(lake: Lake, query: str, params: list[Any] | None = None) -> dict[str, Any]:
    """The only row of an answer."""
    row: dict[str, Any] = lake.query(query, params or [])[0]
    return row


def rounded(value: Any) -> float | None:
    """A figure with six decimals; None stays None."""
    return None if value is None else round(float(value), DIGITS)


def ratio(part: Any, whole: Any) -> float | None:
    """part / whole, None if there is no whole."""
    return round(float(part) / float(whole), DIGITS) if whole else None


def spread(lake: Lake, table: str, column: str) -> Spread | None:
    """Mean and quantiles of a numeric column (exact, interpolated); None if it is NULL throughout."""
    row = one(
        lake,
        f"""SELECT sum({column}) / count({column}) AS mean,
                   quantile_cont({column}, [0.05, 0.5, 0.95]) AS parts FROM {table}""",
    )
    if row["mean"] is None:
        return None
    p5, p50, p95 = (round(float(part), DIGITS) for part in row["parts"])
    return Spread(mean=round(float(row["mean"]), DIGITS), p5=p5, p50=p50, p95=p95)


def balance(lake: Lake, rows: Held, wanted: Mapping[str, int]) -> Balance:
    """Shares of labels and splits. `wanted`: requested rows per label by the recipe; empty: an even share is
    expected."""
    counted = lake.query(f"SELECT label, count(*) AS n FROM {rows.name} GROUP BY 1 ORDER BY 1")
    counts = {row["label"]: int(row["n"]) for row in counted}
    names = sorted({*counts, *wanted})
    total, expected = sum(counts.values()), sum(wanted.values())
    shares = tuple(
        LabelShare(
            label=name,
            rows=counts.get(name, 0),
            share=round(counts.get(name, 0) / total, DIGITS),
            expected=round(wanted.get(name, 0) / expected if expected else 1 / len(names), DIGITS),
        )
        for name in names
    )
    query = f"""
        SELECT log2(sum(n)) - sum(n * log2(n)) / sum(n) AS bits
        FROM (SELECT count(*) AS n FROM {rows.name} GROUP BY label)"""
    bits = max(0.0, round(float(one(lake, query)["bits"]), DIGITS))
    most = one(lake, "SELECT log2(?::DOUBLE) AS bits", [max(1, len(names))])["bits"]
    splits = lake.query(f"SELECT split, count(*) AS n FROM {rows.name} GROUP BY 1 ORDER BY 1")
    return Balance(
        labels=shares,
        entropy=bits,
        evenness=None if len(names) < 2 else min(1.0, round(bits / most, DIGITS)),
        splits={row["split"]: int(row["n"]) for row in splits},
    )


def lengths(lake: Lake, rows: Held) -> Lengths:
    """Lengths in characters and words."""
    chars, words = spread(lake, rows.name, "chars"), spread(lake, rows.name, "words")
    if chars is None or words is None:
        raise ValueError(f"{rows.version.ref} has no row")
    return Lengths(chars=chars, words=words, response_chars=spread(lake, rows.name, "response_chars"))


def distinct(lake: Lake, table: str, n: int) -> tuple[int, int]:
    """(different, all) word n-grams of a table's rows; none crosses the end of a row."""
    parts = ", ".join(f"tokens[k + {place}]" for place in range(n))
    grams = "tokens" if n == 1 else f"list_transform(range(1, len(tokens) - {n - 2}), lambda k: hash({parts}))"
    query = f"""
        SELECT count(*)::BIGINT AS kinds, coalesce(sum(n), 0)::BIGINT AS total
        FROM (SELECT gram, count(*) AS n FROM (SELECT unnest({grams}) AS gram FROM {table}) GROUP BY 1)"""
    row = one(lake, query)
    return int(row["kinds"]), int(row["total"])


def wording(lake: Lake, rows: Held, missing: dict[str, str], *, bleu: bool = True) -> Wording:
    """Vocabulary, distinct-n of the whole, self-BLEU of a sample."""
    counted = {n: distinct(lake, rows.name, n) for n in (1, 2, 3)}
    for n, (_, total) in counted.items():
        if not total:
            missing[f"wording.distinct_{n}"] = f"no row has {n} words" if n > 1 else "no row has a word"
    scored, sampled = _self_bleu(lake, rows, missing) if bleu else (None, 0)
    return Wording(
        tokens=counted[1][1],
        vocabulary=counted[1][0],
        distinct_1=ratio(*counted[1]),
        distinct_2=ratio(*counted[2]),
        distinct_3=ratio(*counted[3]),
        self_bleu=scored,
        self_bleu_rows=sampled,
    )


def _self_bleu(lake: Lake, rows: Held, missing: dict[str, str]) -> tuple[float | None, int]:
    """sacrebleu's sentence BLEU of each sampled text against the other samples, on folded words."""
    query = f"""
        SELECT array_to_string({words_sql("v.text")}, ' ') AS text
        FROM (SELECT id, pick FROM {rows.name} WHERE words > 0 ORDER BY pick, id LIMIT {BLEU_ROWS}) picked
        JOIN lake.version_rows v USING (id) WHERE v.dataset = ? AND v.version = ? ORDER BY pick, id"""
    table = lake.sql(query, [rows.version.dataset, rows.version.version])
    texts: list[str] = table.column("text").to_pylist()
    if len(texts) < 2:
        missing["wording.self_bleu"] = "fewer than two rows have a word"
        return None, len(texts)
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError:
        missing["wording.self_bleu"] = "sacrebleu is not installed: pip install 'graft-factory[audit]'"
        return None, 0
    metric = BLEU(effective_order=True, tokenize="none")
    scores = [metric.sentence_score(text, texts[:place] + texts[place + 1 :]).score for place, text in enumerate(texts)]
    return round(sum(sorted(scores)) / len(scores) / 100, DIGITS), len(texts)


def duplicates(lake: Lake, rows: Held, missing: dict[str, str], *, restricted: bool, near: bool = True) -> Duplicates:
    """Exact repeats among all rows; near repeats of a sample against all rows."""
    total, kinds = one(lake, f"SELECT count(*) AS n, count(DISTINCT same) AS k FROM {rows.name}").values()
    query = f"""
        SELECT m.n, CASE WHEN m.hidden AND NOT ? THEN ? ELSE v.text END AS text
        FROM (SELECT same, count(*) AS n, min(id) AS id, bool_or(restricted) AS hidden FROM {rows.name}
              GROUP BY same HAVING count(*) > 1 ORDER BY n DESC, id LIMIT 5) m
        JOIN lake.version_rows v USING (id) WHERE v.dataset = ? AND v.version = ? ORDER BY n DESC, id"""
    found = lake.query(query, [restricted, HIDDEN, rows.version.dataset, rows.version.version])
    share, sampled = _near(lake, rows) if near else (None, 0)
    if near and share is None:
        missing["duplicates.near"] = "no row has a word"
    return Duplicates(
        exact_rows=total - kinds,
        exact=round((total - kinds) / total, DIGITS),
        near=share,
        near_rows=sampled,
        threshold=NEAR,
        repeated=tuple(Repeated(text=row["text"], rows=int(row["n"])) for row in found),
    )


PAIRS = "list_transform(range(1, len(tokens)), lambda k: hash(tokens[k], tokens[k + 1]))"
SHINGLES = f"list_distinct(list_concat(tokens, {PAIRS}))"


def _near(lake: Lake, rows: Held) -> tuple[float | None, int]:
    """Share of sampled rows that have another row at the threshold or above, among all the version's rows.

    Two texts at the threshold share at least one of the rarest shingles of either (as many as they may differ in, plus
    one). So a sampled row is compared with the rows that contain one of these; if more than CAP rows contain it, with a
    part of them chosen by hash. The similarity itself is exact.
    """
    probe, kinds = f"{rows.name}_probe", f"{rows.name}_kinds"
    try:
        lake.sql(f"""
            CREATE TEMP TABLE {kinds} AS SELECT same, count(*) AS n, any_value({SHINGLES}) AS shingles
            FROM {rows.name} WHERE len(tokens) > 0 GROUP BY same""")
        lake.sql(f"""
            CREATE TEMP TABLE {probe} AS SELECT same, n, shingles FROM {kinds} JOIN
            (SELECT same, pick FROM {rows.name} WHERE len(tokens) > 0 ORDER BY pick, id LIMIT {NEAR_ROWS})
            USING (same)""")
        query = f"""
            WITH wanted AS MATERIALIZED (SELECT same, unnest(shingles) AS shingle FROM {probe} WHERE n = 1),
            everywhere AS MATERIALIZED (SELECT k.same, k.shingle FROM
                (SELECT same, unnest(shingles) AS shingle FROM {kinds}) k
                SEMI JOIN wanted USING (shingle)),
            frequency AS MATERIALIZED (SELECT shingle, count(*) AS df FROM everywhere GROUP BY 1),
            rarest AS (SELECT same, list({{'df': df, 'shingle': shingle}} ORDER BY df, shingle) AS ranked
                FROM wanted JOIN frequency USING (shingle) GROUP BY same),
            prefix AS MATERIALIZED (SELECT same, unnest(ranked[: len(ranked) - ceil({NEAR} * len(ranked))::BIGINT + 1])
                AS s FROM rarest),
            pairs AS (SELECT DISTINCT p.same AS a, e.same AS b FROM prefix p
                JOIN everywhere e ON p.s.shingle = e.shingle
                WHERE p.same <> e.same AND (p.s.df <= {CAP} OR hash(e.same, p.same) % p.s.df < {CAP})),
            alike AS (SELECT DISTINCT a FROM (
                SELECT a, len(list_intersect(x.shingles, y.shingles)) AS shared, len(x.shingles) AS m,
                       len(y.shingles) AS n
                FROM pairs JOIN {probe} x ON x.same = a JOIN {kinds} y ON y.same = b)
                WHERE shared >= {NEAR} * (m + n - shared) - 1e-9)
            SELECT (SELECT count(*) FROM {probe}) AS total,
                   (SELECT count(*) FROM {probe} WHERE n > 1) + (SELECT count(*) FROM alike) AS twins"""
        row = one(lake, query)
    finally:
        lake.sql(f"DROP TABLE IF EXISTS {probe}")
        lake.sql(f"DROP TABLE IF EXISTS {kinds}")
    return ratio(row["twins"], row["total"]), int(row["total"])
