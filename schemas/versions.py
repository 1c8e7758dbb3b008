"""Records beside versions: tags, drops, a person's edits, recalls, deletions. Each is a row in the lake."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from graft.schemas.base import Slug, Value

EditAction = Literal["accept", "reject", "relabel", "edit", "note", "skip", "undo"]
RecallKind = Literal["model", "prompt", "seed", "run", "row"]


class Tag(Value):
    """A name for one version of a dataset. The newest by `at` counts; `version` 0 takes the tag away."""

    dataset: str
    tag: Slug
    version: int = Field(ge=0)
    by: str
    at: datetime


class Edit(Value):
    """A person's decision on one row. The newest decision of a row counts, and the newest `text` and `label`.

    `base_text` is the text that the person saw: if another version has another text under this id, the edit conflicts.
    A skip decides nothing; an undo revokes the edit that it names.
    """

    id: str
    dataset: str
    version: int = Field(ge=1, description="the version that the person saw")
    row_id: str
    action: EditAction
    base_text: str
    base_label: str
    text: str | None = Field(default=None, description="the new text; None: unchanged")
    response: str | None = None
    label: str | None = Field(default=None, description="the new label; None: unchanged")
    note: str = ""
    by: str
    at: datetime
    undoes: str = Field(default="", description="id of the edit that an undo revokes")
    queue: str = Field(default="", description="the rule that chose the row, such as margin or gate:near_run; or none")
    blind: bool = Field(default=False, description="whether the decisions of others were hidden")
    seconds: float | None = Field(default=None, ge=0, description="time that the person spent on the row")


class Drop(Value):
    """A row of the parent that a derived version leaves out, and the rule that rejected it."""

    dataset: str
    version: int
    row_id: str
    gate: str
    rule: str
    score: float | None = None
    neighbour: str = ""
    detail: str = ""


class Recall(Value):
    """Rows withdrawn because of their origin. Later versions leave them out too."""

    id: str
    dataset: str
    kind: RecallKind
    value: str = Field(description="model name, prompt version, or id of the seed, run or row")
    reason: str
    rows: int
    by: str
    at: datetime


class Deletion(Value):
    """A version that was deleted: its number is not used again."""

    dataset: str
    version: int
    content_hash: str
    rows: int
    reason: str
    by: str
    at: datetime
