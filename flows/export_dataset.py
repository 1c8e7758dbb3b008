"""The flow that exports a version as files for a trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from prefect import flow

from data.export import export as export_files
from data.lake import Lake
from data.versions import version
from schemas.home import Home


@flow(name="export_dataset")
def export_dataset(ref: str, format: Literal["parquet", "jsonl"] = "parquet", out: str | None = None) -> list[str]:
    """Export a version (`name` or `name@3`), one file a split, over what an earlier export left there.

    Restricted rows stay out: for those a person asks by hand, `graft export REF --restricted`.
    """
    return [str(path) for path in export_version(ref, format=format, out=out, overwrite=True)]


def export_version(
    ref: str, *, format: str, out: str | Path | None, overwrite: bool = False, restricted: bool = False
) -> list[Path]:
    """The same without Prefect. `out` is a folder, by default GRAFT_HOME/exports/<name>-<version>-<format>.

    With restricted rows the default folder's name ends in `-restricted`, so that neither export replaces the other.
    """
    home = Home.find()
    with Lake.open(home, read_only=True) as lake:
        found = version(lake, ref)
        name = f"{found.dataset}-{found.version}-{format}" + ("-restricted" if restricted else "")
        folder = Path(out) if out else home.exports / name
        return export_files(
            lake, found.ref, format=format, out=folder, overwrite=overwrite, include_restricted=restricted
        )
