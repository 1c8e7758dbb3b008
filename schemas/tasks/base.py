"""Interface of every task. A kind is a subclass of `Task` in a module of its name, here or in another distribution.

Code outside a kind's module never tests which kind a task is: it reads one of the attributes below. The defaults are
those of short texts with one label each; a kind overrides those that differ.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import orjson
from pydantic import Field, ValidationError, field_validator

from graft.schemas.base import Value
from graft.schemas.display import Part, View, part
from graft.schemas.errors import NotFound
from graft.schemas.forms import FormField
from graft.schemas.kinds import TASKS
from graft.schemas.problems import FieldErrors, Finding

LabelName = Annotated[str, Field(min_length=1, max_length=100)]


class Label(Value):
    """One class: its name as the student will predict it, and its meaning as a clause."""

    name: LabelName
    description: str = Field(default="", max_length=1_000, description="completes: a text which is about …")


@dataclass(frozen=True)
class Criterion:
    """One thing that reviewers score from 0 to 10.

    `examples` are the scores that the worked examples of a base model's prompt get: a real text of the wanted label, a
    real one of another label, and nonsense.
    """

    name: str
    meaning: str
    examples: tuple[int, int, int]


RUBRIC = (
    Criterion("fit", "the text fits the wanted label better than any other label.", (10, 0, 1)),
    Criterion("usability", "it is a text that a model should learn this label from.", (10, 1, 0)),
    Criterion("clarity", "a reader understands what is meant.", (9, 9, 1)),
    Criterion("naturalness", "a real author could have written it in this situation.", (10, 9, 0)),
    Criterion("completeness", "it is whole, neither cut off nor an outline nor a remark about itself.", (9, 8, 1)),
    Criterion("harmlessness", "it insults nobody and gives away nobody's private data.", (10, 5, 4)),
)
"""GRA's six scores, carried over from responses to texts with a label."""


@dataclass(frozen=True)
class ImportedRows:
    """Facts about imported rows. `labels` are sorted; `answered` is True if any row has a response."""

    labels: Sequence[str]
    answered: bool
    restricted: bool
    policy: str


@dataclass(frozen=True)
class Words:
    """A row as its task reads it. `data` holds its columns beyond text, response and label."""

    text: str
    response: str | None = None
    label: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Words:
        """A row as plain values; where its words are hidden, so are its columns."""
        data = row.get("data")
        return cls(row["text"], row.get("response"), row.get("label", ""), data if isinstance(data, Mapping) else {})


@dataclass(frozen=True)
class Fault:
    """A fault in a row's own shape: the rule for programs, and the detail, which names the element, for people."""

    rule: str
    detail: str


class Task(Value):
    """A task. The base class itself is the task of a run that names none: unrestricted rows with any labels."""

    kind: str = ""
    language: str = Field(default="en", pattern=r"^[a-z]{2,3}$", description="ISO 639 code of the texts")

    labelled: ClassVar[bool] = True
    """True if rows teach their label: judges determine it and the student predicts it.

    If False, rows teach their response: the label only groups rows, and models assign one to seeds without a label.
    """
    label_noun: ClassVar[str] = "label"
    """The word for its labels."""
    sides: ClassVar[tuple[str, ...]] = ()
    """The two labels of a task with a policy, the refused side first; empty for all other tasks."""
    free_form: ClassVar[bool] = False
    """True if a text may hold code, JSON and fields of its own."""
    student: ClassVar[str] = "classifier"
    """The kind of student that learns it, in `schemas.kinds.STUDENTS`; empty if there is none yet."""
    rubric: ClassVar[tuple[Criterion, ...]] = RUBRIC
    """The criteria by which reviewers score a text with a label."""
    hub_category: ClassVar[str] = "text-classification"
    """The task's name on Hugging Face's hub."""
    needed_column: ClassVar[str] = "label"
    """The column that an import needs besides the text: "label", "response" or none."""
    guessed_from: ClassVar[str] = ""
    """The column from which an import without a named task is guessed to be this one; empty: never guessed."""
    import_options: ClassVar[tuple[str, ...]] = ()
    """Fields of the task that a person must give with an import."""
    columns: ClassVar[tuple[str, ...]] = ()
    """Columns beyond text, response and label that its rows may have; an import reads them under these names."""
    own_text: ClassVar[bool] = True
    """True if an import needs a column of texts; False if `text_of` finds the text in the columns."""
    needed: ClassVar[tuple[str, ...]] = ()
    """Those of `columns` without which a row is incomplete."""
    checked: ClassVar[bool] = False
    """True if `faults` checks rows: the gate `fits_task` is on."""
    prompt: ClassVar[tuple[str, ...]] = ("text",)
    """The text and columns that a model reads to answer a row, in order; those that a row lacks are left out."""

    @classmethod
    def named(cls) -> str:
        """The kind's name, without an instance."""
        return str(cls.model_fields["kind"].default)

    @property
    def categories(self) -> tuple[Label, ...]:
        """The categories over which rows are spread, in the recipe's order: labels, domains or a policy's sides."""
        return ()

    @property
    def names(self) -> list[str]:
        """The categories' names, in their order."""
        return [one.name for one in self.categories]

    @property
    def noun(self) -> str:
        """A noun phrase for one text, such as "a message to a shop's support"."""
        return "a short text"

    @property
    def needs_response(self) -> bool:
        """True if a row is incomplete without a response."""
        return not self.labelled

    @property
    def has_restricted(self) -> bool:
        """True if rows of some label are restricted."""
        return any(self.restricts(name) for name in self.names)

    def restricts(self, label: str) -> bool:
        """Return True if rows with this label are hidden by default. `label` may be any text, even empty."""
        return False

    def category(self, name: str) -> Label:
        """The category of that name; an unknown one is returned without a description."""
        return next((one for one in self.categories if one.name == name), Label(name=name))

    def clause(self, name: str) -> str:
        """The words that complete "a text which …" for a category."""
        return f"is about {self.category(name).description or name}"

    def settle(self, row: Words, before: str | None = None) -> dict[str, Any]:
        """The row's columns in their stored form, such as spans with offsets. Never raises; what cannot be settled is
        left for `faults` to name.

        `before` is the text that the columns were made for, if the row has another one now.
        """
        return dict(row.data)

    def text_of(self, data: Mapping[str, Any]) -> str:
        """The text of a row that brings settled columns alone."""
        return ""

    def faults(self, row: Words) -> tuple[Fault, ...]:
        """The faults in the row's own shape, with settled columns; empty if there is none. Never raises."""
        return ()

    def view(self, row: Words) -> View:
        """The row as it is shown. Never raises, however odd the columns are."""
        return self._view(row)

    def form(self, row: Words) -> tuple[FormField, ...]:
        """The columns that a person may edit, as text; empty if there is none."""
        return ()

    def of_form(self, values: Mapping[str, str], row: Words) -> dict[str, Any]:
        """The row's columns with an edited form's values, settled. Raises ValueError if a value cannot be read."""
        return self.settle(row)

    def measures(self, row: Words) -> Mapping[str, Sequence[float | str]]:
        """The row's part in the quality report: numbers are summed up, texts are counted; see data/quality/shape.py."""
        return {}

    def _view(self, row: Words, *first: Part, shown: Sequence[str] = ()) -> View:
        """`first` (by default text and response), then each column that is not `shown`; a passage has its own place."""
        if not first:
            answer = (part(row.response, tone="response"),) if row.response else ()
            first = (part(row.text), *answer)
        rest = (
            part(_as_text(value), name, "aside") for name, value in row.data.items() if name not in (*shown, "source")
        )
        return (*first, *rest)

    @classmethod
    def of_rows(cls, rows: ImportedRows) -> dict[str, Any]:
        """The task's own fields for existing rows. Raises FieldErrors if the rows do not suit the task."""
        raise NotImplementedError(f"{cls.__name__} is not imported")

    @classmethod
    def unchecked(cls, names: Sequence[str], language: str) -> Task:
        """The task over these categories, however few or odd; called for a kind that is guessed from columns."""
        raise NotImplementedError(f"{cls.__name__} is not guessed")


class DomainTask(Task):
    """The base of tasks whose label only groups rows: domains, or one stream of rows."""

    domains: tuple[Label, ...] = Field(
        default=(Label(name="any"),), min_length=1,
        description="groups over which rows are spread, each with its target; left out: one group",
    )  # fmt: skip

    labelled: ClassVar[bool] = False
    label_noun: ClassVar[str] = "domain"
    needed_column: ClassVar[str] = ""

    _unique = field_validator("domains")(lambda labels: no_repeats(labels))

    @property
    def categories(self) -> tuple[Label, ...]:
        """The domains."""
        return self.domains

    @property
    def needs_response(self) -> bool:
        """True if an import needs a response, too."""
        return self.needed_column == "response"

    @classmethod
    def of_rows(cls, rows: ImportedRows) -> dict[str, Any]:
        """The labels that the rows have are their domains."""
        return {"domains": [{"name": label} for label in rows.labels]}

    @classmethod
    def unchecked(cls, names: Sequence[str], language: str) -> Task:
        """See Task."""
        return cls.model_construct(kind=cls.named(), domains=any_labels(names), language=language)


class Unread(Task):
    """A stored task that this Graft cannot read in full, because its kind is not installed or its fields have changed.

    `like` determines the restricted labels from the fields that could be read. Without it all rows are restricted.
    """

    like: Task | None = None
    listed: tuple[Label, ...] = ()

    @property
    def categories(self) -> tuple[Label, ...]:
        """Every named entry of the lists that the task holds."""
        return self.listed

    @property
    def has_restricted(self) -> bool:
        """See Task."""
        return any(self.restricts(name) for name in ("", *self.names))

    def restricts(self, label: str) -> bool:
        """See Task."""
        return self.like is None or self.like.restricts(label)


def stored_task(recipe: Mapping[str, Any]) -> Task:
    """The task of a run's recipe as the lake holds it. Never raises: an unreadable task is returned as Unread."""
    given = recipe.get("task")
    task: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    name, language = str(task.get("kind") or ""), str(task.get("language") or "en")
    try:
        kind: type[Task] = TASKS.get(name) if name else Task
        return kind.model_validate(task)
    except NotFound:
        like = None
    except ValidationError:
        like = kind.model_construct(**task)
    lists = [value for value in task.values() if isinstance(value, list | tuple)]
    names = [str(one["name"]) for value in lists for one in value if isinstance(one, Mapping) and one.get("name")]
    return Unread.model_construct(kind=name, language=language, like=like, listed=any_labels(names))


def task_for(columns: Collection[str]) -> type[Task]:
    """The kind of task for rows with these columns ("response", "label") if none is named."""
    every: list[type[Task]] = list(TASKS.all().values())
    kinds = {kind.guessed_from: kind for kind in reversed(every) if kind.guessed_from}  # Graft's own before plugins'
    return next((kinds[column] for column in ("response", "label") if column in columns), kinds["label"])


def no_repeats(labels: tuple[Label, ...]) -> tuple[Label, ...]:
    """A field validator. Raises FieldErrors where two labels differ in case alone."""
    seen: dict[str, str] = {}
    for label in labels:
        folded = label.name.strip().casefold()
        if folded in seen:
            what = f"label {label.name!r} occurs twice (as {seen[folded]!r} before)"
            raise FieldErrors(
                [Finding((), what, "give every label a unique name; names that differ only in case are the same")]
            )
        seen[folded] = label.name
    return labels


def any_labels(names: Sequence[str]) -> tuple[Label, ...]:
    """Labels of these names, whatever they look like."""
    return tuple(Label.model_construct(name=name, description="") for name in names)


def of_length(first: str, second: str, allowed: tuple[float, float] | None, what: str) -> tuple[Fault, ...]:
    """The fault of a second text whose length is out of proportion to the first one's."""
    ratio = len(second) / max(1, len(first))
    if allowed is None or allowed[0] <= ratio <= allowed[1]:
        return ()
    detail = f"{what} has {ratio:.2f} of the first one's length, outside {allowed[0]:g} to {allowed[1]:g}"
    return (Fault("length_ratio", detail),)


def from_json(value: Any) -> Any:
    """The value that a text holds as JSON, such as a cell of a CSV file; anything else as it is."""
    if isinstance(value, str):
        with suppress(orjson.JSONDecodeError):
            return orjson.loads(value)
    return value


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value, default=str).decode()
