"""Formats of sentence-transformers (pairs, graded lists, triplets) and of question answering (SQuAD)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from graft.data.export.formats.base import Format, Source, Written, row_columns
from graft.schemas.documents import Span, find_quote

Line = dict[str, Any]


def _pairs(source: Source) -> Callable[[Line], str]:
    places = {label: place for place, label in enumerate(source.labels)}
    return lambda row: _json(
        {"sentence1": row["text"], "sentence2": row["data"].get("other", ""), "label": places[row["label"]]}
    )


def _names(source: Source, files: Sequence[Written], folder: Path) -> Mapping[str, str]:
    return {"labels.json": json.dumps(source.labels, indent=2, ensure_ascii=False) + "\n"}


def _graded(row: Line) -> list[tuple[float, str]]:
    """(grade, text) of each candidate, best first."""
    given = [(float(one["grade"]), str(one["text"])) for one in row["data"].get("candidates", ())]
    return sorted(given, key=lambda one: -one[0])


def _lists(source: Source) -> Callable[[Line], str]:
    def line(row: Line) -> str:
        graded = _graded(row)
        return _json({"query": row["text"], "docs": [text for _, text in graded], "labels": [at for at, _ in graded]})

    return line


def _triplets(source: Source) -> Callable[[Line], str]:
    """The best candidates against each of a lower grade."""

    def lines(row: Line) -> str:
        graded = _graded(row)
        best = [text for grade, text in graded if grade == graded[0][0]]
        rest = [text for grade, text in graded if grade < graded[0][0]]
        return "".join(_json({"anchor": row["text"], "positive": a, "negative": b}) for a in best for b in rest)

    return lines


def _squad(source: Source) -> Callable[[Line], str]:
    """SQuAD's rows, flat as on the hub. The answer is looked up within the evidence first, then in the passage."""

    def line(row: Line) -> str:
        passage, answer, data = row["text"], row["response"] or "", row["data"]
        quote = str(data.get("evidence") or "")
        held = find_quote(quote, passage)
        inside = find_quote(answer, passage[held.start : held.end]) if held else None
        place = Span(held.start + inside.start, held.start + inside.end) if held and inside else None
        place = place or find_quote(answer, passage) or held  # an answer in other words: the quote that supports it
        if "question" not in data or place is None:
            return ""
        answers = {"text": [passage[place.start : place.end]], "answer_start": [place.start]}
        return _json({"id": row["id"], "title": "", "context": passage, "question": data["question"],
                      "answers": answers})  # fmt: skip

    return line


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


KINDS = (
    Format("sentence_pairs", "`sentence1`, `sentence2`, `label`: sentence-transformers", "jsonl", row_columns,
           lines=_pairs, compressions=("none",), column="other", beside=_names,
           notes=("A label is its place in labels.json.",)),
    Format("ranked_lists", "`query`, `docs`, `labels` (grades): cross-encoders of sentence-transformers", "jsonl",
           row_columns, lines=_lists, compressions=("none",), column="candidates"),
    Format("triplets", "`anchor`, `positive`, `negative`: sentence-transformers", "jsonl", row_columns,
           lines=_triplets, compressions=("none",), column="candidates",
           notes=("Each candidate of a row's best grade is written with each of a lower one.",)),
    Format("squad", "`context`, `question`, `answers` with offsets: SQuAD", "jsonl", row_columns, lines=_squad,
           compressions=("none",), column="question",
           notes=("Rows without a passage are left out, and those whose answer and evidence are not in it.",
                  "An answer that is not in the passage in its own words is replaced by its evidence.")),
)  # fmt: skip
