"""The flow that exports a version as files for a trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import WithJsonSchema

from graft.data.export import export as export_files
from graft.data.export.push import check_push, push_folder
from graft.data.lake import Lake
from graft.data.versions import version
from graft.flows.engine import Flow
from graft.schemas.home import Home
from graft.schemas.kinds import EXPORTS

FormatName = Annotated[str, WithJsonSchema({"type": "string", "description": f"one of {', '.join(EXPORTS.names)}"})]
"""A format's name; Prefect's form lists the formats that are installed where the deployment was made."""


@Flow
def export_dataset(ref: str, format: FormatName = "parquet", out: str | None = None) -> list[str]:
    """Export a version (`name` or `name@3`), one file for each split, replacing an earlier export.

    Restricted rows are left out; only `graft export REF --restricted` includes them.
    """
    return [str(path) for path in export_version(ref, format=format, out=out, overwrite=True)]


def export_version(
    ref: str, *, format: str, out: str | Path | None, overwrite: bool = False, restricted: bool = False,
    splits: Sequence[str] | None = None, where: str = "", columns: Sequence[str] | None = None,
    shards: int | None = None, shard_rows: int | None = None, compression: str | None = None, ask: bool = False,
    plain: bool = False, instruction: str = "", push: str | None = None, private: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> list[Path]:  # fmt: skip
    """Export without Prefect. `out` is a folder, by default GRAFT_HOME/exports/<name>-<version>-<format>.

    With restricted rows the default folder's name ends in `-restricted`, so that neither export replaces the other.
    `push` is a repository at a hub, NAMESPACE/NAME: the complete files are pushed there.
    The other arguments, and the errors, are those of data.export.export and data.export.push.push_folder.
    """
    if push:
        check_push(push, format, restricted=restricted, private=private)
    home = Home.find()
    with Lake.open(home, read_only=True) as lake:
        found = version(lake, ref)
        name = f"{found.dataset}-{found.version}-{format}" + ("-restricted" if restricted else "")
        folder = Path(out).expanduser() if out else home.export(name)
        files = export_files(
            lake, found.ref, format=format, out=folder, overwrite=overwrite, include_restricted=restricted,
            splits=splits, where=where, columns=columns, shards=shards, shard_rows=shard_rows,
            compression=compression, ask=ask, plain=plain, instruction=instruction, say=say,
        )  # fmt: skip
    if push:
        push_folder(folder, push, private=private, restricted=restricted, say=say)
    return files
