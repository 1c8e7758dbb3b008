"""The report of a loop: accuracy against rows, calls and money, and the request of each round."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from graft.data.card import section_markdown
from graft.flows.improve_round import NOTHING
from graft.schemas.home import Home
from graft.schemas.sections import Column, Section, Table
from graft.schemas.steering import Improvement, RoundResult

DRIFT = 0.02
"""Accuracy gained on the steering rows and lost on the held-out file from which overfitting is reported."""


def write_report(improvement: Improvement, home: Home) -> tuple[str, list[Path]]:
    """The recommendation as text, and the report's files under `improve/<id>/`: report.md, figures.json, curve.png."""
    folder = home.improvement(improvement.id)
    folder.mkdir(parents=True, exist_ok=True)
    report = summary(improvement)
    files = [folder / "report.md", folder / "figures.json", folder / "curve.png"]
    files[0].write_text(section_markdown(report) + "\n", encoding="utf-8")
    files[1].write_bytes(orjson.dumps(improvement.model_dump(mode="json"), option=orjson.OPT_INDENT_2))
    curve(improvement, files[2])
    return "\n".join(report.notes), files


def summary(improvement: Improvement) -> Section:
    """A line for each round, then the comparison, a recommendation and the request of each round as notes."""
    several = len({one.seed for one in improvement.rounds}) > 1
    columns = (
        Column("name", "round"), Column("rows", "rows", "number"), Column("candidates", "candidates", "number"),
        Column("calls", "calls", "number"), Column("tokens", "tokens", "number"), Column("price_usd", "price", "money"),
        Column("steering", "steering", "share"), Column("loss", "loss", "figure"),
        Column("test", "test", "share"), Column("interval", "95% interval"),
    )  # fmt: skip
    rounds = Table("rounds", "", columns, [_line(one, several) for one in improvement.rounds])
    tested = f"tested on {improvement.test_file}, which no round saw; ended by {improvement.stopped_by}"
    notes = (*_verdict(improvement.rounds), *_unspent(improvement), *_asked(improvement.rounds))
    return Section("rounds", f"{improvement.dataset}: rows in rounds", tested, tables=(rounds,), notes=notes)


def best_round(rounds: Sequence[RoundResult]) -> RoundResult | None:
    """The round whose student has the lowest loss on the rows that steer; the test is not used.

    In the record of an earlier loop, which has no losses: the steered round with the highest accuracy there.
    """
    if kept := [one for one in rounds if one.kept]:
        return kept[-1]
    steered = [one for one in rounds if one.arm == "steered" and one.round]
    return max(steered, key=lambda one: (one.steering or 0.0, one.round), default=None)


def _line(one: RoundResult, several: bool) -> dict[str, Any]:
    name = "seeds alone" if one.round == 0 else f"round {one.round}" if one.arm == "steered" else "at once, unsteered"
    low_high = f"{100 * one.interval[0]:.1f}–{100 * one.interval[1]:.1f}" if len(one.interval) == 2 else None
    return {**one.model_dump(), "name": name + (f" (seed {one.seed})" if several else ""), "interval": low_high}


def _verdict(rounds: Sequence[RoundResult]) -> list[str]:
    lines, seeds = [], sorted({one.seed for one in rounds})
    finals, once, base = list[float](), list[float](), list[float]()
    for seed in seeds:
        own = [one for one in rounds if one.seed == seed]
        best = best_round(own)
        if best is None:
            continue
        finals.append(best.test)
        base += [one.test for one in own if one.round == 0]
        once += [one.test for one in own if one.arm == "unsteered"]
        version = f"{best.dataset}@{best.version}" if best.version else "the seeds alone"
        what = f"{version} and {best.student_id}"
        lines.append(f"keep {what}: best on the rows that steer, {best.test:.1%} on the test")
        lines += _overfit([one for one in own if one.arm == "steered"])
    if finals and base:
        lines.append(f"over the seeds alone: {_points(finals, base)}")
        if statistics.mean(finals) < statistics.mean(base):
            lines.append("these rows do not help: the student of the seeds alone is better on the held-out file")
    if finals and len(once) == len(finals):
        lines.append(f"over the same candidates at once, unsteered: {_points(finals, once)}")
        if len(finals) < 3:
            lines.append("with fewer than three seeds the difference may be chance: --seeds 3")
    return lines


def _unspent(improvement: Improvement) -> list[str]:
    """The reason of a loop that ended because nothing steers it, and what to do."""
    if NOTHING not in improvement.stopped_by:
        return []
    return [
        f"{NOTHING}, so nothing more was spent, on rounds or on a comparison. To go on, name harder labelled rows in "
        "improve.steer_on, or raise improve.enough"
    ]


def _points(ours: Sequence[float], theirs: Sequence[float]) -> str:
    gains = [100 * (one - other) for one, other in zip(ours, theirs, strict=True)]
    mean = statistics.mean(gains)
    spread = f" ({min(gains):+.1f} to {max(gains):+.1f} over {len(gains)} seeds)" if len(gains) > 1 else ""
    return f"{mean:+.1f} points{spread}"


def _overfit(steered: Sequence[RoundResult]) -> list[str]:
    """A warning if accuracy rose on the steering rows but fell on the held-out file."""
    judged = [one for one in steered if one.steering is not None]
    if len(judged) < 2 or judged[0].steering is None or judged[-1].steering is None:
        return []
    gained, lost = judged[-1].steering - judged[0].steering, judged[0].test - judged[-1].test
    if gained < DRIFT or lost < DRIFT:
        return []
    return [
        f"careful: since round {judged[0].round} the rows that steer gained {100 * gained:.1f} points and the test "
        f"lost {100 * lost:.1f}: the loop overfits what steers it"
    ]


def _asked(rounds: Sequence[RoundResult]) -> list[str]:
    lines = []
    for one in rounds:
        if one.arm == "steered" and one.round > 1 and one.seed == rounds[0].seed:
            counts = ", ".join(f"{label} {count}" for label, count in one.wanted.items())
            lines += [f"round {one.round} asked for {counts}", *one.said]
    return lines


def curve(improvement: Improvement, path: Path) -> None:
    """Plot accuracy on the held-out file against rows: a line for each seed, crosses for the unsteered arm."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for place, seed in enumerate(sorted({one.seed for one in improvement.rounds})):
        own = [one for one in improvement.rounds if one.seed == seed]
        colour = f"C{place % 10}"
        steered = [one for one in own if one.arm == "steered"]
        axes.plot(
            [one.rows for one in steered], [100 * one.test for one in steered], marker="o", color=colour,
            label=f"steered, seed {seed}",
        )  # fmt: skip
        once = [one for one in own if one.arm == "unsteered"]
        axes.plot(
            [one.rows for one in once], [100 * one.test for one in once], linestyle="", marker="x", markersize=9,
            color=colour, label=f"at once, seed {seed}" if once else "_",
        )  # fmt: skip
    axes.set_xlabel("synthetic rows")
    axes.set_ylabel("accuracy on the held-out file, %")
    axes.set_title(improvement.dataset, parse_math=False)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path)
