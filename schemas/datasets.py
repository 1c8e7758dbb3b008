"""Records of a run, a published version, and what people do with versions: tags, drops, edits, recalls, deletions.

Each is a row in the lake.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from graft.schemas.base import Slug, Value
from graft.schemas.money import all_local
from graft.schemas.redaction import redact_recipe
from graft.schemas.rows import Data
from graft.schemas.shown import Shown
from graft.schemas.tasks.base import Task, stored_task

Origin = Literal["run", "trial", "import", "gates", "recall", "edits"]
"""Origin of a version: a run, a run of fewer rows than its recipe's target (a trial), an import, other gates over a
version, a recall, or a person's edits."""
RunStatus = Literal["running", "finished", "partial", "interrupted", "failed"]
SplitName = Literal["train", "validation", "test"]
RowSource = Literal["synthetic", "labelled", "seed", "imported"]
"""Origin of a row: models wrote it, models labelled a person's text, a seed, or an import."""
EditAction = Literal["accept", "reject", "relabel", "edit", "note", "skip", "undo"]
RecallKind = Literal["model", "prompt", "seed", "run", "row"]


NOT_STATED = "not stated"
"""A licence that no recipe names."""


class Run(Shown, Value):
    """One run of a recipe. The same recipe, seeds, prompts and rules have the same `id`."""

    id: str
    dataset: str
    recipe: Annotated[dict[str, Any], AfterValidator(redact_recipe)] = Field(description="as JSON, without any key")
    recipe_file: str = ""
    status: RunStatus
    started_at: datetime
    ended_at: datetime | None = None
    code_version: str = Field(description="of Graft, then of the plugins that the run uses")
    stopped_by: str = Field(
        default="",
        description="target, texts, seeds, interval, candidates, budget, time, yield, refusals, disagreement, "
        "out_of_reach, recall, user or an error",
    )
    shortfall: dict[str, int] = Field(default_factory=dict, description="label to accepted rows still missing")
    counts: dict[str, int] = Field(default_factory=dict, description="opened, accepted, rejected, failed, surplus …")
    calls: int = 0
    calls_cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    price_usd: float | None = Field(default=None, description="None if any model's price is unknown")
    seconds: float = 0.0
    version: int | None = Field(default=None, description="the version that the run published")
    by: str = Field(default="", description="the agent that started it, such as agent:claude; empty: a person")
    neighbours: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="class to the classes it is mixed with, most confusable first; set once a run"
    )

    def shown(self) -> dict[str, object]:
        """See Shown."""
        accepted, opened = self.counts.get("accepted", 0), self.counts.get("opened", 0)
        return {
            "id": self.id, "status": self.status, "stopped_by": self.stopped_by or None, "accepted": accepted,
            "candidates": opened, "calls": self.calls, "price_usd": self.price_usd, "seconds": round(self.seconds, 1),
        }  # fmt: skip

    @property
    def local(self) -> bool:
        """True if all models of its recipe are local, so that its price is none (`schemas.money`)."""
        return all_local(self.recipe)

    @property
    def task(self) -> Task:
        """The task of its recipe, as far as it is readable."""
        return stored_task(self.recipe)


class DatasetVersion(Shown, Value):
    """A published dataset: an immutable selection of accepted rows with splits and a card."""

    dataset: str
    version: int = Field(ge=1)
    run_id: str
    content_hash: str = Field(description="of the rows' text, response, label, split and data, in any order")
    rows: int
    splits: dict[str, int]
    labels: dict[str, int]
    models: dict[str, str] = Field(description="model name to licence, of every model that made or judged a row")
    seeds: int
    card: str = Field(description="the dataset card, Markdown")
    partial: bool = False
    snapshot: int | None = Field(default=None, description="the lake's snapshot that holds it")
    created_at: datetime
    parent: int | None = Field(default=None, description="the version that it was derived from, if any")
    origin: Origin = "run"
    note: str = Field(default="", description="reason for the version, in a line")

    def shown(self) -> dict[str, object]:
        """See Shown."""
        return {"ref": self.ref, "rows": self.rows, "splits": self.splits, "labels": self.labels}

    @property
    def licences(self) -> dict[str, str]:
        """`models` by the names that calls and candidates have. Earlier versions hold "name (id)" and "unknown"."""
        words = {"": NOT_STATED, "unknown": NOT_STATED}
        return {name.partition(" (")[0]: words.get(licence, licence) for name, licence in self.models.items()}

    @property
    def ref(self) -> str:
        """The version's reference: name@number."""
        return f"{self.dataset}@{self.version}"


class Row(Value):
    """One row of a published version, in the form of exports."""

    id: str
    text: str
    response: str | None = None
    label: str
    split: SplitName
    source: RowSource = "synthetic"
    restricted: bool = False
    data: Data = Field(default={}, description="its columns beyond text, response and label")

    @property
    def content(self) -> tuple[Any, ...]:
        """The part that a version's hash covers: rows without further columns keep the hash that they always had."""
        return (self.text, self.response, self.label, self.split, *([self.data] if self.data else []))

    @property
    def made(self) -> bool:
        """True if the row has a candidate of the run that published it."""
        return self.source in ("synthetic", "labelled")


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
    data: Data | None = Field(default=None, description="all further columns, with the new values; None: unchanged")
    base_data: Data | None = Field(default=None, description="the columns that the person saw, if `data` is set")
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
