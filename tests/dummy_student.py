"""A kind of student of another distribution: the commonest words of each label, with a block of its own."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from pydantic import Field

from graft.data.versions import rows
from graft.schemas.base import Value, stable_hash, utc_now
from graft.schemas.students import Student
from graft.students.kinds.base import StudentKind, Training
from graft.students.report import Report


class Settings(Value):
    """Which words."""

    words: int = Field(default=2, ge=1, description="words kept of each label")


class Words(StudentKind):
    """Texts to labels by their words."""

    name, noun, Settings = "words", "a list of words", Settings

    def train(self, asked: Training) -> Report:
        own, found = asked.settings.of(Settings), asked.version
        seen: dict[str, Counter[str]] = {}
        for row in rows(asked.lake, found).to_pylist():
            seen.setdefault(row["label"], Counter()).update(row["text"].split())
        student = Student(
            id=f"st_{stable_hash(found.content_hash, asked.settings.learned_with(self.name))}", dataset=found.dataset,
            version=found.version, trained_on="version", settings=asked.settings, encoder_revision="", device="cpu",
            train_rows=found.rows, seconds=0.0, path="students/words", created_at=utc_now(),
        )  # fmt: skip
        folder = asked.home.student(student.id)
        folder.mkdir(parents=True, exist_ok=True)
        kept = {label: [word for word, _ in words.most_common(own.words)] for label, words in seen.items()}
        (folder / "words.json").write_text(json.dumps(kept))
        asked.lake.save_student(student)
        return Report((student,), (), f"{own.words} words a label")

    def lies_in(self, folder: Path) -> bool:
        return (folder / "words.json").is_file()


KIND = Words()
