"""Hugging Face datasets on disk: a repository's folder with its README's YAML header, or `save_to_disk` output."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

from graft.data.intake.limits import Allowance, weight
from graft.data.intake.parts import Part, Source, invalid, split_of
from graft.data.intake.tables import arrow_part
from graft.schemas.datasets import SplitName

DATA = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".arrow")
FACTS = ("dataset_info.json", "dataset_dict.json", "dataset_infos.json", "state.json", "package.json")
MAX_FACTS = 20_000_000
"""Maximum bytes of a description file."""
Open = Callable[[Path], list[Part]]


def folder_parts(folder: Path, source: Source, config: str | None, open_file: Open) -> list[Part]:
    """Return the parts of a folder; `open_file` opens each data file. Raises InputInvalid if the folder has none."""
    if (folder / "dataset_dict.json").is_file():
        splits = _json(folder / "dataset_dict.json").get("splits")
        names = [name for name in splits if isinstance(name, str)] if isinstance(splits, list) else []
        return [part for name in names for part in _saved(folder, folder / name, split_of(name))]
    if (folder / "state.json").is_file():
        return _saved(folder, folder, None)
    head = _front_matter(folder)
    source.licence = source.licence or str(head.get("license") or "")
    info, files = _chosen(folder, head, config)
    parts = []
    for path, split in files or _found(folder):
        for part in open_file(path):
            part.split = part.split or split
            part.names = {**part.names, **info}
            parts.append(part)
    if not parts:
        fix = f"it should contain files such as train.csv or data/train-0.parquet ({', '.join(DATA)})"
        raise invalid(str(folder), "the folder contains no data file", fix)
    return parts


def _json(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes() if path.stat().st_size <= MAX_FACTS else b""
        Allowance.of(path).charge(weight(data))
        found = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise invalid(str(path), f"is not valid JSON: {error.msg}", "save the dataset again") from error
    return found if isinstance(found, dict) else {}


def _inside(folder: Path, path: Path) -> Path:
    """Return the path if it lies in the folder; its name comes from an untrusted file."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise invalid(
            str(folder), f"refers to a file outside of itself: {path}", "remove that entry from its description"
        )
    return path


def _saved(root: Path, folder: Path, split: SplitName | None) -> list[Part]:
    names = _json(_inside(root, folder / "state.json")).get("_data_files") or []
    paths = [_inside(root, folder / str(each.get("filename", ""))) for each in names if isinstance(each, dict)]
    parts = [arrow_part(path) for path in paths]
    for part in parts:
        part.split = split
    if not parts:
        raise invalid(str(folder), "state.json lists no data file", "save the dataset again")
    return parts


def _front_matter(folder: Path) -> dict[str, Any]:
    import yaml

    from graft.schemas.plain_yaml import plain

    readme = folder / "README.md"
    if not readme.is_file():
        return {}
    with readme.open(encoding="utf-8-sig", errors="replace") as file:
        text = file.read(MAX_FACTS)
    found = re.match(r"\A---\r?\n(.*?)\r?\n---\s*(?:\n|$)", text, re.DOTALL)
    try:
        head = plain(found[1]) if found else {}
    except yaml.YAMLError as error:
        raise invalid(
            str(readme), f"its header is not valid YAML: {str(error)[:120]}", "correct or remove it"
        ) from error
    return head if isinstance(head, dict) else {}


def _chosen(
    folder: Path, head: dict[str, Any], config: str | None
) -> tuple[dict[str, list[str]], list[tuple[Path, SplitName | None]]]:
    """Class names and files of the requested configuration, else of the default or only configuration."""
    configs = {str(each.get("config_name", "default")): each for each in _dicts(head.get("configs"))}
    infos = {str(each.get("config_name", "default")): each for each in _dicts(head.get("dataset_info"))}
    known = list(configs or infos)
    marked = [name for name, each in configs.items() if each.get("default") is True]
    name = config or (marked[0] if marked else "default" if "default" in known or not known else "")
    if not name and len(known) == 1:
        name = known[0]
    if known and name not in known:
        what = f"no configuration {config!r}" if config else "has several configurations and no default"
        raise invalid(str(folder), what, f"--config NAME, one of: {', '.join(known)}")
    info = infos.get(name) or (next(iter(infos.values())) if len(infos) == 1 else {})
    return _names(info), list(_listed(folder, configs.get(name, {}).get("data_files")))


def _dicts(value: Any) -> list[dict[str, Any]]:
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, dict)]


def _names(info: dict[str, Any]) -> dict[str, list[str]]:
    """Class names by column, from the features in a README."""
    found = {}
    for feature in _dicts(info.get("features")):
        kind = feature.get("dtype")
        names = kind["class_label"].get("names") if isinstance(kind, dict) and "class_label" in kind else None
        if isinstance(names, dict):
            names = [names[key] for key in sorted(names, key=lambda key: int(key))]
        if isinstance(names, list):
            found[str(feature.get("name"))] = [str(name) for name in names]
    return found


def _listed(folder: Path, given: Any) -> Iterator[tuple[Path, SplitName | None]]:
    """The files in `data_files`, which holds patterns, a mapping of splits to patterns, or a list of both."""
    if not given:
        return
    entries = [given] if isinstance(given, str | dict) else list(given)
    for entry in entries:
        if isinstance(entry, dict) and "path" not in entry:
            pairs = [(str(split), paths) for split, paths in entry.items()]
        elif isinstance(entry, dict):
            pairs = [(str(entry.get("split", "")), entry["path"])]
        else:
            pairs = [("", entry)]
        for split, patterns in pairs:
            for pattern in [patterns] if isinstance(patterns, str) else list(patterns):
                yield from _globbed(folder, str(pattern), split)


def _globbed(folder: Path, pattern: str, split: str) -> Iterator[tuple[Path, SplitName | None]]:
    if pattern.startswith("/") or ".." in Path(pattern).parts:
        raise invalid(str(folder), f"its description refers to files outside of it: {pattern!r}", "correct README.md")
    paths = sorted(path for path in folder.glob(pattern) if path.is_file())
    if not paths:
        raise invalid(str(folder), f"no file matches {pattern!r}, which README.md lists", "download the whole dataset")
    for path in paths:
        yield _inside(folder, path), split_of(split) or split_in(path, folder)


def _found(folder: Path) -> list[tuple[Path, SplitName | None]]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    data = [p for p in paths if p.name.lower().removesuffix(".gz").endswith(DATA) and p.name not in FACTS]
    shown = [path for path in data if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    return [(_inside(folder, path), split_in(path, folder)) for path in shown]


def split_in(path: Path, folder: Path) -> SplitName | None:
    """The split named in a file's name, or else in the name of a parent folder."""
    names = path.relative_to(folder).parts
    for name in reversed(names):
        for word in re.split(r"[^a-zA-Z]+", name):
            if split := split_of(word):
                return split
    return None
