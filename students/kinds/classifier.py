"""Classifiers: an encoder with one linear layer, trained on a version beside a baseline on its seeds only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from graft.data.lake import Lake
from graft.data.scores.answers import VALIDATION
from graft.data.seeds import load_labelled, register_file
from graft.data.verdicts import unseen
from graft.data.versions import version
from graft.schemas.datasets import DatasetVersion
from graft.schemas.errors import GraftError, NotFound
from graft.schemas.home import Home
from graft.schemas.load import resolve_path
from graft.schemas.recipe import Recipe
from graft.schemas.steering import ImproveSettings
from graft.schemas.students import Evaluation, Student, StudentSettings
from graft.students.encoder import BUILT_IN, find_encoder
from graft.students.heads import Head, Rule, head_of
from graft.students.kinds.base import Exported, StudentKind, Training
from graft.students.label_rounds import LabelsInRounds
from graft.students.objectives.base import objective_of
from graft.students.predict import FACTS, Engine, Predictor, is_student
from graft.students.rows import Material, of_seeds, read_version
from graft.students.train import StudentReport, train_student

MODELS = "## Models and their terms"
"""The section of a version's card on the models that reach the student, and their terms."""


class Classifier(StudentKind):
    """Texts to labels."""

    name, noun = "classifier", "a classifier"

    def train(self, request: Training) -> StudentReport:
        """Both students, stored with their evaluations, and the teachers beside them if the settings name some."""
        lake, found, settings = request.lake, request.version, request.settings
        labels = request.recipe.task.names
        head = head_of(settings, labels)
        soft = objective_of(head, settings).soft_labels or head.soft_labels or settings.select is not None
        material = read_version(lake, found, labels, request.say, soft=soft)
        test_rows, note = _test_rows(request, head, material)
        own = not (request.test or settings.test)  # the version's own test split evaluates both
        known = {one.id: one for one in lake.students(found.dataset)} if request.reuse else {}
        report = train_student(
            rows=material.rows["train"], seeds=of_seeds(lake.seeds(request.run.id)), test_rows=test_rows,
            test_name=request.test or settings.test or f"{found.ref} test split (synthetic)", labels=labels,
            settings=settings, home=request.home, dataset=found.dataset, version=found.version, say=request.say,
            validation=material.rows["validation"], test_ids=material.ids["test"] if own else [],
            validation_ids=material.ids["validation"], known=known.get,
        )  # fmt: skip
        report = _noted(request, report, note) if note else report
        for student in report.students:
            lake.save_student(student)
        _save(lake, [*report.evaluations, *([report.validation] if report.validation else [])])
        if settings.teacher_rows:
            report = _with_teachers(request, report, head, test_rows)
            _save(lake, report.evaluations)
        return report

    def lies_in(self, folder: Path) -> bool:
        """It has a file with its labels."""
        return is_student(folder)

    def in_rounds(self, settings: StudentSettings, improve: ImproveSettings) -> LabelsInRounds:
        """Students of one label a text can steer."""
        if settings.multi_label is not None:
            raise GraftError(
                "improve steers students of one label a row", where="student.multi_label", fix="leave it out"
            )
        return LabelsInRounds()

    def open(self, student: Student, home: Home, evaluations: Sequence[Evaluation], engine: Engine) -> Predictor:
        """The export in GRAFT_HOME/exports if it is there and no older than the student, else its own folder.

        Temperature and threshold are the lake's present ones.
        """
        rule, exported = Rule.of(evaluations), home.export(student.id)
        if engine != "pytorch" and is_student(exported) and _since(exported / FACTS, student):
            return Predictor.open(exported, rule=rule, engine=engine)
        return Predictor.open(home.student(student.id), rule=rule, engine=engine)

    def export(self, student: Student, home: Home, lake: Lake, folder: Path, *, overwrite: bool) -> Exported:
        """As ONNX, weights, tokenizer, labels.json and model card.

        Raises MissingExtra, StorageFull, and GraftError if the folder is there or the ONNX model is not equal to
        PyTorch within 1e-3.
        """
        from graft.students.card import Judgements, Origin, render_model_card
        from graft.students.onnx import check_target, export_folder
        from graft.students.predict import load_classifier

        check_target(folder, overwrite)
        evaluations = lake.evaluations(student.id)
        baseline = _baseline(lake, student, evaluations)
        found, recipe, seeds, restricted = _origin(lake, student)
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
            card=lambda worst: render_model_card(student, origin, Judgements(evaluations, baseline), rule, worst),
        )  # fmt: skip
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        return Exported(student, folder, difference, size)


def _save(lake: Lake, evaluations: Sequence[Evaluation]) -> None:
    for evaluation in evaluations:
        lake.save_evaluation(evaluation)


def _test_rows(request: Training, head: Head, material: Material) -> tuple[list[tuple[str, str]], str]:
    """The rows of the test file, which is registered so that no later row may repeat one; else the test split's.

    Rows that a verdict has seen are left out; the note says how many.
    """
    settings = request.settings
    if not request.test and not settings.test:
        return [row.pair for row in material.rows["test"]], ""
    file = Path(request.test) if request.test else resolve_path(request.run.recipe_file, settings.test or "")
    held_out = load_labelled(file, settings.text_field, settings.label_field, head.labels, several=head.several)
    register_file(request.lake, request.version.dataset, file, settings.text_field)
    return unseen(request.home, held_out)


def _with_teachers(
    request: Training, report: StudentReport, head: Head, test_rows: list[tuple[str, str]]
) -> StudentReport:
    """The report with the teachers' scores on the version's evaluation; a note if no teacher can be called."""

    def predict(texts: Sequence[str]) -> list[str]:
        found = Predictor.open(request.home.student(report.students[-1].id))
        return [answer.label for answer in found.predict(texts)]

    if head.several:
        return _noted(request, report, "no teacher was called: it names one label, and these texts may have several")
    try:
        scores, table = request.ask_teachers(test_rows, predict)
    except GraftError as error:
        return _noted(request, report, f"no teacher was called: {error.what}")
    if not scores:
        return _noted(request, report, "no teacher was called: the limits of the recipe's models allow none")
    *others, judged = report.evaluations
    evaluations = (*others, judged.model_copy(update={"teachers": scores}))
    return replace(report, evaluations=evaluations, text=f"{report.text}\n\n{table}")


def _noted(request: Training, report: StudentReport, note: str) -> StudentReport:
    request.say(note)
    return replace(report, notes=(*report.notes, note), text=f"{report.text}\n\n{note}")


def _since(file: Path, student: Student) -> bool:
    """Return True if the file was written after the student's (last) training."""
    return file.stat().st_mtime >= student.created_at.timestamp()


def models_section(card: str) -> str:
    """A version card's section on its models and their terms, "" where it has none."""
    _, there, rest = card.partition(f"\n{MODELS}\n")
    return f"{MODELS}\n{rest.partition(chr(10) + '## ')[0].rstrip()}" if there else ""


def _baseline(lake: Lake, student: Student, judged: list[Evaluation]) -> list[Evaluation]:
    """Evaluations of the dataset's newest seeds-only student on the same held-out files."""
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
    restricted = lake.query(query, [found.dataset, found.version])[0]["n"]
    return (None, recipe, found.seeds, 0) if student.version is None else (found, recipe, found.seeds, restricted)


def _licence(student: Student) -> str:
    """The encoder's licence, if the encoder is on this machine."""
    name = student.settings.encoder
    if name != BUILT_IN and not Path(name).expanduser().is_dir():
        return "see its card on the Hugging Face hub"
    try:
        licence = find_encoder(name).licence
    except GraftError:
        return ""
    return "" if licence == "unknown" else licence


KIND = Classifier()
