"""A task: remarks, each in one of several tones. Remarks in a rude tone are restricted."""

from typing import ClassVar, Literal

from pydantic import Field

from graft.schemas.tasks.base import Label, Task


class ToneTask(Task):
    """Its fields are those of the block `task` in a recipe."""

    kind: Literal["tone"] = "tone"
    tones: tuple[str, ...] = Field(min_length=2, description="the tones to tell apart")
    label_noun: ClassVar[str] = "tone"

    @property
    def categories(self) -> tuple[Label, ...]:
        """The labels."""
        return tuple(Label(name=name) for name in self.tones)

    def clause(self, name: str) -> str:
        """Completes "a text which" in prompts."""
        return f"is written in a {name} tone"

    def restricts(self, label: str) -> bool:
        """Return True if rows with this label are hidden by default."""
        return label == "rude"


KIND = ToneTask
