"""Records of a run and of a published version."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from graft.schemas.base import Value
from graft.schemas.redaction import redact_recipe
from graft.schemas.tasks.base import Task, stored_task

Origin = Literal["run", "import", "gates", "recall", "edits"]
"""Origin of a version: a run, an import, other gates over a version, a recall, or a person's edits."""
RunStatus = Literal["running", "finished", "partial", "interrupted", "failed"]
SplitName = Literal["train", "validation", "test"]


class Run(Value):
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
        description="target, candidates, budget, time, yield, refusals, out_of_reach, recall, user or an error",
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
    neighbours: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="class to the classes it is mixed with, most confusable first; set once a run"
    )

    @property
    def task(self) -> Task:
        """The task of its recipe, as far as it is readable."""
        return stored_task(self.recipe)


class DatasetVersion(Value):
    """A published dataset: an immutable selection of accepted rows with splits and a card."""

    dataset: str
    version: int = Field(ge=1)
    run_id: str
    content_hash: str = Field(description="of the rows' text, response, label and split, whatever their order")
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
    source: Literal["synthetic", "seed", "imported"] = "synthetic"
    restricted: bool = False
