"""GRAFT_HOME (default: the nearest `.graft` from the working folder upwards), where runs write, and its contents."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from errno import EACCES, ENOTDIR
from pathlib import Path

from graft.schemas.base import SLUG_PATTERN, STUDENT_PATTERN
from graft.schemas.errors import NO_SPACE, GraftError, NotFound, StorageFull

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,199}")
"""One step of a path: no separator, not `.` and not `..`."""

SHARED_WORDS = "shared"
"""Folder beside the students' folders, with the word embeddings that they share."""

PACKAGE = Path(__file__).absolute().parents[1]
"""The folder of the package `graft`, which also holds recipes/ and prefect.yaml."""


def python_path(environment: Mapping[str, str] = os.environ) -> str:
    """PYTHONPATH for a child process, so that it imports the same Graft as this one."""
    return os.pathsep.join(filter(None, (str(PACKAGE.parent), environment.get("PYTHONPATH"))))


def _nearest(folder: Path) -> Path:
    """The nearest `.graft` from a folder upwards that is this user's; the folder's own where there is none."""
    for above in (folder, *folder.parents):
        found = above / ".graft"
        try:
            if found.is_dir() and (above == folder or _own(found)):
                return found
        except OSError:  # a folder that may not be read
            continue
    return folder / ".graft"


def _own(folder: Path) -> bool:
    return not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()


@dataclass(frozen=True)
class Home:
    """The folder of everything that Graft writes.

    Args:
        root: the folder
        main: the home whose journal, models, charges and students this one uses; None: its own
    """

    root: Path
    main: Path | None = None

    @classmethod
    def find(cls, *, create: bool = True) -> Home:
        """GRAFT_HOME if it is set, else the nearest `.graft` of the working folder and those above it.

        Without one it is `.graft` in the working folder. A folder above counts only if it belongs to the same user:
        anybody may make `/tmp/.graft`.

        Args:
            create: make the folder if it is absent; verbs that only read leave it absent

        Raises GraftError if it is not a folder and cannot be created, StorageFull if the disk is full.
        """
        named = os.environ.get("GRAFT_HOME") or str(_nearest(Path.cwd()))
        fix = "set GRAFT_HOME to a writable folder"
        try:
            root = Path(named).expanduser().resolve()
            if create or root.exists():
                root.mkdir(parents=True, exist_ok=True)
            elif not (there := next(one for one in root.parents if one.exists())).is_dir():
                raise NotADirectoryError(ENOTDIR, os.strerror(ENOTDIR), str(there))
            elif not os.access(there, os.W_OK):
                raise PermissionError(EACCES, os.strerror(EACCES), str(there))
        except (FileExistsError, NotADirectoryError) as error:
            raise GraftError("GRAFT_HOME is a file, or is under a file", where=named, fix=fix) from error
        except (OSError, RuntimeError) as error:
            kind = StorageFull if isinstance(error, OSError) and error.errno in NO_SPACE else GraftError
            raise kind(f"GRAFT_HOME cannot be created: {error}", where=named, fix=fix) from error
        return cls(root)

    @property
    def why(self) -> str:
        """Why this home is in use, in words."""
        if os.environ.get("GRAFT_HOME"):
            return "GRAFT_HOME names it"
        if self.root.parent == Path.cwd().resolve():
            return "the .graft of the working folder" if self.root.is_dir() else "the first run creates it here"
        return "the nearest .graft above the working folder"

    @property
    def lake(self) -> Path:
        """The lake's folder: catalogue.sqlite, files/ and the commit lock."""
        return self.root / "lake"

    @property
    def journal(self) -> Path:
        """The SQLite journal of model calls."""
        return (self.main or self.root) / "journal.sqlite"

    @property
    def runs(self) -> Path:
        """One folder for each run: lock, log, report."""
        return self.root / "runs"

    @property
    def students(self) -> Path:
        """One folder for each student: weights, confusion matrix, card."""
        return (self.main or self.root) / "students"

    @property
    def shared_words(self) -> Path:
        """Word embeddings that several students share."""
        return self.students.joinpath(SHARED_WORDS)

    @property
    def recipes(self) -> Path:
        """Recipes that were written on pages, with their files."""
        return self.root / "recipes"

    def recipe(self, name: str) -> Path:
        """The file of a recipe that was written on a page. Raises NotFound if the name is not valid."""
        return self._named(self.recipes, name, "recipe", re.compile(SLUG_PATTERN)).with_name(f"{name}.yaml")

    def recipe_file(self, name: str) -> Path:
        """A file that recipes of pages read. Raises NotFound if the name is not valid."""
        return self._named(self.recipes / "files", name, "file", _NAME)

    @property
    def exports(self) -> Path:
        """The default folder of `graft export`."""
        return self.root / "exports"

    def run(self, run_id: str) -> Path:
        """A run's folder. Raises NotFound if the id is not valid: a name from a command, page or lake is no path."""
        return self._named(self.runs, run_id, "run", _NAME)

    def student(self, student_id: str) -> Path:
        """A student's folder. Raises NotFound if the id is not valid, such as `st_x/../../elsewhere`."""
        return self._named(self.students, student_id, "student", re.compile(STUDENT_PATTERN))

    def export(self, name: str) -> Path:
        """The folder or file of an export. Raises NotFound if the name is not valid."""
        return self._named(self.exports, name, "export", _NAME)

    def improvement(self, name: str) -> Path:
        """The folder of a loop's report. Raises NotFound if the id is not valid."""
        return self._named(self.root / "improve", name, "improvement", _NAME)

    @property
    def verdicts(self) -> Path:
        """The folder of the verdicts of `graft teacher`."""
        return self.root / "teacher"

    def _named(self, folder: Path, name: str, noun: str, pattern: re.Pattern[str]) -> Path:
        if not pattern.fullmatch(name):
            raise NotFound(
                f"no {noun} {name[:80]!r}: this is not a valid id", where=str(folder), fix=f"use a {noun} id"
            )
        return folder / name

    @property
    def models(self) -> Path:
        """Assembled model files, and the servers' lock and state."""
        return (self.main or self.root) / "models"

    @property
    def vectors(self) -> Path:
        """Cached embeddings of versions; may be deleted."""
        return self.root / "vectors"

    @property
    def documents(self) -> Path:
        """Cached texts of PDF and office files; may be deleted."""
        return (self.main or self.root) / "documents"

    @property
    def prefect(self) -> Path:
        """Prefect's database, results and logs."""
        return self.root / "prefect"
