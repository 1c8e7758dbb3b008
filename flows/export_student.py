"""Finds a student in the lake, exports it with its card, and opens it for answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from graft.data.lake import Lake
from graft.data.versions import version
from graft.schemas.datasets import DatasetVersion
from graft.schemas.errors import GraftError, NotFound
from graft.schemas.home import Home
from graft.schemas.recipe import Recipe
from graft.schemas.students import Evaluation, Student
from graft.students.predict import FACTS, Engine, Predictor, Rule, is_student
from graft.students.train import VALIDATION

MODELS = "## Models and their terms"
"""The section of a version's card that says which models reach the student, and on which terms."""


@dataclass(frozen=True)
class Exported:
    """An export: its folder, and the largest difference of a logit between its ONNX model and PyTorch."""

    student: Student
    folder: Path
    difference: float
    bytes: int


def find_student(lake: Lake, name: str) -> Student:
    """The student of an id, or the newest that learned from a dataset's newest version (`name`) or `name@3`.

    Raises NotFound, which lists what there is.
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
    """A student that answers: of an exported folder (no lake is opened), an id or a dataset.

    Of the last two the export in GRAFT_HOME/exports is taken where it is there and no older than the student, with the
    temperature and threshold that the lake has now. Errors as `find_student` and `Predictor.open`.
    """
    folder = Path(name).expanduser()
    if is_student(folder):
        return Predictor.open(folder, engine=engine)
    home = Home.find()
    with Lake.open(home, read_only=True) as lake:
        student = find_student(lake, name)
        rule = Rule.of(lake.evaluations(student.id))
    exported = home.export(student.id)
    if engine != "pytorch" and is_student(exported) and _since(exported / FACTS, student):
        return Predictor.open(exported, rule=rule, engine=engine)
    return Predictor.open(home.student(student.id), rule=rule, engine=engine)


def export_student(name: str, *, out: str | Path | None = None, overwrite: bool = False) -> Exported:
    """Export a student (id or dataset) as ONNX, weights, tokenizer, labels.json and model card; whole or not at all.

    `out` is a folder, by default GRAFT_HOME/exports/<student>. Raises NotFound, MissingExtra, StorageFull, and
    GraftError where the folder is there or the ONNX model is not equal to PyTorch within 1e-3.
    """
    home = Home.find()
    with Lake.open(home, read_only=True) as lake:
        student = find_student(lake, name)
        folder = Path(out).expanduser() if out else home.export(student.id)
        evaluations = lake.evaluations(student.id)
        baseline = _baseline(lake, student, evaluations)
        found, recipe, seeds, restricted = _origin(lake, student)
    from graft.students.card import Judged, Origin, render_model_card
    from graft.students.onnx import check_target, export_folder
    from graft.students.predict import load_classifier

    check_target(folder, overwrite)
    model = load_classifier(home.student(student.id))
    origin = Origin(
        task=recipe.task.kind if recipe else "text classification",
        language=recipe.task.language if recipe else "not stated",
        seeds=seeds, labels=model.labels, max_length=model.max_length,
        seeds_licence=(recipe.licence or "") if recipe else "", encoder_licence=_licence(student),
        version=found, models=models_section(found.card) if found else "", restricted=restricted,
        description=recipe.description if recipe else "",
    )  # fmt: skip
    rule = Rule.of(evaluations)
    difference = export_folder(
        model, folder, student=student.id, rule=rule, overwrite=overwrite,
        card=lambda worst: render_model_card(student, origin, Judged(evaluations, baseline), rule, worst),
    )  # fmt: skip
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Exported(student, folder, difference, size)


def _since(file: Path, student: Student) -> bool:
    """Whether the file was written after the student was trained (the last time: an id is trained again with it)."""
    return file.stat().st_mtime >= student.created_at.timestamp()


def models_section(card: str) -> str:
    """A version card's section on its models and their terms, "" where it has none."""
    _, there, rest = card.partition(f"\n{MODELS}\n")
    return f"{MODELS}\n{rest.partition(chr(10) + '## ')[0].rstrip()}" if there else ""


def _baseline(lake: Lake, student: Student, judged: list[Evaluation]) -> list[Evaluation]:
    """How the newest seeds-only student of the dataset did on each of the same held-out files."""
    if student.trained_on == "seeds":
        return []
    wanted = {one.test_hash for one in judged if one.test_file != VALIDATION}
    found: dict[str, Evaluation] = {}
    for other in lake.students(student.dataset):
        if other.trained_on == "seeds" and len(found) < len(wanted):
            for one in lake.evaluations(other.id):
                if one.test_hash in wanted:
                    found.setdefault(one.test_hash, one)
    return list(found.values())


def _origin(lake: Lake, student: Student) -> tuple[DatasetVersion | None, Recipe | None, int, int]:
    """The version, its recipe, and its numbers of seeds and restricted rows; of a baseline the newest version's."""
    try:
        found = version(lake, f"{student.dataset}@{student.version or 'latest'}")
    except NotFound:
        return None, None, 0, 0
    run = lake.run(found.run_id)
    recipe = Recipe.stored(run.recipe) if run else None
    query = "SELECT count(*) FILTER (restricted) AS n FROM lake.version_rows WHERE dataset = ? AND version = ?"
    restricted = lake.sql(query, [found.dataset, found.version]).to_pylist()[0]["n"]
    return (None, recipe, found.seeds, 0) if student.version is None else (found, recipe, found.seeds, restricted)


def _licence(student: Student) -> str:
    """The encoder's, where it lies on this machine."""
    from graft.students.encoder import BUILT_IN, find_encoder

    name = student.settings.encoder
    if name != BUILT_IN and not Path(name).expanduser().is_dir():
        return "as its card on the Hugging Face hub says"
    try:
        licence = find_encoder(name).licence
    except GraftError:
        return ""
    return "" if licence == "unknown" else licence
