"""Where a run writes: GRAFT_HOME (default `.graft` in the working folder) and what lies in it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import NO_SPACE, GraftError, StorageFull


@dataclass(frozen=True)
class Home:
    """The folder that holds everything that Graft writes."""

    root: Path

    @classmethod
    def find(cls) -> Home:
        """GRAFT_HOME if it is set, else `.graft` under the working folder. Made if absent.

        Raises GraftError where it is not a folder and cannot be made, StorageFull where the disk is full.
        """
        named = os.environ.get("GRAFT_HOME") or ".graft"
        fix = "set GRAFT_HOME to a folder that you may write to"
        try:
            root = Path(named).expanduser().resolve()
            root.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise GraftError("GRAFT_HOME is a file, or lies under one", where=named, fix=fix) from error
        except (OSError, RuntimeError) as error:
            kind = StorageFull if isinstance(error, OSError) and error.errno in NO_SPACE else GraftError
            raise kind(f"GRAFT_HOME cannot be made: {error}", where=named, fix=fix) from error
        return cls(root)

    @property
    def lake(self) -> Path:
        """The lake's folder: catalogue.sqlite, files/ and the commit lock."""
        return self.root / "lake"

    @property
    def journal(self) -> Path:
        """The SQLite journal of model calls."""
        return self.root / "journal.sqlite"

    @property
    def runs(self) -> Path:
        """One folder a run: lock, log, report."""
        return self.root / "runs"

    @property
    def students(self) -> Path:
        """One folder a student: weights, confusion matrix, card."""
        return self.root / "students"

    @property
    def exports(self) -> Path:
        """Where `graft export` writes by default."""
        return self.root / "exports"

    @property
    def models(self) -> Path:
        """Assembled model files and the servers' lock and state."""
        return self.root / "models"

    @property
    def vectors(self) -> Path:
        """Embeddings of versions, made once; may be deleted."""
        return self.root / "vectors"

    @property
    def prefect(self) -> Path:
        """Prefect's database, results and logs."""
        return self.root / "prefect"
