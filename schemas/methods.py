"""The settings of each method. A default is the paper's value; where there is none, the comment says why ours."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from graft.schemas.base import Value


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
    responses: int = Field(
        default=1, ge=1, le=16, description="responses to one instruction: the best is kept, wrong ones make pairs"
    )
    early_exit: bool = Field(default=True, description="stop asking reviewers once the outcome is settled")
    calibration_texts: int = Field(default=40, ge=0, le=1000, description="texts that label calibration averages over")

    @model_validator(mode="after")
    def _ordered(self) -> GraSettings:
        least, most = self.few_shot
        if not 1 <= least <= most <= 16:
            raise ValueError("few_shot must be two numbers, least first, between 1 and 16")
        return self


class PromptMixSettings(Value):
    """PromptMix (arXiv 2310.14192): texts between two classes, all of them relabelled.

    The defaults are the paper's released ones, but for the partner (there: random) and for what becomes of an answer
    that is no label (there: forced to the nearest name).
    """

    kind: Literal["promptmix"] = "promptmix"
    shots: int = Field(default=2, ge=0, le=16, description="examples of each class in a prompt; 0: descriptions alone")
    classes_in_prompt: int = Field(default=4, ge=2, le=16, description="c: the seed class, its partner, and others")
    texts_per_cycle: int = Field(
        default=10, ge=1, le=1000, description="n: texts of a class before groups are drawn anew"
    )
    texts_per_call: int = Field(default=3, ge=1, le=20)
    alpha_a: float = Field(default=5.0, gt=0, description="alpha = 0.5 + 0.5 * Beta(a, b), rounded to 0.05")
    alpha_b: float = Field(default=2.0, gt=0)
    alphas: tuple[float, ...] = Field(
        default=(), description="shares to draw from instead, each in [0.5, 1]; [1.0] mixes nothing: plain generation"
    )
    partner: Literal["confusable", "random"] = Field(
        default="confusable", description="from the nearest classes (or the last student's confusions), or any class"
    )
    relabel: Literal["labeler", "panel", "off"] = Field(
        default="labeler", description="by the labeler role, by GRA's reviewers and adjudicator, or not at all"
    )
    labelers: int = Field(
        default=3, ge=1, le=16, description="labelers asked for one text, as far as the role has models"
    )
    nearest_classes: int = Field(default=5, ge=2, description="classes that a labeler chooses among, at most")
    min_probability: float = Field(
        default=0.0, ge=0, lt=1, description="least mean probability of a label; below it the text has no label"
    )
    no_label: Literal["reject", "adjudicate"] = Field(
        default="reject", description="what becomes of a text whose labelers gave no label of the set"
    )
    max_refusals: float = Field(
        default=0.9, ge=0, le=1, description="share of refusals above which the run stops early"
    )
    calibration_texts: int = Field(default=40, ge=0, le=1000, description="texts that label calibration averages over")
    max_cosine: float | None = Field(default=0.9, gt=0, le=1, description="rows at or above are duplicates; null: off")
    review: GraSettings | None = Field(default=None, description="GRA's review of the relabelled text; null: none")

    @field_validator("alphas")
    @classmethod
    def _shares(cls, alphas: tuple[float, ...]) -> tuple[float, ...]:
        for alpha in alphas:
            if not 0.5 <= alpha <= 1:
                raise ValueError(f"alpha {alpha:g} is outside [0.5, 1]: the seed class is always the larger share")
        return alphas


class HarmAugSettings(Value):
    """HarmAug (arXiv 2410.01524): instructions by a prefilled turn, three variants, a teacher's labels."""

    kind: Literal["harmaug"] = "harmaug"
    exemplars: int = Field(default=3, ge=1, le=16, description="k: examples shown; the paper's figure has 3")
    prefix: str = Field(
        default="I have an idea for a prompt:", max_length=200, description="begins the generator's turn"
    )
    prefill: bool = Field(default=True, description="false: ask without the prefix, as the paper's comparison does")
    threshold: float = Field(default=0.5, ge=0, le=1, description="harmful where the guard's probability is above it")
    borderline: float = Field(
        default=0.5, ge=0, le=1, description="share of the safe instructions that only look harmful"
    )
    compliance_prefix: str = Field(
        default="Sure,", max_length=200, description="begins a compliant response; empty: none"
    )
    measure_refusals: int = Field(
        default=20,
        ge=0,
        le=10_000,
        description="harmful instructions asked for with and without the prefix, to compare",
    )
    max_refusals: float = Field(
        default=0.9, ge=0, le=1, description="share of refusals above which the run stops early"
    )
    calibration_texts: int = Field(
        default=40, ge=0, le=1000, description="messages that label calibration averages over"
    )
    max_cosine: float | None = Field(default=0.9, gt=0, le=1, description="rows at or above are duplicates; null: off")


MethodSettings = Annotated[GraSettings | PromptMixSettings | HarmAugSettings, Field(discriminator="kind")]
