"""Words that alone predict a label or a text's writer, and each writer's share of each label.

A word or pair of words counts once per row. Its z is that of the log-odds of the group against the rest, with all rows'
counts as the prior, so that rare words do not lead the list.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from graft.data.audits.base import Audit, AuditRow, Material, plain
from graft.data.gates.shared.folding import words
from graft.schemas.base import Value
from graft.schemas.intervals import Z95, wilson
from graft.schemas.sections import Column, Fact, Section, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST_ROWS = 5
"""Least rows with a word before it is tested."""
SURE = 0.8
"""Lower end of a one-word rule's interval from which the word is flagged."""
COMMON = 0.2
"""Share of a label's rows that must contain a flagged word."""
OPENING_WORDS = 3
SHOWN = 10
"""Rows of a table for people."""
BARS = 15


@dataclass(frozen=True)
class Shortcut:
    """A word or pair of words with its figures: `precision` is the accuracy of the rule "has the word: the group".

    `accuracy` is that of the rule "has it: the group, else: not" over all rows; `coverage` the share of the group's
    rows that hold it; `base` the group's share of all rows; `pmi` in bits.
    """

    token: str
    group: str
    rows: int
    precision: float
    interval: tuple[float, float]
    accuracy: float
    coverage: float
    base: float
    z: float
    pmi: float

    @property
    def flagged(self) -> bool:
        """True if the word alone nearly determines the group, for many of the group's rows and not by chance."""
        return self.interval[0] >= max(SURE, self.base) and self.coverage >= COMMON and self.z > Z95


@dataclass(frozen=True)
class Opening:
    """First words shared by many texts: number of rows, and the writer of most of them."""

    words: str
    rows: int
    share: float
    writer: str


@dataclass(frozen=True)
class ShortcutReport:
    """Findings of `shortcuts`. `shares` is label to writer to rows; `p_value` and `cramers_v` (0 to 1) measure whether
    writers made different labels; None if one writer or one label made everything."""

    rows: int
    labels: list[Shortcut] = field(default_factory=list)
    writers: list[Shortcut] = field(default_factory=list)
    shares: dict[str, dict[str, int]] = field(default_factory=dict)
    chi_square: float | None = None
    p_value: float | None = None
    cramers_v: float | None = None
    openings: list[Opening] = field(default_factory=list)


def shortcuts(rows: Sequence[AuditRow], *, top: int = 20) -> ShortcutReport:
    """The strongest words of labels and of writers, at most `top` of each, by z; and the writers' shares."""
    tokens = [_tokens(row.text) for row in rows]
    shares: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        shares[row.label][row.writer] += 1
    table = {label: dict(sorted(counts.items())) for label, counts in sorted(shares.items())}
    chi, p_value, v = _independence(table)
    return ShortcutReport(
        rows=len(rows),
        labels=telling(tokens, [row.label for row in rows], top=top),
        writers=telling(tokens, [row.writer for row in rows], top=top),
        shares=table,
        chi_square=chi,
        p_value=p_value,
        cramers_v=v,
        openings=_openings(rows, top),
    )


def telling(tokens: Sequence[set[str]], groups: Sequence[str], *, top: int) -> list[Shortcut]:
    """Tokens likelier in one group than in the rest, flagged first, then by z. None if there is one group."""
    sizes = Counter(groups)
    if len(sizes) < 2:
        return []
    overall: Counter[str] = Counter()
    within: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for held, group in zip(tokens, groups, strict=True):
        overall.update(held)
        within[group].update(held)
    common = {token for token, count in overall.items() if count >= LEAST_ROWS}
    total = sum(overall.values())
    found: list[Shortcut] = []
    for group, counts in within.items():
        mass = sum(counts.values())
        for token in common & counts.keys():
            z = _z(counts[token], mass, overall[token], total)
            if z > 0:
                found.append(_shortcut(token, group, counts[token], overall[token], sizes[group], len(groups), z))
    return sorted(found, key=lambda one: (not one.flagged, -one.z, one.token, one.group))[:top]


def _z(here: int, mass: int, everywhere: int, total: int) -> float:
    """z of the log-odds ratio, the prior being all rows' counts shrunk to the group's size."""
    prior = everywhere * mass / total
    there, rest = everywhere - here, total - mass
    ours = (here + prior) / (2 * mass - here - prior) if 2 * mass > here + prior else math.inf
    theirs = (there + prior) / (rest + mass - there - prior)
    if math.isinf(ours) or theirs <= 0:
        return 0.0
    return (math.log(ours) - math.log(theirs)) / math.sqrt(1 / (here + prior) + 1 / (there + prior))


def _shortcut(token: str, group: str, here: int, everywhere: int, size: int, rows: int, z: float) -> Shortcut:
    right = here + (rows - size - (everywhere - here))
    return Shortcut(
        token=token,
        group=group,
        rows=everywhere,
        precision=here / everywhere,
        interval=wilson(here, everywhere),
        accuracy=right / rows,
        coverage=here / size,
        base=size / rows,
        z=z,
        pmi=math.log2(here * rows / (everywhere * size)),
    )


def _tokens(text: str) -> set[str]:
    found = words(text)
    return {*found, *(f"{one} {two}" for one, two in itertools.pairwise(found))}


def _independence(table: dict[str, dict[str, int]]) -> tuple[float | None, float | None, float | None]:
    """Chi-square of labels against writers, its p-value, and Cramér's V."""
    writers = sorted({writer for counts in table.values() for writer in counts})
    if len(writers) < 2 or len(table) < 2:
        return None, None, None
    columns = {writer: sum(counts.get(writer, 0) for counts in table.values()) for writer in writers}
    total, chi = sum(columns.values()), 0.0
    for counts in table.values():
        size = sum(counts.values())
        for writer, column in columns.items():
            expected = size * column / total
            chi += (counts.get(writer, 0) - expected) ** 2 / expected
    freedom = (len(table) - 1) * (len(writers) - 1)
    return chi, chi_square_tail(chi, freedom), math.sqrt(chi / (total * (min(len(writers), len(table)) - 1)))


def chi_square_tail(chi: float, freedom: int) -> float:
    """The probability of a chi-square at least this large; `freedom` is a whole number from 1."""
    half = chi / 2
    if half <= 0:
        return 1.0
    odd = freedom % 2
    tail = math.erfc(math.sqrt(half)) if odd else 0.0
    for step in range(freedom // 2):
        order = step + odd / 2
        tail += math.exp(order * math.log(half) - half - math.lgamma(order + 1))
    return min(1.0, tail)


def _openings(rows: Sequence[AuditRow], top: int) -> list[Opening]:
    counted: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        first = words(row.text)[:OPENING_WORDS]
        if len(first) == OPENING_WORDS:
            counted[" ".join(first)][row.writer] += 1
    least = max(3, round(0.01 * len(rows)))
    common = [
        Opening(first, total, total / len(rows), writers.most_common(1)[0][0])
        for first, writers in counted.items()
        if (total := sum(writers.values())) >= least
    ]
    return sorted(common, key=lambda one: (-one.rows, one.words))[:top]


def run(material: Material, options: Value) -> ShortcutReport:
    """The audit of a version."""
    report = shortcuts(material.rows)
    if not (report.labels or report.writers):
        material.notes.append("shortcuts: one label and one writer, so there is nothing to tell apart")
    return report


def sections(report: ShortcutReport) -> list[Section]:
    """Words of labels and of writers, writers' shares, and openings."""
    facts = (
        Fact("labels against writers: chi-square", report.chi_square, "number", 1),
        Fact("p", None if report.p_value is None else f"{report.p_value:.3g}"),
        Fact("Cramér's V", report.cramers_v, "number", 2),
    )
    openings = Table(
        "openings", "stock openings",
        (Column("words", "first words"), Column("rows", "rows", "number"), Column("share", "share", "share"),
         Column("writer", "mostly by")),
        [asdict(one) for one in report.openings[:SHOWN]],
    )  # fmt: skip
    tables = (
        _words("labels", "words that predict a label", "label", report.labels),
        _words("writers", "words that predict a writer", "written by", report.writers),
        _shares(report),
        openings,
    )
    flagged = [one.token for one in (*report.labels, *report.writers) if one.flagged]
    text = f"check: {', '.join(flagged[:SHOWN])}" if flagged else "no word predicts a label or a writer"
    return [
        Section(
            "shortcuts", "Shortcuts", text, facts if report.p_value is not None else (),
            tuple(table for table in tables if table.rows), unusual=bool(flagged),
        )
    ]  # fmt: skip


def _words(name: str, title: str, group: str, found: Sequence[Shortcut]) -> Table:
    columns = (
        Column("mark", ""), Column("token", "word"), Column("group", group), Column("rows", "rows", "number"),
        Column("precision", "right", "share"), Column("span", "95%"), Column("coverage", "of its rows", "share"),
        Column("accuracy", "accuracy", "share"), Column("z", "z", "number", 1),
    )  # fmt: skip
    rows = [
        {**asdict(one), "mark": "!" if one.flagged else "", "span": f"{one.interval[0]:.0%}–{one.interval[1]:.0%}"}
        for one in found[:SHOWN]
    ]
    return Table(name, title, columns, rows)


def _shares(report: ShortcutReport) -> Table:
    writers = sorted({writer for counts in report.shares.values() for writer in counts})
    columns = (Column("label", "label"), *(Column(f"by {place}", writer) for place, writer in enumerate(writers)))
    rows = [
        {
            "label": label,
            **{
                f"by {place}": f"{counts.get(writer, 0)} ({counts.get(writer, 0) / sum(counts.values()):.0%})"
                for place, writer in enumerate(writers)
            },
        }
        for label, counts in report.shares.items()
    ]
    return Table("shares", "writers of each label", columns, rows)


def data(report: ShortcutReport) -> dict[str, Any]:
    """Plain values."""
    found = asdict(report)
    for name in ("labels", "writers"):
        found[name] = [{**asdict(one), "flagged": one.flagged} for one in getattr(report, name)]
    return found


def figure(report: ShortcutReport) -> Figure | None:
    """The strongest words of labels: precision of each one-word rule with its 95% interval."""
    if not report.labels:
        return None
    from matplotlib.figure import Figure

    shown = report.labels[:BARS][::-1]
    drawn = Figure(figsize=(8, 1 + 0.35 * len(shown)), layout="constrained")
    axes = drawn.add_subplot()
    places = range(len(shown))
    middle = [one.precision for one in shown]
    low = [one.precision - one.interval[0] for one in shown]
    high = [one.interval[1] - one.precision for one in shown]
    colours = ["tab:red" if one.flagged else "tab:blue" for one in shown]
    axes.barh(places, middle, color=colours, xerr=[low, high], ecolor="black", capsize=2)
    axes.set_yticks(places, [f"{plain(one.token)} → {plain(one.group)}" for one in shown], parse_math=False)
    axes.set_xlim(0, 1.02)
    axes.set_xlabel("share of rows with the word that have the label (red: flagged)")
    return drawn


KIND = Audit("words that predict a label or a writer", run, sections, data, figure=figure)
