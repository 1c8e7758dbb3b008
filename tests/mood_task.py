"""A task of another distribution, which nothing of Graft names: a text with the mood that it is in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from graft.schemas.tasks.base import RUBRIC, Criterion, ImportedRows, Label, Task


class MoodTask(Task):
    """Texts by mood; those in an angry one are restricted."""

    kind: Literal["mood"] = "mood"
    moods: tuple[str, ...] = Field(min_length=2, description="the moods")
    speaker: str = "a guest"

    label_noun: ClassVar[str] = "mood"
    rubric: ClassVar[tuple[Criterion, ...]] = (
        *RUBRIC[:3],
        Criterion("sincerity", "whoever wrote it is really in the mood that it is meant to show.", (9, 4, 0)),
    )

    @property
    def categories(self) -> tuple[Label, ...]:
        """The moods."""
        return tuple(Label(name=name) for name in self.moods)

    @property
    def noun(self) -> str:
        """By whom."""
        return f"a remark of {self.speaker}"

    def restricts(self, label: str) -> bool:
        """Anger is nobody's business."""
        return label == "angry"

    def clause(self, name: str) -> str:
        """In the mood."""
        return f"is in a mood that one calls {name}"

    @classmethod
    def of_rows(cls, rows: ImportedRows) -> dict[str, Any]:
        """The moods that the rows have."""
        return {"moods": list(rows.labels)}


KIND = MoodTask


def install(folder: Path) -> Path:
    """Lay the distribution out as pip does; with the folder on the path it is installed."""
    (folder / "graft_mood.py").write_text(Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
    facts = folder / "graft_mood-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: graft-mood\nVersion: 1.0\n", encoding="utf-8")
    (facts / "entry_points.txt").write_text("[graft.tasks]\nmood = graft_mood\n", encoding="utf-8")
    return folder
