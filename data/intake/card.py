"""The card of an imported version: its content, source, licence and column mapping."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from graft.data.card import SPLIT_ORDER, inert
from graft.schemas.datasets import Row


def render(
    name: str, *, source: str, sha256: str, licence: str, kind: str, mapped: Mapping[str, str], rows: Sequence[Row],
    notices: Sequence[str],
) -> str:  # fmt: skip
    """Return the card in Markdown. All text from the source, including names and labels, is made inert."""
    labels = sorted({row.label for row in rows})
    facts = [
        f"- {len(rows):,} rows for {kind} over {len(labels):,} labels; Graft made none of them",
        f"- from: {inert(source)}",
        f"- sha256: {sha256 or 'unknown: the source is an address'}",
        f"- licence: {inert(licence) or 'not stated'}",
        "- columns: " + ", ".join(f"{role} = {inert(column)}" for role, column in mapped.items()),
    ]
    restricted = sum(row.restricted for row in rows)
    if restricted:
        facts.append(f"- {restricted:,} rows are restricted: exports leave them out without --restricted")
    parts = [f"# {inert(name)}", "## Source\n\n" + "\n".join(facts), "## Rows\n\n" + _counts(rows, labels)]
    if notices:
        parts.append("## Notes\n\n" + "\n".join(f"- {inert(notice)}" for notice in notices))
    limits = "Graft does not know who wrote the texts or how they were labelled: consult their source."
    return "\n\n".join([*parts, f"## Use and limits\n\n{limits}"]) + "\n"


def _counts(rows: Sequence[Row], labels: Sequence[str]) -> str:
    count = Counter((row.label, row.split) for row in rows)
    lines = ["| label | " + " | ".join(SPLIT_ORDER) + " | all |", "|" + " --- |" * (len(SPLIT_ORDER) + 2)]
    for label in labels:
        each = [count[label, split] for split in SPLIT_ORDER]
        lines.append(f"| {inert(label)} | " + " | ".join(f"{n:,}" for n in (*each, sum(each))) + " |")
    whole = Counter(row.split for row in rows)
    each = [whole[split] for split in SPLIT_ORDER]
    return "\n".join([*lines, "| **all** | " + " | ".join(f"{n:,}" for n in (*each, sum(each))) + " |"])
