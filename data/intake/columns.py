"""Mapping of columns to roles (text, label, response, split, id): detected from names and values, or given."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graft.data.intake.parts import Problems, Source, invalid, split_of
from graft.schemas.problems import did_you_mean
from graft.schemas.tasks.base import Task

SAMPLE = 500
ROLES = ("text", "label", "response", "split", "id")
NAMES: dict[str, tuple[tuple[str, ...], ...]] = {
    "text": (
        ("text",), ("utterance", "sentence", "query", "question", "prompt", "instruction", "message"),
        ("content", "body", "review", "comment", "tweet", "document", "input", "title", "headline", "inputs"),
    ),
    "label": (
        ("label_text", "label_name", "intent_name"), ("label", "intent", "category", "class", "labels"),
        ("target", "topic", "sentiment", "emotion", "tag", "domain", "fine_label", "coarse_label", "label_fine"),
    ),
    "response": (("response",), ("output", "answer", "completion", "reply", "chosen", "responses", "answers")),
    "split": (("split",), ("fold", "subset", "partition")),
    "id": (("id",), ("row_id", "uid", "guid", "idx", "_id", "index", "", "unnamed:_0")),
}  # fmt: skip
"""Column names for each role, likelier names in earlier groups; two names of one group are ambiguous."""
CHATS = ("messages", "conversations", "conversation")


@dataclass(frozen=True)
class Mapped:
    """The column of each role.

    `text` may be several columns, joined by an empty line. `chat` is a column of whole conversations. `data` are the
    columns of the task's own by name, such as spans.
    """

    text: tuple[str, ...] = ()
    label: str | None = None
    response: str | None = None
    split: str | None = None
    id: str | None = None
    chat: str | None = None
    data: Mapping[str, str] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that have to be read."""
        each = (*self.text, self.label, self.response, self.split, self.chat, *self.data.values())
        return tuple(dict.fromkeys(name for name in each if name is not None))

    def by_role(self) -> dict[str, str]:
        """Role to column, as written with --map."""
        found = {"text": "+".join(self.text) or (f"{self.chat} (chat)" if self.chat else ""), "label": self.label}
        found |= {"response": self.response or (f"{self.chat} (chat)" if self.chat else None), "split": self.split}
        every = {**found, "id": self.id, **self.data}
        return {role: name for role, name in every.items() if name is not None and name != ""}


def sample(source: Source) -> list[Mapping[str, Any]]:
    """Return the first records of each part, a few hundred in all. Invalid rows are ignored here and found later."""
    each = max(5, SAMPLE // max(1, len(source.parts)))
    records: list[Mapping[str, Any]] = []
    for part in source.parts:
        ignored = Problems()
        records += [record for _, record in itertools.islice(part.records(ignored, None), each)]
        if ignored.fatal:
            ignored.finish()
        if len(records) >= 2 * SAMPLE:
            break
    return records


def parse_map(items: Sequence[str], more: Sequence[str] = ()) -> dict[str, str]:
    """Parse `text=utterance,label=intent` into role to column. A column's name may contain a comma or =.

    `more` are the columns of the task's own, which are roles too.
    """
    found, roles = {}, (*ROLES, *more)
    for item in items:
        for piece in between(roles).split(item):
            role, equals, column = piece.partition("=")
            if not equals or role.strip() not in roles:
                raise invalid("--map", f"cannot read {piece!r}", f"such as text=utterance; roles: {', '.join(roles)}")
            found[role.strip()] = column.strip()
    return found


def between(roles: Sequence[str]) -> re.Pattern[str]:
    """The commas before one of these roles."""
    return re.compile(rf",(?=\s*(?:{'|'.join(roles)})=)")


def guess(
    source: Source, records: Sequence[Mapping[str, Any]], given: Mapping[str, str], task: type[Task] = Task
) -> Mapped:
    """Map columns to roles, detecting those that are not given.

    Args:
        source: The source, for error messages.
        records: A sample of its records.
        given: Columns by role as given with --map; an empty column drops the role.
        task: The task, if one is named: it may have columns of its own, and need no text or label.

    Raises:
        InputInvalid: There are no rows, a given column does not exist, or the detection is ambiguous.
    """
    columns = list(dict.fromkeys(str(name) for record in records for name in record))
    if not columns:
        raise invalid(source.name, "contains no rows", "check the file: it needs a header and at least one row")
    chosen: dict[str, Any] = {role: _known(source, column, columns, role) for role, column in given.items() if column}
    dropped = {role for role, column in given.items() if not column}
    taken = {name for value in chosen.values() for name in value}
    own = {name: chosen.pop(name)[0] for name in task.columns if name in chosen}
    for name in task.columns:
        same = CHATS if name in CHATS else (name,)
        found = next((c for c in columns if c not in taken and c.strip().casefold() in same), None)
        if found and name not in own and name not in dropped:
            own[name] = found
    taken |= set(own.values())
    free = [column for column in columns if column not in taken]
    chat = next((c for c in free if c.casefold() in CHATS and any(_turns(r.get(c)) for r in records)), None)
    if chat and "text" not in chosen:
        label = chosen.get("label") or _by_name(source, "label", free, records)
        split = chosen.get("split") or _by_name(source, "split", free, records)
        return Mapped(label=_one(label, dropped, "label"), split=_one(split, dropped, "split"), chat=chat)
    for role in ("id", "split", "response", "label", "text"):
        if role not in chosen and role not in dropped:
            chosen[role] = _by_name(source, role, [c for c in free if c not in taken], records)
            taken |= set(chosen[role])
    rest = [column for column in columns if column not in taken]
    if not chosen.get("text") and task.own_text:
        chosen["text"] = _texts(source, rest, records, columns)
        rest = [column for column in rest if column not in chosen["text"]]
    wants_label = task.needed_column == "label"
    if not chosen.get("label") and not chosen.get("response") and "label" not in dropped and wants_label:
        chosen["label"] = _labels(source, rest, records, columns)
    roles = {role: _one(chosen.get(role, ()), set(), role) for role in ROLES[1:]}
    return Mapped(chosen.get("text", ()), **roles, data=own)


def _one(names: Sequence[str], dropped: set[str], role: str) -> str | None:
    return names[0] if names and role not in dropped else None


def _known(source: Source, column: str, columns: list[str], role: str) -> tuple[str, ...]:
    names = (column,) if column in columns or role != "text" else tuple(column.split("+"))
    for name in names:
        if name not in columns:
            fix = f"{did_you_mean(name, columns)}the columns are: {', '.join(columns)}"
            raise invalid(source.name, f"there is no column {name!r}", fix, role)
    return names


def _by_name(
    source: Source, role: str, columns: Sequence[str], records: Sequence[Mapping[str, Any]]
) -> tuple[str, ...]:
    folded = {column: _folded(column) for column in columns}
    if role == "text" and "instruction" in folded.values() and "input" in folded.values() and len(columns) >= 2:
        pair = {name: column for column, name in folded.items()}
        return pair["instruction"], pair["input"]
    for group in NAMES[role]:
        found = [column for column in columns if folded[column] in group and _fits(role, column, records)]
        if len(found) > 1 and role in ("text", "label", "response"):
            raise _ambiguous(source, role, found, columns)
        if found:
            return (found[0],)
    return ()


def _folded(column: str) -> str:
    return re.sub(r"[\s\-]+", "_", column.strip().casefold())


def _fits(role: str, column: str, records: Sequence[Mapping[str, Any]]) -> bool:
    values = [value for record in records if (value := record.get(column)) is not None]
    if role == "split":
        return bool(values) and all(isinstance(value, str) and split_of(value) for value in values if value != "")
    if role in ("text", "response"):
        return any(isinstance(value, str) for value in values)
    return True


def likely(role: str, records: Sequence[Mapping[str, Any]], taken: Sequence[str] = ()) -> str:
    """The column that most likely plays a role (text or label), by its name, else by its values; empty if none does."""
    columns = [name for name in dict.fromkeys(str(name) for record in records for name in record) if name not in taken]
    for group in NAMES[role]:
        if found := [name for name in columns if _folded(name) in group and _fits(role, name, records)]:
            return found[0]
    spread = {name: [value for record in records if isinstance(value := record.get(name), str)] for name in columns}
    words = {name: sum(len(value.split()) for value in values) for name, values in spread.items() if values}
    if role == "text":
        return max(words, key=lambda name: words[name], default="")
    few = [name for name in words if len(set(spread[name])) * 2 <= len(spread[name])]
    return min(few, key=lambda name: len(set(spread[name])), default="")


def _texts(
    source: Source, rest: Sequence[str], records: Sequence[Mapping[str, Any]], columns: Sequence[str]
) -> tuple[str, ...]:
    """The only column with texts of several words, most of them different."""
    found = []
    for column in rest:
        values = [value for record in records if isinstance(value := record.get(column), str) and value.strip()]
        words = sum(len(value.split()) for value in values)
        if values and words >= 2 * len(values) and len(set(values)) * 2 > len(values):
            found.append(column)
    if len(found) != 1:
        raise _ambiguous(source, "text", found, columns)
    return (found[0],)


def _labels(
    source: Source, rest: Sequence[str], records: Sequence[Mapping[str, Any]], columns: Sequence[str]
) -> tuple[str, ...]:
    """The only column with few different, short values."""
    found = []
    for column in rest:
        values = [v for record in records if isinstance(v := record.get(column), str | int) and v != ""]
        short = all(len(str(value)) <= 60 for value in values)
        if values and short and 2 <= len(set(values)) <= max(2, len(values) // 2):
            found.append(column)
    if len(found) != 1:
        raise _ambiguous(source, "label", found, columns)
    return (found[0],)


def _ambiguous(source: Source, role: str, found: Sequence[str], columns: Sequence[str]) -> Exception:
    what = f"{' and '.join(map(repr, found))} could each be the {role}" if found else f"no column looks like the {role}"
    fix = f"choose with --map {role}=COLUMN; the columns are: {', '.join(columns)}"
    return invalid(source.name, what, fix, role)


def _turns(value: Any) -> list[tuple[str, str]]:
    """(speaker, content) of each turn, in either common format; empty if the value is not a conversation."""
    turns = []
    for turn in value if isinstance(value, list) else ():
        if not isinstance(turn, dict):
            return []
        who, what = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if not isinstance(who, str) or not isinstance(what, str):
            return []
        turns.append(({"human": "user", "gpt": "assistant"}.get(who, who), what))
    return turns


def from_chat(value: Any) -> tuple[str, str] | None:
    """Split a conversation into (everything before the last answer, the last answer); None if it has no such form.

    A single question is kept as it is; several turns are prefixed with their speakers.
    """
    turns = _turns(value)
    if len(turns) < 2 or turns[-1][0] != "assistant":
        return None
    before, answer = turns[:-1], turns[-1][1]
    if sum(who != "system" for who, _ in before) == 1:
        return "\n\n".join(what for _, what in before), answer
    return "\n\n".join(f"{who}: {what}" for who, what in before), answer
