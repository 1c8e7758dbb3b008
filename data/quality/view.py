"""The report as tables with a verdict a group: what the terminal, the card, HTML and the dashboard show.

The thresholds of the verdicts stand here, and in docs/quality.md.
"""

from __future__ import annotations

from collections.abc import Iterable

from graft.data.quality.model import Balance, Quality, Spread
from graft.schemas.base import Value

UNDER_SHARE = 0.5
"""A label is thin under this part of its expected share."""
OVER_SHARE = 2.0
SHORT_WORDS = 3.0
"""A version's texts are short where the median has fewer words."""
REPETITIVE_BLEU = 0.6
FALL = 0.9
"""distinct-2 falls where it is under this part of the other version's, on equal numbers of rows."""
EXACT, NEAR = 0.01, 0.05
LEAST_SPREAD = 0.5
LEAST_COVERED = 0.8
MOST_COPIED = 0.05
LEAST_ALPHA = 0.4
SEVERE = 1.0
"""Points of 10 by which a reviewer lies off its panels."""
MOST_ADJUDICATED = 0.3
MOST_ECE = 0.1
LEAST_GOLD = 0.9
LEAST_YIELD = 0.2
MOST_DRIFT = 0.1
"""Jensen-Shannon divergence, in bits."""
MOST_PSI = 0.2


class Table(Value):
    """Cells are ready to show; None is a figure that is not known. `bars`: a share 0 to 1 a row, or none."""

    title: str
    columns: tuple[str, ...]
    right: tuple[str, ...] = ()
    rows: tuple[tuple[str | None, ...], ...]
    bars: tuple[float, ...] = ()


class Section(Value):
    """A group of figures. `verdict` is one line; `unusual` where it names something to look at."""

    name: str
    title: str
    verdict: str
    unusual: bool
    tables: tuple[Table, ...]
    notes: tuple[str, ...] = ()


def tables(report: Quality) -> tuple[Section, ...]:
    """The report's groups, always the same nine, in order. Cells and notes are plain text, never markup."""
    groups = (_balance, _lengths, _wording, _duplicates, _meaning, _reviews, _calibration, _yields, _drift)
    return tuple(_printable(group(report)) for group in groups)


def _printable(section: Section) -> Section:
    """The section with its control characters as spaces: a label may hold an escape sequence of a terminal."""
    shown = tuple(
        table.model_copy(update={"rows": tuple(tuple(cell and _one_line(cell) for cell in row) for row in table.rows)})
        for table in section.tables
    )
    return section.model_copy(update={"verdict": _one_line(section.verdict), "tables": shown})


def number(value: float | int | None, digits: int = 3) -> str | None:
    """A figure for people: 1,234 or 0.123; None stays None."""
    if value is None:
        return None
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def percent(value: float | None) -> str | None:
    """A share as a percentage."""
    return None if value is None else f"{100 * value:.1f}%"


def dollars(value: float | None) -> str | None:
    """A price in US dollars."""
    return None if value is None else f"${value:,.4f}" if value == 0 or value >= 0.001 else f"${value:,.6f}"


def _section(
    report: Quality, name: str, title: str, findings: Iterable[str], usual: str, shown: tuple[Table, ...]
) -> Section:
    found = [finding for finding in findings if finding]
    if name in report.missing:
        return Section(name=name, title=title, verdict=f"not known: {report.missing[name]}", unusual=False, tables=())
    notes = tuple(
        f"– {figure.removeprefix(name + '.').replace('_', ' ')}: {why}"
        for figure, why in report.missing.items()
        if figure.startswith(f"{name}.")
    )
    verdict = "; ".join(found) or usual
    return Section(name=name, title=title, verdict=verdict, unusual=bool(found), tables=shown, notes=notes)


def _facts(title: str, *facts: tuple[str, str | None]) -> Table:
    return Table(title=title, columns=("figure", "value"), right=("value",), rows=facts)


def _names(names: list[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _balance(report: Quality) -> Section:
    balance = report.balance
    split = ", ".join(f"{name} {count:,}" for name, count in balance.splits.items())
    facts = _facts(
        "",
        ("rows", number(report.rows)),
        ("restricted rows", number(report.restricted_rows)),
        ("splits", split),
        ("entropy (bits)", number(balance.entropy)),
        ("evenness", number(balance.evenness)),
    )
    labels = Table(
        title="labels",
        columns=("label", "rows", "share", "expected"),
        right=("rows", "share", "expected"),
        rows=tuple((one.label, number(one.rows), percent(one.share), percent(one.expected)) for one in balance.labels),
        bars=tuple(one.share for one in balance.labels),
    )
    usual = "every label has its share, within half and double"
    return _section(report, "balance", "Balance", _unbalanced(balance), usual, (facts, labels))


def _unbalanced(balance: Balance) -> Iterable[str]:
    thin = [one.label for one in balance.labels if one.share < UNDER_SHARE * one.expected]
    thick = [one.label for one in balance.labels if one.share > OVER_SHARE * one.expected]
    if thin:
        yield f"under half of their share: {_names(thin)}"
    if thick:
        yield f"over double their share: {_names(thick)}"


def _quartet(name: str, spread: Spread | None, digits: int = 1) -> tuple[tuple[str | None, ...], ...]:
    if spread is None:
        return ()
    return ((name, *(number(float(part), digits) for part in (spread.mean, spread.p5, spread.p50, spread.p95))),)


def _lengths(report: Quality) -> Section:
    lengths = report.lengths
    rows = (
        *_quartet("characters", lengths.chars),
        *_quartet("words", lengths.words),
        *_quartet("characters of the response", lengths.response_chars),
    )
    columns = ("mean", "p5", "p50", "p95")
    table = Table(title="", columns=("length", *columns), right=columns, rows=rows)
    short = [f"the median text has {lengths.words.p50:g} words"] if lengths.words.p50 < SHORT_WORDS else []
    return _section(report, "lengths", "Lengths", short, "texts have a usual length", (table,))


def _wording(report: Quality) -> Section:
    wording, drift = report.wording, report.drift
    facts = _facts(
        "",
        ("words", number(wording.tokens)),
        ("different words", number(wording.vocabulary)),
        ("distinct-1 (type/token)", number(wording.distinct_1)),
        ("distinct-2", number(wording.distinct_2)),
        ("distinct-3", number(wording.distinct_3)),
        ("self-BLEU", number(wording.self_bleu)),
    )
    found = []
    if wording.self_bleu is not None and wording.self_bleu > REPETITIVE_BLEU:
        found.append(f"texts resemble each other: self-BLEU {wording.self_bleu:.2f}")
    now, before = (drift.distinct_2, drift.distinct_2_before) if drift else (None, None)
    if drift and now is not None and before is not None and now < FALL * before:
        rows = f"on {drift.equal_rows:,} rows of each"
        found.append(f"distinct-2 fell from {before:.3f} to {now:.3f} since {drift.against}, {rows}")
    return _section(report, "wording", "Wording", found, "no sign of loss of variety", (facts,))


def _duplicates(report: Quality) -> Section:
    repeats = report.duplicates
    facts = _facts(
        "",
        ("rows that repeat another's text", number(repeats.exact_rows)),
        ("exact duplicates", percent(repeats.exact)),
        (f"rows with a near duplicate (Jaccard {repeats.threshold:g})", percent(repeats.near)),
    )
    shown: tuple[Table, ...] = (facts,)
    if repeats.repeated:
        rows = tuple((number(one.rows), _short(one.text)) for one in repeats.repeated)
        shown += (Table(title="most repeated", columns=("rows", "text"), right=("rows",), rows=rows),)
    found = []
    if repeats.exact > EXACT:
        found.append(f"{percent(repeats.exact)} of rows repeat another's text")
    if repeats.near is not None and repeats.near > NEAR:
        found.append(f"{percent(repeats.near)} of rows have a near duplicate")
    return _section(report, "duplicates", "Duplicates", found, "few rows repeat another", shown)


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _short(text: str, limit: int = 120) -> str:
    line = _one_line(text)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _meaning(report: Quality) -> Section:
    meaning = report.meaning
    if meaning is None:
        return _section(report, "meaning", "Meaning", (), "", ())
    facts = _facts(
        "",
        ("rows embedded", number(meaning.rows)),
        ("seeds embedded", number(meaning.seeds)),
        ("spread (mean distance)", number(meaning.spread)),
        ("clusters", number(meaning.clusters)),
        ("clusters of seeds that hold rows", percent(meaning.seed_clusters_covered)),
        ("clusters of rows that hold seeds", percent(meaning.row_clusters_seeded)),
        ("rows nearly copied from a seed", percent(meaning.copied)),
    )
    shown: tuple[Table, ...] = (facts,)
    if meaning.nearest_seed:
        columns = ("mean", "p5", "p50", "p95")
        rows = _quartet("to the nearest seed", meaning.nearest_seed, 3)
        shown += (Table(title="", columns=("distance", *columns), right=columns, rows=rows),)
    found = []
    if meaning.spread is not None and meaning.spread < LEAST_SPREAD:
        found.append(f"texts lie close together: spread {meaning.spread:.2f}")
    if meaning.seed_clusters_covered is not None and meaning.seed_clusters_covered < LEAST_COVERED:
        found.append(f"only {percent(meaning.seed_clusters_covered)} of the seeds' clusters hold rows")
    if meaning.copied is not None and meaning.copied > MOST_COPIED:
        found.append(f"{percent(meaning.copied)} of rows are nearly a seed")
    return _section(report, "meaning", "Meaning", found, "rows spread over the seeds' meanings", shown)


def _reviews(report: Quality) -> Section:
    reviews = report.reviews
    if reviews is None:
        return _section(report, "reviews", "Reviewers", (), "", ())
    facts = _facts(
        "",
        ("candidates", number(reviews.candidates)),
        ("accepted", percent(reviews.accepted)),
        ("adjudicated", percent(reviews.adjudicated)),
        ("overturned by the adjudicator", percent(reviews.overturned)),
        ("relabelled", percent(reviews.relabelled)),
        ("alpha of scores", number(reviews.alpha)),
        ("alpha of flags", number(reviews.alpha_flags)),
    )
    rows = []
    for one in reviews.reviewers:
        label = max(one.bias, key=lambda name: (abs(one.bias[name]), name), default="")
        biased = f"{label} {one.bias[label]:+.2f}" if label else None
        severity = None if one.severity is None else f"{one.severity:+.2f}"
        rows.append((one.model, number(one.reviews), number(one.mean, 2), severity, biased))
    columns = ("model", "reviews", "mean score", "offset from the panel", "largest offset of a label")
    shown = (facts, Table(title="models that judged", columns=columns, right=columns[1:4], rows=tuple(rows)))
    found = []
    if reviews.alpha is not None and reviews.alpha < LEAST_ALPHA:
        found.append(f"reviewers disagree: alpha {reviews.alpha:.2f}")
    if reviews.alpha_flags is not None and reviews.alpha_flags < LEAST_ALPHA:
        found.append(f"flags disagree: alpha {reviews.alpha_flags:.2f}")
    off = [one.model for one in reviews.reviewers if one.severity is not None and abs(one.severity) > SEVERE]
    if off:
        found.append(f"over a point off their panels: {_names(off)}")
    if reviews.adjudicated > MOST_ADJUDICATED:
        found.append(f"{percent(reviews.adjudicated)} went to the adjudicator")
    return _section(report, "reviews", "Reviewers", found, "reviewers agree", shown)


def _calibration(report: Quality) -> Section:
    against = report.calibration
    if against is None:
        return _section(report, "calibration", "Against gold", (), "", ())
    facts = _facts(
        "",
        ("entries of the gold file", number(against.gold)),
        ("rows that it names", number(against.matched)),
        ("label accuracy", percent(against.accuracy)),
        ("confidence", against.by or None),
        ("calibration error (ECE)", number(against.ece)),
        ("Brier score", number(against.brier)),
    )
    columns = ("confidence from", "rows", "mean confidence", "accuracy")
    rows = tuple(
        (number(one.low, 1), number(one.rows), percent(one.confidence), percent(one.accuracy)) for one in against.bins
    )
    shown = (facts, Table(title="by confidence", columns=columns, right=columns, rows=rows)) if rows else (facts,)
    found = []
    if against.accuracy is not None and against.accuracy < LEAST_GOLD:
        found.append(f"{percent(1 - against.accuracy)} of labels are not the gold ones")
    if against.ece is not None and against.ece > MOST_ECE:
        found.append(f"confidence is off by {against.ece:.2f}")
    usual = "labels agree with the gold file" if against.matched else "the gold file names no row"
    return _section(report, "calibration", "Against gold", found, usual, shown)


def _yields(report: Quality) -> Section:
    yields = report.yields
    if yields is None:
        return _section(report, "yields", "Yield and price", (), "", ())
    share = yields.accepted / yields.candidates
    facts = _facts(
        "",
        ("candidates", number(yields.candidates)),
        ("accepted", number(yields.accepted)),
        ("yield", percent(share)),
        ("price of the calls", dollars(yields.price_usd)),
        ("price of an accepted row", dollars(yields.row_price_usd)),
    )
    labels = Table(
        title="by label",
        columns=("label", "candidates", "accepted", "yield", "price", "a row"),
        right=("candidates", "accepted", "yield", "price", "a row"),
        rows=tuple(
            (one.label, number(one.candidates), number(one.accepted), percent(one.accepted / one.candidates),
             dollars(one.price_usd), dollars(one.row_price_usd))
            for one in yields.labels
        ),
    )  # fmt: skip
    models = Table(
        title="by the model that wrote",
        columns=("model", "candidates", "accepted", "yield"),
        right=("candidates", "accepted", "yield"),
        rows=tuple(
            (one.model or None, number(one.candidates), number(one.accepted), percent(one.accepted / one.candidates))
            for one in yields.models
        ),
    )
    columns = ("role", "model", "calls", "failed", "tokens", "price")
    rows = tuple(
        (one.role, one.model, number(one.calls), number(one.failed), number(one.tokens), dollars(one.price_usd))
        for one in yields.spending
    )
    spent = Table(title="by role and model", columns=columns, right=columns[2:], rows=rows)
    thin = [one.label for one in yields.labels if one.accepted < LEAST_YIELD * one.candidates]
    found = [f"under a fifth of candidates accepted: {_names(thin)}"] if thin else []
    usual = f"{percent(share)} of candidates were accepted"
    return _section(report, "yields", "Yield and price", found, usual, (facts, labels, models, spent))


def _drift(report: Quality) -> Section:
    drift = report.drift
    if drift is None:
        return _section(report, "drift", "Drift", (), "", ())
    facts = _facts(
        f"against {drift.against}",
        ("divergence of labels (bits)", number(drift.labels)),
        ("divergence of words (bits)", number(drift.tokens)),
        ("stability of lengths in characters (PSI)", number(drift.chars_psi)),
        ("stability of lengths in words (PSI)", number(drift.words_psi)),
        (f"distinct-2 of {drift.equal_rows:,} rows before", number(drift.distinct_2_before)),
        (f"distinct-2 of {drift.equal_rows:,} rows now", number(drift.distinct_2)),
    )
    rows = tuple(
        (one.figure, number(one.before), number(one.now),
         None if one.before is None or one.now is None else f"{one.now - one.before:+,.3f}")
        for one in drift.changes
    )  # fmt: skip
    columns = ("figure", "before", "now", "change")
    shown = (facts, Table(title="figures", columns=columns, right=columns[1:], rows=rows))
    found = []
    if drift.labels > MOST_DRIFT:
        found.append(f"labels are spread otherwise: {drift.labels:.2f} bits")
    if drift.tokens is not None and drift.tokens > MOST_DRIFT:
        found.append(f"other words: {drift.tokens:.2f} bits")
    if max(drift.chars_psi, drift.words_psi) > MOST_PSI:
        found.append(f"other lengths: PSI {max(drift.chars_psi, drift.words_psi):.2f}")
    return _section(report, "drift", "Drift", found, f"much like {drift.against}", shown)
