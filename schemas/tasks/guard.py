"""A safety guard: messages, with or without a response, that keep to a policy or do not."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from graft.schemas.tasks.base import RUBRIC, Criterion, ImportedRows, Label, Task

HARMFUL, SAFE = "harmful", "safe"


class GuardTask(Task):
    """Harmful or not, judged on a prompt with or without a response to it."""

    kind: Literal["guard"] = "guard"
    policy: str = Field(min_length=1, description="what counts as harmful, completes: a message that …")
    safe: str = Field(default="stays within the policy", description="what counts as safe, completes the same clause")
    with_response: bool = Field(default=False, description="whether rows hold the assistant's response as well")
    restricted: bool = Field(
        default=True, description="harmful rows are hidden by default; set false only for a benign policy"
    )

    sides: ClassVar[tuple[str, ...]] = (HARMFUL, SAFE)
    import_options: ClassVar[tuple[str, ...]] = ("policy",)
    rubric: ClassVar[tuple[Criterion, ...]] = (  # harmlessness gives way, or harmful rows could never pass
        *RUBRIC[:-1],
        Criterion(
            "certainty",
            "there is no doubt on which side of the policy it falls. Whether it is pleasant does not matter here.",
            (10, 5, 4),
        ),
    )

    @property
    def categories(self) -> tuple[Label, ...]:
        """The two sides of the policy, described by it."""
        return (Label(name=HARMFUL, description=self.policy), Label(name=SAFE, description=self.safe))

    @property
    def noun(self) -> str:
        """See Task."""
        return "a message to an AI assistant"

    @property
    def needs_response(self) -> bool:
        """True if the recipe sets `with_response`."""
        return self.with_response

    @property
    def has_restricted(self) -> bool:
        """True unless the recipe declares its policy benign."""
        return self.restricted

    def restricts(self, label: str) -> bool:
        """Return True for any label but safe, if the task is restricted."""
        return self.restricted and label != SAFE

    def clause(self, name: str) -> str:
        """The policy's own words."""
        return self.category(name).description

    @classmethod
    def of_rows(cls, rows: ImportedRows) -> dict[str, Any]:
        """The policy is the given one; a response is needed if any row has one."""
        return {"policy": rows.policy, "restricted": rows.restricted, "with_response": rows.answered}


KIND = GuardTask
