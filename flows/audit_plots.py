"""Pictures of audits. Words that a model wrote are drawn as plain text, never as formulas."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from graft.data.audit import Curve, ShortcutReport

BARS = 15


def shortcuts_figure(report: ShortcutReport) -> Figure:
    """The strongest words of labels: precision of each one-word rule with its 95% interval."""
    shown = report.labels[:BARS][::-1]
    figure = Figure(figsize=(8, 1 + 0.35 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(shown))
    middle = [one.precision for one in shown]
    low = [one.precision - one.interval[0] for one in shown]
    high = [one.interval[1] - one.precision for one in shown]
    colours = ["tab:red" if one.flagged else "tab:blue" for one in shown]
    axes.barh(places, middle, color=colours, xerr=[low, high], ecolor="black", capsize=2)
    axes.set_yticks(places, [f"{_plain(one.token)} → {_plain(one.group)}" for one in shown], parse_math=False)
    axes.set_xlim(0, 1.02)
    axes.set_xlabel("share of rows with the word that have the label (red: flagged)")
    return figure


def hacking_figure(curves: Sequence[Curve]) -> Figure:
    """Proxy, golden figure and diversity over rounds, one panel a curve; flagged rounds in red."""
    shown = [curve for curve in curves if curve.points]
    figure = Figure(figsize=(7, 3.2 * len(shown)), layout="constrained")
    for number, curve in enumerate(shown, start=1):
        axes = figure.add_subplot(len(shown), 1, number)
        rounds = [point.round for point in curve.points]
        scored = any(point.score is not None for point in curve.points)
        lines = {
            "judges (score / 10)" if scored else "judges (agreement)": [
                None if point.proxy is None else point.proxy / (10 if point.score is not None else 1)
                for point in curve.points
            ],
            curve.golden or "no golden figure": [point.golden for point in curve.points],
            "distinct-2": [point.diversity for point in curve.points],
        }
        for name, values in lines.items():
            drawn = [float("nan") if value is None else value for value in values]
            axes.plot(rounds, drawn, marker="o", label=_plain(name))
        for point in curve.hacked:
            axes.axvspan(point.round - 0.3, point.round + 0.3, color="tab:red", alpha=0.2)
        axes.set_ylim(0, 1.02)
        axes.set_xticks(rounds)
        axes.set_title(_plain(curve.name), fontsize=9, parse_math=False)
        axes.legend(fontsize=7)
    return figure


def _plain(text: str) -> str:
    """Text without dollar signs, which start a formula, and without what cannot be drawn; 40 characters at most."""
    return "".join(letter for letter in text if letter.isprintable()).replace("$", "S")[:40]
