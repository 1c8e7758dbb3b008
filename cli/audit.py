"""The verb that audits a version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from graft.data.audit import Curve, Poisoning, Shortcut, ShortcutReport

SHOWN = 10


def audit(
    ref: Annotated[str, typer.Argument(help="a dataset, or a version of it: demo, demo@2", metavar="VERSION")],
    shortcuts: Annotated[bool, typer.Option("--shortcuts", help="words that give a label or a writer away")] = False,
    poison: Annotated[bool, typer.Option("--poison", help="what a few planted rows would do")] = False,
    hacking: Annotated[bool, typer.Option("--hacking", help="rounds that please the judges, not the truth")] = False,
    share: Annotated[float, typer.Option(min=0.0001, max=0.5, help="share of train rows that is planted")] = 0.0025,
    repeats: Annotated[int, typer.Option(min=1, max=50, help="plantings of each form, with other rows")] = 3,
    target: Annotated[str | None, typer.Option(help="label that planted rows aim at; default the first")] = None,
    student: Annotated[bool, typer.Option("--student", help="fine-tune real students (minutes)")] = False,
    out: Annotated[Path | None, typer.Option(help="folder of the pictures; default GRAFT_HOME/reports")] = None,
    restricted: Annotated[bool, typer.Option("--restricted", help="with restricted rows")] = False,
    json: Annotated[bool, typer.Option("--json", help="print JSON for programs")] = False,
) -> None:
    """Audit a version: shortcut words, planted bias, teacher hacking. All three unless one is named.

    Example:  graft audit demo --shortcuts
    """
    from graft.cli.run import quiet_console
    from graft.cli.show import as_json, console
    from graft.data.lake import Lake
    from graft.flows.audit import Wanted
    from graft.flows.audit import audit as audit_version
    from graft.schemas.home import Home

    quiet_console()
    every = not (shortcuts or poison or hacking)
    wanted = Wanted(
        shortcuts=shortcuts or every, poison=poison or every, hacking=hacking or every, share=share, repeats=repeats,
        target=target, student=student, restricted=restricted,
    )  # fmt: skip
    with Lake.open(Home.find(), read_only=True) as lake:
        found = audit_version(lake, ref, wanted, out=out)
    if json:
        as_json(found.as_dict())
        return
    if found.shortcuts:
        _print_shortcuts(found.shortcuts)
    if found.poison:
        _print_poison(found.poison)
    for curve in found.hacking or ():
        _print_curve(curve)
    for note in found.notes:
        console().print(note, markup=False)
    for picture in found.pictures:
        console().print(f"wrote {picture}", markup=False, soft_wrap=True)


def _print_shortcuts(report: ShortcutReport) -> None:
    from graft.cli.show import console, table

    _print_words("words that give a label away", "label", report.labels)
    _print_words("words that give a writer away", "written by", report.writers)
    writers = sorted({writer for counts in report.shares.values() for writer in counts})
    shares = [
        [
            label,
            *(f"{counts.get(writer, 0)} ({counts.get(writer, 0) / sum(counts.values()):.0%})" for writer in writers),
        ]
        for label, counts in report.shares.items()
    ]
    table("who wrote each label", ["label", *writers], shares, right=tuple(writers))
    if report.p_value is not None and report.cramers_v is not None:
        told = f"labels against writers: chi-square {report.chi_square:.1f}, p {report.p_value:.3g}, "
        console().print(told + f"Cramér's V {report.cramers_v:.2f}", markup=False)
    if report.openings:
        rows = [[one.words, one.rows, f"{one.share:.1%}", one.writer] for one in report.openings[:SHOWN]]
        table("stock openings", ["first words", "rows", "share", "mostly by"], rows, right=("rows", "share"))


def _print_words(title: str, group: str, found: list[Shortcut]) -> None:
    from graft.cli.show import table

    rows = [
        ["!" if one.flagged else "", one.token, one.group, one.rows, f"{one.precision:.0%}",
         f"{one.interval[0]:.0%}–{one.interval[1]:.0%}", f"{one.coverage:.0%}", f"{one.accuracy:.0%}", f"{one.z:.1f}"]
        for one in found[:SHOWN]
    ]  # fmt: skip
    numbers = ("rows", "right", "95%", "of its rows", "accuracy", "z")
    if rows:
        table(title, ["", "word", group, *numbers], rows, right=numbers)


def _print_poison(report: Poisoning) -> None:
    from graft.cli.show import console, table

    rows = [
        [one.form, f"{one.gates:.0%}" if report.gates_checked else None, f"{one.label_check:.0%}",
         f"{one.clean_rate:.1%}", f"{one.rate:.1%} ± {one.spread:.1%}", f"{one.added / report.share:+.1f}x"]
        for one in report.forms
    ]  # fmt: skip
    title = f"planted: {report.planted} of {report.train_rows} train rows ({report.share:.2%}) made {report.target}"
    numbers = ("gates", "label check", "clean", "poisoned", "amplified")
    table(title, ["form", *numbers], rows, right=numbers)
    lines = (
        "gates, label check: planted rows that they catch",
        f"clean, poisoned: {report.held_out} held-out texts of other labels, marked, that the student calls "
        f"{report.target}; {report.repeats} repeats",
        "amplified: what the poison added, over its share of the train rows",
        f"the label check suspects {report.false_alarms:.1%} of the clean rows",
    )
    for line in lines:
        console().print(line, markup=False)


def _print_curve(curve: Curve) -> None:
    from graft.cli.show import console, table

    def share(value: float | None) -> str | None:
        return None if value is None else f"{value:.1%}"

    rows = [
        ["!" if point.hacked else "", point.round, point.rows, None if point.score is None else f"{point.score:.2f}",
         share(point.agreement), share(point.golden), share(point.diversity)]
        for point in curve.points
    ]  # fmt: skip
    numbers = ("round", "rows", "judges' score", "agreed", "golden", "distinct-2")
    table(f"{curve.name}: {curve.golden or 'no golden figure'}", ["", *numbers], rows, right=numbers)
    console().print(curve.verdict, markup=False)
