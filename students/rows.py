"""Training rows of a student: texts with one label or several and, if judges gave one, a distribution over them.

`read_version` takes them from a version, by split.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import orjson

from graft.data.lake import Lake
from graft.data.versions import rows as version_rows
from graft.schemas.datasets import DatasetVersion
from graft.schemas.rows import Seed


@dataclass(frozen=True)
class TrainRow:
    """One row. `soft` has a probability for each label, in the labels' order, summing to 1; None: only `label` counts.

    `labels` are all true labels, for a student with several labels per text; empty: just `label`. `response`: for a
    student that learns to write it.
    """

    text: str
    label: str
    soft: tuple[float, ...] | None = None
    labels: tuple[str, ...] = ()
    response: str = ""

    @property
    def pair(self) -> tuple[str, str]:
        """(text, label)."""
        return self.text, self.label

    @property
    def every(self) -> tuple[str, ...]:
        """All true labels: at least one."""
        return self.labels or (self.label,)

    @property
    def order(self) -> tuple[str, str, tuple[float, ...], tuple[str, ...]]:
        """Sort key, so that the order of the input does not matter."""
        return self.text, self.label, self.soft or (), self.labels


Given = TrainRow | tuple[str, str]
"""A row as callers may pass it: whole, or a (text, label) pair."""


def as_one_text(text: str, response: str | None) -> str:
    """The input of a classifier: the row's text, and below it the response, if there is one."""
    return f"{text}\n\n{response}" if response else text


def as_rows(rows: Iterable[Given]) -> list[TrainRow]:
    """Pairs become rows without a soft label."""
    return [row if isinstance(row, TrainRow) else TrainRow(*row) for row in rows]


def unique(rows: Iterable[Given]) -> list[TrainRow]:
    """Every text and label once, in order of first occurrence, with soft label and labels if one of the rows has
    them."""
    found: dict[tuple[str, str], TrainRow] = {}
    for row in as_rows(rows):
        known = found.setdefault(row.pair, row)
        if known.soft is None and row.soft is not None:
            known = found[row.pair] = replace(known, soft=row.soft)
        if row.labels != known.labels:
            found[row.pair] = replace(known, labels=tuple(dict.fromkeys((*known.every, *row.every))))
    return list(found.values())


def named(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Each label's name in words, as one more example of it; names without letters are skipped.

    With two rows a class this is worth 7 points on CLINC150's ten domains; with thirty it is one row in thirty-one.
    """
    return [(label.replace("_", " "), label) for label in labels if any(sign.isalpha() for sign in label)]


def distribution(shares: Mapping[str, object], labels: Sequence[str]) -> tuple[float, ...] | None:
    """Shares of labels as probabilities in the labels' order, summing to 1; None if they are no distribution.

    A label without a share has 0; of two labels, one share that is a probability determines the other (a guard's
    score). None if there is no share, one is of an unknown label, negative or no number, or all are 0.
    """
    values = {name: float(share) for name, share in shares.items() if isinstance(share, int | float)}
    if len(values) < len(shares) or not set(values) <= set(labels):
        return None
    if len(labels) == 2 and len(values) == 1:
        (name, share), *_ = values.items()
        values |= {other: 1 - share for other in labels if other != name}
    total = sum(values.values())
    if not (math.isfinite(total) and total > 0) or min(values.values()) < 0:
        return None
    return tuple(values.get(label, 0.0) / total for label in labels)


@dataclass(frozen=True)
class Material:
    """Rows by split (train, validation, test), and their ids in the same order."""

    rows: dict[str, list[TrainRow]] = field(default_factory=lambda: defaultdict(list))
    ids: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def read_version(
    lake: Lake, found: DatasetVersion, labels: Sequence[str], say: Callable[[str], None], *, soft: bool = True
) -> Material:
    """A version's rows; a guard's response is part of the classified text. `soft`: with soft labels."""
    shares = soft_labels(lake, found, labels, say) if soft else {}
    material = Material()
    for row in version_rows(lake, found).to_pylist():
        text = as_one_text(row["text"], row["response"])
        material.rows[row["split"]].append(TrainRow(text, row["label"], shares.get(row["id"])))
        material.ids[row["split"]].append(row["id"])
    return material


def of_seeds(seeds: Sequence[Seed]) -> list[tuple[str, str]]:
    """Seeds as (text, label) pairs."""
    return [(as_one_text(seed.text, seed.response), seed.label) for seed in seeds]


def soft_labels(
    lake: Lake, found: DatasetVersion, labels: Sequence[str], say: Callable[[str], None]
) -> dict[str, tuple[float, ...]]:  # fmt: skip
    """Row id to its judges' probabilities of the labels; invalid distributions are left out, with a message."""
    query = """
        SELECT r.id, c.soft_label FROM lake.version_rows r
        JOIN lake.candidates c ON c.run_id = r.run_id AND c.candidate_id = r.candidate_id
        WHERE r.dataset = ? AND r.version = ?"""
    given = lake.query(query, [found.dataset, found.version])
    judged = {str(row["id"]): shares for row in given if (shares := orjson.loads(row["soft_label"] or "{}"))}
    soft = {name: each for name, shares in judged.items() if (each := distribution(shares, labels)) is not None}
    if len(soft) < len(judged):
        say(f"{len(judged) - len(soft)} rows have soft labels that are no distribution over the labels: left out")
    return soft
