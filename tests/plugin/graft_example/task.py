"""A task: remarks, each in one of several moods. Angry remarks are restricted."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from graft.schemas.tasks.base import RUBRIC, Criterion, ImportedRows, Label, Task


class MoodTask(Task):
    """Its fields are those of the block `task` in a recipe."""

    kind: Literal["mood"] = "mood"
    moods: tuple[str, ...] = Field(min_length=2, description="the moods to tell apart")
    speaker: str = "a guest"

    label_noun: ClassVar[str] = "mood"
    rubric: ClassVar[tuple[Criterion, ...]] = (
        *RUBRIC[:3],
        Criterion("sincerity", "the writer is really in the mood that the text is meant to show.", (9, 4, 0)),
    )

    @property
    def categories(self) -> tuple[Label, ...]:
        """The labels."""
        return tuple(Label(name=name) for name in self.moods)

    @property
    def noun(self) -> str:
        """A text, in prompts."""
        return f"a remark of {self.speaker}"

    def clause(self, name: str) -> str:
        """Completes "a text which" in prompts."""
        return f"is in the mood {name}"

    def restricts(self, label: str) -> bool:
        """Return True if rows with this label are hidden by default."""
        return label == "angry"

    @classmethod
    def of_rows(cls, rows: ImportedRows) -> dict[str, Any]:
        """The fields for imported rows."""
        return {"moods": list(rows.labels)}


KIND = MoodTask
