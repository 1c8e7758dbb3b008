"""Pairs: two texts and their relation, such as paraphrase, entailment or the same question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from graft.schemas.display import View, part
from graft.schemas.forms import FormField
from graft.schemas.tasks.base import Fault, ImportedRows, Label, Task, Words, any_labels, no_repeats, of_length


class PairsTask(Task):
    """Pairs: the second text is the column `other`, the relation is the label."""

    kind: Literal["pairs"] = "pairs"
    labels: tuple[Label, ...] = Field(min_length=1, description="the relations that two texts may have")
    text: str = Field(default="a short text", description="what one text is, such as: a question to a help desk")
    length_ratio: tuple[float, float] | None = Field(
        default=None, description="least and greatest length of the second text, as a share of the first one's"
    )

    label_noun: ClassVar[str] = "relation"
    hub_category: ClassVar[str] = "sentence-similarity"
    student: ClassVar[str] = ""
    columns: ClassVar[tuple[str, ...]] = ("other",)
    needed: ClassVar[tuple[str, ...]] = ("other",)
    checked: ClassVar[bool] = True
    prompt: ClassVar[tuple[str, ...]] = ("text", "other")

    _unique = field_validator("labels")(no_repeats)

    @property
    def categories(self) -> tuple[Label, ...]:
        """The relations."""
        return self.labels

    @property
    def noun(self) -> str:
        """The recipe's `text`."""
        return self.text

    def faults(self, row: Words) -> tuple[Fault, ...]:
        """There is a second text, which differs from the first."""
        other = row.data.get("other")
        if not isinstance(other, str) or not other.strip():
            return (Fault("no_other", "the row has no second text"),)
        if _even(other) == _even(row.text):
            return (Fault("equal_texts", "the second text repeats the first"),)
        return of_length(row.text, other, self.length_ratio, "the second text")

    def view(self, row: Words) -> View:
        """Both texts; the label is shown beside them."""
        other = row.data.get("other")
        if not isinstance(other, str):
            return self._view(row)
        return self._view(row, part(row.text, "first"), part(other, "second", "response"), shown=("other",))

    def form(self, row: Words) -> tuple[FormField, ...]:
        """The second text."""
        return (FormField("other", "second text", str(row.data.get("other") or "")),)

    def of_form(self, values: Mapping[str, str], row: Words) -> dict[str, Any]:
        """The second text as it is written."""
        return {**row.data, **({"other": values["other"].strip()} if "other" in values else {})}

    def measures(self, row: Words) -> Mapping[str, Sequence[float | str]]:
        """The length of the second text, in all and against the first."""
        other = str(row.data.get("other") or "")
        return {"characters of the second text": [len(other)], "length ratio": [len(other) / max(1, len(row.text))]}

    @classmethod
    def of_rows(cls, rows: ImportedRows) -> dict[str, Any]:
        """The labels that the rows have are their relations."""
        return {"labels": [{"name": label} for label in rows.labels]}

    @classmethod
    def unchecked(cls, names: Sequence[str], language: str) -> Task:
        """See Task."""
        return cls.model_construct(kind="pairs", labels=any_labels(names), text="", language=language)


KIND = PairsTask


def _even(text: str) -> str:
    return " ".join(text.casefold().split())
