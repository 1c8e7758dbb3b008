"""Instruction students: a causal model, trained on a version's instructions, rationales and pairs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from graft.data.lake import Lake
from graft.data.versions import rows as version_rows
from graft.schemas.datasets import DatasetVersion
from graft.schemas.errors import GraftError
from graft.schemas.kinds import METHODS
from graft.schemas.rows import Candidate
from graft.schemas.sections import Column, Table
from graft.schemas.steering import ImproveSettings
from graft.schemas.students import InstructSettings, StudentSettings
from graft.students.instruct.data import Pair, Turn, pairs_of, rationale_of
from graft.students.instruct.rounds import ResponsesInRounds
from graft.students.instruct.train import Held, InstructReport, train_instruct_student
from graft.students.kinds.base import StudentKind, Training
from graft.students.predict import is_student


class Instruct(StudentKind):
    """Instructions to responses."""

    name, noun, Settings = "instruct", "an instruction student", InstructSettings

    def train(self, request: Training) -> InstructReport:
        """On the training split and the seeds that have a response, judged on the version's other splits."""
        if request.test:
            raise GraftError(
                "an instruction student is evaluated on the version's own rows: it takes no test file",
                where="--test", fix="leave it out",
            )  # fmt: skip
        lake, found = request.lake, request.version
        train, other = _split(lake, found, METHODS.get(request.recipe.method.kind).least_accepted(request.recipe))
        seeds = [Turn(seed.text, seed.response) for seed in lake.seeds(request.run.id) if seed.response]
        report = train_instruct_student(
            [*train.turns, *seeds], train.pairs, Held(other.turns, other.pairs), settings=request.settings,
            home=request.home, dataset=found.dataset, version=found.version, say=request.say,
        )  # fmt: skip
        lake.save_student(report.student)
        if report.evaluation:
            lake.save_instruct_evaluation(report.evaluation)
        return report

    def in_rounds(self, settings: StudentSettings, improve: ImproveSettings) -> ResponsesInRounds:
        """Students whose responses reviewers score can steer, by the version's own validation rows."""
        if improve.steer_on:
            raise GraftError(
                "a loop of instruction students is steered by its versions' validation rows", where="improve.steer_on",
                fix="leave it out; splits.validation decides how many rows that are",
            )  # fmt: skip
        return ResponsesInRounds()

    def tables(self, lake: Lake, dataset: str | None = None, version: int | None = None) -> tuple[Table, ...]:
        """Loss beside that of each student's base model."""
        rows = [
            {**judged.model_dump(), "dataset": student.dataset, "version": student.version, "link": None,
             "train_rows": student.train_rows, "created_at": student.created_at}
            for student in lake.students(dataset)
            if version is None or student.version == version
            for judged in lake.instruct_evaluations(student.id)
        ]  # fmt: skip
        columns = (
            Column("student_id", "student", "code", link="link"), Column("dataset", "dataset"),
            Column("version", "version", "number"), Column("train_rows", "trained on", "number"),
            Column("loss", "loss", "number", digits=3), Column("base_loss", "base loss", "number", digits=3),
            Column("preferred", "prefers", "share"), Column("base_preferred", "base prefers", "share"),
            Column("created_at", "trained", "ago"),
        )  # fmt: skip
        note = (
            "Loss in nats per token of held-out responses, beside that of the base model; share of pairs whose chosen "
        )
        note += "response is the likelier one."
        return (Table("instruct", "Instruction students", columns, rows, note=note),)

    def lies_in(self, folder: Path) -> bool:
        """It has an adapter, or a whole model that is no classifier's export."""
        whole = (folder / "config.json").is_file() and not is_student(folder)
        return whole or (folder / "adapter_config.json").is_file()


@dataclass
class _Found:
    """Data of one part of a version: turns, and their pairs."""

    turns: list[Turn] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)


def _split(lake: Lake, found: DatasetVersion, tau: float) -> tuple[_Found, _Found]:
    """The version's training split and all its other rows, with rationales and pairs."""
    rows = [row for row in version_rows(lake, found).to_pylist() if row["response"]]
    wanted: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row["candidate_id"]:
            wanted[row["run_id"]].add(row["candidate_id"])
    accepted, rivals = _candidates(lake, wanted)
    parts = _Found(), _Found()
    for row in rows:
        part = parts[row["split"] != "train"]
        candidate = accepted.get((row["run_id"], row["candidate_id"]))
        part.turns.append(Turn(row["text"], row["response"], rationale_of(candidate, tau) if candidate else ""))
        if candidate:
            part.pairs += pairs_of(candidate, rivals[candidate.slot.group], tau)
    return parts


def _candidates(
    lake: Lake, wanted: dict[str, set[str]]
) -> tuple[dict[tuple[str, str], Candidate], dict[str, list[Candidate]]]:
    """(run, id) to each accepted candidate of the version; and by group the rejected ones beside them."""
    accepted: dict[tuple[str, str], Candidate] = {}
    rivals: dict[str, list[Candidate]] = defaultdict(list)
    for run_id, ids in wanted.items():
        accepted |= {(run_id, one.id): one for one in lake.iter_candidates(run_id, "accepted") if one.id in ids}
        groups = {one.slot.group for (run, _), one in accepted.items() if run == run_id and one.slot.group}
        for one in _of_groups(lake.iter_candidates(run_id, "rejected") if groups else (), groups):
            rivals[one.slot.group].append(one)
    return accepted, rivals


def _of_groups(candidates: Iterable[Candidate], groups: set[str]) -> Iterable[Candidate]:
    return (one for one in candidates if one.slot.group in groups)


KIND = Instruct()
