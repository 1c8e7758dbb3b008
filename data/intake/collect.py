"""Turns records into rows: checked, deduplicated, with ids derived from their content, and assigned to splits."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from graft.data.intake.columns import Mapped, from_chat
from graft.data.intake.decode import is_sound
from graft.data.intake.parts import Part, Problems, Source, invalid, split_of
from graft.data.splits import assign_splits
from graft.schemas.base import stable_hash
from graft.schemas.datasets import Row, SplitName
from graft.schemas.recipe import Splits
from graft.schemas.rows import Data
from graft.schemas.tasks.base import Task, Words

MAX_CHARS = 100_000
MAX_LABEL = 100
DATA_TIMES = 4
"""Most bytes of a row's further columns, as a multiple of the most characters of a text."""
NO_LABEL = "imported"
"""The only domain of instructions without a label."""
RANK: dict[SplitName | None, int] = {"test": 3, "validation": 2, "train": 1, None: 0}
"""Of a row in two splits, the copy in the split with the higher rank is kept, which a model must not have seen."""


@dataclass(frozen=True)
class Checks:
    """Requirements on each row.

    `labels` are the allowed labels (None: any). `splits` overrides the source's own splits. `task`, if any, settles and
    checks the columns of its own.
    """

    needs_response: bool = False
    max_chars: int = MAX_CHARS
    labels: Sequence[str] | None = None
    restricted: bool = False
    splits: Splits | None = None
    seed: int = 42
    task: Task | None = None


@dataclass
class Collected:
    """Rows in the order of their ids, notices for the user, and counts.

    `assigned`: the splits were not the source's own.
    """

    rows: list[Row] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    assigned: bool = False


Kept = tuple[str, str, str | None, SplitName | None, Data]
"""Text, label, response, split, further columns."""
NONE: Data = {}
"""Of a row without further columns; never changed, so that all such rows share it."""


def collect(source: Source, mapped: Mapped, checks: Checks, *, skip_bad: bool = False) -> Collected:
    """Collect every row of the source.

    Args:
        source: The source, as returned by `sources.find`.
        mapped: The column of each role.
        checks: Requirements on each row.
        skip_bad: Leave invalid rows out and count them instead of failing.

    Raises:
        InputInvalid: Rows are invalid (all are listed), or no row is left.
    """
    problems = Problems(skip=skip_bad)
    kept: dict[str, Kept] = {}
    read = repeated = moved = 0
    for part in source.parts:
        for text, label, response, split, data in _good(part, mapped, checks, problems):
            read += 1
            name = "i_" + stable_hash(text, label, response, *([data] if data else []))
            earlier = kept.get(name)
            if earlier is None:
                kept[name] = (text, label, response, split, data)
                continue
            repeated += 1
            if earlier[3] != split:
                moved += 1
                if RANK[split] > RANK[earlier[3]]:
                    kept[name] = (text, label, response, split, data)
    _labels_apart(source, kept, problems)
    problems.finish()
    if not kept:
        raise invalid(source.name, "no row is left", "look at the mapping with --dry-run")
    counts = {"read": read + sum(problems.skipped.values()), "published": len(kept), "repeated": repeated}
    counts |= {f"skipped.{kind}": count for kind, count in sorted(problems.skipped.items())}
    made = Collected(counts=counts)
    if repeated:
        made.notices.append(f"{repeated:,} rows repeat the text and label of an earlier row: each is kept once")
    if moved:
        made.notices.append(f"{moved:,} of them were in two splits: kept in test before validation before train")
    for kind, count in sorted(problems.skipped.items()):
        made.notices.append(f"{count:,} bad rows were left out: {kind}")
    _split(source, kept, checks, made)
    return made


def _good(part: Part, mapped: Mapped, checks: Checks, problems: Problems) -> Iterator[Kept]:
    names = part.names.get(mapped.label or "")
    for line, record in part.records(problems, mapped.columns):
        found = fields_of(record, mapped)
        data, odd = _columns(record, mapped, checks) if checks.task else (NONE, None)
        if checks.task and not found[0]:
            found = (checks.task.text_of(checks.task.settle(Words("", data=data))), found[1])
        what = wrong_text(found, mapped, checks) or odd
        label, no_label = _label(record.get(mapped.label), names, checks) if mapped.label else (NO_LABEL, None)
        split, no_split = _split_of(record.get(mapped.split)) if mapped.split else (part.split, None)
        if checks.task and not what:
            data, what = _whole(checks.task, found, label, data)
        wrong = [each for each in (what, no_label, no_split) if each]
        if wrong:
            for column, message, fix, kind in wrong[: 1 if problems.skip else 3]:
                problems.row(part.file, line, column, message, fix, kind)
        else:
            text = found[0] if data else found[0].strip()  # offsets count from the first character
            yield text, label, found[1].strip() or None if found[1] else None, split, data


Wrong = tuple[str, str, str, str]
"""Column, what, fix, and the kind that it is counted under."""


def _columns(record: Mapping[str, Any], mapped: Mapped, checks: Checks) -> tuple[Data, Wrong | None]:
    """The task's own columns as they are given; a column without a value is left out."""
    assert checks.task
    given = {name: record.get(column) for name, column in mapped.data.items()}
    given = {name: value for name, value in given.items() if value is not None and value != ""}
    where = "+".join(mapped.data.values())
    try:
        size = len(orjson.dumps(given))
    except TypeError as error:
        return {}, (where, f"is not JSON: {error}", "texts, numbers, lists and objects of them", "type")
    if size > DATA_TIMES * checks.max_chars:
        fix = f"at most {DATA_TIMES * checks.max_chars:,} bytes of JSON, or --max-chars"
        return {}, (where, f"has {size:,} bytes", fix, "long")
    return given, None


def _whole(task: Task, found: tuple[Any, Any], label: str, data: Data) -> tuple[Data, Wrong | None]:
    """The columns as they are stored, and the row's first fault."""
    row = Words(found[0], found[1] or None, label, data)
    settled = task.settle(row)
    faults = task.faults(replace(row, data=settled))
    where = "+".join(data) or "row"
    return settled, (where, faults[0].detail, "correct or remove the row", faults[0].rule) if faults else None


def fields_of(record: Mapping[str, Any], mapped: Mapped) -> tuple[Any, Any]:
    """The raw text and response, of any type."""
    if mapped.chat:
        return from_chat(record.get(mapped.chat)) or (None, None)
    response = record.get(mapped.response) if mapped.response else None
    if isinstance(response, list) and len(response) == 1:
        response = response[0]
    values = [record.get(name) for name in mapped.text]
    if len(values) == 1:
        return values[0], response
    if any(value is not None and not isinstance(value, str) for value in values):
        return next(value for value in values if value is not None and not isinstance(value, str)), response
    return "\n\n".join(value for value in values if value and value.strip()), response


def wrong_text(found: tuple[Any, Any], mapped: Mapped, checks: Checks) -> Wrong | None:
    """The reason for which text and response cannot be used, if there is one."""
    places = ("+".join(mapped.text) or mapped.chat or "text", mapped.response or mapped.chat or "response")
    for value, column, needed in zip(found, places, (True, checks.needs_response), strict=True):
        if value is None or (isinstance(value, str) and not value.strip()):
            if needed:
                if mapped.chat:
                    return column, "is not a conversation that ends with an answer", "correct or remove the row", "chat"
                return column, "is empty", "write it, or remove the row", "empty"
        elif not isinstance(value, str):
            return column, f"is not text but {type(value).__name__}", "write it in quotes", "type"
        elif len(value) > checks.max_chars:
            fix = f"at most {checks.max_chars:,}, or --max-chars"
            return column, f"has {len(value):,} characters", fix, "long"
        elif "\0" in value:
            return column, "holds a NUL byte", "remove it; the file may not be plain text", "nul"
        elif not is_sound(value):
            return column, "cannot be decoded", "save the file in one encoding, such as UTF-8", "bytes"
    return None


def _label(value: Any, names: Sequence[str] | None, checks: Checks) -> tuple[str, Wrong | None]:
    """A label as text. Whole numbers are accepted, and become names if the source names its classes."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool):
        value = "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if names and isinstance(value, str) and value not in names and value.strip().lstrip("-").isdecimal():
        value = int(value)
    if names and isinstance(value, int):
        if not 0 <= value < len(names):
            return "", (
                "label",
                f"class {value} has no name",
                f"use 0 to {len(names) - 1}, or -1 for no label",
                "label",
            )
        value = names[value]
    if value is None or (isinstance(value, str) and not value.strip()):
        return "", ("label", "is empty", "write it, or remove the row", "unlabelled")
    if not isinstance(value, str | int):
        fix = "give each row one label, or choose another column: --map label=COLUMN"
        return "", ("label", f"is not a single label but {type(value).__name__}", fix, "label")
    text = str(value).strip()
    if len(text) > MAX_LABEL or "\0" in text or not is_sound(text):
        fix = f"at most {MAX_LABEL} characters of plain text; or choose another column: --map label=COLUMN"
        return "", ("label", f"{text[:40]!r}… cannot be a label", fix, "label")
    if checks.labels is not None and text not in checks.labels:
        return "", ("label", f"unknown label {text[:80]!r}", f"the labels are: {', '.join(checks.labels)}", "label")
    return sys.intern(text), None


def _split_of(value: Any) -> tuple[SplitName | None, Wrong | None]:
    split = split_of(value) if isinstance(value, str) else None
    if split is None:
        fix = "write train, validation or test; or let --splits assign them"
        return None, ("split", f"no split {str(value)[:40]!r}", fix, "split")
    return split, None


def _labels_apart(source: Source, kept: Mapping[str, Kept], problems: Problems) -> None:
    """Report labels that differ only in case, or that are nearly as many as the rows, as errors of the source."""
    counts = Counter(label for _, label, *_ in kept.values())
    folded: defaultdict[str, list[str]] = defaultdict(list)
    for label in sorted(counts):
        folded[label.casefold()].append(label)
    for alike in folded.values():
        if len(alike) > 1:
            shown = " and ".join(f"{label!r} ({counts[label]:,} rows)" for label in alike)
            problems.source(source.name, f"{shown} differ only in case", "write them alike", column="label")
    if len(counts) > max(50, len(kept) // 2):
        what = f"has {len(counts):,} different labels in {len(kept):,} rows"
        problems.source(source.name, what, "check that it is the label column: --map label=COLUMN", column="label")


def _split(source: Source, kept: dict[str, Kept], checks: Checks, made: Collected) -> None:
    """Put rows in the source's own splits, or in assigned splits if it has none or only one."""
    own = Counter(split for *_, split, _ in kept.values())
    if checks.splits is None and len(own) > 1 and None in own:
        files = sorted({part.file for part in source.parts if part.split is None})
        what = f"{own[None]:,} rows have no split, although others have: {', '.join(files[:3])}"
        raise invalid(source.name, what, "rename the files, or let --splits 0.8/0.1/0.1 assign all")
    several = _repeats(kept)
    groups = {name: found[0] for found in several for name in found}
    made.assigned = checks.splits is not None or len(own) == 1
    if made.assigned:
        if None not in own:
            why = "--splits was given" if len(own) > 1 or checks.splits else f"it has only {next(iter(own))}"
            made.notices.append(f"the source's own splits are not used: {why}")
        each = [(name, row[0], row[1], groups.get(name, "")) for name, row in kept.items()]
        splits = assign_splits(each, checks.splits or Splits(), checks.seed)
    else:
        splits = {name: split for name, (*_, split, _) in kept.items() if split is not None}
    _tell_repeats(kept, several, splits, made)
    for name in sorted(kept):
        text, label, response, _, data = kept.pop(name)  # so that a million rows are never held twice
        made.rows.append(
            Row.model_construct(
                id=name, text=text, response=response, label=label, split=splits[name], source="imported",
                restricted=checks.restricted, data=data,
            )
        )  # fmt: skip


def _repeats(kept: Mapping[str, Kept]) -> list[list[str]]:
    """Groups of row ids whose texts are equal except for case and spaces; unique texts are left out."""
    first: dict[int, str] = {}
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name, (text, *_) in kept.items():
        key = hash(" ".join(text.casefold().split()))
        earlier = first.setdefault(key, name)
        if earlier is not name:
            found[earlier].append(name)
    return [[name, *others] for name, others in found.items()]


def _tell_repeats(
    kept: Mapping[str, Kept], several: Sequence[Sequence[str]], splits: Mapping[str, SplitName], made: Collected
) -> None:
    """Note the texts that occur with several labels, or in several splits, ignoring case and spaces."""
    labels = sum(len({kept[name][1] for name in names}) > 1 for names in several)
    apart = [names for names in several if len({splits[name] for name in names}) > 1]
    if labels:
        made.notices.append(f"{labels:,} texts have different labels in different rows: all are kept")
    if apart:
        shown = ", ".join(names[0] for names in apart[:3])
        made.notices.append(f"{len(apart):,} texts are in more than one split, such as row {shown}")
    made.counts |= {"texts_with_several_labels": labels, "texts_in_several_splits": len(apart)}
