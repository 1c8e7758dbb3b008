"""Rewriting: a text and another wording of it, under constraints such as kept numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from graft.schemas.display import View, part
from graft.schemas.tasks.base import DomainTask, Fault, Words, of_length

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


class RewriteTask(DomainTask):
    """Texts with a rewritten one as `response`."""

    kind: Literal["rewrite"] = "rewrite"
    text: str = Field(default="a short text", description="what one text is, such as: a clause of a contract")
    numbers: Literal["keep", "any"] = Field(default="any", description="keep: both texts hold the same numbers")
    length_ratio: tuple[float, float] | None = Field(
        default=None, description="least and greatest length of the response, as a share of the text's"
    )

    student: ClassVar[str] = "instruct"
    hub_category: ClassVar[str] = "text-generation"
    needed_column: ClassVar[str] = "response"
    checked: ClassVar[bool] = True

    @property
    def noun(self) -> str:
        """The recipe's `text`."""
        return self.text

    def faults(self, row: Words) -> tuple[Fault, ...]:
        """The response differs from the text, has its numbers where they are to be kept, and fits in length."""
        response = row.response or ""
        if not response.strip():
            return (Fault("no_rewrite", "the rewritten text is empty"),)
        if " ".join(response.split()) == " ".join(row.text.split()):
            return (Fault("unchanged", "the rewritten text repeats the text"),)
        if self.numbers == "keep":
            before, after = (Counter(_NUMBER.findall(text)) for text in (row.text, response))
            lost, new = sorted((before - after).elements()), sorted((after - before).elements())
            if lost or new:
                parts = [f"lost {', '.join(lost[:5])}" if lost else "", f"added {', '.join(new[:5])}" if new else ""]
                return (Fault("numbers_differ", "the rewritten text " + " and ".join(one for one in parts if one)),)
        return of_length(row.text, response, self.length_ratio, "the rewritten text")

    def view(self, row: Words) -> View:
        """The text and the rewritten one."""
        after = (part(row.response, "rewritten", "response"),) if row.response else ()
        return self._view(row, part(row.text, "text"), *after)

    def measures(self, row: Words) -> Mapping[str, Sequence[float | str]]:
        """The length of the rewritten text against the text's."""
        return {"length ratio": [len(row.response or "") / max(1, len(row.text))]}


KIND = RewriteTask
