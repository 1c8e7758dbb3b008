"""The quality report as sections, each with a verdict, for the terminal, the pages and the HTML file.

The thresholds of the verdicts are here and in docs/quality.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from graft.data.quality.model import Balance, LabelYield, ModelYield, Quality, Spread
from graft.data.quality.shape import section as shape_section
from graft.data.sections_html import render
from graft.schemas.sections import FEW, Column, Fact, Section, Table, number, one_line, share

UNDER_SHARE = 0.5
"""A label is thin below this fraction of its expected share."""
OVER_SHARE = 2.0
SHORT_WORDS = 3.0
"""A version's texts are short if the median has fewer words."""
REPETITIVE_BLEU = 0.6
FALL = 0.9
"""distinct-2 has fallen if it is below this fraction of the other version's, on equal numbers of rows."""
EXACT, NEAR = 0.01, 0.05
LEAST_SPREAD = 0.5
LEAST_COVERED = 0.8
MOST_COPIED = 0.05
LEAST_ALPHA = 0.4
ALPHA_DIGITS = 2
SEVERE = 1.0
"""Points of 10 by which a reviewer deviates from its panels."""
MOST_ADJUDICATED = 0.3
MOST_ECE = 0.1
LEAST_GOLD = 0.9
LEAST_YIELD = 0.2
MOST_DRIFT = 0.1
"""Jensen-Shannon divergence, in bits."""
MOST_PSI = 0.2


def sections(report: Quality) -> tuple[Section, ...]:
    """The report's groups, always the same nine, in order; then the task's own, if it measures rows."""
    groups = (_balance, _lengths, _wording, _duplicates, _meaning, _reviews, _calibration, _yields, _drift)
    own = (shape_section(report.shape),) if report.shape else ()
    return (*(group(report) for group in groups), *own)


def page(report: Quality) -> str:
    """The report as the text of one HTML file."""
    sampled = [Section("sampled", "Sampled", notes=report.sampled)] if report.sampled else []
    return render(f"{report.ref}: quality", f"{report.rows:,} rows; quality report by Graft",
                  [*sections(report), *sampled])  # fmt: skip


def _section(
    report: Quality,
    name: str,
    title: str,
    findings: Iterable[str] = (),
    usual: str = "",
    facts: tuple[Fact, ...] = (),
    tables: tuple[Table, ...] = (),
) -> Section:
    found = [finding for finding in findings if finding]
    if name in report.missing:
        return Section(name, title, f"not known: {report.missing[name]}")
    notes = tuple(
        f"– {figure.removeprefix(name + '.').replace('_', ' ')}: {why}"
        for figure, why in report.missing.items()
        if figure.startswith(f"{name}.")
    )
    return Section(name, title, "; ".join(found) or usual, facts, tables, notes, unusual=bool(found))


def _part(value: float, of: int, noun: str = "rows") -> str:
    """36.0% of rows, or 3 of 7 rows."""
    return f"{share(value, of=of)}{' of' if of >= FEW else ''} {noun}"


def _numbers(*columns: tuple[str, str], digits: int = 0) -> tuple[Column, ...]:
    return tuple(Column(key, title, "number", digits) for key, title in columns)


def _names(names: list[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _balance(report: Quality) -> Section:
    balance = report.balance
    facts = (
        Fact("rows", report.rows, "number"),
        Fact("restricted rows", report.restricted_rows, "number"),
        Fact("splits", ", ".join(f"{name} {count:,}" for name, count in balance.splits.items())),
        Fact("entropy (bits)", balance.entropy, "number", 3),
        Fact("evenness", balance.evenness, "number", 3),
    )
    columns: tuple[Column, ...] = (Column("label", "label"), Column("rows", "rows", "number"))
    if report.rows >= FEW:
        shares = Column("share", "share", "share", bar=True, mark="expected"), Column("expected", "expected", "share")
        columns = (*columns, *shares)
    labels = Table("quality-labels", "labels", columns, [one.model_dump() for one in balance.labels])
    usual = "every label has its share, within half and double"
    return _section(report, "balance", "Balance", _unbalanced(balance), usual, facts, (labels,))


def _unbalanced(balance: Balance) -> Iterable[str]:
    thin = [one.label for one in balance.labels if one.share < UNDER_SHARE * one.expected]
    thick = [one.label for one in balance.labels if one.share > OVER_SHARE * one.expected]
    if thin:
        yield f"under half of their share: {_names(thin)}"
    if thick:
        yield f"over twice their share: {_names(thick)}"


def _spreads(name: str, first: str, spreads: dict[str, Spread | None], digits: int) -> Table:
    """A table of distributions, a row each."""
    columns = (Column("name", first), *_numbers(*((key, key) for key in ("mean", "p5", "p50", "p95")), digits=digits))
    rows = [{"name": title, **spread.model_dump()} for title, spread in spreads.items() if spread]
    return Table(name, "", columns, rows)


def _lengths(report: Quality) -> Section:
    lengths = report.lengths
    spreads = {
        "characters": lengths.chars, "words": lengths.words, "characters of the response": lengths.response_chars
    }  # fmt: skip
    table = _spreads("quality-lengths", "length", spreads, 1)
    short = [f"the median text has {lengths.words.p50:g} words"] if lengths.words.p50 < SHORT_WORDS else []
    return _section(report, "lengths", "Lengths", short, "texts have the usual length", tables=(table,))


def _wording(report: Quality) -> Section:
    wording, drift = report.wording, report.drift
    facts = (
        Fact("words", wording.tokens, "number"),
        Fact("different words", wording.vocabulary, "number"),
        Fact("distinct-1 (type/token)", wording.distinct_1, "number", 3),
        Fact("distinct-2", wording.distinct_2, "number", 3),
        Fact("distinct-3", wording.distinct_3, "number", 3),
        Fact("self-BLEU", wording.self_bleu, "number", 3),
    )
    found = []
    if wording.self_bleu is not None and wording.self_bleu > REPETITIVE_BLEU:
        found.append(f"texts resemble each other: self-BLEU {wording.self_bleu:.2f}")
    now, before = (drift.distinct_2, drift.distinct_2_before) if drift else (None, None)
    if drift and now is not None and before is not None and now < FALL * before:
        rows = f"on {drift.equal_rows:,} rows of each"
        found.append(f"distinct-2 fell from {before:.3f} to {now:.3f} since {drift.against}, {rows}")
    return _section(report, "wording", "Wording", found, "no sign of lost diversity", facts)


def _duplicates(report: Quality) -> Section:
    repeats = report.duplicates
    facts = (
        Fact("rows that repeat another's text", repeats.exact_rows, "number"),
        Fact("exact duplicates", repeats.exact, "share", of=report.rows),
        Fact(f"rows with a near duplicate (Jaccard {repeats.threshold:g})", repeats.near, "share", of=report.rows),
    )
    rows = [{"rows": one.rows, "text": _short(one.text)} for one in repeats.repeated]
    shown = (Table("quality-repeated", "most repeated", (*_numbers(("rows", "rows")), Column("text", "text")), rows),)
    found = []
    if repeats.exact > EXACT:
        found.append(f"{_part(repeats.exact, report.rows)} repeat another's text")
    if repeats.near is not None and repeats.near > NEAR:
        found.append(f"{_part(repeats.near, report.rows)} have a near duplicate")
    return _section(report, "duplicates", "Duplicates", found, "few rows repeat others", facts, shown if rows else ())


def _short(text: str, limit: int = 120) -> str:
    line = one_line(text)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _meaning(report: Quality) -> Section:
    meaning = report.meaning
    if meaning is None:
        return _section(report, "meaning", "Meaning")
    facts = (
        Fact("rows embedded", meaning.rows, "number"),
        Fact("seeds embedded", meaning.seeds, "number"),
        Fact("spread (mean distance)", meaning.spread, "number", 3),
        Fact("clusters", meaning.clusters, "number"),
        Fact("clusters of seeds that hold rows", meaning.seed_clusters_covered, "share"),
        Fact("clusters of rows that hold seeds", meaning.row_clusters_seeded, "share"),
        Fact("rows nearly copied from a seed", meaning.copied, "share", of=meaning.rows),
    )
    shown = _spreads("quality-nearest", "distance", {"to the nearest seed": meaning.nearest_seed}, 3)
    found = []
    if meaning.spread is not None and meaning.spread < LEAST_SPREAD:
        found.append(f"texts are close together: spread {meaning.spread:.2f}")
    if meaning.seed_clusters_covered is not None and meaning.seed_clusters_covered < LEAST_COVERED:
        found.append(f"only {share(meaning.seed_clusters_covered)} of the seeds' clusters hold rows")
    if meaning.copied is not None and meaning.copied > MOST_COPIED:
        found.append(f"{_part(meaning.copied, meaning.rows)} are nearly copies of a seed")
    return _section(report, "meaning", "Meaning", found, "rows cover the seeds' meanings", facts, (shown,))


def _reviews(report: Quality) -> Section:
    reviews = report.reviews
    if reviews is None:
        return _section(report, "reviews", "Reviewers")
    facts = (
        Fact("candidates", reviews.candidates, "number"),
        Fact("accepted", reviews.accepted, "share", of=reviews.candidates),
        Fact("adjudicated", reviews.adjudicated, "share", of=reviews.candidates),
        Fact("overturned by the adjudicator", reviews.overturned, "share"),
        Fact("relabelled", reviews.relabelled, "share"),
        Fact("alpha of scores", reviews.alpha, "number", ALPHA_DIGITS),
        Fact("alpha of flags", reviews.alpha_flags, "number", ALPHA_DIGITS),
    )
    rows = []
    for one in reviews.reviewers:
        label = max(one.bias, key=lambda name: (abs(one.bias[name]), name), default="")
        rows.append({**one.model_dump(exclude={"bias"}), "bias": f"{label} {one.bias[label]:+.2f}" if label else None})
    columns = (
        Column("model", "model"), Column("reviews", "reviews", "number"), Column("mean", "mean score", "number", 2),
        Column("severity", "offset from the panel", "change", 2), Column("bias", "largest offset of a label"),
    )  # fmt: skip
    shown = Table("quality-reviewers", "judging models", columns, rows)
    found = []
    if reviews.alpha is not None and reviews.alpha < LEAST_ALPHA:
        found.append(f"reviewers disagree: alpha {number(reviews.alpha, ALPHA_DIGITS)}")
    if reviews.alpha_flags is not None and reviews.alpha_flags < LEAST_ALPHA:
        found.append(f"flags disagree: alpha {number(reviews.alpha_flags, ALPHA_DIGITS)}")
    off = [one.model for one in reviews.reviewers if one.severity is not None and abs(one.severity) > SEVERE]
    if off:
        found.append(f"over a point off their panels: {_names(off)}")
    if reviews.adjudicated > MOST_ADJUDICATED:
        found.append(f"{_part(reviews.adjudicated, reviews.candidates, 'candidates')} went to the adjudicator")
    usual = "reviewers agree" if reviews.alpha is not None else "one reviewer each: agreement is not known"
    return _section(report, "reviews", "Reviewers", found, usual, facts, (shown,))


def _calibration(report: Quality) -> Section:
    against = report.calibration
    if against is None:
        return _section(report, "calibration", "Against gold")
    facts = (
        Fact("entries of the gold file", against.gold, "number"),
        Fact("rows that it names", against.matched, "number"),
        Fact("label accuracy", against.accuracy, "share", of=against.matched),
        Fact("confidence", against.by or None),
        Fact("calibration error (ECE)", against.ece, "number", 3),
        Fact("Brier score", against.brier, "number", 3),
    )
    columns = (
        Column("low", "confidence from", "number", 1), Column("rows", "rows", "number"),
        Column("confidence", "mean confidence", "share"),
        Column("accuracy", "accuracy", "share", bar=True, mark="confidence", of="rows"),
    )  # fmt: skip
    bins = Table("quality-bins", "by confidence", columns, [one.model_dump() for one in against.bins])
    found = []
    if against.accuracy is not None and against.accuracy < LEAST_GOLD:
        found.append(f"{_part(1 - against.accuracy, against.matched, 'labels')} differ from the gold labels")
    if against.ece is not None and against.ece > MOST_ECE:
        found.append(f"confidence is off by {against.ece:.2f}")
    usual = "labels agree with the gold file" if against.matched else "the gold file names no row"
    return _section(report, "calibration", "Against gold", found, usual, facts, (bins,) if bins.rows else ())


def _yields(report: Quality) -> Section:
    yields = report.yields
    if yields is None:
        return _section(report, "yields", "Yield and price")
    taken_share = yields.accepted / yields.candidates
    facts = (
        Fact("candidates", yields.candidates, "number"),
        Fact("accepted", yields.accepted, "number"),
        Fact("yield", taken_share, "share", of=yields.candidates),
        Fact("price of the calls", yields.price_usd, "money", local=yields.local, least=yields.least_usd),
        Fact("price of an accepted row", yields.row_price_usd, "money", local=yields.local),
    )
    counts = (Column("candidates", "candidates", "number"), Column("accepted", "accepted", "number"))
    taken = (*counts, Column("yield", "yield", "share", bar=True, of="candidates"))
    price = (Column("price_usd", "price", "money"), Column("row_price_usd", "a row", "money"))
    spending = (
        Column("role", "role"), Column("model", "model"),
        *_numbers(("calls", "calls"), ("failed", "failed"), ("tokens", "tokens")), price[0],
    )  # fmt: skip
    tables = (
        Table("quality-yields", "by label", (Column("label", "label"), *taken, *price), _yielded(yields.labels)),
        Table("quality-writers", "by writing model", (Column("model", "model"), *taken),
              _yielded(yields.models)),
        Table("quality-spending", "by role and model", spending, [one.model_dump() for one in yields.spending]),
    )  # fmt: skip
    thin = [one.label for one in yields.labels if one.accepted < LEAST_YIELD * one.candidates]
    found = [f"under a fifth of candidates accepted: {_names(thin)}"] if thin else []
    usual = f"{_part(taken_share, yields.candidates, 'candidates')} were accepted"
    return _section(report, "yields", "Yield and price", found, usual, facts, tables)


def _yielded(found: Iterable[LabelYield | ModelYield]) -> list[dict[str, Any]]:
    return [{**one.model_dump(), "yield": one.accepted / one.candidates} for one in found]


def _drift(report: Quality) -> Section:
    drift = report.drift
    if drift is None:
        return _section(report, "drift", "Drift")
    facts = (
        Fact("divergence of labels (bits)", drift.labels, "number", 3),
        Fact("divergence of words (bits)", drift.tokens, "number", 3),
        Fact("stability of lengths in characters (PSI)", drift.chars_psi, "number", 3),
        Fact("stability of lengths in words (PSI)", drift.words_psi, "number", 3),
        Fact(f"distinct-2 of {drift.equal_rows:,} rows before", drift.distinct_2_before, "number", 3),
        Fact(f"distinct-2 of {drift.equal_rows:,} rows now", drift.distinct_2, "number", 3),
    )
    rows = [
        {**one.model_dump(), "change": None if one.before is None or one.now is None else one.now - one.before}
        for one in drift.changes
    ]
    columns = (
        Column("figure", "figure"), Column("before", "before", "figure"), Column("now", "now", "figure"),
        Column("change", "change", "figure_change"),
    )  # fmt: skip
    shown = Table("quality-drift", f"figures against {drift.against}", columns, rows)
    found = []
    if drift.labels > MOST_DRIFT:
        found.append(f"the label distribution changed: {drift.labels:.2f} bits")
    if drift.tokens is not None and drift.tokens > MOST_DRIFT:
        found.append(f"the words changed: {drift.tokens:.2f} bits")
    if max(drift.chars_psi, drift.words_psi) > MOST_PSI:
        found.append(f"the lengths changed: PSI {max(drift.chars_psi, drift.words_psi):.2f}")
    return _section(report, "drift", "Drift", found, f"similar to {drift.against}", facts, (shown,))
