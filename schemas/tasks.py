"""What a dataset is for: text classification, instruction following, or a safety guard."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from graft.schemas.base import Value

LabelName = Annotated[str, Field(min_length=1, max_length=100)]


class Label(Value):
    """One class: its name as the student will predict it, and what it means in a clause."""

    name: LabelName
    description: str = Field(default="", max_length=1_000, description="completes: a text which is about …")


def _reject_repeats(labels: tuple[Label, ...]) -> tuple[Label, ...]:
    seen: dict[str, str] = {}
    for label in labels:
        folded = label.name.strip().casefold()
        if folded in seen:
            raise ValueError(f"label {label.name!r} occurs twice (as {seen[folded]!r} before)")
        seen[folded] = label.name
    return labels


class ClassificationTask(Value):
    """Short texts with exactly one label each."""

    kind: Literal["classification"] = "classification"
    labels: tuple[Label, ...] = Field(min_length=2)
    text: str = Field(default="a short text", description="what one text is, such as: a message to a shop's support")
    language: str = Field(default="en", pattern=r"^[a-z]{2,3}$", description="ISO 639 code of the texts")

    _unique = field_validator("labels")(_reject_repeats)


class Domain(Label):
    """A field of instructions, such as coding or creation (GRA section 1.1)."""


GRA_DOMAINS: tuple[Domain, ...] = (
    Domain(name="coding", description="writing, reading, fixing or explaining programs"),
    Domain(name="math", description="calculation, proof, statistics and quantitative problems"),
    Domain(name="qa", description="questions of fact with a definite answer"),
    Domain(name="reasoning", description="drawing conclusions step by step from what is given"),
    Domain(name="role play", description="answering in the voice of a person or a profession"),
    Domain(name="language", description="grammar, translation, summary and rewriting"),
    Domain(name="creation", description="stories, poems, slogans and other new texts"),
)


class InstructionTask(Value):
    """Instruction and response pairs over domains: GRA's own unit."""

    kind: Literal["instruction"] = "instruction"
    domains: tuple[Domain, ...] = Field(default=GRA_DOMAINS, min_length=1)
    language: str = Field(default="en", pattern=r"^[a-z]{2,3}$")

    _unique = field_validator("domains")(_reject_repeats)


class GuardTask(Value):
    """Harmful or not, judged on a prompt with or without a response to it."""

    kind: Literal["guard"] = "guard"
    policy: str = Field(min_length=1, description="what counts as harmful, completes: a message that …")
    safe: str = Field(default="stays within the policy", description="what counts as safe, completes the same clause")
    with_response: bool = Field(default=False, description="whether rows hold the assistant's response as well")
    language: str = Field(default="en", pattern=r"^[a-z]{2,3}$")
    restricted: bool = Field(
        default=True, description="harmful rows are hidden by default; set false only for a benign policy"
    )


Task = Annotated[ClassificationTask | InstructionTask | GuardTask, Field(discriminator="kind")]


def labels_of(task: ClassificationTask | InstructionTask | GuardTask) -> tuple[Label, ...]:
    """What slots are spread over: the labels, the domains, or harmful and safe."""
    if isinstance(task, ClassificationTask):
        return task.labels
    if isinstance(task, InstructionTask):
        return task.domains
    return (Label(name="harmful", description=task.policy), Label(name="safe", description=task.safe))
