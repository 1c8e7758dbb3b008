"""`graft import`: import an existing dataset as a version of the lake."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from graft.flows.import_dataset import Imported, ImportPlan


def bring_in(
    source: Annotated[str, typer.Argument(help="file, quoted pattern, folder or URL", metavar="SOURCE")],
    name: Annotated[str, typer.Option("--name", "-n", help="dataset name, such as shop-intents")],
    map: Annotated[list[str] | None, typer.Option("--map", help="text=COLUMN,label=COLUMN,…")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show how the source would be read; write nothing")
    ] = False,
    task: Annotated[str | None, typer.Option(help="task kind, such as classification; default: detected")] = None,
    policy: Annotated[str, typer.Option(help="guard tasks: the policy that defines harmful")] = "",
    splits: Annotated[str, typer.Option(help="train/validation/test shares, such as 0.8/0.1/0.1")] = "",
    seed: Annotated[int, typer.Option(min=0, help="random seed of assigned splits")] = 42,
    licence: Annotated[str, typer.Option(help="licence of the data, such as CC-BY-4.0")] = "",
    language: Annotated[str, typer.Option(help="ISO 639 code of the texts")] = "en",
    sheet: Annotated[str | None, typer.Option(help="sheet of an Excel file")] = None,
    config: Annotated[str | None, typer.Option(help="configuration of a Hugging Face folder")] = None,
    encoding: Annotated[str | None, typer.Option(help="encoding of text files; default: detected")] = None,
    delimiter: Annotated[str | None, typer.Option(help="CSV delimiter; default: detected")] = None,
    header: Annotated[bool, typer.Option(help="whether the first line of a CSV file holds column names")] = True,
    max_chars: Annotated[int, typer.Option(min=1, help="maximum text length, in characters")] = 100_000,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="skip and count bad rows")] = False,
    restricted: Annotated[bool, typer.Option("--restricted", help="mark every row as restricted")] = False,
    json: Annotated[bool, typer.Option("--json", help="print JSON for programs")] = False,
) -> None:
    """Import an existing dataset as a version: CSV, JSONL, JSON, Parquet, Excel or a Hugging Face folder.

    Example:  graft import intents.csv --name shop-intents --map text=utterance,label=intent --licence CC-BY-4.0
    """
    from graft.data.intake.sources import Options
    from graft.flows import import_dataset as flow
    from graft.schemas.errors import InputInvalid, Problem
    from graft.schemas.kinds import TASKS

    if task is not None and task not in TASKS.names:
        raise InputInvalid([Problem("--task", None, "", f"no task {task!r}", f"one of: {', '.join(TASKS.names)}")])
    if delimiter is not None and len(delimiter := delimiter.replace("\\t", "\t")) != 1:
        raise InputInvalid([Problem("--delimiter", None, "", "is not one character", "such as ';'")])
    ask = flow.Ask(
        map=map or [], task=task, policy=policy, licence=licence,
        splits=flow.parse_splits(splits), seed=seed, max_chars=max_chars, skip_bad=skip_bad, restricted=restricted,
        language=language, options=Options(encoding, delimiter, header, sheet, config),
    )  # fmt: skip
    planned = flow.plan(source, ask)
    if not json:
        _show_plan(planned)
    if dry_run:
        if json:
            _json(_plan_dict(planned))
        return
    made = flow.bring_in(source, name, ask, planned=planned)
    if json:
        fields = {"version": made.version.model_dump(mode="json", exclude={"card"}), "new": made.new}
        _json({**_plan_dict(planned), **fields, "counts": made.counts, "notices": list(made.notices)})
    else:
        _show_made(made)


def _plan_dict(planned: ImportPlan) -> dict[str, Any]:
    return {
        "source": planned.source.name, "task": planned.task.named(), "columns": planned.mapped.by_role(),
        "unread": list(planned.unread), "preview": list(planned.preview), "notices": list(planned.notices),
    }  # fmt: skip


def _json(value: dict[str, Any]) -> None:
    from graft.cli.show import as_json

    as_json(value)


def _show_plan(planned: ImportPlan) -> None:
    from graft.cli.show import console, table

    by_role = planned.mapped.by_role()
    table(
        f"column mapping, as {planned.task.named()}",
        ["role", "column"],
        [[role, name] for role, name in by_role.items()],
    )
    heads = list(planned.preview[0]) if planned.preview else []
    if heads:
        table("first rows", heads, [[row[name] for name in heads] for row in planned.preview])
    for notice in planned.notices:
        console().print(f"note: {notice}", markup=False)
    console().print("to change the mapping:  --map text=COLUMN,label=COLUMN", markup=False)


def _show_made(made: Imported) -> None:
    from graft.cli.show import console

    for notice in made.notices[len(made.plan.notices) :]:
        console().print(f"note: {notice}", markup=False)
    found = made.version
    splits = ", ".join(f"{name} {count:,}" for name, count in found.splits.items())
    state = "published" if made.new else "nothing new: the same rows are"
    console().print(f"{state} {found.ref}: {found.rows:,} rows ({splits}), {len(found.labels)} labels", markup=False)
