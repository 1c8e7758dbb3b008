"""`graft export`: write a version as files for a trainer, or push it to a hub."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand


class ExportCommand(TyperCommand):
    """The verb's help ends with all formats, plugins' included."""

    def get_help(self, ctx: Any) -> str:
        """Called by typer for --help."""
        from rich.markup import escape

        from graft.schemas.kinds import EXPORTS

        formats = "\n\n".join(f"{name}: {escape(one.summary)}" for name, one in EXPORTS.all().items())
        self.help = f"{inspect.cleandoc(export.__doc__ or '')}\n\nFormats:\n\n{formats}"
        return super().get_help(ctx)


def _names(text: str | None) -> list[str] | None:
    return [name.strip() for name in text.split(",") if name.strip()] if text else None


def export(
    ref: Annotated[str, typer.Argument(help="a dataset, or a version of it: demo, demo@2", metavar="REF")],
    format: Annotated[str, typer.Option("--format", "-f", help="a format listed above")] = "jsonl",
    out: Annotated[Path | None, typer.Option(help="folder; default GRAFT_HOME/exports/…")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace existing files")] = False,
    restricted: Annotated[bool, typer.Option("--restricted", help="include restricted rows; noted in card")] = False,
    splits: Annotated[str | None, typer.Option(help="splits to export, such as train,test")] = None,
    where: Annotated[str, typer.Option(help="SQL condition that rows must meet: \"length(text) > 20\"")] = "",
    columns: Annotated[str | None, typer.Option(help="columns to export, such as text,label")] = None,
    shards: Annotated[int | None, typer.Option(min=1, help="files for each split")] = None,
    shard_rows: Annotated[int | None, typer.Option(min=1, help="rows in each file")] = None,
    compression: Annotated[str | None, typer.Option(help="none, gzip or zstd")] = None,
    ask: Annotated[bool, typer.Option("--ask", help="chat formats: list the labels before the text")] = False,
    instruction: Annotated[str, typer.Option(help="chat formats: this text goes first", metavar="TEXT")] = "",
    plain: Annotated[bool, typer.Option("--plain", help="strings, not chat turns, for TRL's formats")] = False,
    push: Annotated[str | None, typer.Option(help="repository, with --format hf", metavar="NAMESPACE/NAME")] = None,
    private: Annotated[bool, typer.Option("--private", help="create the repository as private")] = False,
    json: Annotated[bool, typer.Option("--json", help="print JSON for programs")] = False,
) -> None:  # fmt: skip
    """Write a version as files for a trainer, with its card and a manifest of hashes, or push it to a hub.

    Example:  graft export demo --format messages --where "label <> 'other'" --out training-set

    docs/export.md describes each format and the conditions that --where accepts.
    """
    from graft.cli.show import as_json, console
    from graft.flows.export_dataset import export_version

    with console(stderr=True).status("reading") as status:

        def say(text: str) -> None:
            from rich.markup import escape

            status.update(escape(text))

        files = export_version(
            ref, format=format, out=out, overwrite=overwrite, restricted=restricted, splits=_names(splits), where=where,
            columns=_names(columns), shards=shards, shard_rows=shard_rows, compression=compression, ask=ask,
            instruction=instruction, plain=plain, push=push, private=private, say=say,
        )  # fmt: skip
    if json:
        as_json([str(file) for file in files])
        return
    for file in files:
        console().print(f"wrote {file}", markup=False, soft_wrap=True)
    if push:
        console().print(f"pushed to {push}", markup=False, soft_wrap=True)
