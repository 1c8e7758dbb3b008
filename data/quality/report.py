"""The quality report of a version: every group once, from the lake alone; the only model is the given encoder."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from graft.data.quality.judged import ALPHA_ROWS, Gold, calibration, reviews, runs_of, yields
from graft.data.quality.meaning import meaning
from graft.data.quality.model import Balance, Change, Drift, Duplicates, Lengths, Quality, Wording
from graft.data.quality.shape import shape
from graft.data.quality.words import DIGITS, Held, balance, distinct, duplicates, held, lengths, one, ratio, wording
from graft.data.versions import versions
from graft.schemas.datasets import DatasetVersion
from graft.schemas.recipe import Recipe

if TYPE_CHECKING:
    from graft.data.lake import Lake
    from graft.data.quality.meaning import Embed
EQUAL_ROWS = 20_000
LEAST = 1e-4
"""Least share of a bin in the stability index, so that its logarithm is finite."""

Counted = tuple[int, Balance, Lengths, Wording, Duplicates]
"""A version's number of rows and the compared groups."""


def quality(
    lake: Lake,
    version: DatasetVersion,
    *,
    embed: Embed | None = None,
    against: DatasetVersion | None = None,
    gold: Gold | None = None,
    restricted: bool = False,
) -> Quality:
    """The quality report of a published version.

    `against` is the version for the drift figures, else the dataset's last one before it; `gold` are (row id or text,
    label) pairs; `embed` gives a vector a text. Texts of restricted rows are shown only if `restricted` is set. The
    same lake gives the same report, whatever the order of its rows. Raises ValueError if the version has no row.
    """
    missing: dict[str, str] = {}
    before = against or _before(lake, version)
    with ExitStack() as stack:
        rows = stack.enter_context(held(lake, version))
        counted = _counted(lake, rows, missing, restricted=restricted)
        runs = runs_of(lake, rows)
        missing.update(_absent(rows, counted, runs, embed, gold))
        found: dict[str, Any] = {
            "meaning": meaning(lake, rows, embed, missing) if embed else None,
            "reviews": reviews(lake, rows, runs, missing) if runs else None,
            "calibration": calibration(lake, rows, gold, missing) if gold is not None else None,
            "yields": yields(lake, rows, runs, missing) if runs else None,
            "drift": _drift(lake, rows, before, counted, stack, missing),
        }
        hidden = one(lake, f"SELECT count(*) FILTER (restricted) AS n FROM {rows.name}")["n"]
    total, by_label, by_length, by_word, repeats = counted
    report = Quality(
        dataset=version.dataset, version=version.version, origin=version.origin, rows=total, restricted_rows=hidden,
        balance=by_label, lengths=by_length, wording=by_word, duplicates=repeats, missing=dict(sorted(missing.items())),
        sampled=(), shape=shape(lake, version), **found,
    )  # fmt: skip
    return report.model_copy(update={"sampled": _sampled(report)})


def _absent(rows: Held, counted: Counted, runs: list[str], embed: Embed | None, gold: Gold | None) -> dict[str, str]:
    """The groups that cannot be computed, each with its reason."""
    absent: dict[str, str] = {}
    if counted[1].evenness is None:
        absent["balance.evenness"] = "there is a single label"
    if not runs:
        imported = rows.version.origin == "import"
        why = "an import: no model made or judged its rows" if imported else "the lake holds no candidate of its runs"
        absent["reviews"] = absent["yields"] = why
    if embed is None:
        absent["meaning"] = "no encoder was given"
    if gold is None:
        absent["calibration"] = "no gold file was given"
    return absent


def _before(lake: Lake, version: DatasetVersion) -> DatasetVersion | None:
    """The dataset's last version before this one."""
    earlier = [one for one in versions(lake, version.dataset) if one.version < version.version]
    return earlier[-1] if earlier else None


def _counted(lake: Lake, rows: Held, missing: dict[str, str], *, restricted: bool, whole: bool = True) -> Counted:
    """The groups of the rows themselves; without self-BLEU and near duplicates unless `whole`."""
    return (
        rows.version.rows,
        balance(lake, rows, _wanted(lake, rows.version)),
        lengths(lake, rows),
        wording(lake, rows, missing, bleu=whole),
        duplicates(lake, rows, missing, restricted=restricted, near=whole),
    )


def _wanted(lake: Lake, version: DatasetVersion) -> dict[str, int]:
    """Requested rows per label by the run's recipe; empty if there is no run, or a recipe of an older Graft."""
    run = lake.run(version.run_id)
    try:
        return dict(Recipe.stored(run.recipe).wanted()) if run and run.recipe else {}
    except ValidationError:
        return {}


def _drift(
    lake: Lake,
    rows: Held,
    before: DatasetVersion | None,
    counted: Counted,
    stack: ExitStack,
    missing: dict[str, str],
) -> Drift | None:
    if before is None:
        missing["drift"] = "it is the dataset's first version"
        return None
    if before.ref == rows.version.ref:
        return drift(lake, rows, rows, (counted, counted), missing)
    other = stack.enter_context(held(lake, before))
    then = _counted(lake, other, {}, restricted=False)
    return drift(lake, rows, other, (counted, then), missing)


def _sampled(report: Quality) -> tuple[str, ...]:
    """The figures that were computed on a sample, in sentences."""
    parts = []
    if 0 < report.wording.self_bleu_rows < report.rows:
        parts.append(f"self-BLEU: {report.wording.self_bleu_rows:,} rows among themselves")
    if 0 < report.duplicates.near_rows < report.rows:
        parts.append(f"near duplicates: {report.duplicates.near_rows:,} rows, each against the whole version")
    if report.meaning and report.meaning.rows < report.rows:
        parts.append(f"embeddings: {report.meaning.rows:,} rows and {report.meaning.seeds:,} seeds")
    if report.reviews and report.reviews.alpha_candidates == ALPHA_ROWS:
        parts.append(f"alpha: {ALPHA_ROWS:,} candidates")
    if report.reviews and report.reviews.alpha_flags_units == ALPHA_ROWS:
        parts.append(f"alpha of flags: {ALPHA_ROWS:,} flags")
    if report.drift and report.drift.equal_rows < report.rows:
        parts.append(f"distinct-2 beside {report.drift.against}: {report.drift.equal_rows:,} rows of each")
    return tuple(f"{part}, chosen by the hash of the id" for part in parts)


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
