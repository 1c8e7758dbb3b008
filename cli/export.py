"""The verb that takes a version out: files for a trainer, or a push to a hub."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand


class ExportCommand(TyperCommand):
    """The verb's help ends with the formats that there are, a plugin's too."""

    def get_help(self, ctx: Any) -> str:
        """Called by typer for --help."""
        from rich.markup import escape

        from graft.schemas.kinds import EXPORTS

        formats = "\n\n".join(f"{name}: {escape(one.says)}" for name, one in EXPORTS.all().items())
        self.help = f"{inspect.cleandoc(export.__doc__ or '')}\n\nFormats:\n\n{formats}"
        return super().get_help(ctx)


def _said(text: str | None) -> list[str] | None:
    return [name.strip() for name in text.split(",") if name.strip()] if text else None


def export(
    ref: Annotated[str, typer.Argument(help="a dataset, or a version of it: demo, demo@2", metavar="REF")],
    format: Annotated[str, typer.Option("--format", "-f", help="one of the formats listed above")] = "jsonl",
    out: Annotated[Path | None, typer.Option(help="folder; default GRAFT_HOME/exports/…")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace files that are there")] = False,
    restricted: Annotated[bool, typer.Option("--restricted", help="with restricted rows; noted in the card")] = False,
    splits: Annotated[str | None, typer.Option(help="only these, such as train,test")] = None,
    where: Annotated[str, typer.Option(help="only rows for which it holds: \"length(text) > 20\"")] = "",
    columns: Annotated[str | None, typer.Option(help="only these, such as text,label")] = None,
    shards: Annotated[int | None, typer.Option(min=1, help="files a split")] = None,
    shard_rows: Annotated[int | None, typer.Option(min=1, help="rows a file")] = None,
    compression: Annotated[str | None, typer.Option(help="none, gzip or zstd")] = None,
    ask: Annotated[bool, typer.Option("--ask", help="chat shapes: ask for one of the labels before the text")] = False,
    instruction: Annotated[str, typer.Option(help="chat shapes: these words before the text", metavar="TEXT")] = "",
    plain: Annotated[bool, typer.Option("--plain", help="strings in place of chat turns, for TRL's shapes")] = False,
    push: Annotated[str | None, typer.Option(help="send to a hub, with --format hf", metavar="NAMESPACE/NAME")] = None,
    private: Annotated[bool, typer.Option("--private", help="into a private repository")] = False,
    json: Annotated[bool, typer.Option("--json", help="print JSON for programs")] = False,
) -> None:  # fmt: skip
    """Write a version as files for a trainer, with its card and a manifest of hashes; or push it to a hub.

    Example:  graft export demo --format messages --where "label <> 'other'" --out training-set

    What the formats hold, and what --where may say: docs/export.md
    """
    from graft.cli.show import as_json, console
    from graft.flows.export_dataset import export_version

    with console(stderr=True).status("reading") as status:

        def say(text: str) -> None:
            from rich.markup import escape

            status.update(escape(text))

        files = export_version(
            ref, format=format, out=out, overwrite=overwrite, restricted=restricted, splits=_said(splits), where=where,
            columns=_said(columns), shards=shards, shard_rows=shard_rows, compression=compression, ask=ask,
            instruction=instruction, plain=plain, push=push, private=private, say=say,
        )  # fmt: skip
    if json:
        as_json([str(file) for file in files])
        return
    for file in files:
        console().print(f"wrote {file}", markup=False, soft_wrap=True)
    if push:
        console().print(f"pushed to {push}", markup=False, soft_wrap=True)
