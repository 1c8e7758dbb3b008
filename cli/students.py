"""Verbs of students: train, improve, students, compare."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graft.cli.options import JsonFlag

if TYPE_CHECKING:
    from graft.data.lake import Lake
    from graft.data.scores.pairs import Paired

SHORT = 10
"""Characters shown of an id: enough to select it."""
LINE_S = 5.0
"""Seconds between two lines of progress where there is no terminal."""


def train(
    ref: Annotated[str, typer.Argument(help="a dataset, or a version of it: demo, demo@2")],
    test: Annotated[str | None, typer.Option(help="held-out file (CSV, JSONL, Parquet); else the recipe's own")] = None,
    encoder: Annotated[str | None, typer.Option(help="built-in name, folder or Hugging Face id")] = None,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    teacher: Annotated[
        int | None, typer.Option(min=0, metavar="ROWS", help="test rows that the recipe's labelers label too; 0: none")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Train a student on a version and a baseline on its seeds only, and evaluate both.

    A version of instructions trains an instruction student, compared with its base model.

    Example:  graft train demo --test recipes/data/demo_test.jsonl
    """
    from graft.cli.run import at_work
    from graft.cli.show import as_json, console

    given = {"encoder": encoder, "epochs": epochs, "seed": seed, "teacher_rows": teacher}
    overrides = {name: value for name, value in given.items() if value is not None}
    with at_work("run the same command: it trains again"):
        from graft.flows.train_student import train_student

        with shown_training():
            report = train_student(ref, test=test, overrides=overrides)
    if json:
        as_json(report)
    else:
        console().print(report["text"], markup=False, soft_wrap=True)  # a table: its lines are not wrapped


@contextmanager
def shown_training() -> Iterator[None]:
    """Show epoch and time left on standard error while the block trains: a bar on a terminal, lines elsewhere."""
    import sys

    from graft.cli.show import console
    from graft.students.progress import Step, watched

    if sys.stderr.isatty():
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn())
        with Progress(*columns, console=console(stderr=True), transient=True) as bar:
            task = bar.add_task("loading the version and the encoder", total=None)

            def move(one: Step) -> None:
                bar.update(task, description=one.line, completed=one.step, total=one.steps)

            with watched(move):
                yield
        return
    due = [0.0]

    def write(one: Step) -> None:
        if time.monotonic() >= due[0]:
            due[0] = time.monotonic() + LINE_S
            sys.stderr.write(one.line + "\n")
            sys.stderr.flush()

    with watched(write):
        yield


def students(
    dataset: Annotated[str | None, typer.Argument(help="only students of this dataset", metavar="[DATASET]")] = None,
    json: JsonFlag = False,
) -> None:
    """Show the leaderboard by dataset and test, best student first, then students with other kinds of evaluation.

    over seeds, over teacher: accuracy beyond that of the seeds-only student and of the best teacher. F1:
    macro-F1. ECE: calibration error. --json has whole ids, training rows, seconds and dates.

    Example:  graft students demo
    """
    from graft.cli.show import as_json, console, print_table
    from graft.data.lake import Lake
    from graft.data.scores import BRIEF, board_tables, leaderboard
    from graft.schemas.home import Home
    from graft.students.kinds.base import tables_of_kinds

    with Lake.look(Home.find(create=False)) as lake:
        found, others = leaderboard(lake, dataset), tables_of_kinds(lake, dataset)
        if dataset is not None and not found and not others:
            raise _unjudged(lake, dataset)
    if json:
        as_json([one.model_dump(mode="json") for one in found])
        return
    if not found and not others:
        console().print("no students yet. Train one:  graft train DATASET")
    for board in board_tables(found):
        rows = [{**row, "student_id": row["student_id"][:SHORT]} for row in board.rows]
        columns = tuple(one for one in board.columns if one.key in BRIEF)
        print_table(replace(board, rows=rows, columns=columns), tight=True)
    for other in others:
        print_table(other, tight=True)


def paired(a: str, b: str, test: str | None) -> Paired:
    """Student b against a on the rows of one held-out file that both were evaluated on. Raises NotFound."""
    from graft.data.lake import Lake
    from graft.data.scores import compare, find_student, shared_tests
    from graft.schemas.home import Home

    home = Home.find(create=False)
    with Lake.look(home) as lake:
        first, second = find_student(lake, a), find_student(lake, b)
        shared = shared_tests(lake, first.id, second.id)
        named = test and next((key for key, file in shared if key.startswith(test) or file.endswith(test)), test)
        return compare(home, lake, first, second, named or None)


def compare(
    a: Annotated[str, typer.Argument(help="a student's id, or its first letters", metavar="A")],
    b: Annotated[str, typer.Argument(help="id or prefix of the other student", metavar="B")],
    test: Annotated[
        str | None, typer.Option(help="held-out file (or its hash) that both were evaluated on; default: the largest")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Test whether student B is better than A on the same rows: McNemar's test and a paired bootstrap.

    Example:  graft compare st_04c1 st_9be2
    """
    from graft.cli.show import as_json, console, table

    found = paired(a, b, test)
    if json:
        as_json(found.model_dump(mode="json"))
        return
    rows = [["A right", found.both, found.only_a], ["A wrong", found.only_b, found.neither]]
    table(f"{found.test_file}: {found.rows:,} rows", ["", "B right", "B wrong"], rows, right=("B right", "B wrong"))
    for name, student, accuracy in zip("AB", (found.a, found.b), found.accuracies, strict=True):
        console().print(f"{name}: {student}, {accuracy:.1%}", markup=False)
    low, high = (f"{100 * end:+.1f}" for end in found.interval)
    line = f"B minus A: {100 * found.difference:+.1f} points, 95% interval {low} to {high}; p = {found.p_value:.4f}"
    console().print(line, markup=False)
    console().print(found.verdict, markup=False, soft_wrap=True)


def _unjudged(lake: Lake, dataset: str) -> Exception:
    """The error for a dataset without an evaluated classifier."""
    from graft.data.versions import versions
    from graft.schemas.errors import NotFound

    students = lake.students()
    train = f"graft train {dataset if versions(lake, dataset) else 'DATASET'}"
    if any(one.dataset == dataset for one in students):
        return NotFound(f"no student of {dataset} was evaluated", where=dataset, fix=train)
    names = ", ".join(sorted({one.dataset for one in students}))
    fix = train + (f"; there are students of {names}" if names else "")
    return NotFound(f"no student of {dataset!r}", where=str(lake.home.main or lake.home.root), fix=fix)


def improve(
    recipe: Annotated[str, typer.Argument(help="file or name of a recipe")],
    rounds: Annotated[
        int | None, typer.Option(min=1, help="maximum number of rounds; overrides improve.rounds")
    ] = None,
    rows_per_round: Annotated[
        int | None, typer.Option(min=1, help="accepted rows of each round, over all labels")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="number of loops with different random seeds, to measure the spread")
    ] = None,
    test: Annotated[str | None, typer.Option(help="held-out file, never used for steering")] = None,
    steer_on: Annotated[
        str | None, typer.Option(help="labelled file used for steering; default: validation rows")
    ] = None,
    compare: Annotated[
        bool | None, typer.Option("--compare/--no-compare", help="also spend the same candidates at once, unsteered")
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(help="policy that steers by the last student's errors; default: none"),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Make rows in rounds, until that stops helping; a policy steers them by the errors of the last student.

    Example:  graft improve demo --rounds 3 --rows-per-round 60 --policy hard_negatives
    """
    from graft.cli.run import at_work, live
    from graft.cli.show import as_json, console, print_section

    given: dict[str, Any] = {
        "rounds": rounds, "rows_per_round": rows_per_round, "seeds": seeds, "test": test, "steer_on": steer_on,
        "compare": compare, "policies": policy or None,
    }  # fmt: skip
    with at_work("finished rounds are kept: run the same command to continue"), live(quiet=json):
        from graft.flows import stopping
        from graft.flows.improve import improve as flow
        from graft.flows.improve_report import summary
        from graft.schemas.steering import Improvement

        report = stopping.run(flow(recipe, **given))
    if json:
        as_json(report)
        return
    print_section(summary(Improvement.model_validate({name: report[name] for name in Improvement.model_fields})))
    for file in report["files"]:
        console().print(file, markup=False, soft_wrap=True)
