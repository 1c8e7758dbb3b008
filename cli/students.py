"""The verb that trains."""

from __future__ import annotations

from typing import Annotated

import typer


def train(
    ref: Annotated[str, typer.Argument(help="a dataset, or a version of it: demo, demo@2")],
    test: Annotated[str | None, typer.Option(help="held-out file (CSV, JSONL, Parquet); else the recipe's own")] = None,
    encoder: Annotated[str | None, typer.Option(help="built-in name, folder or Hugging Face id")] = None,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    teacher: Annotated[
        int | None, typer.Option(min=0, metavar="ROWS", help="test rows that the recipe's labelers answer too; 0: none")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON for programs")] = False,
) -> None:
    """Train a student on a version, and a baseline on its seeds only, and evaluate both.

    A version of instructions trains an instruction student, judged beside the model that it started as.

    Example:  graft train demo --test recipes/data/demo_test.jsonl
    """
    from cli.run import quiet_console
    from cli.show import as_json, console
    from flows.settings import apply_prefect_environment
    from schemas.home import Home

    quiet_console()
    apply_prefect_environment(Home.find())
    from flows.train_student import train_student

    given = {"encoder": encoder, "epochs": epochs, "seed": seed, "teacher_rows": teacher}
    overrides = {name: value for name, value in given.items() if value is not None}
    if not json:
        console().print("[dim]starting Prefect, then training[/dim]")
    report = train_student(ref, test=test, overrides=overrides)
    if json:
        as_json(report)
    else:
        console().print(report["text"], markup=False, soft_wrap=True)  # a table: its lines stay whole
