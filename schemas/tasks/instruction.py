"""Instruction following: instructions with a response each, spread over domains (GRA section 1.1, its own unit)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from graft.schemas.tasks.base import DomainTask, Label

GRA_DOMAINS = (
    Label(name="coding", description="writing, reading, fixing or explaining programs"),
    Label(name="math", description="calculation, proof, statistics and quantitative problems"),
    Label(name="qa", description="questions of fact with a definite answer"),
    Label(name="reasoning", description="drawing conclusions step by step from what is given"),
    Label(name="role play", description="answering in the voice of a person or a profession"),
    Label(name="language", description="grammar, translation, summary and rewriting"),
    Label(name="creation", description="stories, poems, slogans and other new texts"),
)


class InstructionTask(DomainTask):
    """Instruction and response pairs over domains: GRA's own unit."""

    kind: Literal["instruction"] = "instruction"
    domains: tuple[Label, ...] = Field(default=GRA_DOMAINS, min_length=1)

    free_form: ClassVar[bool] = True
    student: ClassVar[str] = "instruct"
    hub_category: ClassVar[str] = "text-generation"
    needed_column: ClassVar[str] = "response"
    guessed_from: ClassVar[str] = "response"

    @property
    def noun(self) -> str:
        """See Task."""
        return "an instruction to an assistant"


KIND = InstructionTask
