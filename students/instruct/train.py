"""A version's instruction student: supervised, then by preferences where asked, measured beside its untrained base.

Knows neither Prefect nor the lake: it is handed turns and pairs and hands back values.
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
from graft.schemas.pretrained import check_written
from graft.schemas.students import InstructEvaluation, Student, StudentSettings
from graft.students.instruct.base import CausalBase, find_base, load_model, load_tokenizer, quiet_libraries
from graft.students.instruct.data import Encoded, Pair, Turn, encode, lessons

if TYPE_CHECKING:
    from graft.students.instruct.runner import Ended

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
"""Read when torch loads: waiting threads sleep. Spinning ones slow training tenfold where another process is busy."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class InstructReport:
    """An instruction student, how it was judged, what a person must know, and all of it as text.

    `evaluation` is None where the version has no row outside its training split.
    """

    student: Student
    evaluation: InstructEvaluation | None
    notes: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Held:
    """What the student did not learn from: rows of the other splits, and pairs of their instructions."""

    turns: Sequence[Turn] = ()
    pairs: Sequence[Pair] = ()


@dataclass(frozen=True)
class _Job:
    base: CausalBase
    tokenizer: Any
    settings: StudentSettings
    staging: Path
    say: Say


def train_instruct_student(
    turns: Sequence[Turn], pairs: Sequence[Pair], held: Held, *, settings: StudentSettings, home: Home, dataset: str,
    version: int | None, say: Say,
) -> InstructReport:  # fmt: skip
    """Train on turns and, where settings.instruct.dpo is set, on pairs; write to `home.students/<id>/`; evaluate.

    The folder appears whole or not at all; a killed training goes on from the checkpoints beside it. Raises GraftError
    where there is nothing to learn from or training comes apart, and what `find_base` raises.
    """
    base = find_base(settings.instruct.base, home.models, say)
    tokenizer = load_tokenizer(base)
    taught = lessons(turns, settings.instruct.rationale_weight)
    rows = encode(tokenizer, taught, settings.instruct.max_length, say)
    if not rows:
        raise GraftError(
            "there is no instruction with a response to learn from", where="training rows",
            fix="graft show NAME --rejected says why rows were rejected; or raise student.instruct.max_length",
        )  # fmt: skip
    used = pairs if settings.instruct.dpo else ()
    name = _identity(taught, used, settings, base, dataset, version)
    folder = home.student(name)
    job = _Job(base, tokenizer, settings, folder.with_name(name + ".partial"), say)
    say(f"training {base.name} on {len(rows)} rows ({_how(settings)})")
    stages, notes = _trained(job, rows, used)
    _publish(job, folder, stages)
    student = Student(
        id=name, dataset=dataset, version=version, trained_on="version", settings=settings,
        encoder_revision=base.revision, train_rows=len(rows), device=stages[0].device,
        seconds=round(sum(each.seconds for each in stages), 2),
        tokens_per_second=_speed(stages), peak_share=_peak_share(job, stages),
        path=folder.relative_to(home.root).as_posix(), created_at=utc_now(),
    )  # fmt: skip
    evaluation = _evaluated(job, name, folder, held)
    if evaluation is None:
        notes.append("the version has no row outside its training split: the student is not evaluated")
    elif evaluation.loss > evaluation.base_loss:
        notes.append("the student is worse than its base on rows that it did not learn from: fewer epochs may help")
    text = "\n".join(_told(student, base, evaluation, [len(rows), len(used)], notes))
    return InstructReport(student, evaluation, tuple(notes), text)


def _trained(job: _Job, rows: Sequence[Encoded], pairs: Sequence[Pair]) -> tuple[list[Ended], list[str]]:
    """Both stages, the weights of the last one in the folder `done` of the staging one; and what is to be said."""
    from graft.students.instruct.dpo import train_dpo
    from graft.students.instruct.sft import learned_with, train_sft

    supervised, notes = job.staging / "supervised", list[str]()
    facts = stable_hash([row.ids for row in rows], learned_with(job.settings), job.base.revision)
    first = _finished(supervised, facts)
    if first is None:
        first = train_sft(job.base, job.tokenizer, rows, job.settings, job.staging / "sft", job.say)
        _save(first, job.tokenizer, supervised, facts)
        shutil.rmtree(job.staging / "sft", ignore_errors=True)
    stages = [first]
    dpo = job.settings.instruct.dpo
    if dpo and pairs:
        job.say(f"preferences: {len(pairs)} pairs of an accepted and a wrong response")
        stages.append(
            train_dpo(
                job.base, job.tokenizer, supervised, pairs, job.settings, dpo, job.staging / "dpo", job.say
            )
        )  # fmt: skip
        _save(stages[-1], job.tokenizer, job.staging / "preferred", facts)
    elif dpo:
        notes.append(
            "no preferences were trained: no response was rejected for a wrong answer beside an accepted one to the "
            "same instruction (method.responses: 4 makes such pairs)"
        )
        job.say(notes[-1])
    return stages, [*(each.note for each in stages if each.note), *notes]


def _finished(folder: Path, facts: str) -> Ended | None:
    """What the supervised stage took where an earlier, killed training came past it; else None."""
    from graft.students.instruct.runner import Ended

    try:
        known = json.loads((folder / "stage.json").read_text(encoding="utf-8"))
        return Ended(None, **known["ended"]) if known["facts"] == facts else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _save(ended: Ended, tokenizer: Any, folder: Path, facts: str) -> None:
    """Weights (an adapter, or all of them) as safetensors, the tokenizer, and what the stage took. Raises StorageFull.

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


def _publish(job: _Job, folder: Path, stages: Sequence[Ended]) -> None:
    """Rename the last stage's folder to where the student belongs, and clear what was beside it."""
    made = job.staging / ("supervised" if len(stages) == 1 else "preferred")
    (made / "stage.json").unlink()
    (made / "README.md").unlink(missing_ok=True)  # a template's card; ours is written by the card's own module
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    made.rename(folder)
    for left in (old, job.staging):
        shutil.rmtree(left, ignore_errors=True)


def load_student(base: CausalBase, folder: Path) -> Any:
    """A trained student as a transformers model: the base with its adapter, or the whole model that was written."""
    if (folder / "adapter_config.json").is_file():
        from graft.students.instruct.dpo import adapted

        return adapted(base, folder)
    check_written(folder)
    return load_model(str(folder))


def _evaluated(job: _Job, name: str, folder: Path, held: Held) -> InstructEvaluation | None:
    """Student and base on the same held-out rows and pairs; both as they load from disk."""
    from graft.students.device import pick_device
    from graft.students.instruct.evaluate import likelihoods, mean_loss, preferred

    length = job.settings.instruct.max_length
    rows = encode(job.tokenizer, held.turns, length)
    if not rows:
        return None
    both = [
        (chosen[0], rejected[0])
        for pair in held.pairs
        if (chosen := encode(job.tokenizer, [Turn(pair.instruction, pair.chosen)], length))
        and (rejected := encode(job.tokenizer, [Turn(pair.instruction, pair.rejected)], length))
    ]
    job.say(f"evaluating on {len(rows)} rows and {len(both)} pairs that it did not learn from")
    everything = [*rows, *(chosen for chosen, _ in both), *(rejected for _, rejected in both)]

    model = load_student(job.base, folder).to(pick_device())
    ours = likelihoods(model, everything)
    adapter = hasattr(model, "disable_adapter")
    with model.disable_adapter() if adapter else contextlib.nullcontext():
        before = model if adapter else load_model(job.base.place, job.base.commit).to(pick_device())
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
    """The id of a student: the same for the same rows, pairs and settings, as far as they make its weights."""
    from graft.students.instruct.sft import learned_with

    learned = content_hash((turn.instruction, turn.response) for turn in taught)
    compared = content_hash((pair.instruction, pair.chosen, pair.rejected) for pair in pairs)
    return "st_" + stable_hash(dataset, "instruct", version, learned, compared, learned_with(settings), base.revision)


def _speed(stages: Sequence[Ended]) -> float | None:
    """Tokens of the supervised stage a second: the preferences' pairs pass the model twice and would blur it."""
    first = stages[0]
    return round(first.tokens / first.seconds, 1) if first.tokens and first.seconds > 0 else None


def _peak_share(job: _Job, stages: Sequence[Ended]) -> float | None:
    """Share of a known GPU's peak; where the base stays as it is, a token takes 4 operations a weight instead of 6."""
    import torch

    from graft.schemas.pretrained import pretrained, untrained
    from graft.students.device import device_name, multiplying, share_of_peak

    speed, device = _speed(stages), torch.device(stages[0].device)
    if speed is None or device.type != "cuda":
        return None
    config = pretrained("AutoConfig", job.base.place, revision=job.base.commit)
    with torch.device("meta"):
        weights = multiplying(untrained("AutoModelForCausalLM", config))
    if job.settings.instruct.adapter == "lora":
        weights = weights * 4 // 6
    share = share_of_peak(weights, speed, device_name(device))
    return None if share is None else round(share, 4)


def _how(settings: StudentSettings) -> str:
    chosen = settings.instruct
    return f"LoRA of rank {chosen.lora_rank}" if chosen.adapter == "lora" else "every weight"


def _told(
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
