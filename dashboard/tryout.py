"""Students kept in memory, so that a page's second text is labelled at once. Texts are neither logged nor kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from graft.schemas.errors import GraftError

if TYPE_CHECKING:
    from graft.data.lake import Lake
    from graft.schemas.home import Home
    from graft.schemas.students import Student
    from graft.students.heads import Answer
    from graft.students.predict import Predictor

KEPT = 3
"""Students in memory, about 100 MB each with the built-in encoder."""
MOST_TEXTS = 50
LONGEST = 20_000
"""Characters of a text."""
_LOCK = threading.Lock()
_OPEN: OrderedDict[tuple[str, int], Predictor] = OrderedDict()


def texts_of(form: str, *, lines: bool) -> list[str]:
    """A form's text, or each of its lines that is not empty. Raises GraftError if there is none or too many."""
    found = [line.strip() for line in (form.splitlines() if lines else [form]) if line.strip()]
    if not found:
        raise GraftError("there is no text", where="text", fix="type a text")
    if len(found) > MOST_TEXTS:
        raise GraftError(f"{len(found)} texts are too many for a page", where="texts",
                         fix=f"paste at most {MOST_TEXTS}, or use graft predict with a file")  # fmt: skip
    if any(len(text) > LONGEST for text in found):
        raise GraftError("a text is too long", where="text", fix=f"at most {LONGEST:,} characters")
    return found


def answers_of(home: Home, lake: Lake, student: Student, texts: Sequence[str]) -> tuple[tuple[str, ...], list[Answer]]:
    """The student's labels, and an answer for each text. Raises as `StudentKind.open`."""
    from graft.students.kinds.base import kind_in

    folder = home.student(student.id)
    if not folder.is_dir():
        raise GraftError("the student's folder is gone", where=str(folder), fix=f"graft train {student.dataset}")
    key = (str(folder), folder.stat().st_mtime_ns)
    with _LOCK:  # one prediction at a time: each uses all cores
        opened = _OPEN.pop(key, None) or kind_in(folder).open(student, home, lake.evaluations(student.id), "auto")
        _OPEN[key] = opened
        while len(_OPEN) > KEPT:
            _OPEN.popitem(last=False)
        return opened.labels, opened.predict(texts)
