"""A version's instruction student: trained stage by stage, measured beside its untrained base.

Independent of Prefect and the lake: it takes turns and pairs and returns values.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.schemas.base import content_hash, stable_hash, utc_now
from graft.schemas.errors import NO_SPACE, GraftError, StorageFull
from graft.schemas.home import Home
from graft.schemas.kinds import STAGES
from graft.schemas.pretrained import check_written
from graft.schemas.students import InstructEvaluation, Student, StudentSettings
from graft.students.instruct.base import (
    CausalBase,
    find_base,
    load_adapted,
    load_model,
    load_tokenizer,
    quiet_libraries,
)
from graft.students.instruct.data import Pair, Turn, encode, lessons
from graft.students.instruct.stages.base import Course, Stage
from graft.students.report import Report

if TYPE_CHECKING:
    from graft.students.instruct.runner import Ended

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
"""Read when torch loads: waiting threads sleep. Spinning threads slow training tenfold beside a busy process."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class InstructReport(Report):
    """An instruction student and its evaluation: None if the version has no row outside its training split."""

    evaluations: tuple[InstructEvaluation, ...]

    @property
    def student(self) -> Student:
        """The version's."""
        return self.students[0]

    @property
    def evaluation(self) -> InstructEvaluation | None:
        """The evaluation, if there is one."""
        return self.evaluations[0] if self.evaluations else None


@dataclass(frozen=True)
class Held:
    """Held-out data: rows of the other splits, and pairs of their instructions."""

    turns: Sequence[Turn] = ()
    pairs: Sequence[Pair] = ()


def train_instruct_student(
    turns: Sequence[Turn], pairs: Sequence[Pair], held: Held, *, settings: StudentSettings, home: Home, dataset: str,
    version: int | None, say: Say, known: Callable[[str], Student | None] = lambda name: None,
) -> InstructReport:  # fmt: skip
    """Train stage by stage on turns and pairs; write to `home.students/<id>/`; evaluate.

    The folder appears whole or not at all; a killed training resumes from the checkpoints beside it. A student that
    `known` finds by its id, and whose folder is there, is evaluated, not trained again. Raises GraftError if there is
    nothing to learn from or training diverges, and the errors of `find_base`.
    """
    base = find_base(settings.instruct.base, home.models, say)
    tokenizer = load_tokenizer(base)
    taught = lessons(turns, settings.instruct.rationale_weight)
    rows = encode(tokenizer, taught, settings.instruct.max_length, say)
    if not rows:
        raise GraftError(
            "there is no instruction with a response to learn from", where="training rows",
            fix="graft show NAME --rejected lists the reasons of rejections; or raise student.instruct.max_length",
        )  # fmt: skip
    stages = stages_of(settings)
    used = pairs if any(stage.pairs for stage in stages) else ()
    name = _identity(taught, used, settings, base, dataset, version)
    course, folder = Course(base, tokenizer, rows, used, settings, say), home.student(name)
    student, notes = known(name), list[str]()
    if student is None or not folder.is_dir():
        say(f"training {base.name} on {len(rows)} rows ({_how(settings)})")
        ended, made, notes = _trained(course, stages, folder.with_name(name + ".partial"))
        _publish(made, folder)
        student = Student(
            id=name, dataset=dataset, version=version, trained_on="version", settings=settings,
            encoder_revision=base.revision, train_rows=len(rows), device=ended[0].device,
            seconds=round(sum(each.seconds for each in ended), 2),
            tokens_per_second=_speed(ended), peak_share=_peak_share(course, ended),
            path=folder.relative_to(home.root).as_posix(), created_at=utc_now(),
        )  # fmt: skip
    evaluation = _evaluated(course, name, folder, held)
    if evaluation is None:
        notes.append("the version has no row outside its training split: the student is not evaluated")
    elif evaluation.loss > evaluation.base_loss:
        notes.append("the student is worse than its base on rows that it did not learn from: fewer epochs may help")
    text = "\n".join(_card_of(student, base, evaluation, [len(rows), len(used)], notes))
    return InstructReport((student,), (evaluation,) if evaluation else (), text, tuple(notes))


def stages_of(settings: StudentSettings) -> list[Stage]:
    """The stages that the settings give, in order. Raises NotFound, and GraftError if the first cannot start."""
    stages: list[Stage] = [STAGES.get(own.kind)(own) for own in settings.instruct.course]
    if not stages[0].first:
        raise GraftError(
            f"{stages[0].own.kind} starts from a trained student", where="student.instruct.stages",
            fix="put another stage before it, such as sft",
        )  # fmt: skip
    return stages


def _trained(course: Course, stages: Sequence[Stage], staging: Path) -> tuple[list[Ended], Path, list[str]]:
    """Every stage that has something to learn from; the folder of the last one's weights; and notes.

    A stage that an earlier, killed training finished is not trained again.
    """
    ended: list[Ended] = []
    notes: list[str] = []
    start: Path | None = None
    known = stable_hash(
        [row.ids for row in course.rows], course.settings.learned_with("instruct"), course.base.revision
    )
    for number, stage in enumerate(stages, 1):
        if why := stage.nothing(course):
            notes.append(why)
            course.say(why)
            continue
        name = f"{number}-{stage.own.kind}"
        done, checkpoints = staging / f"{name}.done", staging / name
        facts = stable_hash(known, name, [vars(pair) for pair in course.pairs] if stage.pairs else [])
        found = _finished(done, facts)
        if found is None:
            found = stage.train(course, start, checkpoints)
            _save(found, course.tokenizer, done, facts)
            shutil.rmtree(checkpoints, ignore_errors=True)
        ended.append(found)
        start = done
    if start is None:
        raise GraftError("no stage has data to learn from", where="student.instruct.stages", fix="add sft")
    return ended, start, [*(each.note for each in ended if each.note), *notes]


def _finished(folder: Path, facts: str) -> Ended | None:
    """The figures of a stage that an earlier, killed training finished; else None."""
    from graft.students.instruct.runner import Ended

    try:
        known = json.loads((folder / "stage.json").read_text(encoding="utf-8"))
        return Ended(None, **known["ended"]) if known["facts"] == facts else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _save(ended: Ended, tokenizer: Any, folder: Path, facts: str) -> None:
    """Weights (an adapter, or all of them) as safetensors, the tokenizer, and the stage's figures. Raises StorageFull.

    `stage.json` comes last: a folder without it is half written.
    """
    took = {name: value for name, value in vars(ended).items() if name != "model"}
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with quiet_libraries():
            ended.model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "stage.json").write_text(json.dumps({"facts": facts, "ended": took}), encoding="utf-8")
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        if error.errno in NO_SPACE:
            raise StorageFull("no space left for the student's weights", where=str(folder), fix="free space") from None
        raise


def _publish(made: Path, folder: Path) -> None:
    """Rename the last stage's folder to the student's, and remove the other stages' beside it."""
    staging = made.parent
    (made / "stage.json").unlink()
    (made / "README.md").unlink(missing_ok=True)  # a template's card; ours is written by the card's own module
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    made.rename(folder)
    for left in (old, staging):
        shutil.rmtree(left, ignore_errors=True)


def load_student(base: CausalBase, folder: Path) -> Any:
    """A trained student as a transformers model: the base with its adapter, or the whole model that was written."""
    if (folder / "adapter_config.json").is_file():
        return load_adapted(base, folder)
    check_written(folder)
    return load_model(str(folder))


def _evaluated(course: Course, name: str, folder: Path, held: Held) -> InstructEvaluation | None:
    """Student and base on the same held-out rows and pairs; both as they load from disk."""
    from graft.students.device import pick_device
    from graft.students.instruct.evaluate import likelihoods, mean_loss, preferred

    length = course.settings.instruct.max_length
    rows = encode(course.tokenizer, held.turns, length)
    if not rows:
        return None
    both = [
        (chosen[0], rejected[0])
        for pair in held.pairs
        if (chosen := encode(course.tokenizer, [Turn(pair.instruction, pair.chosen)], length))
        and (rejected := encode(course.tokenizer, [Turn(pair.instruction, pair.rejected)], length))
    ]
    course.say(f"evaluating on {len(rows)} rows and {len(both)} pairs that it did not learn from")
    everything = [*rows, *(chosen for chosen, _ in both), *(rejected for _, rejected in both)]

    model = load_student(course.base, folder).to(pick_device())
    ours = likelihoods(model, everything)
    adapter = hasattr(model, "disable_adapter")
    with model.disable_adapter() if adapter else contextlib.nullcontext():
        before = model if adapter else load_model(course.base.place, course.base.commit).to(pick_device())
        theirs = likelihoods(before, everything)
    count, pairs = len(rows), len(both)
    (loss, tokens), (base_loss, _) = mean_loss(ours[:count]), mean_loss(theirs[:count])
    return InstructEvaluation(
        student_id=name, rows=count, loss=loss, base_loss=base_loss, tokens=tokens, pairs=pairs,
        preferred=preferred(ours[count : count + pairs], ours[count + pairs :]),
        base_preferred=preferred(theirs[count : count + pairs], theirs[count + pairs :]),
    )  # fmt: skip


def _identity(
    taught: Sequence[Turn], pairs: Sequence[Pair], settings: StudentSettings, base: CausalBase, dataset: str,
    version: int | None,
) -> str:  # fmt: skip
    """The id of a student: the same for the same rows, pairs and settings, as far as they decide its weights."""
    learned = content_hash((turn.instruction, turn.response) for turn in taught)
    compared = content_hash((pair.instruction, pair.chosen, pair.rejected) for pair in pairs)
    return "st_" + stable_hash(
        dataset, "instruct", version, learned, compared, settings.learned_with("instruct"), base.revision
    )


def _speed(stages: Sequence[Ended]) -> float | None:
    """Tokens per second of the supervised stage: pairs pass the model twice and would distort the figure."""
    first = stages[0]
    return round(first.tokens / first.seconds, 1) if first.tokens and first.seconds > 0 else None


def _peak_share(course: Course, stages: Sequence[Ended]) -> float | None:
    """Share of a known GPU's peak; with a frozen base a token takes 4 operations per weight instead of 6."""
    import torch

    from graft.schemas.pretrained import pretrained, untrained
    from graft.students.device import device_name, multiplying, share_of_peak

    speed, device = _speed(stages), torch.device(stages[0].device)
    if speed is None or device.type != "cuda":
        return None
    config = pretrained("AutoConfig", course.base.place, revision=course.base.commit)
    with torch.device("meta"):
        weights = multiplying(untrained("AutoModelForCausalLM", config))
    if course.settings.instruct.adapter == "lora":
        weights = weights * 4 // 6
    share = share_of_peak(weights, speed, device_name(device))
    return None if share is None else round(share, 4)


def _how(settings: StudentSettings) -> str:
    chosen = settings.instruct
    return f"LoRA of rank {chosen.lora_rank}" if chosen.adapter == "lora" else "every weight"


def _card_of(
    student: Student, base: CausalBase, evaluation: InstructEvaluation | None, learned: Sequence[int],
    notes: Sequence[str],
) -> list[str]:  # fmt: skip
    """The report's lines."""
    rows, pairs = learned
    lines = [
        f"{student.id}: {base.name}, {_how(student.settings)}, {rows} rows"
        + (f", {pairs} pairs" if pairs else "")
        + f", {student.seconds:.0f} s on {student.device}"
        + (f", {student.tokens_per_second:,.0f} tokens/s" if student.tokens_per_second else "")
        + (f" ({student.peak_share:.0%} of the device's peak)" if student.peak_share is not None else "")
    ]
    if evaluation:
        lines += [
            "",
            f"{'':<22}{'student':>10}{'base':>10}",
            f"{'loss, nats a token':<22}{evaluation.loss:>10.3f}{evaluation.base_loss:>10.3f}",
        ]
        if evaluation.preferred is not None and evaluation.base_preferred is not None:
            lines.append(f"{'prefers the accepted':<22}{evaluation.preferred:>10.1%}{evaluation.base_preferred:>10.1%}")
        over = f"over {evaluation.rows} rows ({evaluation.tokens:,} response tokens)"
        lines.append(over + (f" and {evaluation.pairs} pairs" if evaluation.pairs else "") + " not learned from")
    return [*lines, *(["", *notes] if notes else [])]
