"""The settings of each method. A default is the paper's value; where there is none, the comment says why ours."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.base import Value


class GraSettings(Value):
    """Generator, Reviewer, Adjudicator (arXiv 2504.12322)."""

    kind: Literal["gra"] = "gra"
    reviewers: int = Field(default=3, ge=1, le=16, description="size of the review committee, N_R")
    tau: float = Field(default=8.0, ge=0, le=10, description="least mean score that can be accepted")
    delta: float = Field(
        default=1.5, ge=0, le=10, description="population standard deviation above which to adjudicate"
    )
    max_cosine: float | None = Field(default=0.9, gt=0, le=1, description="rows at or above are duplicates; null: off")
    rounds: int = Field(default=1, ge=1, le=50, description="after each round its accepted rows join the exemplars")
    few_shot: tuple[int, int] = Field(default=(2, 4), description="least and most exemplars in a prompt")
    max_keywords: int = Field(default=3, ge=1, le=10)
    early_exit: bool = Field(default=True, description="stop asking reviewers once the outcome is settled")
    calibration_texts: int = Field(default=40, ge=0, le=1000, description="texts that label calibration averages over")

    @model_validator(mode="after")
    def _ordered(self) -> GraSettings:
        least, most = self.few_shot
        if not 1 <= least <= most <= 16:
            raise ValueError("few_shot must be two numbers, least first, between 1 and 16")
        return self


class PromptMixSettings(Value):
    """PromptMix (arXiv 2310.14192): texts between two classes, all of them relabelled."""

    kind: Literal["promptmix"] = "promptmix"
    classes_in_prompt: int = Field(default=4, ge=2, le=16)
    texts_per_call: int = Field(default=3, ge=1, le=20)
    alpha_a: float = Field(default=5.0, gt=0, description="alpha = 0.5 + 0.5 * Beta(a, b)")
    alpha_b: float = Field(default=2.0, gt=0)
    nearest_classes: int = Field(default=5, ge=2, description="candidate classes that the relabeller sees")


class HarmAugSettings(Value):
    """HarmAug (arXiv 2410.01524): instructions by a prefilled turn, three variants, a teacher's labels."""

    kind: Literal["harmaug"] = "harmaug"
    exemplars: int = Field(default=3, ge=1, le=16)
    prefix: str = "I have an idea for a prompt:"
    threshold: float = Field(default=0.5, ge=0, le=1)


MethodSettings = Annotated[GraSettings | PromptMixSettings | HarmAugSettings, Field(discriminator="kind")]
