"""Disk usage of a home by part, and the files that no version, student, review or running process needs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from graft.schemas.base import Value
from graft.schemas.errors import AlreadyRunning
from graft.schemas.home import Home

if TYPE_CHECKING:
    from filelock import FileLock

DAY_S = 86_400.0
STALE_S = DAY_S
"""Age from which an unfinished file has no writer: a long training writes its checkpoint more often."""
ENDED_S = 7 * DAY_S
"""Age from which ended work of a page is no longer listed."""
OLD_S = 30 * DAY_S
"""Age from which logs and unused caches are old."""
PARTS = {
    "lake": "rows, reviews and versions; graft maintain merges its files",
    "journal": "model calls, so that none is paid twice; graft journal",
    "models": "joined and downloaded weights",
    "students": "trained students and their predictions",
    "exports": "written by graft export and export-student; delete what you have copied",
    "runs": "logs and reports of runs",
    "prefect": "Prefect's database and logs",
    "vectors": "cached embeddings",
    "documents": "cached texts of documents",
    "work": "what pages started",
    "recipes": "recipes written on pages, with their files",
}
"""Parts of a home in words, as tables show them."""


class PartUse(Value):
    """The bytes of one part of a home. A file with several names (hard links) counts once."""

    part: str
    bytes: int
    about: str


class Freeable(Value):
    """A file or folder that may go. `asked` is the option that it waits for; empty: `--yes` deletes it."""

    part: str
    path: str
    bytes: int
    why: str
    asked: str = ""


class Cleaned(Value):
    """What `clean` found, and the bytes that it freed: 0 on a dry run."""

    found: tuple[Freeable, ...]
    freed: int
    dry_run: bool


def usage(home: Home) -> list[PartUse]:
    """Bytes by part, largest first. Models that are a link to another folder are not counted."""
    seen, parts = set[tuple[int, int]](), dict[str, int]()
    for entry in sorted(home.root.iterdir()) if home.root.is_dir() else ():
        name = "journal" if entry.name.startswith(("journal.sqlite", "charges.sqlite")) else entry.name
        part = name if name in PARTS else "other"
        if not entry.is_symlink():
            parts[part] = parts.get(part, 0) + _size(entry, seen)
    found = [PartUse(part=part, bytes=size, about=PARTS.get(part, "")) for part, size in parts.items() if size]
    return sorted(found, key=lambda one: -one.bytes)


def freeable(home: Home) -> list[Freeable]:
    """Everything that may go, largest first."""
    found = [
        *_trainings(home),
        *_shared(home),
        *_works(home),
        *_logs(home),
        *_caches(home),
        *_exports(home),
        *_models(home),
    ]
    return sorted(found, key=lambda one: -one.bytes)


def clean(home: Home, *, yes: bool = False, models: bool = False) -> Cleaned:
    """List what may go; with `yes` delete it, with `models` also joined models that no recipe of the home names.

    Raises AlreadyRunning if another cleaning or a run is at work. A running training has no file that is old enough.
    """
    if not yes or not home.root.is_dir():
        return Cleaned(found=tuple(freeable(home)), freed=0, dry_run=True)
    from filelock import FileLock, Timeout

    lock = FileLock(home.root / "clean.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise AlreadyRunning("graft clean is already running in this home", fix="wait for it") from None
    held = list[FileLock]()
    try:
        held = _stopped_runs(home)
        found = tuple(freeable(home))
        freed = 0
        for one in found:
            if not one.asked or models:
                freed += one.bytes if _deleted(home, Path(one.path)) else 0
        return Cleaned(found=found, freed=freed, dry_run=False)
    finally:
        for run in held:
            run.release()
        lock.release()


def _stopped_runs(home: Home) -> list[FileLock]:
    """Every run's lock, so that none starts meanwhile. Raises AlreadyRunning if one is running."""
    from filelock import FileLock, Timeout

    held = list[FileLock]()
    for file in sorted(home.runs.glob("*/lock")):
        lock = FileLock(file)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            for other in held:
                other.release()
            raise AlreadyRunning(
                f"run {file.parent.name} is running", where=str(home.root), fix="clean once it has ended"
            ) from None
        held.append(lock)
    return held


def _trainings(home: Home) -> Iterator[Freeable]:
    """Checkpoints and halves of trainings that nobody continued."""
    for folder in _entries(home.students):
        if folder.suffix in (".partial", ".old") and _idle(folder) > STALE_S:
            why = (
                "checkpoint of a training that was not continued" if folder.suffix == ".partial" else "replaced student"
            )
            yield _free("students", folder, why)


def _shared(home: Home) -> Iterator[Freeable]:
    """Word embeddings of students that are gone."""
    for file in _entries(home.shared_words):
        if file.stat().st_nlink == 1 and _idle(file) > STALE_S:
            yield _free("students", file, "shared word embeddings that no student uses")


def _works(home: Home) -> Iterator[Freeable]:
    from graft.flows.background import progress
    from graft.schemas.errors import NotFound

    for folder in _entries(home.root / "work"):
        try:
            found = progress(home, folder.name)
        except (NotFound, OSError):
            continue
        if found.state != "running" and _idle(folder) > ENDED_S:
            yield _free("work", folder, f"ended {found.work.verb} that a page started")


def _logs(home: Home) -> Iterator[Freeable]:
    for file in (*home.runs.glob("*/log.jsonl*"), *home.prefect.glob("logs/*.log")):
        if _idle(file) > OLD_S:
            yield _free("prefect" if file.is_relative_to(home.prefect) else "runs", file, "log older than 30 days")


def _caches(home: Home) -> Iterator[Freeable]:
    for part, folder in (("vectors", home.vectors), ("documents", home.documents)):
        for file in _entries(folder):
            if _idle(file) > OLD_S:
                yield _free(part, file, "cache older than 30 days; it is made again when needed")


def _exports(home: Home) -> Iterator[Freeable]:
    for folder in _entries(home.exports):
        if folder.name.startswith(".") and folder.suffix in (".part", ".old") and _idle(folder) > STALE_S:
            yield _free("exports", folder, "unfinished export")


def _models(home: Home) -> Iterator[Freeable]:
    """Unfinished joins, and joined built-in models that no recipe of the home's runs names."""
    from graft.agents.local.files import BUILT_IN

    if home.models.is_symlink() or not home.models.is_dir():
        return
    for file in home.models.glob("*.part"):
        if _idle(file) > STALE_S:
            yield _free("models", file, "unfinished join")
    named = _models_named(home)
    for name, built_in in BUILT_IN.items():
        file = home.models / built_in.filename
        if built_in.parts and file.is_file() and name not in named:
            yield _free(
                "models", file, "no recipe of this home names it; it is joined again from its wheels", "--models"
            )


def _models_named(home: Home) -> set[str]:
    """Models of the recipes of the home's runs."""
    from graft.data.lake import Lake

    with Lake.look(home, threads=1) as lake:
        return {
            str(model.get("model", "")) for run in lake.runs() for model in run.recipe.get("models", ())
            if isinstance(model, dict)
        }  # fmt: skip


def _free(part: str, path: Path, why: str, asked: str = "") -> Freeable:
    return Freeable(part=part, path=str(path), bytes=_size(path, set()), why=why, asked=asked)


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def _idle(path: Path) -> float:
    """Seconds since anything in it changed."""
    times = [path.lstat().st_mtime, *(one.lstat().st_mtime for one in path.rglob("*"))] if path.is_dir() else [
        path.lstat().st_mtime
    ]  # fmt: skip
    return time.time() - max(times)


def _size(path: Path, seen: set[tuple[int, int]]) -> int:
    """Bytes on disk, each file once; links lead nowhere."""
    total = 0
    for file in (path, *path.rglob("*")) if path.is_dir() else (path,):
        try:
            facts = file.lstat()
        except FileNotFoundError:  # deleted meanwhile
            continue
        if file.is_symlink() or not file.is_file() or (facts.st_dev, facts.st_ino) in seen:
            continue
        seen.add((facts.st_dev, facts.st_ino))
        total += facts.st_size
    return total


def _deleted(home: Home, path: Path) -> bool:
    """Delete a file or folder under the home; False if it could not be."""
    if path.is_symlink() or not path.resolve().is_relative_to(home.root.resolve()):
        return False
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    return not path.exists()
