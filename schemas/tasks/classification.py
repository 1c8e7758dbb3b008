"""Text classification: short texts with exactly one label each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from graft.schemas.problems import FieldErrors, Finding
from graft.schemas.tasks.base import ImportedRows, Label, Task, any_labels, no_repeats


class ClassificationTask(Task):
    """Short texts with exactly one label each."""

    kind: Literal["classification"] = "classification"
    labels: tuple[Label, ...] = Field(min_length=2)
    text: str = Field(default="a short text", description="what one text is, such as: a message to a shop's support")

    guessed_from: ClassVar[str] = "label"

    _unique = field_validator("labels")(no_repeats)

    @property
    def categories(self) -> tuple[Label, ...]:
        """The labels."""
        return self.labels

    @property
    def noun(self) -> str:
        """The recipe's `text`."""
        return self.text

    @classmethod
    def of_rows(cls, rows: ImportedRows) -> dict[str, Any]:
        """The labels that the rows have."""
        if len(rows.labels) < 2:
            what = f"every row has the label {rows.labels[0]!r}"
            fix = "a classification needs two labels: correct the mapping, or import with a response as instructions"
            raise FieldErrors([Finding(("label",), what, fix)])
        return {"labels": [{"name": label} for label in rows.labels]}

    @classmethod
    def unchecked(cls, names: Sequence[str], language: str) -> Task:
        """See Task."""
        return cls.model_construct(kind="classification", labels=any_labels(names), text="", language=language)


KIND = ClassificationTask
