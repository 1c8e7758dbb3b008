"""Finds a source (a file, a pattern of files, a folder, or an address) and its parts."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from graft.data.intake.excel import excel_parts
from graft.data.intake.hub import folder_parts, split_in
from graft.data.intake.parts import Part, Source, invalid
from graft.data.intake.plain import csv_part, json_parts, jsonl_part
from graft.data.intake.tables import arrow_part, is_remote, parquet_part, remote_part, shown

KINDS = {
    ".csv": "CSV", ".tsv": "TSV", ".txt": "CSV", ".jsonl": "JSONL", ".ndjson": "JSONL", ".json": "JSON",
    ".parquet": "Parquet", ".arrow": "Arrow", ".xlsx": "Excel",
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """Reading options that the source does not determine itself."""

    encoding: str | None = None
    delimiter: str | None = None
    header: bool = True
    sheet: str | None = None
    config: str | None = None


def find(given: str, options: Options = Options()) -> Source:
    """Return the source at a path, pattern or address.

    Raises InputInvalid if it does not exist or has no known format.
    """
    if is_remote(given):
        return Source(shown(given), "address", [remote_part(given)])
    path = Path(given).expanduser()
    source = Source(str(path), "", [])
    if path.is_dir():
        source.format = "folder"
        source.parts = folder_parts(path, source, options.config, lambda file: _open(file, source, options))
        source.files = sorted({part.file.partition("#")[0] if "#" in part.file else part.file for part in source.parts})
        source.files = [file for file in source.files if Path(file).is_file()]
        return source
    if path.is_file():
        source.format, files = KINDS.get(_suffix(path), ""), [path]
    else:
        files = sorted(Path(file) for file in glob.glob(str(path), recursive=True) if Path(file).is_file())  # noqa: PTH207
        source.format = "files"
    if not files:
        raise invalid(given, "there is no such file or folder", "correct the path; quote a pattern")
    source.files = [str(file) for file in files]
    for file in files:
        for part in _open(file, source, options):
            part.split = part.split or (split_in(file, file.parent) if len(files) > 1 else None)
            source.parts.append(part)
    return source


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _open(path: Path, source: Source, options: Options) -> list[Part]:
    kind = KINDS.get(_suffix(path))
    if kind in ("CSV", "TSV"):
        return [csv_part(
            path, source, encoding=options.encoding, delimiter=options.delimiter, header=options.header
        )]  # fmt: skip
    if kind == "JSONL":
        return [jsonl_part(path, source, encoding=options.encoding)]
    if kind == "JSON":
        return json_parts(path, source, encoding=options.encoding)
    if kind == "Parquet":
        return [parquet_part(path)]
    if kind == "Arrow":
        return [arrow_part(path)]
    if kind == "Excel":
        return excel_parts(path, options.sheet)
    raise invalid(str(path), f"cannot read {path.suffix!r} files", f"use one of: {', '.join(KINDS)}")


def sha256(files: Iterable[str]) -> str:
    """Return the hash of the bytes of all files, in the given order; "" if there are no files."""
    digest, some = hashlib.sha256(), False
    for name in files:
        some = True
        with Path(name).open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest() if some else ""
