"""What every task answers. A kind is a class of `Task` in a module of its name here, or of another distribution.

Nothing outside a kind's module asks which kind a task is: it asks for one of the answers below. Each has a default,
that of short texts with one label each; a kind gives those that differ.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field, ValidationError

from graft.schemas.base import Value
from graft.schemas.errors import NotFound
from graft.schemas.kinds import TASKS
from graft.schemas.problems import FieldErrors, Finding

LabelName = Annotated[str, Field(min_length=1, max_length=100)]


class Label(Value):
    """One class: its name as the student will predict it, and what it means in a clause."""

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
    """What an import knows of its rows. `labels` are sorted; `answered`: whether any row has a response."""

    labels: Sequence[str]
    answered: bool
    restricted: bool
    policy: str


class Task(Value):
    """A task. The class itself stands for that of a run which names none: open rows, of any labels."""

    kind: str = ""
    language: str = Field(default="en", pattern=r"^[a-z]{2,3}$", description="ISO 639 code of the texts")

    labelled: ClassVar[bool] = True
    """Whether a row teaches its label: judges are asked for it and the student predicts it.

    Where it is false a row teaches its response: the label only sorts rows, and models sort seeds that come without.
    """
    label_noun: ClassVar[str] = "label"
    """What its labels are called."""
    sides: ClassVar[tuple[str, ...]] = ()
    """The two labels of a task that judges by a policy, the refused side first; empty for all others."""
    free_form: ClassVar[bool] = False
    """Whether a text may hold code, JSON and fields of its own."""
    student: ClassVar[str] = "classifier"
    """The kind of student that learns it, in `schemas.kinds.STUDENTS`."""
    rubric: ClassVar[tuple[Criterion, ...]] = RUBRIC
    """What reviewers score a text with a label by."""
    hub_category: ClassVar[str] = "text-classification"
    """The task's name on Hugging Face's hub."""
    needed_column: ClassVar[str] = "label"
    """What an import must have besides the text: "label" or "response"."""
    guessed_from: ClassVar[str] = ""
    """The column by which an import is taken for this task where nobody says which; empty for one that is never."""
    import_options: ClassVar[tuple[str, ...]] = ()
    """Fields of the task that a person must give with an import."""

    @classmethod
    def named(cls) -> str:
        """The kind's name, without an instance."""
        return str(cls.model_fields["kind"].default)

    @property
    def categories(self) -> tuple[Label, ...]:
        """What rows are spread over, in the recipe's order: labels, domains, or the sides of a policy."""
        return ()

    @property
    def names(self) -> list[str]:
        """The categories' names, in their order."""
        return [one.name for one in self.categories]

    @property
    def noun(self) -> str:
        """What one text is, such as "a message to a shop's support"."""
        return "a short text"

    @property
    def needs_response(self) -> bool:
        """Whether a row is not whole without a response."""
        return not self.labelled

    @property
    def has_restricted(self) -> bool:
        """Whether rows of some label are restricted."""
        return any(self.restricts(name) for name in self.names)

    def restricts(self, label: str) -> bool:
        """Whether rows with this label are hidden until somebody asks for them. Any label may come, "" too."""
        return False

    def category(self, name: str) -> Label:
        """The category of that name; one that the task does not know comes back without a description."""
        return next((one for one in self.categories if one.name == name), Label(name=name))

    def clause(self, name: str) -> str:
        """What completes "a text which …" for a category."""
        return f"is about {self.category(name).description or name}"

    @classmethod
    def of_rows(cls, rows: ImportedRows) -> dict[str, Any]:
        """The task's own fields for rows that are there already. Raises FieldErrors where the rows cannot be its."""
        raise NotImplementedError(f"{cls.__name__} is not imported")

    @classmethod
    def unchecked(cls, names: Sequence[str], language: str) -> Task:
        """The task over these categories, however few or odd they are; asked of a kind that is guessed from columns."""
        raise NotImplementedError(f"{cls.__name__} is not guessed")


class Unread(Task):
    """A stored task that this Graft cannot read in full, because its kind is not installed or its fields have changed.

    `like` tells what is restricted, by the fields that are there. Without it nobody can tell, so all rows are.
    """

    like: Task | None = None
    listed: tuple[Label, ...] = ()

    @property
    def categories(self) -> tuple[Label, ...]:
        """Whatever has a name in the lists that the task holds."""
        return self.listed

    @property
    def has_restricted(self) -> bool:
        """See Task."""
        return any(self.restricts(name) for name in ("", *self.names))

    def restricts(self, label: str) -> bool:
        """See Task."""
        return self.like is None or self.like.restricts(label)


def stored_task(recipe: Mapping[str, Any]) -> Task:
    """The task of a run's recipe as the lake holds it. Never raises: what cannot be read is Unread."""
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
    """The kind of rows that have these columns ("response", "label"), where nobody says which."""
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
