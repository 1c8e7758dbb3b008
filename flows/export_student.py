"""Find a student in the lake, export it with its card, and open it for predictions."""

from __future__ import annotations

from pathlib import Path

from graft.data.lake import Lake
from graft.schemas.errors import NotFound
from graft.schemas.home import Home
from graft.schemas.students import Student
from graft.students.kinds.base import Exported, kind_in
from graft.students.predict import Engine, Predictor, is_student


def find_student(lake: Lake, name: str) -> Student:
    """The student with an id, or the newest student of a dataset's newest version (`name`) or of `name@3`.

    Raises NotFound, which lists the students.
    """
    students = lake.students()
    if found := [one for one in students if one.id == name]:
        return found[0]
    dataset, _, number = name.strip().partition("@")
    of_dataset = [one for one in students if one.dataset == dataset and one.version is not None]
    if number not in ("", "latest"):
        of_dataset = [one for one in of_dataset if str(one.version) == number]
    if of_dataset:
        return max(of_dataset, key=lambda one: (one.version or 0, one.created_at))
    if not students:
        raise NotFound(
            f"no student {name!r}: none is trained yet", where=str(lake.home.root), fix="graft train DATASET"
        )
    names = list(dict.fromkeys([*(one.dataset for one in students if one.version), *(one.id for one in students)]))
    raise NotFound(f"no student {name!r}", where=str(lake.home.root), fix=f"one of: {', '.join(names[:20])}")


def open_student(name: str, *, engine: Engine = "auto") -> Predictor:
    """Open a student for predictions: an exported folder (no lake is opened), an id or a dataset.

    For an id or dataset, the export in GRAFT_HOME/exports is used if it is no older than the student, with the
    temperature and threshold of the lake. Errors as `find_student`, `StudentKind.open` and `Predictor.open`.
    """
    folder = Path(name).expanduser()
    if is_student(folder):
        return Predictor.open(folder, engine=engine)
    home = Home.find()
    with Lake.open(home, read_only=True) as lake:
        student = find_student(lake, name)
        evaluations = lake.evaluations(student.id)
    return kind_in(home.student(student.id)).open(student, home, evaluations, engine)


def export_student(name: str, *, out: str | Path | None = None, overwrite: bool = False) -> Exported:
    """Export a student (id or dataset) with its model card, atomically.

    `out` is a folder, by default GRAFT_HOME/exports/<student>. Raises NotFound, and the errors of its kind's `export`.
    """
    home = Home.find()
    with Lake.open(home, read_only=True) as lake:
        student = find_student(lake, name)
        folder = Path(out).expanduser() if out else home.export(student.id)
        return kind_in(home.student(student.id)).export(student, home, lake, folder, overwrite=overwrite)
