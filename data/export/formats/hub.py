"""Hugging Face's layout: Parquet shards under data/, a README with a YAML header, and Croissant metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from graft.data.export.formats.base import Columns, Format, Params, Source, Written

LICENCES = frozenset((
    "apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-3.0", "cc-by-sa-4.0", "cc-by-sa-3.0", "cc-by-nc-4.0",
    "odbl", "odc-by", "pddl", "bsd-3-clause", "unlicense", "gemma", "llama3", "llama3.1", "openrail",
))  # fmt: skip
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
         (10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"))  # fmt: skip
CROISSANT = "http://mlcommons.org/croissant/1.0"
CONTEXT = {
    "@language": "en", "@vocab": "https://schema.org/", "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/", "dct": "http://purl.org/dc/terms/", "citeAs": "cr:citeAs",
    "column": "cr:column", "conformsTo": "dct:conformsTo", "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"}, "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract", "field": "cr:field", "fileObject": "cr:fileObject", "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet", "format": "cr:format", "includes": "cr:includes", "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath", "key": "cr:key", "md5": "cr:md5", "parentField": "cr:parentField", "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet", "references": "cr:references", "regex": "cr:regex", "repeated": "cr:repeated",
    "replace": "cr:replace", "samplingRate": "cr:samplingRate", "separator": "cr:separator", "source": "cr:source",
    "subField": "cr:subField", "transform": "cr:transform",
}  # fmt: skip
"""The JSON-LD context required by Croissant 1.0."""


def _select(source: Source, params: Params) -> Columns:
    """The columns as in the lake, except that a label is its index in the sorted names."""
    columns = {name: source.column(name, params) for name in source.columns}
    if "label" in columns:
        columns["label"] = f"(list_position({params.add(source.labels)}::VARCHAR[], label) - 1)::BIGINT"
    return columns


def _path(split: str, shard: int, shards: int, suffix: str) -> str:
    return f"data/{split}-{shard:05}-of-{shards:05}.{suffix}"


def licence_of(source: Source) -> str:
    """Return the common licence of seeds and models in the hub's spelling, or `other` if they differ or are unknown."""
    named = {_spelt(name) for name in (source.licence, *source.found.models.values()) if name}
    return named.pop() if len(named) == 1 and named <= LICENCES else "other"


def _spelt(licence: str) -> str:
    word = re.sub(r"[\s_]+", "-", licence.strip().lower())
    return "gemma" if word.startswith("gemma") else word


def _features(source: Source) -> list[dict[str, Any]]:
    """The features of the columns, in the form of the `datasets` library."""
    kinds: dict[str, Any] = {"restricted": "bool"}
    names = {str(place): label for place, label in enumerate(source.labels)}
    classes = {"name": "label", "dtype": {"class_label": {"names": names}}}
    return [classes if name == "label" else {"name": name, "dtype": kinds.get(name, "string")}
            for name in source.columns]  # fmt: skip


def _splits(files: Sequence[Written]) -> dict[str, list[Written]]:
    return {split: list(group) for split, group in groupby(files, key=lambda file: file.split)}


def _head(source: Source, files: Sequence[Written], folder: Path) -> str:
    """The YAML header of the hub's README, including its lines of dashes."""
    import pyarrow.parquet as pq
    import yaml

    def memory(path: str) -> int:
        meta = pq.read_metadata(folder / path)
        return sum(meta.row_group(place).total_byte_size for place in range(meta.num_row_groups))

    rows, parts = sum(file.rows or 0 for file in files), _splits(files)
    splits: list[dict[str, Any]] = [
        {"name": split, "num_bytes": sum(memory(one.path) for one in group),
         "num_examples": sum(one.rows or 0 for one in group)}
        for split, group in parts.items()
    ]  # fmt: skip
    paths = [{"split": split, "path": f"data/{split}-*"} for split in parts]
    licence = licence_of(source)
    info = {
        "features": _features(source), "splits": splits, "download_size": sum(file.bytes for file in files),
        "dataset_size": sum(int(split["num_bytes"]) for split in splits),
    }  # fmt: skip
    head: dict[str, Any] = {
        "pretty_name": source.found.dataset,
        "license": licence,
        **({"license_name": "see-the-card"} if licence == "other" else {}),
        "language": [source.language],
        "size_categories": [next((name for below, name in SIZES if rows < below), "100M<n<1B")],
        "task_categories": [source.task.hub_category],
        "tags": ["synthetic"],
        "configs": [{"config_name": "default", "data_files": paths}],
        "dataset_info": info,
    }
    return f"---\n{yaml.safe_dump(head, allow_unicode=True, sort_keys=False)}---\n"


def _croissant(source: Source, files: Sequence[Written], folder: Path) -> Mapping[str, str]:
    """Croissant metadata: each file with its hash, and a record set for each split.

    The file sets have no container: readers look for their files beside croissant.json, and would unpack a container.
    """
    found, licence = source.found, licence_of(source)
    objects = [
        {"@type": "cr:FileObject", "@id": file.path, "name": Path(file.path).name, "contentUrl": file.path,
         "encodingFormat": "application/x-parquet", "sha256": file.sha256, "contentSize": f"{file.bytes} B"}
        for file in files
    ]  # fmt: skip
    sets = [
        {"@type": "cr:FileSet", "@id": f"{split}-files", "name": f"{split}-files",
         "encodingFormat": "application/x-parquet", "includes": f"data/{split}-*.parquet"}
        for split in _splits(files)
    ]  # fmt: skip
    described = {
        "@context": CONTEXT, "@type": "sc:Dataset", "conformsTo": CROISSANT, "name": found.dataset,
        "description": f"A synthetic dataset for {source.task.kind}; README.md describes it.",
        "version": f"{found.version}.0.0", "datePublished": f"{found.created_at:%Y-%m-%d}", "url": ".",
        "license": source.licence or licence, "inLanguage": source.language, "distribution": [*objects, *sets],
        "recordSet": [_record_set(source, split) for split in _splits(files)],
    }  # fmt: skip
    return {"croissant.json": json.dumps(described, indent=2, ensure_ascii=False) + "\n"}


def _record_set(source: Source, split: str) -> dict[str, Any]:
    kinds = {"restricted": "sc:Boolean", "label": "sc:Integer"}
    fields = [
        {"@type": "cr:Field", "@id": f"{split}/{name}", "name": name, "dataType": kinds.get(name, "sc:Text"),
         "source": {"fileSet": {"@id": f"{split}-files"}, "extract": {"column": name}}}
        for name in source.columns
    ]  # fmt: skip
    return {"@type": "cr:RecordSet", "@id": split, "name": split, "field": fields}


KINDS = (
    Format("hf", "Hugging Face's layout: Parquet shards, README with a YAML header, Croissant; --push",
           "parquet", _select, path=_path, beside=_croissant, head=_head, choosable=True, skips_empty=True,
           pushable=True),
)  # fmt: skip
