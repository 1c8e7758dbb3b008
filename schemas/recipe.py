"""The recipe: one YAML file with task, seeds, method, models, target, limits and checks."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, inf
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, overload

from pydantic import ConfigDict, Field, PrivateAttr, SerializeAsAny, ValidationInfo, field_validator, model_validator

from graft.schemas.addresses import without_keys
from graft.schemas.base import Slug, Value, stable_hash
from graft.schemas.binding import DEFAULT_METHOD, MethodSettings, Role, bind_roles, roles_of
from graft.schemas.documents import DocumentSettings
from graft.schemas.extra import sendable
from graft.schemas.gates import GateSettings
from graft.schemas.kinds import GATES, METHODS, OBJECTIVES, POLICIES, STAGES, STUDENTS, TASKS, Kinds, OfKind
from graft.schemas.models import EMBEDDED_POOL, ModelSpec, RoleSpec
from graft.schemas.problems import FieldErrors, field_error, unknown_name
from graft.schemas.redaction import HIDDEN
from graft.schemas.steering import Improve, ImproveSettings, Steering
from graft.schemas.students import OwnBlocks, StudentSettings
from graft.schemas.tasks.base import Criterion, Task

R = TypeVar("R", bound=RoleSpec)
ReviewBy = Literal["disagreement", "margin", "random"]


CriterionName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$", description="lower-case letters and digits")]


def _empty(value: Any) -> bool:
    """For fields that are left out of dumps, and so of hashes, unless they are set."""
    return not value


class SeedRow(Value):
    """A seed written in the recipe itself."""

    text: str = Field(min_length=1, max_length=100_000)
    label: str = ""
    response: str | None = None


class SeedSettings(Value):
    """Rows provided by a person: a file (CSV, JSONL or Parquet), rows in the recipe, both, or none."""

    path: str | None = Field(default=None, description="seeds file, relative to the recipe's folder")
    rows: tuple[SeedRow, ...] = ()
    text_field: str = "text"
    label_field: str = "label"
    response_field: str = "response"
    documents: DocumentSettings | None = Field(
        default=None, exclude_if=lambda given: given is None, description="documents that rows rest on"
    )


class Target(Value):
    """The target of accepted rows: a number for each label (or domain), and single counts by name."""

    rows_per_label: int = Field(default=50, ge=0, le=10_000_000)
    labels: dict[str, int] = Field(default_factory=dict, description="label to rows, if different")


class Select(Value):
    """More rows are made than wanted; of each label those are published that add something to the others."""

    by: Literal["facility_location", "k_center"] = Field(
        default="facility_location",
        description="rows that represent all others best, or rows that lie farthest apart (outliers too)",
    )
    oversample: float = Field(default=1.5, gt=1, le=10, description="rows made for each row wanted")


class Limits(Value):
    """Limits of a run. The first limit reached ends it cleanly, and accepted rows are published."""

    candidates: int = Field(default=10_000, ge=1, description="maximum candidates opened")
    money_usd: float | None = Field(default=None, ge=0)
    tokens: int | None = Field(default=None, ge=1)
    minutes: float | None = Field(default=None, gt=0)
    concurrency: int = Field(default=64, ge=1, le=4096, description="maximum calls in flight over all endpoints")
    shard_rows: int = Field(default=500, ge=1, description="accepted rows made by one shard (a Prefect task)")
    min_yield: float = Field(default=0.02, ge=0, le=1, description="the run stops early below this accepted share")
    min_yield_after: int = Field(default=100, ge=1, description="candidates before the yield is checked")
    out_of_reach: Literal["stop", "go_on"] = Field(
        default="stop", description="if the caps do not allow the target: stop early, or use the caps up"
    )
    hedge: bool = Field(default=False, description="send the slowest calls a second time if calls are free")
    batch_slots: int = Field(
        default=1_000, ge=1, le=50_000, description="candidates open at once if a role uses a batch API"
    )


class Splits(Value):
    """Shares of the published version. They must add up to 1."""

    train: float = Field(default=0.8, ge=0, le=1)
    validation: float = Field(default=0.1, ge=0, le=1)
    test: float = Field(default=0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _whole(self) -> Splits:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            fix = "change the three shares so that they add up to 1"
            raise field_error((), f"train + validation + test is {total:g}, not 1", fix)
        return self


class ReviewSettings(Value):
    """Settings of people's review: the run pauses after publishing its version, then applies the decisions."""

    rows: int = Field(default=50, ge=1, description="number of rows to review")
    by: ReviewBy = Field(
        default="disagreement",
        description="choice of rows: the judges' largest disagreements, the closest decisions, or random",
    )
    wait_minutes: float = Field(default=1440, gt=0, le=525_600, description="how long the run waits for review")
    unanswered: Literal["go_on", "stop"] = Field(
        default="go_on",
        description="if nobody finishes the review: continue with the decisions so far, or end with an error",
    )


class Recipe(Value):
    """Everything about one dataset. See recipes/ for commented examples, and `graft schema` for the JSON Schema."""

    name: Slug = Field(description="the dataset's name: lower-case letters, digits, dot, dash, underscore")
    description: str = ""
    task: Annotated[Task, OfKind(TASKS)]
    seeds: SeedSettings = SeedSettings()
    method: Annotated[MethodSettings, OfKind(METHODS, "Settings")] = Field(
        default={"kind": DEFAULT_METHOD}, validate_default=True
    )
    models: tuple[ModelSpec, ...] = Field(default=EMBEDDED_POOL, min_length=1)
    roles: dict[str, SerializeAsAny[RoleSpec]] = Field(default={}, validate_default=True)
    target: Target = Target()
    select: Select | None = Field(default=None, description="choice among more accepted rows than wanted; null: none")
    gates: GateSettings = Field(default_factory=GateSettings)
    limits: Limits = Limits()
    splits: Splits = Splits()
    prompts: dict[str, Annotated[str, Field(max_length=50_000)]] = Field(
        default={}, exclude_if=_empty,
        description="prompts of the method that are replaced: name to a Jinja file beside the recipe, or to its text",
    )  # fmt: skip
    rubric: dict[CriterionName, Annotated[str, Field(min_length=1, max_length=500)]] = Field(
        default={}, exclude_if=_empty, max_length=12,
        description="criteria that reviewers score from 0 to 10, name to meaning; empty: the task's own",
    )  # fmt: skip
    student: Annotated[StudentSettings, OwnBlocks()] = StudentSettings()
    improve: Improve = ImproveSettings()
    steering: Steering | None = Field(default=None, description="set by rounds of graft improve")
    review: ReviewSettings | None = Field(default=None, description="pause for people's review before the run ends")
    seed: int = Field(default=42, ge=0, lt=2**31, description="random seed of every draw")
    licence: str = Field(default="", description="licence of the seeds, for the card")

    model_config = ConfigDict(hide_input_in_errors=True)
    _folder: Path | None = PrivateAttr(default=None)

    def within(self, folder: Path) -> Recipe:
        """The recipe with the folder in which its relative paths start: a recipe in Python has no file."""
        found = self.model_copy()
        found._folder = folder
        return found

    @property
    def folder(self) -> Path | None:
        """The folder of `within`; None: the present one."""
        return self._folder

    @classmethod
    def stored(cls, data: Mapping[str, Any]) -> Recipe:
        """The recipe of an earlier run, from the lake.

        Fields of `extra` and parts of addresses that only an earlier Graft accepted are left out, and so are hashes of
        weights, which may have changed since, and roles that its method does not have. Raises ValidationError if
        anything else is invalid.
        """
        models, roles = data.get("models"), data.get("roles")
        kept: dict[str, Any] = {**data}
        if isinstance(models, list | tuple):
            kept["models"] = [_stored_model(one) for one in models]
        if isinstance(roles, Mapping):
            kept["roles"] = {name: roles[name] for name in roles if name in roles_of(_stored_kind(data))}
        return cls.model_validate(kept)

    @field_validator("rubric")
    @classmethod
    def _no_comment(cls, rubric: dict[str, str]) -> dict[str, str]:
        if "comment" in rubric:
            raise field_error(("comment",), "'comment' is the reviewer's remark", "give the criterion another name")
        return rubric

    @field_validator("roles", mode="plain")
    @classmethod
    def _own_roles(cls, given: Any, seen: ValidationInfo) -> dict[str, RoleSpec]:
        method = seen.data.get("method")
        return bind_roles(given, method.kind if method else None)

    @model_validator(mode="after")
    def _names(self) -> Recipe:
        pool = [model.name for model in self.models]
        repeated = sorted({name for name in pool if pool.count(name) > 1})
        if repeated:
            fix = "give every model a unique name"
            raise field_error(("models",), f"name {repeated[0]!r} occurs twice", fix)
        for role, spec in self.roles.items():
            unknown = [name for name in spec.models if name not in pool]
            if unknown:
                raise unknown_name(("roles", role, "models"), "model", unknown[0], "the pool", pool)
            models = self.models_for(role)
            direct = [model.name for model in models if model.provider != "litellm"]
            if spec.batch and direct:
                fix = "name models of provider litellm"
                raise field_error(("roles", role, "batch"), f"{direct[0]!r} has no batch API here", fix)
            if not self.writes(role):
                continue
            if spec.models and any(model.provider == "encoder" for model in models):
                fix = "name a chat or completion model"
                raise field_error(("roles", role, "models"), "an encoder cannot write texts", fix)
            if not models:
                fix = "add an embedded, openai or litellm model"
                raise field_error(("models",), "no model can generate (an encoder only judges)", fix)
        known = self.task.names
        for label in self.target.labels:
            if label not in known:
                raise unknown_name(("target", "labels"), "label", label, "the task", known)
        for index, row in enumerate(self.seeds.rows):
            if row.label and row.label not in known:
                raise unknown_name(("seeds", "rows", index, "label"), "label", row.label, "the task", known)
        return self

    @model_validator(mode="after")
    def _method_fits(self) -> Recipe:
        method = METHODS.get(self.method.kind)
        problems = [*method.check(self, None), *(method.check_prompts(self) if self.prompts else ())]
        if problems:
            raise FieldErrors(problems)
        return self

    @property
    def criteria(self) -> tuple[Criterion, ...]:
        """What reviewers score from 0 to 10: the recipe's rubric, or the task's."""
        own = tuple(Criterion(name, meaning, (9, 3, 0)) for name, meaning in self.rubric.items())
        return own or self.task.rubric

    @property
    def key_variables(self) -> tuple[str, ...]:
        """The environment variables that hold its models' keys."""
        return tuple(dict.fromkeys(name for model in self.models for name in model.key_variables))

    @overload
    def role(self, name: str) -> RoleSpec: ...

    @overload
    def role(self, name: str, spec: type[R]) -> R: ...

    def role(self, name: str, spec: type[RoleSpec] = RoleSpec) -> RoleSpec:
        """A role's settings; the defaults of `spec` if the recipe's method has no such role."""
        found = self.roles.get(name)
        return found if isinstance(found, spec) else spec()

    def writes(self, role: str) -> bool:
        """Return True if the role's replies become part of the rows."""
        return roles_of(self.method.kind).get(role, Role()).writes or role in self.method.writing

    def models_for(self, role: str) -> tuple[ModelSpec, ...]:
        """The pool of one role. A role that names no models takes every model that can play it."""
        named = self.role(role).models
        if named:
            return tuple(model for model in self.models if model.name in named)
        judges = not self.writes(role) and self.task.labelled
        return tuple(model for model in self.models if judges or model.provider != "encoder")

    def longest_text(self) -> float:
        """Characters above which one of its gates rejects a text; infinite if none does."""
        limits = (kind.longest(self) for kind in GATES.all().values() if kind.enabled(self))
        return min((limit for limit in limits if limit is not None), default=inf)

    def small(self, candidates: int, each: int, labels: Mapping[str, int]) -> Recipe:
        """The recipe for a pilot of so many candidates: `each` rows of a label are wanted, `labels` are exceptions."""
        limits = self.limits.model_copy(update={"candidates": candidates, "min_yield": 0.0, "out_of_reach": "go_on"})
        target = Target(rows_per_label=each, labels=dict(labels))
        return self.model_copy(update={"target": target, "limits": limits, "review": None, "select": None})

    def wanted(self) -> dict[str, int]:
        """Target rows of each label, in the task's order."""
        return {name: self.target.labels.get(name, self.target.rows_per_label) for name in self.task.names}

    def made(self, wanted: Mapping[str, int]) -> dict[str, int]:
        """Rows to make of each label where these are wanted: more if `select` chooses among them."""
        times = self.select.oversample if self.select else 1.0
        return {label: ceil(round(count * times, 6)) for label, count in wanted.items()}

    @property
    def kinds(self) -> list[tuple[Kinds[Any], str]]:
        """The family and name of every kind that a run of the recipe, its student or its loop uses."""
        objective = self.student.objective
        return [
            (METHODS, self.method.kind),
            *self.method.kinds,
            (TASKS, self.task.kind),
            (STUDENTS, self.task.student),
            *((GATES, name) for name, kind in GATES.all().items() if kind.enabled(self)),
            *([(OBJECTIVES, objective.kind)] if objective else []),
            *((STAGES, stage.kind) for stage in self.student.instruct.stages),
            *((POLICIES, name) for name in self.improve.policies),
        ]

    def fingerprint(self, *more: Any) -> str:
        """Hash of everything that decides the rows, so not student, loop, review and caps: a raised cap continues."""
        left_out = {"student", "improve", "description", "review"}
        left_out |= {name for name in ("steering", "select") if getattr(self, name) is None}
        data = without_caps(self.model_dump(mode="json", exclude=left_out))
        for model in data["models"]:  # later fields count only if they are set, so that other runs keep their ids
            model.pop("context")  # room for a prompt, not its words
            for name in ("weights", "headers_env"):
                if not model[name]:
                    del model[name]
        data["gates"] = {name: data["gates"][name] for name in self._gate_fields()}
        return stable_hash(data, self.task.rubric, more)

    def _gate_fields(self) -> list[str]:
        """Fields under `gates` that decide a run's rows: those of active gates."""
        on = (kind for kind in GATES.all().values() if kind.scope != "version" and kind.enabled(self))
        return [name for kind in on for name in kind.Settings.model_fields]


def without_caps(recipe: dict[str, Any]) -> dict[str, Any]:
    """A dumped recipe without the caps on money, tokens and minutes, which do not decide rows."""
    roles = {role: {**spec, "money_usd": None} if spec else spec for role, spec in recipe["roles"].items()}
    limits = {**recipe["limits"], "money_usd": None, "tokens": None, "minutes": None}
    return {**recipe, "limits": limits, "roles": roles}


def _stored_kind(data: Mapping[str, Any]) -> str | None:
    """The method of a stored recipe, or None if it cannot be used."""
    method = data.get("method")
    kind = method.get("kind", DEFAULT_METHOD) if isinstance(method, Mapping) else DEFAULT_METHOD
    return kind if kind in METHODS.names else None


def _stored_model(model: Any) -> Any:
    if not isinstance(model, Mapping):
        return model
    kept = {name: value for name, value in model.items() if name != "weights"}
    if isinstance(kept.get("extra"), Mapping):
        kept["extra"] = sendable(kept["extra"])
    if isinstance(kept.get("base_url"), str):
        kept["base_url"] = without_keys(kept["base_url"])
    if kept.get("api_key_env") == HIDDEN:
        kept["api_key_env"] = None
    return kept
