"""What a recipe says of its gates: which run, how strict they are, and whether they reject a text or mend it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from graft.schemas.base import STUDENT_PATTERN, Value
from graft.schemas.problems import field_error

Action = Literal["off", "redact", "reject"]
PersonalKind = Literal["email", "phone", "card", "iban", "ip_address", "mac_address", "national_id", "name"]
PERSONAL: tuple[PersonalKind, ...] = ("email", "phone", "card", "iban", "ip_address", "mac_address", "national_id")
"""What is looked for unless a recipe says otherwise; names want a model."""


class PersonalSettings(Value):
    """Personal data: what is looked for, and what becomes of a text that holds some."""

    action: Action = Field(default="reject", description="reject the row, or redact: <EMAIL> in its place")
    kinds: tuple[PersonalKind, ...] = PERSONAL
    regions: tuple[str, ...] = Field(default=("US", "GB"), description="countries whose phone numbers are known")
    allow: tuple[str, ...] = Field(default=(), description="values that are no finding, such as help@shop.example")
    names_model: str = Field(default="", description="folder or hub id of a model that finds names")

    @model_validator(mode="after")
    def _named(self) -> PersonalSettings:
        if "name" in self.kinds and not self.names_model:
            raise field_error((), "kinds: name needs names_model", "name a token classifier that finds names")
        return self


class LanguageSettings(Value):
    """Language identification by words; the script is the format gate's matter."""

    action: Literal["off", "reject"] = "reject"
    min_chars: int = Field(default=40, ge=1, description="shorter texts are not judged: no identifier is sure of them")
    min_probability: float = Field(default=0.9, gt=0, le=1, description="how sure it must be of another language")


class RepetitionSettings(Value):
    """Loops of a model: shares of a text that repeat what it has said already."""

    action: Literal["off", "reject"] = "reject"
    max_share: float = Field(default=0.5, gt=0, le=1, description="share of the text's word n-grams that repeat")


class ToxicitySettings(Value):
    """A guard student reads each text; rows that it calls harmful above the threshold are rejected."""

    student: str = Field(
        default="", pattern=f"^$|{STUDENT_PATTERN}", description="id of a guard student (st_…); empty: the gate is off"
    )
    label: str = Field(default="", description="its label for harm; empty: every label but `safe`")
    max_probability: float = Field(default=0.5, gt=0, lt=1)


class LearnedSettings(Value):
    """What a classifier, cross-validated on the version itself, says of its rows. Used when a version is gated."""

    action: Literal["off", "report", "reject"] = "report"
    folds: int = Field(default=5, ge=2, le=20)
    min_margin: float = Field(default=0.0, ge=0, lt=1, description="least margin of a row's label; 0: not looked at")
    max_outlier: float = Field(default=0.0, ge=0, le=1, description="share of rows dropped as out of distribution")


class GateSettings(Value):
    """Checks after generation. A shipped default fits short texts; every threshold is a field."""

    min_chars: int = Field(default=8, ge=0)
    max_chars: int = Field(default=4_000, ge=1)
    near_duplicate: float = Field(default=0.8, gt=0, le=1, description="Jaccard of word shingles, at or above: reject")
    against_seeds: bool = True
    against_published: bool = True
    label_leak: bool = Field(default=True, description="reject a text that contains its own label's name")
    prompt_leak: bool = Field(default=True, description="reject a text that repeats a piece of our prompt")
    refusals: bool = Field(default=True, description="reject a text that is a model's refusal")
    damage: bool = Field(default=True, description="reject text of a broken encoding: cafÃ©, U+FFFD, NUL bytes")
    personal: PersonalSettings = PersonalSettings()
    secrets: Action = Field(default="reject", description="keys and tokens: reject, or <SECRET> in their place")
    language: LanguageSettings = LanguageSettings()
    repetition: RepetitionSettings = RepetitionSettings()
    toxicity: ToxicitySettings = ToxicitySettings()
    semantic: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="cosine at or above which rows of a gated version say the same",
    )
    learned: LearnedSettings = LearnedSettings()

    @model_validator(mode="after")
    def _ordered(self) -> GateSettings:
        if self.min_chars > self.max_chars:
            raise field_error(
                ("min_chars",), "min_chars is larger than max_chars", "make min_chars the smaller of the two"
            )
        return self
