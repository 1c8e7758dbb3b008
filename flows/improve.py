"""The flow that makes rows in rounds: make, train, evaluate, and let policies steer the next round.

Each round is a dataset version (which holds the earlier rounds' rows too) and a student. For comparison the
same number of candidates is spent at once, without steering.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from graft.agents.methods import method_of
from graft.data.lake import Lake
from graft.data.verdicts import unseen
from graft.flows.engine import Flow
from graft.flows.improve_report import write_report
from graft.flows.improve_round import (
    NOTHING,
    Arms,
    Loop,
    Made,
    Spending,
    State,
    first_recipe,
    make_version,
    mean_loss,
    next_recipe,
    nothing_to_steer_by,
    say,
    unsteered_recipe,
)
from graft.flows.plan import read_recipe
from graft.flows.progress import Progress, begin
from graft.flows.run_context import weighed
from graft.flows.train_student import kind_of
from graft.schemas.base import utc_now
from graft.schemas.errors import GraftError, InputInvalid, Problem, YieldTooLow
from graft.schemas.home import Home
from graft.schemas.kinds import POLICIES
from graft.schemas.load import resolve_path
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed
from graft.schemas.steering import Improvement, RoundResult
from graft.students.steer import steered_kind


@Flow
async def improve(
    recipe: str, rounds: int | None = None, rows_per_round: int | None = None, seeds: int | None = None,
    test: str | None = None, steer_on: str | None = None, compare: bool | None = None,
    policies: list[str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Make rows in rounds, steered by the last student's errors if policies are named, until that stops helping.

    `recipe` is a path or a bare name; the other parameters override its `improve:` block and `student.test`. Returns
    the loop as a plain dict with `text` (the recommendation) and `files` (report, figures, curve). Running it again
    repeats no finished work. Raises GraftError subclasses.
    """
    given = {
        "improve.rounds": rounds, "improve.rows_per_round": rows_per_round, "improve.seeds": seeds,
        "improve.compare": compare, "improve.policies": policies,
        "student.test": _absolute(test), "improve.steer_on": _absolute(steer_on),
    }  # fmt: skip
    file, loaded, rows = read_recipe(recipe, {name: value for name, value in given.items() if value is not None})
    if not method_of(loaded).traits(loaded).rounds:
        fix = "use a method that writes rows, such as label with top_up"
        raise GraftError("its method writes no rows that could be steered", where=f"{file}: method", fix=fix)
    home = Home.find()
    loaded = await asyncio.to_thread(weighed, loaded, home)
    with Lake.open(home) as lake:
        loop = _loop(loaded, file, rows, home, lake)
        begun = utc_now()
        begin(Progress(loaded.name, "", {}))
        if not loaded.improve.policies:
            say("no policy steers these rounds: improve.policies names none")
        results, endings = list[RoundResult](), list[str]()

        def keep() -> Improvement:
            improvement = Improvement(
                id=loop.id, dataset=loaded.name, recipe_file=str(file), settings=loaded.improve,
                test_file=loop.test_name, rounds=tuple(results), stopped_by="; ".join(endings), created_at=begun,
            )  # fmt: skip
            lake.save_improvement(improvement)
            return improvement

        for number in range(loaded.improve.seeds):
            arms = Arms(loop, loaded.seed + number, first=number == 0)
            ending = await _steered(arms, results, keep)
            endings.append(f"seed {arms.seed}: {ending}")
            if ending.startswith(NOTHING):
                say(ending)
                break
            if loaded.improve.compare:
                await _unsteered(arms, results)
            keep()
        improvement = keep()
        text, files = write_report(improvement, home)
    return {**improvement.model_dump(mode="json"), "text": text, "files": [str(path) for path in files]}


async def _steered(arms: Arms, results: list[RoundResult], keep: Any) -> str:
    """Run every round of one seed's loop and return the reason of its end."""
    loop, settings = arms.loop, arms.loop.recipe.improve
    spent, state, started = Spending(), State(), time.monotonic()
    best = pupil = arms.learn(None, [], [])
    async with arms.advisers(None, 0, spent, state) as models:
        known = await arms.steering_rows(pupil, None, models)
    results.append(arms.result("steered", 0, pupil, None, spent, started, known))
    recipe, place, worse = first_recipe(arms), len(results) - 1, 0
    if known and (nothing := nothing_to_steer_by(known, known, settings.enough)):
        _kept(results, place, place)
        return nothing
    for number in range(1, settings.rounds + 1):
        say(f"seed {arms.seed}, round {number} of {settings.rounds}: {sum(recipe.wanted().values())} rows")
        try:
            made = await make_version(loop, recipe, spent)
        except YieldTooLow as error:
            return f"round {number} failed: {error.what.splitlines()[0]}"
        if made is None:
            return f"round {number} made no row"
        learned = [row for row in made.train if row.text not in state.left_out]
        pupil = arms.learn(made.version.version, learned, made.validation)
        async with arms.advisers(made, number, spent, state) as models:
            rows = await arms.steering_rows(pupil, made, models)
            # both students on the same rows, which grow with the version
            loss, least = mean_loss(rows), mean_loss(await arms.steering_rows(best, made, models))
        results.append(
            arms.result("steered", number, pupil, made, spent, started, rows, recipe.wanted(), state.summaries)
        )
        better = loss is None or least is None or loss < least
        worse, best = (0, pupil) if better else (worse + 1, best)
        place = _kept(results, len(results) - 1 if better else place, place)
        keep()
        if number == settings.rounds:
            break
        if worse >= settings.patience:
            return f"patience: {worse} rounds without a lower loss on the rows that steer"
        async with arms.advisers(made, number, spent, state) as models:
            mined = await arms.mined(pupil, made, rows, models)
            if nothing := nothing_to_steer_by(rows, mined, settings.enough):
                return nothing
            recipe = await next_recipe(arms, recipe, state, pupil, made, rows, mined, number, models)
    return "rounds"


def _kept(results: list[RoundResult], place: int, before: int) -> int:
    """Mark the result at a place as its seed's best, in place of the one before; returns the place."""
    results[before] = results[before].model_copy(update={"kept": False})
    results[place] = results[place].model_copy(update={"kept": True})
    return place


async def _unsteered(arms: Arms, results: list[RoundResult]) -> None:
    """Spend as many candidates as the loop opened, at once and without steering."""
    candidates = max(one.candidates for one in results if one.arm == "steered" and one.seed == arms.seed)
    if not candidates:
        return
    say(f"seed {arms.seed}: {candidates} candidates at once, without steering")
    spent, started = Spending(), time.monotonic()
    made: Made | None = await make_version(arms.loop, unsteered_recipe(arms, candidates), spent)
    if made is not None:
        pupil = arms.learn(made.version.version, made.train, made.validation, dataset=made.version.dataset)
        results.append(arms.result("unsteered", 1, pupil, made, spent, started))


def _loop(recipe: Recipe, file: Path, seeds: list[Seed], home: Home, lake: Lake) -> Loop:
    """Check everything before anything is spent."""
    kind = kind_of(recipe).in_rounds(recipe.student, recipe.improve)
    for name in recipe.improve.policies:
        if (gives := steered_kind(POLICIES.get(name))) != kind.steered:
            raise GraftError(
                f"policy {name} steers students that give {gives}, not {kind.steered}", where="improve.policies",
                fix=f"leave {name} out",
            )  # fmt: skip
    if not recipe.student.test:
        raise GraftError(
            "improve needs a held-out file that steering never sees", where="student.test",
            fix="name a labelled file there, or pass --test",
        )  # fmt: skip
    labels = recipe.task.names
    test = kind.held_out(resolve_path(file, recipe.student.test), recipe.student, labels)
    steer_on = recipe.improve.steer_on
    steering = kind.held_out(resolve_path(file, steer_on), recipe.student, labels) if steer_on else []
    held = {" ".join(text.casefold().split()) for text, _ in test}
    if shared := sum(" ".join(text.casefold().split()) in held for text, _ in steering):
        raise InputInvalid([Problem(
            str(file), None, "improve.steer_on", f"{shared} of its {len(steering)} texts are in the held-out file too",
            "remove them from one of the two: the generator is shown rows that steer",
        )])  # fmt: skip
    test, note = unseen(home, test)
    if note:
        say(note)
    return Loop(recipe, file, seeds, home, lake, labels, test, recipe.student.test, steering, kind)


def _absolute(path: str | None) -> str | None:
    """A path of the command line is relative to the working folder, not to the recipe."""
    return None if path is None else str(Path(path).absolute())
