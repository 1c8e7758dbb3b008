"""Ranking: a query with graded candidate texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from graft.schemas.display import Part, View, part
from graft.schemas.forms import FormField, from_blocks, to_blocks
from graft.schemas.tasks.base import DomainTask, Fault, Words, from_json

MOST = 1_000
"""Most candidates of a row."""


class RankingTask(DomainTask):
    """Queries with the column `candidates`: a list of text and grade; a higher grade is a better candidate."""

    kind: Literal["ranking"] = "ranking"
    text: str = Field(default="a search query", description="what one query is, such as: a question about a product")
    least: int = Field(default=2, ge=2, description="least candidates of a row")
    grades: tuple[float, ...] = Field(default=(), description="allowed grades; left out: any number")

    hub_category: ClassVar[str] = "text-ranking"
    student: ClassVar[str] = ""
    columns: ClassVar[tuple[str, ...]] = ("candidates",)
    needed: ClassVar[tuple[str, ...]] = ("candidates",)
    checked: ClassVar[bool] = True

    @property
    def noun(self) -> str:
        """The recipe's `text`."""
        return self.text

    def settle(self, row: Words, before: str | None = None) -> dict[str, Any]:
        """Candidates as a list, also from a text of JSON."""
        given = from_json(row.data.get("candidates"))
        return {**row.data, **({"candidates": given} if given is not None else {})}

    def faults(self, row: Words) -> tuple[Fault, ...]:
        """Enough candidates, each with words of its own and a grade, and not all of one grade."""
        given = row.data.get("candidates")
        if not isinstance(given, list) or len(given) < self.least:
            count = len(given) if isinstance(given, list) else 0
            return (Fault("few_candidates", f"the row has {count} candidates; the task needs {self.least}"),)
        if len(given) > MOST:
            return (Fault("too_many_candidates", f"the row has more than {MOST:,} candidates"),)
        wrong = [fault for number, one in enumerate(given, 1) if (fault := self._fault(number, one))]
        if wrong:
            return tuple(wrong)
        seen: dict[str, int] = {}
        for number, one in enumerate(given, 1):
            first = seen.setdefault(" ".join(one["text"].split()), number)
            if first != number:
                return (Fault("candidate_repeats", f"candidate {number} repeats candidate {first}"),)
        if len({float(one["grade"]) for one in given}) == 1:
            return (Fault("one_grade", f"all {len(given)} candidates have the grade {given[0]['grade']}"),)
        return ()

    def _fault(self, number: int, one: Any) -> Fault | None:
        words, grade = (one.get("text"), one.get("grade")) if isinstance(one, Mapping) else (None, None)
        if not isinstance(words, str) or not words.strip():
            return Fault("candidate_empty", f"candidate {number} has no text")
        number_ = isinstance(grade, int | float) and not isinstance(grade, bool) and math.isfinite(grade)
        if not number_:
            return Fault("candidate_grade", f"candidate {number}: {str(grade)[:40]!r} is not a grade")
        if self.grades and grade not in self.grades:
            allowed = ", ".join(f"{value:g}" for value in self.grades)
            return Fault("candidate_grade", f"candidate {number}: grade {grade} is not one of {allowed}")
        return None

    def view(self, row: Words) -> View:
        """The query, then its candidates, best first."""
        given = row.data.get("candidates")
        sound = [one for one in given if isinstance(one, Mapping)] if isinstance(given, list) else []
        order = sorted(sound, key=lambda one: -_grade(one))
        listed: list[Part] = [part(str(one.get("text", "")), f"grade {one.get('grade')}", "aside") for one in order]
        return self._view(row, part(row.text), *listed, shown=("candidates",) if sound else ())

    def form(self, row: Words) -> tuple[FormField, ...]:
        """The candidates as blocks, each headed by its grade."""
        given = row.data.get("candidates") or ()
        blocks = [(str(one.get("grade", "")), str(one.get("text", ""))) for one in given if isinstance(one, Mapping)]
        return (FormField("candidates", "candidates", to_blocks(blocks), "each after a line >>> grade"),)

    def of_form(self, values: Mapping[str, str], row: Words) -> dict[str, Any]:
        """Candidates read from their blocks. Raises ValueError for a head that is no number."""
        if "candidates" not in values:
            return dict(row.data)
        made = []
        for head, words in from_blocks(values["candidates"]):
            try:
                grade = float(head)
            except ValueError:
                raise ValueError(f"{head[:40]!r} is not a grade: begin a candidate with a line >>> 2") from None
            made.append({"text": words, "grade": int(grade) if grade.is_integer() else grade})
        return {**row.data, "candidates": made}

    def measures(self, row: Words) -> Mapping[str, Sequence[float | str]]:
        """Candidates a row and their grades."""
        given = [one for one in row.data.get("candidates") or () if isinstance(one, Mapping)]
        return {"candidates a row": [len(given)], "grade": [f"{_grade(one):g}" for one in given]}


KIND = RankingTask


def _grade(one: Mapping[str, Any]) -> float:
    grade = one.get("grade")
    return float(grade) if isinstance(grade, int | float) and math.isfinite(grade) else -math.inf
