"""Report on a person's texts that models labelled: counts and shares, never a text."""

from __future__ import annotations

from collections.abc import Mapping

from graft.agents.methods.base import Query
from graft.agents.methods.steps.bounds import bounds_facts
from graft.schemas.decisions import UNSURE
from graft.schemas.intervals import margin_of_error, wilson
from graft.schemas.sections import Column, Fact, Section, Table, share

_ENDS = """
    SELECT count(*) AS texts, count(*) FILTER (status = 'accepted') AS labelled,
           count(*) FILTER (code = $2) AS unsure, count(*) FILTER (route = 'gate') AS gated,
           count(*) FILTER (status = 'failed') AS failed,
           avg(CAST(labelling->>'margin' AS DOUBLE)) FILTER (status = 'accepted') AS margin
    FROM lake.candidates WHERE run_id = $1 AND slot_label = ''"""
_NAME = "SELECT dataset FROM lake.runs WHERE id = ?"
_LABELS = """
    SELECT label, count(*) FILTER (slot_label = '') AS texts, count(*) FILTER (slot_label <> '') AS written
    FROM lake.candidates WHERE run_id = ? AND status = 'accepted' GROUP BY label ORDER BY label"""


def texts_report(query: Query, run_id: str, counts: Mapping[str, int]) -> Section | None:
    """Outcome of the texts, the labelers' mean lead, and a quick student's held-out accuracy if it was measured."""
    ends = query(_ENDS, [run_id, UNSURE])[0]
    if not ends["texts"]:
        return None
    repeats, unsure = counts.get("texts_repeated", 0), ends["unsure"]
    parts = [f"{ends['labelled']:,} of {ends['texts']:,} texts got a label"]
    parts += [f"{repeats:,} repeated another text and were left out"] if repeats else []
    if unsure:
        name = next((row["dataset"] for row in query(_NAME, [run_id])), "NAME")
        parts.append(f"{unsure:,} wait for a person: graft review {name} --rule gate --gate judges")
    parts += _enough(counts)
    facts = (
        Fact("texts in the file", counts.get("texts_read", ends["texts"]), "number"),
        Fact("rejected by gates", ends["gated"], "number"), Fact("unsure, for review", ends["unsure"], "number"),
        Fact("failed", ends["failed"], "number"), Fact("mean lead over the next label", ends["margin"], "share"),
        *_measured(counts), *bounds_facts(counts),
    )  # fmt: skip
    columns = (
        Column("label", "label"),
        Column("texts", "your texts", "number"),
        Column("written", "written", "number"),
    )
    return Section(
        "labelled", "Your texts", "; ".join(parts) + ".", facts=facts,
        tables=(Table("labelled_texts", "Accepted rows by label", columns, query(_LABELS, [run_id])),),
    )  # fmt: skip


def _enough(counts: Mapping[str, int]) -> list[str]:
    """A clause about the texts that early stopping left."""
    left = counts.get("texts_left", 0)
    if not left:
        return []
    margin = 100 * margin_of_error(counts["held_out_right"], counts["held_out"])
    return [f"{left:,} were left without a label: the margin of error is {margin:.1f} points, as narrow as requested"]


def _measured(counts: Mapping[str, int]) -> list[Fact]:
    """The held-out accuracy of a quick student of the labelled texts, against the models' labels."""
    rows, right = counts.get("held_out", 0), counts.get("held_out_right", 0)
    if not rows:
        return []
    low, high = wilson(right, rows)
    accuracy = f"{share(right / rows)} ({share(low)} to {share(high)}) of {rows}"
    return [Fact("a quick student gives held-out texts the models' label", accuracy)]
