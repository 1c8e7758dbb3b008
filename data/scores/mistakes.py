"""Wrong rows of a student's evaluation, with their texts: a version's from the lake, a file's from the file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from graft.data.gates.shared.held_out import text_hash
from graft.data.scores.answers import BETWEEN, Answers
from graft.data.seeds import load_texts
from graft.schemas.base import Value
from graft.schemas.errors import GraftError
from graft.schemas.students import Student

if TYPE_CHECKING:
    from graft.data.lake import Lake


class Mistake(Value):
    """A wrong row. `row` counts from 1 in the test; `text` is None if the file has moved or changed.

    `confidence` is the probability of `predicted`. `restricted` texts are hidden by default.
    """

    row: int
    row_id: str
    text: str | None
    restricted: bool
    label: str
    predicted: str
    confidence: float


def mistakes(
    lake: Lake, student: Student, found: Answers, *, label: str | None = None, predicted: str | None = None,
    most: int = 100,
) -> tuple[list[Mistake], int]:  # fmt: skip
    """The wrong rows, the most confident first, and their number, of which at most `most` are returned.

    Args:
        lake: holds the texts of a version's rows
        student: whose evaluation it is
        found: its answers on the test
        label: only rows with this true label
        predicted: only rows with this prediction
        most: maximum number of rows
    """
    columns = {name: found.column(name) for name in ("row", "row_id", "text_hash", "label", "predicted", "confidence")}
    wrong = [
        place for place, right in enumerate(found.right.tolist())
        if not right and _among(columns["label"][place], label, found)
        and _among(columns["predicted"][place], predicted, found)
    ]  # fmt: skip
    wrong.sort(key=lambda place: -columns["confidence"][place])
    shown = wrong[:most]
    of_rows = _texts_of_rows(lake, student, [columns["row_id"][place] for place in shown])
    of_file = _texts_of_file(lake, student, found.test_file) if shown and not of_rows else {}
    listed = []
    for place in shown:
        text, restricted = of_rows.get(columns["row_id"][place], (of_file.get(columns["text_hash"][place]), False))
        listed.append(
            Mistake(row=columns["row"][place], row_id=columns["row_id"][place], text=text, restricted=restricted,
                    label=columns["label"][place], predicted=columns["predicted"][place],
                    confidence=columns["confidence"][place])
        )  # fmt: skip
    return listed, len(wrong)


def _among(cell: str, wanted: str | None, found: Answers) -> bool:
    return wanted is None or wanted == cell or (found.several and wanted in cell.split(BETWEEN))


def _texts_of_rows(lake: Lake, student: Student, ids: list[str]) -> dict[str, tuple[str, bool]]:
    wanted = sorted(name for name in set(ids) if name)
    if not wanted:
        return {}
    query = """
        SELECT id, any_value(text) AS text, bool_or(restricted) AS restricted FROM lake.version_rows
        WHERE dataset = ? AND id IN (SELECT unnest(?::VARCHAR[])) GROUP BY id"""
    return {row["id"]: (row["text"], row["restricted"]) for row in lake.query(query, [student.dataset, wanted])}


def _texts_of_file(lake: Lake, student: Student, name: str) -> dict[str, str]:
    """The texts of a test file by their hash: from its path as named, or from the recipe's folder."""
    folders = {Path(run.recipe_file).parent for run in lake.runs(student.dataset) if run.recipe_file}
    for file in (Path(name), *(folder / name for folder in sorted(folders))):
        if file.is_file():
            try:
                return {text_hash(text): text for text in load_texts(file, student.settings.text_field)}
            except (GraftError, OSError):
                continue
    return {}
