"""Question answering: a question and its answer, with or without the passage and the evidence that it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from graft.schemas.display import Part, View, marked, part
from graft.schemas.documents import find_quote
from graft.schemas.forms import FormField
from graft.schemas.tasks.base import DomainTask, Fault, Words

SHOWN = 80


class QaTask(DomainTask):
    """Questions with answers: `response` is the answer.

    With the column `question`, the text is the passage that answers it; without, the text is the question. The column
    `evidence` is a quote from the passage.
    """

    kind: Literal["qa"] = "qa"
    passage: bool = Field(default=False, description="whether each row needs a passage: text, with data.question")
    evidence: bool = Field(default=False, description="whether each row needs a quote that supports its answer")
    extractive: bool = Field(default=False, description="whether the answer must occur in the passage")

    free_form: ClassVar[bool] = True
    student: ClassVar[str] = ""
    hub_category: ClassVar[str] = "question-answering"
    needed_column: ClassVar[str] = "response"
    columns: ClassVar[tuple[str, ...]] = ("question", "evidence")
    checked: ClassVar[bool] = True
    prompt: ClassVar[tuple[str, ...]] = ("text", "question")

    @property
    def noun(self) -> str:
        """See Task."""
        return "a question with a definite answer"

    def faults(self, row: Words) -> tuple[Fault, ...]:
        """Question, answer and evidence are whole, and the evidence is a quote from the passage."""
        question, evidence, answer = row.data.get("question"), row.data.get("evidence"), row.response or ""
        if question is not None and not (isinstance(question, str) and question.strip()):
            return (Fault("no_question", "the question is empty"),)
        if question is None and self.passage:
            return (Fault("no_question", "the row has no question: its text is the passage"),)
        if not answer.strip():
            return (Fault("no_answer", "the answer is empty"),)
        if evidence is not None and not (isinstance(evidence, str) and evidence.strip()):
            return (Fault("no_evidence", "the evidence is empty"),)
        if evidence is None and self.evidence:
            return (Fault("no_evidence", "the row has no evidence for its answer"),)
        if question is None:
            return ()
        if evidence is not None and not _within(evidence, row.text):
            return (Fault("evidence_not_found", f"the evidence {evidence[:SHOWN]!r} is not in the passage"),)
        if self.extractive and not _within(answer, row.text):
            return (Fault("answer_not_found", f"the answer {answer[:SHOWN]!r} is not in the passage"),)
        return ()

    def view(self, row: Words) -> View:
        """The passage with its evidence marked, the question, the answer."""
        data = row.data
        answer = (part(row.response, "answer", "response"),) if row.response else ()
        if not isinstance(data.get("question"), str):
            return self._view(row, part(row.text, "question"), *answer)
        quote = data.get("evidence")
        place = find_quote(quote, row.text) if isinstance(quote, str) else None
        span = [{"start": place.start, "end": place.end, "type": "evidence"}] if place else []
        first = (Part(marked(row.text, span), "passage"), part(data["question"], "question"), *answer)
        return self._view(row, *first, shown=("question", *(["evidence"] if span else [])))

    def form(self, row: Words) -> tuple[FormField, ...]:
        """Question and evidence, where the row has them."""
        names = [name for name in self.columns if isinstance(row.data.get(name), str)]
        return tuple(FormField(name, name, row.data[name]) for name in names)

    def of_form(self, values: Mapping[str, str], row: Words) -> dict[str, Any]:
        """The columns as they are written."""
        return {**row.data, **{name: values[name].strip() for name in self.columns if name in values}}

    def measures(self, row: Words) -> Mapping[str, Sequence[float | str]]:
        """Lengths, and whether the evidence and the answer are found in the passage."""
        question, evidence, answer = row.data.get("question"), row.data.get("evidence"), row.response or ""
        found: dict[str, Sequence[float | str]] = {"characters an answer": [len(answer)]}
        if isinstance(question, str):
            found["answer in the passage"] = ["yes" if _within(answer, row.text) else "no"]
        if isinstance(evidence, str):
            within = isinstance(question, str) and _within(evidence, row.text)
            found["evidence"] = ["found in the passage" if within else "not in the text"]
        return found


KIND = QaTask


def _within(quote: str, text: str) -> bool:
    """True if the quote occurs in the text but for case, blanks and quotation marks."""
    return find_quote(quote, text) is not None
