"""The part of `train_student` that is about instructions: rows, rationales and pairs out of the lake, a student in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from graft.agents.methods import method_of
from graft.data.lake import Lake
from graft.data.versions import rows as version_rows
from graft.schemas.datasets import DatasetVersion, Run
from graft.schemas.home import Home
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Candidate
from graft.schemas.students import StudentSettings
from graft.students.instruct.data import Pair, Turn, pairs_of, rationale_of
from graft.students.instruct.train import Held, train_instruct_student


@dataclass
class _Found:
    """What a version holds of one part: its turns, and their pairs."""

    turns: list[Turn] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)


def train_instruct(
    lake: Lake, found: DatasetVersion, run: Run, recipe: Recipe, settings: StudentSettings, home: Home,
    say: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """Train an instruction student on a version, evaluate it on the version's other splits, store both in the lake.

    It learns from the training split and from the seeds that have a response. Returns a dict with the keys students,
    evaluations, notes and text. Errors as `train_instruct_student`.
    """
    tau = method_of(recipe).least_accepted(recipe)
    train, other = _split(lake, found, tau)
    seeds = [Turn(seed.text, seed.response) for seed in lake.seeds(run.id) if seed.response]
    report = train_instruct_student(
        [*train.turns, *seeds], train.pairs, Held(other.turns, other.pairs), settings=settings, home=home,
        dataset=found.dataset, version=found.version, say=say,
    )  # fmt: skip
    lake.save_student(report.student)
    if report.evaluation:
        lake.save_instruct_evaluation(report.evaluation)
    return {
        "students": [report.student.model_dump(mode="json")],
        "evaluations": [report.evaluation.model_dump(mode="json")] if report.evaluation else [],
        "notes": list(report.notes),
        "text": report.text,
    }


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
